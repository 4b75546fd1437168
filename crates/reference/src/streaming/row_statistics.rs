//! δ, and the factor that takes the rounding of lse out again.
//!
//! The light way reads two tensors: δ = rowsum(G ∘ O), and the factor is one. It is as exact as O and
//! lse are. They are not exact enough when O was rounded to f16 or bf16 (δ inherits 2⁻⁹ of it), or
//! when lse is so large that its own rounding is a visible relative error of every probability: then
//! one more sweep over the tiles takes both from P and dP themselves,
//!
//! ```text
//!   Σ = rowsum(exp(S - lse))      factor = 1 / Σ      δ = rowsum(exp(S - lse) ∘ dP) / Σ
//! ```

use rayon::prelude::*;
use theria_contract::{Element, Shape, TensorView};

use super::cotangent_tile::{TileMaker, Weights, steps};
use super::passes::{Dot, Sum};
use super::policy::Policy;
use super::slots::Slots;
use super::softmax::RowStatistics;
use super::tile::{blocks, padded};
use super::{Operand, Vector};

/// Beyond this, lse is rounded by more than 16 units in the last place of one.
const LARGE_LSE: f64 = 32.0;

/// Elements of scratch that a thread needs beside a tile.
pub(super) fn scratch<A: Vector>(shape: &Shape) -> usize {
    constants::<A>(steps::<A>(shape)[0])
}

/// Whether the light way is not exact enough.
pub fn needs_sweep<E: Operand>(lse: &[E::Acc]) -> bool {
    // No early end: a loop that always runs through is one that the compiler turns into vectors.
    let (large, infinity) = (E::Acc::from_f64(LARGE_LSE), E::Acc::from_f64(f64::INFINITY));
    let beyond = |x: E::Acc| u32::from(x > large && x < infinity) + u32::from(x < -large && x > -infinity);
    !E::IN_PLACE || lse.iter().fold(0, |any, &lse| any | beyond(lse)) != 0
}

/// Fills factor and δ, both packed. `output` is O, if its type is that of computation. Each block of
/// queries goes the light way or sweeps by itself: one large lse costs its own block a sweep.
pub(super) fn fill<E: Operand>(
    maker: &TileMaker<'_, E>,
    output: Option<TensorView<'_, E::Acc>>,
    lse: &[E::Acc],
    factor: &mut [E::Acc],
    delta: &mut [E::Acc],
    slots: &Slots<'_, E::Acc>,
) {
    let shape = maker.problem.shape();
    let [rows_step, _] = steps::<E::Acc>(&shape);
    let t = shape.t.max(1);
    let heads = factor.par_chunks_mut(t).zip(delta.par_chunks_mut(t)).zip(lse.par_chunks(t)).enumerate();
    heads.with_max_len(1).for_each(|(head, ((factor, delta), lse))| {
        let head = [head / shape.heads_q, head % shape.heads_q];
        let pieces = factor.par_chunks_mut(rows_step).zip(delta.par_chunks_mut(rows_step));
        let pieces = pieces.zip(lse.par_chunks(rows_step)).enumerate();
        pieces.for_each(|(block, ((factor, delta), lse))| {
            let start = block * rows_step;
            match output {
                Some(output) if !needs_sweep::<E>(lse) => {
                    from_output(maker, output, [head[0], head[1], start], factor, delta);
                }
                _ => slots.with(|scratch| from_tiles(maker, head, start, lse, factor, delta, scratch)),
            }
        });
    });
    distrust_blind_rows(&shape, maker.policy, lse, factor);
}

/// δ = rowsum(G ∘ O) of a block; the factor is one.
fn from_output<E: Operand>(
    maker: &TileMaker<'_, E>,
    output: TensorView<'_, E::Acc>,
    [batch, head, start]: [usize; 3],
    factor: &mut [E::Acc],
    delta: &mut [E::Acc],
) {
    factor.fill(E::Acc::from_f64(1.0));
    for (i, delta) in (start..).zip(delta) {
        let (a, b) = (maker.operands.g.row(batch, head, i), output.row(batch, head, i));
        *delta = maker.arch.dispatch(Dot { a, b });
    }
}

/// Factor and δ of a block from P and dP.
fn from_tiles<E: Operand>(
    maker: &TileMaker<'_, E>,
    head: [usize; 2],
    start: usize,
    lse: &[E::Acc],
    factor: &mut [E::Acc],
    delta: &mut [E::Acc],
    scratch: &mut [E::Acc],
) {
    let (zero, one) = (E::Acc::default(), E::Acc::from_f64(1.0));
    let [rows_step, keys_step] = steps::<E::Acc>(&maker.problem.shape());
    let queries = start..start + lse.len();
    let (constants, tile) = scratch.split_at_mut(constants::<E::Acc>(rows_step));
    let (ones, zeros) = constants.split_at_mut(padded::<E::Acc>(rows_step));
    ones.fill(one);
    zeros.fill(zero);
    let plain = RowStatistics { lse, factor: &ones[..lse.len()], delta: &zeros[..lse.len()] };
    // Sums first, in place of what is made of them.
    factor.fill(zero);
    delta.fill(zero);
    for keys in blocks(maker.policy.keys(head[0], queries.clone()), keys_step) {
        let columns = keys.len();
        let made = maker.make(head, queries.clone(), keys, plain, Weights::Kept, tile);
        let Some(made) = made else { continue };
        let rows = made.weights.chunks(made.stride).zip(made.ds.chunks(made.stride));
        for ((p, p_dp), (sum, dot)) in rows.zip(factor.iter_mut().zip(delta.iter_mut())) {
            *sum += maker.arch.dispatch(Sum(&p[..columns]));
            *dot += maker.arch.dispatch(Sum(&p_dp[..columns]));
        }
    }
    for (factor, delta) in factor.iter_mut().zip(delta) {
        // A row that sees nothing has no probabilities to scale.
        *factor = if *factor == zero { one } else { one / *factor };
        *delta *= *factor;
    }
}

/// A row that sees keys cannot have an infinite lse: whoever saved it was wrong, and with a factor of
/// NaN everything that the row takes part in is NaN rather than plausible.
pub fn distrust_blind_rows<E: Operand>(
    shape: &Shape,
    policy: &Policy<'_, E>,
    lse: &[E::Acc],
    factor: &mut [E::Acc],
) {
    let t = shape.t.max(1);
    factor.par_chunks_mut(t).zip(lse.par_chunks(t)).enumerate().for_each(|(head, (factor, lse))| {
        let head = [head / shape.heads_q, head % shape.heads_q];
        for (row, (lse, factor)) in lse.iter().zip(factor).enumerate() {
            if lse.to_f64().is_infinite() && policy.sees_a_key(head, row) {
                *factor = E::Acc::from_f64(f64::NAN);
            }
        }
    });
}

/// Elements of the two constant statistics.
fn constants<A>(rows_step: usize) -> usize {
    2 * padded::<A>(rows_step)
}
