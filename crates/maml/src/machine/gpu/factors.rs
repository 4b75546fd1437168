//! Factors of products: tensors themselves, or their rounded copies, each made once for all products of a rule.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use half::bf16;
use theria_contract::{Attention, DType, Layout, Storage as _};
use theria_gpu_fwd::forward::element_name;
use theria_gpu_fwd::{Address as _, Cuda, CudaTensor, KernelSpec, Source, Spec};
use theria_reference::Real;

use super::rows::instance_name;
use super::{Attended, Gpu, Precision, Shared, on_device, view};
use crate::Result;
use crate::machine::kernel_source;
use crate::number::Number;

const SOURCE: Source = kernel_source!("round.cu");
const THREADS: usize = 256;
/// Elements of a thread, as in `round.cu`.
const EACH: usize = 4;
/// Tensors of a launch, as in `round.cu`.
pub(super) const MOST: usize = 24;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct RoundKernel {
    to: DType,
}

/// Every instance.
pub(super) fn all() -> impl Iterator<Item = RoundKernel> {
    [RoundKernel { to: DType::Bf16 }].into_iter()
}

/// `Round` of `round.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Parameters {
    from: [u64; MOST],
    to: [u64; MOST],
    count: [i64; MOST],
    first: [i32; MOST],
    tensors: i32,
}

const _: () = assert!(size_of::<Parameters>() == 680);

// SAFETY: `Parameters` is the struct `Round` of round.cu, which touches what it names, after it waited for the launches
// ahead.
unsafe impl Spec for RoundKernel {
    type Parameters = Parameters;

    fn kernel(&self) -> KernelSpec {
        KernelSpec {
            name: instance_name(SOURCE, "", self.to),
            source: SOURCE,
            defines: vec![("THERIA_TO", element_name(self.to).into())],
            threads: THREADS as u32,
            shared: 0,
        }
    }
}

/// Rounded copies that nobody has now, by their number of elements. None is ever released: recordings name them.
#[derive(Default)]
pub(super) struct Spare(Mutex<HashMap<usize, Vec<CudaTensor<bf16>>>>);

impl Spare {
    fn take(&self, count: usize) -> Option<CudaTensor<bf16>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&count)?.pop()
    }

    fn give(&self, tensor: CudaTensor<bf16>) {
        let count = view(&tensor).layout().len();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(count).or_default().push(tensor);
    }
}

/// Factors of products.
pub struct Factors<'a, R> {
    pub(super) given: Vec<&'a CudaTensor<R>>,
    /// Rounded copies of all of them, where products take these. They go back when this does.
    pub(super) rounded: Vec<CudaTensor<bf16>>,
    shared: Arc<Shared<R>>,
}

impl<R> Drop for Factors<'_, R> {
    fn drop(&mut self) {
        // The last first: who takes them next, in the same order, finds the same.
        while let Some(tensor) = self.rounded.pop() {
            self.shared.spare.give(tensor);
        }
    }
}

impl<A, R, E> Gpu<A, R, E>
where
    A: Attention<E, Storage = Cuda> + Sync,
    R: Real + Number,
    E: Attended<R>,
{
    /// Tensors as products take them.
    pub(super) fn prepared<'a>(&self, all: &[&'a CudaTensor<R>]) -> Result<Factors<'a, R>> {
        let shared = Arc::clone(&self.shared);
        let mut factors = Factors { given: all.to_vec(), rounded: Vec::new(), shared };
        if self.precision != Precision::Bf16 || R::DTYPE != DType::F32 {
            return Ok(factors);
        }
        for some in all.chunks(MOST) {
            self.round(some, &mut factors.rounded)?;
        }
        Ok(factors)
    }

    /// Makes rounded copies, as many as a launch takes.
    fn round(&self, some: &[&CudaTensor<R>], rounded: &mut Vec<CudaTensor<bf16>>) -> Result<()> {
        let mut parameters = Parameters { tensors: some.len() as i32, ..Parameters::default() };
        let mut blocks = 0;
        for (n, tensor) in some.iter().enumerate() {
            let count = view(tensor).layout().len();
            let to = match self.shared.spare.take(count) {
                Some(spare) => spare,
                None => self.cuda.allocate(Layout::contiguous([1, 1, 1, count])?)?,
            };
            parameters.to[n] = view(&to).address();
            rounded.push(to);
            parameters.from[n] = self.address("a factor", &view(tensor), count)?;
            parameters.count[n] = count as i64;
            parameters.first[n] = blocks as i32;
            blocks += count.div_ceil(THREADS * EACH);
        }
        let spec = RoundKernel { to: DType::Bf16 };
        // SAFETY: `address` held every tensor against its length and the device, and its copy is as long and nobody
        // else's; they are alive while the launch is asked for, and whatever is asked of the device later comes after it.
        on_device(unsafe { self.shared.rounds.launch(spec, blocks, &parameters) })
    }
}
