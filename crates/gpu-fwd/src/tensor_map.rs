//! Tensors as the copy engine of `sm_90` knows them: `TensorMap` of hopper.cuh.
//!
//! The driver encodes a map on the host in a fraction of a microsecond, and a launch takes it by value. So one is made
//! for every call: nothing has to be kept, or found again when a tensor moves.
#![allow(unsafe_code)] // the driver is a C library; each block says why it is sound

use cudarc::driver::sys::{
    self, CUdeviceptr, CUtensorMap, CUtensorMapDataType, CUtensorMapFloatOOBfill, CUtensorMapInterleave,
    CUtensorMapL2promotion, CUtensorMapSwizzle,
};
use theria_contract::{DType, Layout};

use crate::storage::Address;
use crate::{Device, Result};

/// Columns of a panel: 128 bytes, over which the copy engine changes places (hopper.cuh).
const PANEL: u32 = 64;
/// Bytes of an element. No other size is copied.
const ELEMENT: u64 = 2;
/// What addresses and strides are whole multiples of.
const VECTOR: u64 = 16;
/// Strides are below this.
const FURTHEST: u64 = 1 << 40;
/// Rows of a box, at most.
const TALLEST: u32 = 256;

/// A tensor as the copy engine knows it, with the size of the boxes that it moves.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TensorMap([u64; 16]);

const _: () = assert!(size_of::<TensorMap>() == 128 && align_of::<TensorMap>() == 64);

impl TensorMap {
    /// That of a tensor that a call has none of. Kernels do not look at it.
    pub const NONE: Self = Self([0; 16]);
}

/// The argument of a kernel that moves tiles: the maps of its tensors, and after them what other kernels are given.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Mapped<const N: usize, P> {
    /// In the order of the kernel's own struct; [`TensorMap::NONE`] of what a call has none of.
    pub maps: [TensorMap; N],
    /// The rest.
    pub given: P,
}

/// Where a tensor lies and how, whatever it is of: what a map is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    address: CUdeviceptr,
    layout: Layout,
}

impl Located {
    /// That of a tensor.
    pub fn of(tensor: &(impl Address + ?Sized)) -> Self {
        Self { address: tensor.address(), layout: tensor.layout() }
    }

    /// Whether the copy engine knows such a tensor.
    pub fn is_known(&self) -> bool {
        self.strides().is_some()
    }

    /// Bytes from one row, head and entry to the next; `None` where the copy engine does not know such a tensor. An
    /// axis of length 1 is never walked along, but the driver looks at its stride: it gets one that is always allowed.
    fn strides(&self) -> Option<[u64; 3]> {
        let (shape, strides) = (self.layout.shape(), self.layout.strides());
        let columns = shape[3] as u64 * ELEMENT;
        if self.layout.is_empty() || !self.address.is_multiple_of(VECTOR) || !columns.is_multiple_of(VECTOR) {
            return None;
        }
        let mut bytes = [0; 3];
        for (bytes, axis) in bytes.iter_mut().zip([2, 1, 0]) {
            *bytes = if shape[axis] == 1 { columns } else { (strides[axis] as u64).checked_mul(ELEMENT)? };
        }
        let allowed = |stride: u64| (VECTOR..FURTHEST).contains(&stride) && stride.is_multiple_of(VECTOR);
        bytes.into_iter().all(allowed).then_some(bytes)
    }
}

impl Device {
    /// The maps of tensors in boxes of so many rows and 64 columns; [`TensorMap::NONE`] in the place of one that is not
    /// there. `None` where the copy engine does not know one of them: an address or a stride that is no whole number of
    /// sixteen bytes, a stride of zero, nothing in it, elements that are not of 16 bits, or what the driver refuses.
    ///
    /// A map is numbers alone. Who launches a kernel with it vouches for the memory that it names.
    pub fn tensor_maps<const N: usize>(
        &self,
        dtype: DType,
        tensors: [Option<(Located, u32)>; N],
    ) -> Result<Option<[TensorMap; N]>> {
        let element = match dtype {
            DType::Bf16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
            DType::F16 => CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
            DType::F32 | DType::F64 => return Ok(None),
        };
        self.make_current()?;
        let mut maps = [TensorMap::NONE; N];
        for (map, tensor) in maps.iter_mut().zip(tensors) {
            let Some((tensor, rows)) = tensor else { continue };
            let Some(made) = encoded(element, tensor, rows) else { return Ok(None) };
            *map = made;
        }
        Ok(Some(maps))
    }
}

/// The map of a tensor. The context of its device is current.
fn encoded(element: CUtensorMapDataType, tensor: Located, rows: u32) -> Option<TensorMap> {
    let strides = tensor.strides().filter(|_| (1..=TALLEST).contains(&rows))?;
    let [batch, heads, length, columns] = tensor.layout.shape().map(|extent| extent as u64);
    let (extents, sides) = ([columns, length, heads, batch], [PANEL, rows, 1, 1]);
    let steps = [1_u32; 4];
    let mut map = CUtensorMap { opaque: [0; 16] };
    // SAFETY: the arrays have as many numbers as the map has axes, but for strides, of which there is one less; all of
    // them and the map live during the call, which reads nothing of the tensor.
    let outcome = unsafe {
        sys::cuTensorMapEncodeTiled(
            &raw mut map,
            element,
            extents.len() as u32,
            tensor.address as *mut std::ffi::c_void,
            extents.as_ptr(),
            strides.as_ptr(),
            sides.as_ptr(),
            steps.as_ptr(),
            CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    };
    outcome.result().is_ok().then_some(TensorMap(map.opaque))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn located(shape: [usize; 4], strides: [usize; 4]) -> Located {
        Located { address: 1 << 20, layout: Layout::strided(shape, strides).unwrap() }
    }

    #[test]
    fn packed_tensors_and_those_with_heads_inside_have_maps() {
        let packed = located([2, 3, 5, 64], [960, 320, 64, 1]);
        assert_eq!(packed.strides(), Some([128, 640, 1920]));
        let inside = Layout::heads_inside([2, 3, 5, 64]).unwrap();
        assert_eq!(Located { layout: inside, ..packed }.strides(), Some([384, 128, 1920]));
    }

    #[test]
    fn what_the_copy_engine_does_not_know_has_none() {
        let shape = [2, 3, 5, 64];
        for strides in
            [[960, 320, 68, 1], [960, 324, 64, 1], [964, 320, 64, 1], [0, 320, 64, 1], [960, 0, 64, 1]]
        {
            assert_eq!(located(shape, strides).strides(), None, "{strides:?}");
        }
        let packed = located(shape, [960, 320, 64, 1]);
        assert_eq!(Located { address: packed.address + 8, ..packed }.strides(), None);
        assert_eq!(located([2, 3, 0, 64], [960, 320, 64, 1]).strides(), None);
        assert_eq!(located([2, 3, 5, 4], [960, 320, 64, 1]).strides(), None);
        assert_eq!(located(shape, [1 << 39, 320, 64, 1]).strides(), None);
    }

    #[test]
    fn the_stride_of_an_axis_of_length_one_does_not_matter() {
        for stride in [0, 1, 7, 1 << 39] {
            let one = located([1, 1, 1, 64], [stride, stride, stride, 1]);
            assert_eq!(one.strides(), Some([128; 3]), "{stride}");
        }
    }
}
