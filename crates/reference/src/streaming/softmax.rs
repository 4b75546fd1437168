//! The element-wise halves of forward and backward. Tiles are row-major, rows padded to whole registers.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use theria_contract::Shape;

use super::Vector;

/// One step of the online softmax. For each row i of the tile,
///
/// ```text
/// m' = max(m, max_j S)    c = exp(m - m')    S ← exp(S - m')    l ← c · l + Σ_j S    m ← m'
/// ```
///
/// `correction[i]` receives c, by which the accumulated output row must be multiplied. The difference
/// S - m' is taken before it is multiplied by log2(e), so large scores lose nothing to that product.
pub(super) struct OnlineSoftmax<'a, A> {
    pub(super) scores: &'a mut [A],
    pub(super) stride: usize,
    pub(super) columns: usize,
    pub(super) max: &'a mut [A],
    pub(super) sum: &'a mut [A],
    pub(super) correction: &'a mut [A],
}

impl<A: Vector> WithSimd for OnlineSoftmax<'_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let OnlineSoftmax { scores, stride, columns, max, sum, correction } = self;
        let unseen = A::from_f64(f64::NEG_INFINITY);
        let width = columns.next_multiple_of(A::lanes::<S>());
        for (((row, max), sum), correction) in scores.chunks_mut(stride).zip(max).zip(sum).zip(correction) {
            let row = &mut row[..width];
            row[columns..].fill(unseen);
            let row = A::split_mut::<S>(row).0;

            let top = row_max::<A, S>(simd, row);
            *correction = A::from_f64(1.0);
            if top > *max {
                *correction = if *max == unseen { A::default() } else { crate::Real::exp(*max - top) };
                *max = top;
            }
            // A row that has seen nothing keeps m = -inf; its scores are all -inf, and exp(-inf - 0) is 0
            // where exp(-inf + inf) would be NaN.
            let origin = A::splat::<S>(simd, if *max == unseen { A::default() } else { *max });

            let mut total = [A::splat(simd, A::default()); 4];
            let (quads, rest) = row.as_chunks_mut::<4>();
            for quad in quads {
                for (x, total) in quad.iter_mut().zip(&mut total) {
                    *x = A::exp_from(simd, *x, origin);
                    *total = A::v_add(simd, *total, *x);
                }
            }
            for x in rest {
                *x = A::exp_from(simd, *x, origin);
                total[0] = A::v_add(simd, total[0], *x);
            }
            let total =
                A::v_add(simd, A::v_add(simd, total[0], total[1]), A::v_add(simd, total[2], total[3]));
            *sum = *sum * *correction + A::reduce_sum(simd, total);
        }
    }
}

#[inline(always)]
fn row_max<A: Vector, S: Simd>(simd: S, row: &[A::Lanes<S>]) -> A {
    let mut top = [A::splat(simd, A::from_f64(f64::NEG_INFINITY)); 4];
    let (quads, rest) = row.as_chunks::<4>();
    for quad in quads {
        for (x, top) in quad.iter().zip(&mut top) {
            *top = A::v_max(simd, *top, *x);
        }
    }
    for x in rest {
        top[0] = A::v_max(simd, top[0], *x);
    }
    A::reduce_max(simd, A::v_max(simd, A::v_max(simd, top[0], top[1]), A::v_max(simd, top[2], top[3])))
}

/// `rows[i] ← factor[i] · rows[i]`, skipping rows whose factor is one: nearly all of them after the
/// first tiles.
pub(super) struct ScaleRows<'a, A> {
    pub(super) rows: &'a mut [A],
    pub(super) stride: usize,
    pub(super) factor: &'a [A],
}

impl<A: Vector> WithSimd for ScaleRows<'_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let one = A::from_f64(1.0);
        for (row, &factor) in self.rows.chunks_mut(self.stride).zip(self.factor) {
            if factor != one {
                let (head, tail) = A::split_mut::<S>(row);
                let wide = A::splat(simd, factor);
                for x in head {
                    *x = A::v_mul(simd, *x, wide);
                }
                for x in tail {
                    *x *= factor;
                }
            }
        }
    }
}

/// `out[i] = factor[i] · rows[i]`: the end of a row block.
pub(super) struct WriteRows<'a, A> {
    pub(super) out: &'a mut [A],
    pub(super) rows: &'a [A],
    pub(super) columns: usize,
    pub(super) stride: usize,
    pub(super) factor: &'a [A],
}

impl<A: Vector> WithSimd for WriteRows<'_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let WriteRows { out, rows, columns, stride, factor } = self;
        for ((out, row), &factor) in out.chunks_mut(columns).zip(rows.chunks(stride)).zip(factor) {
            let (out, out_tail) = A::split_mut::<S>(out);
            let (row, row_tail) = A::split::<S>(&row[..columns]);
            let wide = A::splat(simd, factor);
            for (y, x) in out.iter_mut().zip(row) {
                *y = A::v_mul(simd, *x, wide);
            }
            for (y, x) in out_tail.iter_mut().zip(row_tail) {
                *y = *x * factor;
            }
        }
    }
}

/// What the backward rule remembers of each row.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowStatistics<'a, A> {
    pub(super) lse: &'a [A],
    /// One over the row sum of exp(S - lse): one, up to the rounding of lse.
    pub(super) factor: &'a [A],
    /// rowsum(P ∘ dP) = rowsum(G ∘ O)
    pub(super) delta: &'a [A],
}

impl<A> RowStatistics<'_, A> {
    /// Those of some queries of one head.
    pub(super) fn of(&self, shape: &Shape, [batch, head]: [usize; 2], queries: Range<usize>) -> Self {
        let first_row = (batch * shape.heads_q + head) * shape.t;
        let rows = first_row + queries.start..first_row + queries.end;
        Self { lse: &self.lse[rows.clone()], factor: &self.factor[rows.clone()], delta: &self.delta[rows] }
    }
}

/// The element-wise half of the backward rule, in place: S becomes P and dP becomes dS.
///
/// ```text
/// P = factor · exp(S - lse)    dS = P ∘ (dP - δ)
/// ```
pub(super) struct ScoreCotangent<'a, A> {
    pub(super) scores: &'a mut [A],
    pub(super) cotangent: &'a mut [A],
    pub(super) stride: usize,
    pub(super) columns: usize,
    pub(super) rows: RowStatistics<'a, A>,
}

impl<A: Vector> WithSimd for ScoreCotangent<'_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let ScoreCotangent { scores, cotangent, stride, columns, rows } = self;
        let unseen = A::from_f64(f64::NEG_INFINITY);
        let width = columns.next_multiple_of(A::lanes::<S>());
        let tiles = scores.chunks_mut(stride).zip(cotangent.chunks_mut(stride));
        let statistics = rows.lse.iter().zip(rows.factor).zip(rows.delta);
        for ((p, ds), ((&lse, &factor), &delta)) in tiles.zip(statistics) {
            // The padding is read by no product; computing it keeps the loop free of tails.
            let p = A::split_mut::<S>(&mut p[..width]).0;
            let ds = A::split_mut::<S>(&mut ds[..width]).0;
            // A row that sees nothing: S is -inf throughout, and any finite origin gives P = 0.
            let origin = A::splat::<S>(simd, if lse == unseen { A::default() } else { lse });
            let (factor, delta) = (A::splat(simd, factor), A::splat(simd, delta));
            for (p, ds) in p.iter_mut().zip(ds) {
                *p = A::v_mul(simd, A::exp_from(simd, *p, origin), factor);
                *ds = A::v_mul(simd, *p, A::v_sub(simd, *ds, delta));
            }
        }
    }
}
