//! The element-wise halves of the JVP and of the second order.

use pulp::{Simd, WithSimd};
use theria_reference::streaming::Vector;

use super::row_statistics::RowStatistics;

/// The element-wise half of the JVP, in place: S becomes P, and S′ becomes P ∘ S′.
///
/// ```text
/// P = exp(S - lse)      sum += rowsum(P)      dot += rowsum(P ∘ S′)
/// ```
pub(super) struct Push<'a, A> {
    pub(super) scores: &'a mut [A],
    pub(super) scores_tangent: &'a mut [A],
    pub(super) stride: usize,
    pub(super) columns: usize,
    pub(super) lse: &'a [A],
    pub(super) sum: &'a mut [A],
    pub(super) dot: &'a mut [A],
}

impl<A: Vector> WithSimd for Push<'_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Push { scores, scores_tangent, stride, columns, lse, sum, dot } = self;
        let (zero, unseen) = (A::default(), A::from_f64(f64::NEG_INFINITY));
        let width = columns.next_multiple_of(A::lanes::<S>());
        let tiles = scores.chunks_mut(stride).zip(scores_tangent.chunks_mut(stride));
        for ((p, p_s), ((&lse, sum), dot)) in tiles.zip(lse.iter().zip(sum).zip(dot)) {
            let (p, p_s) = (&mut p[..width], &mut p_s[..width]);
            p[columns..].fill(unseen);
            p_s[columns..].fill(zero);
            let (p, p_s) = (A::split_mut::<S>(p).0, A::split_mut::<S>(p_s).0);
            // A row that sees nothing: S is -inf throughout, and any finite origin gives P = 0.
            let origin = A::splat::<S>(simd, if lse == unseen { zero } else { lse });
            let mut totals = [A::splat::<S>(simd, zero); 4];
            let mut dots = totals;
            let (p_quads, p_rest) = p.as_chunks_mut::<4>();
            let (s_quads, s_rest) = p_s.as_chunks_mut::<4>();
            for (p, p_s) in p_quads.iter_mut().zip(s_quads) {
                for i in 0..4 {
                    push_one::<A, S>(simd, origin, &mut p[i], &mut p_s[i], &mut totals[i], &mut dots[i]);
                }
            }
            for (p, p_s) in p_rest.iter_mut().zip(s_rest) {
                push_one::<A, S>(simd, origin, p, p_s, &mut totals[0], &mut dots[0]);
            }
            *sum += reduce::<A, S>(simd, totals);
            *dot += reduce::<A, S>(simd, dots);
        }
    }
}

#[inline(always)]
fn push_one<A: Vector, S: Simd>(
    simd: S,
    origin: A::Lanes<S>,
    p: &mut A::Lanes<S>,
    p_s: &mut A::Lanes<S>,
    total: &mut A::Lanes<S>,
    dot: &mut A::Lanes<S>,
) {
    *p = A::exp_from(simd, *p, origin);
    *p_s = A::v_mul(simd, *p, *p_s);
    *total = A::v_add(simd, *total, *p);
    *dot = A::v_add(simd, *dot, *p_s);
}

#[inline(always)]
fn reduce<A: Vector, S: Simd>(simd: S, parts: [A::Lanes<S>; 4]) -> A {
    let [a, b, c, d] = parts;
    A::reduce_sum(simd, A::v_add(simd, A::v_add(simd, a, b), A::v_add(simd, c, d)))
}

/// The end of a row of the JVP: `out ← factor · out - μ · O`.
pub(super) struct Centre<'a, A> {
    pub(super) out: &'a mut [A],
    pub(super) saved: &'a [A],
    pub(super) factor: A,
    pub(super) mu: A,
}

impl<A: Vector> WithSimd for Centre<'_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Centre { out, saved, factor, mu } = self;
        let (out, out_tail) = A::split_mut::<S>(out);
        let (saved, saved_tail) = A::split::<S>(saved);
        let (wide_factor, wide_mu) = (A::splat::<S>(simd, factor), A::splat::<S>(simd, mu));
        for (x, o) in out.iter_mut().zip(saved) {
            *x = A::v_sub(simd, A::v_mul(simd, wide_factor, *x), A::v_mul(simd, wide_mu, *o));
        }
        for (x, o) in out_tail.iter_mut().zip(saved_tail) {
            *x = factor * *x - mu * *o;
        }
    }
}

/// The element-wise half of the second order, in place: S becomes P, S′ becomes P′, dP becomes dS and
/// dP′ becomes dS′.
///
/// ```text
/// P  = factor · exp(S - lse)      P′  = P ∘ (S′ - μ)
/// dS = P ∘ (dP - δ)               dS′ = P′ ∘ (dP - δ) + P ∘ (dP′ - δ′)
/// ```
pub(super) struct Curve<'a, A> {
    pub(super) scores: &'a mut [A],
    pub(super) scores_tangent: &'a mut [A],
    pub(super) cotangent: &'a mut [A],
    pub(super) cotangent_tangent: &'a mut [A],
    pub(super) stride: usize,
    pub(super) columns: usize,
    pub(super) rows: RowStatistics<'a, A>,
}

impl<A: Vector> WithSimd for Curve<'_, A> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Curve { scores, scores_tangent, cotangent, cotangent_tangent, stride, columns, rows } = self;
        let unseen = A::from_f64(f64::NEG_INFINITY);
        let width = columns.next_multiple_of(A::lanes::<S>());
        let scores = scores.chunks_mut(stride).zip(scores_tangent.chunks_mut(stride));
        let cotangents = cotangent.chunks_mut(stride).zip(cotangent_tangent.chunks_mut(stride));
        for (i, ((p, p_tangent), (ds, ds_tangent))) in scores.zip(cotangents).enumerate() {
            // The padding is read by no product; computing it keeps the loop free of tails.
            let p = A::split_mut::<S>(&mut p[..width]).0;
            let p_tangent = A::split_mut::<S>(&mut p_tangent[..width]).0;
            let ds = A::split_mut::<S>(&mut ds[..width]).0;
            let ds_tangent = A::split_mut::<S>(&mut ds_tangent[..width]).0;
            // A row that sees nothing: S is -inf throughout, and any finite origin gives P = 0.
            let lse = if rows.lse[i] == unseen { A::default() } else { rows.lse[i] };
            let origin = A::splat::<S>(simd, lse);
            let factor = A::splat::<S>(simd, rows.factor[i]);
            let mu = A::splat::<S>(simd, rows.mu[i]);
            let delta = A::splat::<S>(simd, rows.delta[i]);
            let delta_tangent = A::splat::<S>(simd, rows.delta_tangent[i]);
            let scores = p.iter_mut().zip(p_tangent);
            for ((p, p_tangent), (ds, ds_tangent)) in scores.zip(ds.iter_mut().zip(ds_tangent)) {
                *p = A::v_mul(simd, A::exp_from(simd, *p, origin), factor);
                *p_tangent = A::v_mul(simd, *p, A::v_sub(simd, *p_tangent, mu));
                let centred = A::v_sub(simd, *ds, delta);
                let centred_tangent = A::v_sub(simd, *ds_tangent, delta_tangent);
                *ds = A::v_mul(simd, *p, centred);
                let moved = A::v_mul(simd, *p_tangent, centred);
                *ds_tangent = A::v_mul_add(simd, *p, centred_tangent, moved);
            }
        }
    }
}
