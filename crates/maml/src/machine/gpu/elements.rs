//! Changes of tensors element by element, and tensors in another type.

use std::hash::{Hash, Hasher};

use theria_contract::{Attention, DType, Element};
use theria_gpu_fwd::forward::element_name;
use theria_gpu_fwd::{Address as _, Cuda, CudaTensor, KernelSpec, Source, Spec};
use theria_reference::Real;

use super::rows::{instance_name, real_name};
use super::{Attended, Gpu, on_device, view};
use crate::machine::{Update, expect, kernel_source};
use crate::meta::update_sources;
use crate::number::Number;
use crate::Result;

const THREADS: usize = 256;
/// Elements of a thread, where there are enough of them.
const EACH: usize = 4;
/// Blocks at most: then threads take more.
const BLOCKS: usize = 4096;
const STATE: usize = 3;
const READ: usize = 4;
const CAST: Source = kernel_source!("cast.cu");

/// An instance of a change.
#[derive(Clone, Copy, Debug)]
pub(super) struct ElementKernel {
    source: Source,
    real: DType,
}

impl PartialEq for ElementKernel {
    fn eq(&self, other: &Self) -> bool {
        (self.source.name, self.real) == (other.source.name, other.real)
    }
}

impl Eq for ElementKernel {}

impl Hash for ElementKernel {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.source.name, self.real).hash(state);
    }
}

/// Every instance.
pub(super) fn all() -> impl Iterator<Item = ElementKernel> {
    let both = |source| [DType::F32, DType::F64].map(|real| ElementKernel { source, real });
    update_sources().into_iter().flat_map(both)
}

/// A tensor of one type made of one of another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct CastKernel {
    from: DType,
    to: DType,
}

/// Every instance.
pub(super) fn all_casts() -> impl Iterator<Item = CastKernel> {
    let same = [DType::F64, DType::F32].map(|dtype| (dtype, dtype));
    let rounded = [DType::F16, DType::Bf16].into_iter().flat_map(|half| [(DType::F32, half), (half, DType::F32)]);
    same.into_iter().chain(rounded).map(|(from, to)| CastKernel { from, to })
}

/// `Elements` of `elements.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Parameters {
    state: [u64; STATE],
    read: [u64; READ],
    constants: [f64; 8],
    count: i64,
}

const _: () = assert!(size_of::<Parameters>() == 128);

// SAFETY: `Parameters` is the struct `Elements` of elements.cuh, and a change touches what it names, after it waited for
// the launches ahead.
unsafe impl Spec for ElementKernel {
    type Parameters = Parameters;

    fn kernel(&self) -> KernelSpec {
        KernelSpec {
            name: instance_name(self.source, "", self.real),
            source: self.source,
            defines: vec![("THERIA_REAL", real_name(self.real).into())],
            threads: THREADS as u32,
            shared: 0,
        }
    }
}

// SAFETY: the same.
unsafe impl Spec for CastKernel {
    type Parameters = Parameters;

    fn kernel(&self) -> KernelSpec {
        let defines =
            [("THERIA_FROM", self.from), ("THERIA_TO", self.to)].map(|(name, dtype)| (name, element_name(dtype).into()));
        KernelSpec {
            name: instance_name(CAST, &format!("{}-", self.from), self.to),
            source: CAST,
            defines: defines.into(),
            threads: THREADS as u32,
            shared: 0,
        }
    }
}

fn blocks(count: usize) -> usize {
    count.div_ceil(THREADS * EACH).min(BLOCKS)
}

impl<A, R, E> Gpu<A, R, E>
where
    A: Attention<E, Storage = Cuda>,
    R: Real + Number,
    E: Attended<R>,
{
    /// Changes tensors by others.
    pub(super) fn change<K: Update>(
        &self,
        kernel: &K,
        state: &mut [&mut CudaTensor<R>],
        read: &[&CudaTensor<R>],
    ) -> Result<()> {
        let count = state.first().map_or(0, |first| view(first).layout().len());
        let (changed, reads) = kernel.operands();
        for (what, given, expected) in
            [("a list of what an update changes", state.len(), changed), ("a list of what it reads", read.len(), reads)]
        {
            expect(what, given, expected)?;
        }
        let mut parameters =
            Parameters { constants: kernel.constants(), count: count as i64, ..Parameters::default() };
        let address = |tensor| self.address("an operand of an update", &view(tensor), count);
        for (to, tensor) in parameters.state.iter_mut().zip(state) {
            *to = address(tensor)?;
        }
        for (to, tensor) in parameters.read.iter_mut().zip(read) {
            *to = address(tensor)?;
        }
        let spec = ElementKernel { source: kernel.cuda(), real: R::DTYPE };
        // SAFETY: `address` held every tensor against one length and the device, there are as many as the change takes,
        // those that change are borrowed by nobody else, and whatever is asked of the device later comes after it.
        on_device(unsafe { self.shared.elements.launch(spec, blocks(count), &parameters) })
    }

    /// A tensor made of one of another type; or all of one number.
    pub(super) fn cast<F: Element, T: Element>(
        &self,
        from: Option<&CudaTensor<F>>,
        fill: f64,
        to: &mut CudaTensor<T>,
    ) -> Result<()> {
        let count = view(to).layout().len();
        let mut parameters = Parameters { count: count as i64, ..Parameters::default() };
        parameters.constants[0] = fill;
        parameters.state[0] = self.address("what is written", &view(to), count)?;
        if let Some(from) = from {
            parameters.read[0] = self.address("what is copied", &view(from), count)?;
        }
        let spec = CastKernel { from: F::DTYPE, to: T::DTYPE };
        // SAFETY: `address` held both tensors against one length and the device, and they are borrowed while this is
        // asked for; whatever is asked of the device later comes after it.
        on_device(unsafe { self.shared.casts.launch(spec, blocks(count), &parameters) })
    }
}
