//! Sums over warps of what each of them added up.

use theria_contract::{Attention, DType};
use theria_gpu_fwd::{Cuda, KernelSpec, Source, Spec};
use theria_reference::Real;

use super::rows::real_kernel;
use super::{Attended, Gpu, on_device};
use crate::Result;
use crate::machine::kernel_source;
use crate::number::Number;

const SOURCE: Source = kernel_source!("gather.cu");
/// Threads of a block.
const THREADS: usize = 256;
/// Blocks that keep a device busy.
const ENOUGH: usize = 128;
/// Threads for a column at most, where columns are many: neighbours should read what lies side by side.
const MOST: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct GatherKernel {
    real: DType,
}

/// Every instance.
pub(super) fn all() -> impl Iterator<Item = GatherKernel> {
    [DType::F32, DType::F64].into_iter().map(|real| GatherKernel { real })
}

/// What is gathered: for each of `groups` rows of `to` the sum of as many rows of `from` as there are chunks.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Gathered {
    pub(super) from: u64,
    pub(super) to: u64,
    pub(super) width: i32,
    pub(super) chunks: i32,
    pub(super) groups: i32,
    pub(super) add: i32,
}

/// `Gather` of `gather.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameters {
    of: Gathered,
    threads: i32,
}

const _: () = assert!(size_of::<Parameters>() == 40);

// SAFETY: `Parameters` is the struct `Gather` of gather.cu, which touches the rows that it names, after it waited for the
// launches ahead.
unsafe impl Spec for GatherKernel {
    type Parameters = Parameters;

    fn kernel(&self) -> KernelSpec {
        real_kernel(SOURCE, self.real, THREADS)
    }
}

/// Threads that share a column, of so many columns and rows to add up: a power of two.
fn threads(columns: usize, chunks: usize) -> usize {
    let most = if columns < THREADS / MOST { THREADS } else { MOST };
    let wanted = (THREADS * ENOUGH / columns.max(1)).clamp(1, most).min(chunks.next_power_of_two());
    1 << wanted.ilog2()
}

impl<A, R, E> Gpu<A, R, E>
where
    A: Attention<E, Storage = Cuda> + Sync,
    R: Real + Number,
    E: Attended<R>,
{
    /// Adds up what warps of the launch before left in memory that its caller vouched for.
    pub(super) fn gather(&self, of: Gathered) -> Result<()> {
        let columns = of.width as usize * of.groups as usize;
        let threads = threads(columns, of.chunks as usize);
        let parameters = Parameters { of, threads: threads as i32 };
        let blocks = columns.div_ceil(THREADS / threads);
        // SAFETY: the caller has just asked for the launch that wrote `from`, with the same addresses, and these are
        // what that launch was vouched for.
        on_device(unsafe { self.shared.gathers.launch(GatherKernel { real: R::DTYPE }, blocks, &parameters) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_for_a_column_are_a_power_of_two_that_divides_a_block() {
        for columns in [1, 2, 7, 8, 512, 2048, 100_000] {
            for chunks in [2, 3, 64, 2048] {
                let threads = threads(columns, chunks);
                assert!(threads.is_power_of_two() && threads <= THREADS, "{columns} {chunks}: {threads}");
                assert!(threads < 2 * chunks, "{columns} {chunks}: {threads}");
            }
        }
        assert_eq!(threads(1, 2048), THREADS);
        assert_eq!(threads(100_000, 2048), 1);
    }
}
