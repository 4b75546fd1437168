//! Where the elements of a four-axis tensor lie.

use crate::{Error, Result};

/// Shape and strides (in elements) of a tensor with axes (batch, head, row, column).
///
/// Every tensor of the contract has four axes; a row statistic is `[B, H, T, 1]`, key lengths are
/// `[1, 1, 1, B]`. Only the last axis must be contiguous, so (B,H,T,D) and (B,T,H,D) memory both
/// work without a copy:
///
/// ```
/// use theria_contract::Layout;
/// let shape = [2, 3, 5, 8]; // always B, H, T, D
/// assert_eq!(Layout::contiguous(shape)?.strides(), [120, 40, 8, 1]);
/// assert_eq!(Layout::heads_inside(shape)?.strides(), [120, 8, 24, 1]); // memory order B, T, H, D
/// # Ok::<(), theria_contract::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    shape: [usize; 4],
    strides: [usize; 4],
}

impl Layout {
    /// Row-major memory in the order of the axes.
    pub fn contiguous(shape: [usize; 4]) -> Result<Self> {
        Self::packed(shape, [0, 1, 2, 3])
    }

    /// Row-major memory in the order batch, row, head, column.
    pub fn heads_inside(shape: [usize; 4]) -> Result<Self> {
        Self::packed(shape, [0, 2, 1, 3])
    }

    /// Any strides whose last axis is contiguous. A stride of 0 repeats an axis; only inputs may do
    /// that.
    pub fn strided(shape: [usize; 4], strides: [usize; 4]) -> Result<Self> {
        if shape[3] > 1 && strides[3] != 1 {
            return Err(Error::LastAxis { stride: strides[3], strides, shape });
        }
        let layout = Self { shape, strides };
        layout.checked_span().ok_or(Error::TooLarge { name: "a tensor", shape })?;
        Ok(layout)
    }

    fn packed(shape: [usize; 4], order: [usize; 4]) -> Result<Self> {
        let mut strides = [0; 4];
        let mut stride = 1_usize;
        for axis in order.into_iter().rev() {
            strides[axis] = stride;
            stride =
                stride.checked_mul(shape[axis].max(1)).ok_or(Error::TooLarge { name: "a tensor", shape })?;
        }
        Self::strided(shape, strides)
    }

    /// Lengths of the axes.
    pub fn shape(&self) -> [usize; 4] {
        self.shape
    }

    /// Distances between neighbours along each axis, in elements.
    pub fn strides(&self) -> [usize; 4] {
        self.strides
    }

    /// Whether the elements lie in the order of the axes with nothing between them.
    pub fn is_packed(&self) -> bool {
        let mut expected = 1;
        self.is_empty()
            || (0..4).rev().all(|axis| {
                let fits = self.shape[axis] == 1 || self.strides[axis] == expected;
                expected *= self.shape[axis];
                fits
            })
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.shape.contains(&0)
    }

    /// Elements of memory from the first to the last one addressed.
    pub fn span(&self) -> usize {
        self.checked_span().unwrap_or_else(|| unreachable!("a layout is checked when it is made"))
    }

    /// Where an element lies.
    #[inline]
    pub fn offset(&self, index: [usize; 4]) -> usize {
        debug_assert!(index.iter().zip(self.shape).all(|(i, n)| *i < n), "{index:?} in {:?}", self.shape);
        index[0] * self.strides[0]
            + index[1] * self.strides[1]
            + index[2] * self.strides[2]
            + index[3] * self.strides[3]
    }

    /// Whether no two elements share memory: what an output must satisfy.
    pub fn is_disjoint(&self) -> bool {
        if self.is_empty() {
            return true;
        }
        let mut axes: [(usize, usize); 4] =
            std::array::from_fn(|axis| (self.strides[axis], self.shape[axis]));
        axes.sort_unstable();
        // Each stride must step over everything that the smaller ones reach. This refuses some
        // exotic interleavings that happen to be disjoint, and none that anybody uses.
        let mut reach = 1;
        for (stride, length) in axes.into_iter().filter(|(_, length)| *length > 1) {
            if stride < reach {
                return false;
            }
            reach += stride * (length - 1);
        }
        true
    }

    /// The span, unless it cannot be addressed as bytes of the widest element.
    fn checked_span(&self) -> Option<usize> {
        // Also of an empty tensor: a product of its lengths must never overflow, in any order.
        let count = self.shape.iter().try_fold(1_usize, |count, n| count.checked_mul((*n).max(1)))?;
        if count > isize::MAX as usize / 8 {
            return None;
        }
        if self.is_empty() {
            return Some(0);
        }
        let last = self
            .shape
            .iter()
            .zip(self.strides)
            .try_fold(0_usize, |last, (n, stride)| last.checked_add((n - 1).checked_mul(stride)?))?;
        let span = last.checked_add(1)?;
        (span <= isize::MAX as usize / 8).then_some(span)
    }
}

/// Whether each axis of `shape` is 1 or that of `target`.
pub fn broadcasts_to(shape: [usize; 4], target: [usize; 4]) -> bool {
    shape.iter().zip(target).all(|(n, wanted)| *n == 1 || *n == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packed_layout_addresses_every_element_once() {
        for layout in [Layout::contiguous([2, 3, 4, 5]).unwrap(), Layout::heads_inside([2, 3, 4, 5]).unwrap()]
        {
            let mut seen = vec![false; layout.span()];
            for b in 0..2 {
                for h in 0..3 {
                    for i in 0..4 {
                        for c in 0..5 {
                            let at = layout.offset([b, h, i, c]);
                            assert!(!seen[at]);
                            seen[at] = true;
                        }
                    }
                }
            }
            assert!(seen.iter().all(|seen| *seen));
            assert!(layout.is_disjoint());
            assert_eq!(layout.is_packed(), layout.strides() == [60, 20, 5, 1]);
        }
    }

    #[test]
    fn an_output_that_overlaps_itself_is_seen() {
        assert!(!Layout::strided([1, 1, 3, 4], [0, 0, 2, 1]).unwrap().is_disjoint());
        assert!(!Layout::strided([2, 1, 1, 4], [0, 0, 0, 1]).unwrap().is_disjoint());
        assert!(Layout::strided([2, 1, 1, 4], [7, 0, 0, 1]).unwrap().is_disjoint());
    }

    #[test]
    fn a_strided_last_axis_is_refused() {
        let error = Layout::strided([1, 1, 2, 3], [6, 6, 1, 2]).unwrap_err();
        assert!(matches!(error, Error::LastAxis { stride: 2, .. }));
    }

    #[test]
    fn sizes_beyond_the_address_space_are_errors_not_overflows() {
        assert!(Layout::contiguous([usize::MAX, 2, 2, 2]).is_err());
        assert!(Layout::contiguous([1 << 31, 1 << 31, 1, 1]).is_err());
        assert!(Layout::strided([2, 1, 1, 1], [usize::MAX, 1, 1, 1]).is_err());
        // An empty tensor addresses nothing, however long its other axes are.
        assert_eq!(Layout::contiguous([0, 4, 4, 4]).unwrap().span(), 0);
    }
}
