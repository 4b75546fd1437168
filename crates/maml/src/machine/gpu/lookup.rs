//! Rows of tables.

use theria_contract::Attention;
use theria_gpu_fwd::{Cuda, KernelSpec, Source, Spec};
use theria_reference::Real;

use super::rows::{Kind, kind_kernel};
use super::{Attended, Gpu, GpuTensor, on_device};
use crate::machine::{Picks, kernel_source};
use crate::number::Number;
use crate::{Error, Result};

const SOURCE: Source = kernel_source!("lookup.cu");
const WARP: usize = 32;
/// Warps of a block.
const WARPS: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LookupKernel {
    kind: Kind,
}

/// Every instance.
pub(super) fn all() -> impl Iterator<Item = LookupKernel> {
    Kind::ALL.into_iter().map(|kind| LookupKernel { kind })
}

/// `Lookup` of `lookup.cu`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(super) struct Parameters {
    numbers: u64,
    from: u64,
    to: u64,
    rows: i32,
    columns: i32,
    count: i32,
    adds: i32,
    narrow: i32,
}

const _: () = assert!(size_of::<Parameters>() == 48);

// SAFETY: `Parameters` is the struct `Lookup` of lookup.cu, which touches what it names, after it waited for the launches
// ahead.
unsafe impl Spec for LookupKernel {
    type Parameters = Parameters;

    fn kernel(&self) -> KernelSpec {
        kind_kernel(SOURCE, self.kind, WARPS * WARP)
    }
}

impl<A, R, E> Gpu<A, R, E>
where
    A: Attention<E, Storage = Cuda> + Sync,
    R: Real + Number,
    E: Attended<R>,
{
    /// Picks rows of the table `from`, or adds rows to those of the table `to`.
    pub(super) fn look_up(
        &self,
        picks: Picks,
        adds: bool,
        numbers: &GpuTensor<R>,
        from: &GpuTensor<R>,
        to: &mut GpuTensor<R>,
    ) -> Result<()> {
        let Picks { rows, columns, count } = picks;
        let (table, picked) = (rows * columns, count * columns);
        let (of_from, of_to) = if adds { (picked, table) } else { (table, picked) };
        let number = |n: usize| i32::try_from(n).map_err(|_| Error::LargeSweep { operands: 2, most: n });
        let narrow = if adds { from.is_narrow() } else { to.is_narrow() };
        // Of the table and of the picked rows, the table is wide.
        let address = |tensor: &GpuTensor<R>, elements, what, picked| {
            if picked {
                self.address_of(what, tensor, elements)
            } else {
                self.wide_address(what, tensor, elements)
            }
        };
        let parameters = Parameters {
            numbers: self.wide_address("the indices", numbers, count)?,
            from: address(from, of_from, "rows that are read", adds)?,
            to: address(to, of_to, "rows that are written", !adds)?,
            rows: number(rows)?,
            columns: number(columns)?,
            count: number(count)?,
            adds: i32::from(adds),
            narrow: i32::from(narrow),
        };
        let (spec, blocks) = (LookupKernel { kind: Kind::of::<R>(narrow) }, count.div_ceil(WARPS));
        // SAFETY: `address` held all three against the picks and the device, what is written is borrowed by nobody else,
        // and whatever is asked of the device later comes after it. A number names a row of the table or none.
        on_device(unsafe { self.shared.lookups.launch(spec, blocks, &parameters) })
    }
}
