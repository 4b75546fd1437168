//! Changes of tensors element by element, and tensors in another type.

use std::hash::{Hash, Hasher};

use theria_contract::{Attention, DType, Element};
use theria_gpu_fwd::forward::element_name;
use theria_gpu_fwd::{Address as _, Cuda, CudaTensor, KernelSpec, Source, Spec};
use theria_reference::Real;

use super::rows::{instance_name, real_kernel};
use super::{Attended, Gpu, on_device, view};
use crate::machine::{Change, Update, expect, kernel_source};
use crate::meta::update_sources;
use crate::number::Number;
use crate::{Error, Result};

const THREADS: usize = 256;
/// Elements of a thread, where there are enough of them.
const EACH: usize = 4;
const STATE: usize = 3;
const READ: usize = 4;
/// Changes of a launch.
const MOST: usize = 24;
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
    let same = [DType::F64, DType::F32, DType::Bf16].map(|dtype| (dtype, dtype));
    let rounded =
        [DType::F16, DType::Bf16].into_iter().flat_map(|half| [(DType::F32, half), (half, DType::F32)]);
    same.into_iter().chain(rounded).map(|(from, to)| CastKernel { from, to })
}

/// `Change` of `elements.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct OneChange {
    state: [u64; STATE],
    read: [u64; READ],
    constants: [f64; 8],
    count: i64,
}

/// `Elements` of `elements.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Parameters {
    of: [OneChange; MOST],
    first: [i32; MOST],
    changes: i32,
}

const _: () = assert!(size_of::<Parameters>() == 3176);

/// `Cast` of `cast.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CastParameters {
    from: u64,
    to: u64,
    fill: f64,
    count: i64,
}

const _: () = assert!(size_of::<CastParameters>() == 32);

// SAFETY: `Parameters` is the struct `Elements` of elements.cuh, and a change touches what it names, after it waited for
// the launches ahead.
unsafe impl Spec for ElementKernel {
    type Parameters = Parameters;

    fn kernel(&self) -> KernelSpec {
        real_kernel(self.source, self.real, THREADS)
    }
}

// SAFETY: `CastParameters` is the struct `Cast` of cast.cu; the rest is the same.
unsafe impl Spec for CastKernel {
    type Parameters = CastParameters;

    fn kernel(&self) -> KernelSpec {
        let defines = [("THERIA_FROM", self.from), ("THERIA_TO", self.to)]
            .map(|(name, dtype)| (name, element_name(dtype).into()));
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
    count.div_ceil(THREADS * EACH)
}

impl<A, R, E> Gpu<A, R, E>
where
    A: Attention<E, Storage = Cuda> + Sync,
    R: Real + Number,
    E: Attended<R>,
{
    /// Makes changes of one kind.
    pub(super) fn change<K: Update>(&self, changes: &mut [Change<'_, K, CudaTensor<R>>]) -> Result<()> {
        for changes in changes.chunks_mut(MOST) {
            let Some(first) = changes.first() else { continue };
            let spec = ElementKernel { source: first.kernel.cuda(), real: R::DTYPE };
            let mut parameters = Parameters { changes: changes.len() as i32, ..Parameters::default() };
            let mut all_blocks = 0;
            for (n, change) in changes.iter_mut().enumerate() {
                let of = self.one_change(change, spec)?;
                parameters.first[n] = all_blocks as i32;
                all_blocks += blocks(of.count as usize);
                parameters.of[n] = of;
            }
            // SAFETY: `one_change` held every tensor against one length and the device, there are as many as the change
            // takes, those that change are borrowed by nobody else, and whatever is asked of the device later comes after
            // it.
            on_device(unsafe { self.shared.elements.launch(spec, all_blocks, &parameters) })?;
        }
        Ok(())
    }

    /// A change, held against what its kernel takes.
    fn one_change<K: Update>(
        &self,
        change: &mut Change<'_, K, CudaTensor<R>>,
        spec: ElementKernel,
    ) -> Result<OneChange> {
        let Change { kernel, state, read } = change;
        let count = state.first().map_or(0, |first| view(first).layout().len());
        let (changed, reads) = kernel.operands();
        expect("a list of what an update changes", state.len(), changed)?;
        expect("a list of what it reads", read.len(), reads)?;
        if (ElementKernel { source: kernel.cuda(), ..spec }) != spec {
            return Err(Error::MixedChanges { one: spec.source.name, other: kernel.cuda().name });
        }
        let mut of = OneChange { constants: kernel.constants(), count: count as i64, ..OneChange::default() };
        let address = |tensor| self.address("an operand of an update", &view(tensor), count);
        for (to, tensor) in of.state.iter_mut().zip(state) {
            *to = address(tensor)?;
        }
        for (to, tensor) in of.read.iter_mut().zip(read) {
            *to = address(tensor)?;
        }
        Ok(of)
    }

    /// A tensor made of one of another type; or all of one number.
    pub(super) fn cast<F: Element, T: Element>(
        &self,
        from: Option<&CudaTensor<F>>,
        fill: f64,
        to: &mut CudaTensor<T>,
    ) -> Result<()> {
        let count = view(to).layout().len();
        let mut parameters = CastParameters { fill, count: count as i64, ..CastParameters::default() };
        parameters.to = self.address("what is written", &view(to), count)?;
        if let Some(from) = from {
            parameters.from = self.address("what is copied", &view(from), count)?;
        }
        let spec = CastKernel { from: F::DTYPE, to: T::DTYPE };
        // SAFETY: `address` held both tensors against one length and the device, and they are borrowed while this is
        // asked for; whatever is asked of the device later comes after it.
        on_device(unsafe { self.shared.casts.launch(spec, blocks(count), &parameters) })
    }
}
