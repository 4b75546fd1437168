//! Sums and inner products, which the host waits for.

use theria_contract::{Attention, DType, Storage as _};
use theria_gpu_fwd::{Address as _, Cuda, CudaTensor, KernelSpec, Source, Spec};
use theria_reference::Real;

use super::rows::real_kernel;
use super::{Attended, Gpu, on_device, view};
use crate::Result;
use crate::machine::kernel_source;
use crate::number::Number;

const SOURCE: Source = kernel_source!("dot.cu");
const THREADS: usize = 256;
/// Blocks at most.
pub(super) const BLOCKS: usize = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct DotKernel {
    real: DType,
}

/// Every instance.
pub(super) fn all() -> impl Iterator<Item = DotKernel> {
    [DType::F32, DType::F64].into_iter().map(|real| DotKernel { real })
}

/// `Dot` of `dot.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameters {
    x: u64,
    y: u64,
    parts: u64,
    whole: u64,
    count: i64,
}

const _: () = assert!(size_of::<Parameters>() == 40);

// SAFETY: `Parameters` is the struct `Dot` of dot.cu, which touches what it names, after it waited for the launches ahead.
unsafe impl Spec for DotKernel {
    type Parameters = Parameters;

    fn kernel(&self) -> KernelSpec {
        real_kernel(SOURCE, self.real, THREADS)
    }
}

impl<A, R, E> Gpu<A, R, E>
where
    A: Attention<E, Storage = Cuda> + Sync,
    R: Real + Number,
    E: Attended<R>,
{
    /// Σ x·y, or Σ x.
    pub(super) fn sum_of_products(&self, x: &CudaTensor<R>, y: Option<&CudaTensor<R>>) -> Result<f64> {
        let count = view(x).layout().len();
        let address = |tensor| self.address("a factor of an inner product", &view(tensor), count);
        let (x, y) = (address(x)?, y.map_or(Ok(0), address)?);
        let (spec, shared) = (DotKernel { real: R::DTYPE }, &self.shared);
        let (parts, whole) = (view(&shared.dot_parts).address(), view(&shared.dot_whole).address());
        let blocks = count.div_ceil(THREADS).clamp(1, BLOCKS);
        let of_blocks = Parameters { x, y, parts, whole: 0, count: count as i64 };
        // SAFETY: `address` held both factors against one length and the device; there is a part for each block. All of
        // it is borrowed while this is asked for, and whatever is asked of the device later comes after it.
        on_device(unsafe { shared.dots.launch(spec, blocks, &of_blocks) })?;
        let of_all = Parameters { whole, count: blocks as i64, ..of_blocks };
        // SAFETY: as many parts as blocks wrote are read.
        on_device(unsafe { shared.dots.launch(spec, 1, &of_all) })?;
        Ok(self.cuda.download(view(&shared.dot_whole))?.data()[0])
    }
}
