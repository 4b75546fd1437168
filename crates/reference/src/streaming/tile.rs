//! Blocks of rows and keys, and products of tiles.

use std::ops::Range;

use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use theria_contract::TensorView;

use super::Vector;
use crate::give_back_registers;

/// The largest tile of scores; blocks are evened out below it.
#[derive(Clone, Copy, Debug)]
pub struct Tiles {
    /// Queries.
    pub rows: usize,
    /// Keys, counted in f32; a wider type gets fewer, so that a tile keeps its bytes.
    pub keys: usize,
}

impl Tiles {
    /// Keys in the type `A`.
    pub fn keys_of<A>(self) -> usize {
        (self.keys * 4 / size_of::<A>()).max(1)
    }
}

/// Length of the even blocks that cover `n` with none longer than `most`: 197 by 128 gives 99 and
/// 98, not 128 and 69.
pub fn even_block(n: usize, most: usize) -> usize {
    n.div_ceil(n.div_ceil(most).max(1)).max(1)
}

/// `range` cut into blocks of `step`.
pub fn blocks(range: Range<usize>, step: usize) -> impl Iterator<Item = Range<usize>> {
    let end = range.end;
    range.step_by(step).map(move |start| start..end.min(start + step))
}

/// Row stride of a tile in scratch: whole cache lines, so that every row starts on one.
pub fn padded<A>(columns: usize) -> usize {
    columns.next_multiple_of(64 / size_of::<A>())
}

/// Some rows of one head of an operand, where they lie. Rows that overlap were copied apart before.
pub fn rows<A: Vector>(
    view: TensorView<'_, A>,
    batch: usize,
    head: usize,
    rows: Range<usize>,
) -> MatRef<'_, A> {
    let columns = view.shape()[3];
    let stride = view.layout().strides()[2];
    if rows.is_empty() {
        return matrix(&[], 0, columns, columns);
    }
    let start = view.layout().offset([batch, head, rows.start, 0]);
    let end = view.layout().offset([batch, head, rows.end - 1, 0]) + columns;
    matrix(&view.data()[start..end], rows.len(), columns, stride.max(columns))
}

/// A row-major matrix whose rows are `stride` apart.
pub fn matrix<A: Vector>(data: &[A], rows: usize, columns: usize, stride: usize) -> MatRef<'_, A> {
    MatRef::from_row_major_slice_with_stride(data, rows, columns, stride)
}

/// A row-major matrix to be written.
pub fn matrix_mut<A: Vector>(data: &mut [A], rows: usize, columns: usize, stride: usize) -> MatMut<'_, A> {
    // `from_row_major_slice_with_stride_mut` of faer 0.24.4 returns a column-major view that reaches
    // beyond the slice; the transposed column-major constructor is right. A test watches over both.
    MatMut::from_column_major_slice_with_stride_mut(data, columns, rows, stride).transpose_mut()
}

/// `dst = alpha · a · b`, or added to it. One thread: the parallelism is over tiles.
#[inline]
pub fn product<A: Vector>(dst: MatMut<'_, A>, accum: Accum, a: MatRef<'_, A>, b: MatRef<'_, A>, alpha: A) {
    // Into a single row or column faer adds term by term: over a long sweep of tiles that is one naive
    // sum. The tile's own sum first, and one addition for each tile.
    match (accum, dst.nrows(), dst.ncols()) {
        (Accum::Add, 1, _) => add_row(dst, a, b, alpha),
        (Accum::Add, _, 1) => add_row(dst.transpose_mut(), b.transpose(), a.transpose(), alpha),
        _ => matmul(dst, accum, a, b, alpha, Par::Seq),
    }
    give_back_registers();
}

/// `dst += alpha · a · b` for a single row, through a sum of its own.
fn add_row<A: Vector>(mut dst: MatMut<'_, A>, a: MatRef<'_, A>, b: MatRef<'_, A>, alpha: A) {
    const WIDTH: usize = 256;
    let mut sum = [A::default(); WIDTH];
    for columns in blocks(0..dst.ncols(), WIDTH) {
        let n = columns.len();
        let mut sum = matrix_mut(&mut sum[..n], 1, n, n);
        matmul(sum.as_mut(), Accum::Replace, a, b.subcols(columns.start, n), alpha, Par::Seq);
        let mut target = dst.as_mut().subcols_mut(columns.start, n);
        target += sum;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_major_matrix_to_be_written_is_row_major() {
        let mut data = [0.0_f32; 12];
        let mut matrix = matrix_mut(&mut data, 2, 3, 5);
        for i in 0..2 {
            for c in 0..3 {
                matrix[(i, c)] = (10 * i + c) as f32;
            }
        }
        assert_eq!(data, [0.0, 1.0, 2.0, 0.0, 0.0, 10.0, 11.0, 12.0, 0.0, 0.0, 0.0, 0.0]);
        let read = super::matrix(&data, 2, 3, 5);
        assert_eq!((read[(1, 0)], read[(0, 2)]), (10.0, 2.0));
    }

    #[test]
    fn even_blocks_cover_a_length_without_a_short_rest() {
        assert_eq!(even_block(197, 128), 99);
        assert_eq!(even_block(256, 128), 128);
        assert_eq!(even_block(1, 128), 1);
        assert_eq!(even_block(0, 128), 1);
        let covered: Vec<_> = blocks(3..200, even_block(197, 128)).collect();
        assert_eq!(covered, [3..102, 102..200]);
    }
}
