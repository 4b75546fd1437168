//! δ and δ′, and the factor that takes the rounding of lse out again.
//!
//! The light way reads four tensors: δ = rowsum(G ∘ O), δ′ = rowsum(G′ ∘ O + G ∘ O′), and the factor is
//! one. It is as exact as O, O′ and lse are. They are not exact enough when O and O′ were rounded to f16
//! or bf16, or when lse is so large that its own rounding is a visible relative error of every
//! probability: then one more sweep over the tiles takes all three from P, P′, dP and dP′ themselves,
//!
//! ```text
//!   Σ = rowsum(exp(S - lse))    factor = 1 / Σ    δ = rowsum(P ∘ dP) / Σ    δ′ = rowsum(P′ ∘ dP + P ∘ dP′) / Σ
//! ```
//!
//! where P and P′ are still without the factor.

use std::ops::Range;

use pulp::Arch;
use rayon::prelude::*;
use theria_contract::{Element, Shape, TensorView};
use theria_reference::streaming::Operand;
use theria_reference::streaming::passes::{Dot, Sum};
use theria_reference::streaming::row_statistics::{distrust_blind_rows, needs_sweep};
use theria_reference::streaming::slots::Slots;
use theria_reference::streaming::tile::{blocks, padded};

use super::tangent_tile::{TileMaker, Weights, steps};

/// What the second order knows of each row before its sweep starts.
#[derive(Clone, Copy, Debug)]
pub(super) struct RowStatistics<'a, A> {
    pub(super) lse: &'a [A],
    /// One over the row sum of exp(S - lse): one, up to the rounding of lse.
    pub(super) factor: &'a [A],
    /// rowsum(P ∘ S′), from the JVP.
    pub(super) mu: &'a [A],
    /// rowsum(P ∘ dP) = rowsum(G ∘ O)
    pub(super) delta: &'a [A],
    /// rowsum(P′ ∘ dP + P ∘ dP′) = rowsum(G′ ∘ O + G ∘ O′)
    pub(super) delta_tangent: &'a [A],
}

impl<A> RowStatistics<'_, A> {
    /// Those of some queries of one head.
    pub(super) fn of(&self, shape: &Shape, [batch, head]: [usize; 2], queries: Range<usize>) -> Self {
        let first_row = (batch * shape.heads_q + head) * shape.t;
        let rows = first_row + queries.start..first_row + queries.end;
        Self {
            lse: &self.lse[rows.clone()],
            factor: &self.factor[rows.clone()],
            mu: &self.mu[rows.clone()],
            delta: &self.delta[rows.clone()],
            delta_tangent: &self.delta_tangent[rows],
        }
    }

    /// Elements of two constant statistics of this many rows.
    pub(super) fn constants(rows: usize) -> usize {
        2 * padded::<A>(rows)
    }
}

/// Fills factor, δ and δ′, all packed. `outputs` are O and O′, if their type is that of computation. Each
/// block of queries goes the light way or sweeps by itself: one large lse costs its own block a sweep.
pub(super) fn fill<E: Operand>(
    maker: &TileMaker<'_, E>,
    outputs: Option<[TensorView<'_, E::Acc>; 2]>,
    [lse, mu]: [&[E::Acc]; 2],
    [factor, delta, delta_tangent]: [&mut [E::Acc]; 3],
    slots: &Slots<'_, E::Acc>,
) {
    let shape = maker.problem.shape();
    let [rows_step, _] = steps::<E::Acc>(&shape);
    let t = shape.t.max(1);
    let made = factor.par_chunks_mut(t).zip(delta.par_chunks_mut(t)).zip(delta_tangent.par_chunks_mut(t));
    let heads = made.zip(lse.par_chunks(t).zip(mu.par_chunks(t))).enumerate();
    heads.with_max_len(1).for_each(|(head, (((factor, delta), delta_tangent), (lse, mu)))| {
        let head = [head / shape.heads_q, head % shape.heads_q];
        let made = factor
            .par_chunks_mut(rows_step)
            .zip(delta.par_chunks_mut(rows_step))
            .zip(delta_tangent.par_chunks_mut(rows_step));
        let pieces = made.zip(lse.par_chunks(rows_step).zip(mu.par_chunks(rows_step))).enumerate();
        pieces.for_each(|(block, (((factor, delta), delta_tangent), (lse, mu)))| {
            let start = block * rows_step;
            let statistics = [factor, delta, delta_tangent];
            match outputs {
                Some(outputs) if !needs_sweep::<E>(lse) => {
                    from_outputs(maker, head, start, outputs, statistics);
                }
                _ => slots.with(|scratch| sum_tiles(maker, head, start, [lse, mu], statistics, scratch)),
            }
        });
    });
    distrust_blind_rows(&shape, maker.policy, lse, factor);
}

/// δ and δ′ of one block of queries; the factor is one.
fn from_outputs<E: Operand>(
    maker: &TileMaker<'_, E>,
    [batch, head]: [usize; 2],
    start: usize,
    [out, out_tangent]: [TensorView<'_, E::Acc>; 2],
    [factor, delta, delta_tangent]: [&mut [E::Acc]; 3],
) {
    let arch = Arch::new();
    let (g, g_tangent) = (maker.operands.g, maker.operands.g_tangent);
    factor.fill(E::Acc::from_f64(1.0));
    for (i, (delta, delta_tangent)) in (start..).zip(delta.iter_mut().zip(delta_tangent)) {
        let dot = |a: TensorView<'_, E::Acc>, o: TensorView<'_, E::Acc>| {
            arch.dispatch(Dot { a: a.row(batch, head, i), b: o.row(batch, head, i) })
        };
        *delta = dot(g, out);
        *delta_tangent = dot(g, out_tangent);
        if let Some(g_tangent) = g_tangent {
            *delta_tangent += dot(g_tangent, out);
        }
    }
}

/// The sums of one block of queries.
fn sum_tiles<E: Operand>(
    maker: &TileMaker<'_, E>,
    head: [usize; 2],
    start: usize,
    [lse, mu]: [&[E::Acc]; 2],
    [factor, delta, delta_tangent]: [&mut [E::Acc]; 3],
    scratch: &mut [E::Acc],
) {
    let (zero, one) = (E::Acc::default(), E::Acc::from_f64(1.0));
    let arch = Arch::new();
    let queries = start..start + lse.len();
    let [_, keys_step] = steps::<E::Acc>(&maker.problem.shape());
    let (constants, scratch) = scratch.split_at_mut(RowStatistics::<E::Acc>::constants(lse.len()));
    let (ones, zeros) = constants.split_at_mut(constants.len() / 2);
    ones.fill(one);
    zeros.fill(zero);
    let (ones, zeros) = (&ones[..lse.len()], &zeros[..lse.len()]);
    let plain = RowStatistics { lse, factor: ones, mu, delta: zeros, delta_tangent: zeros };
    // Sums first, in place of what is made of them.
    for sums in [&mut *factor, &mut *delta, &mut *delta_tangent] {
        sums.fill(zero);
    }
    for keys in blocks(maker.policy.keys(head[0], queries.clone()), keys_step) {
        let columns = keys.len();
        let Some(block) = maker.block(head, queries.clone(), keys) else { continue };
        // Without δ and δ′, dS is P ∘ dP and dS′ is P′ ∘ dP + P ∘ dP′.
        let made = maker.make(&block, plain, Weights::Kept, scratch);
        let add = |sums: &mut [E::Acc], tile: &[E::Acc]| {
            for (sum, row) in sums.iter_mut().zip(tile.chunks(made.stride)) {
                *sum += arch.dispatch(Sum(&row[..columns]));
            }
        };
        add(factor, made.weights);
        add(delta, made.ds);
        add(delta_tangent, made.ds_tangent);
    }
    for ((factor, delta), delta_tangent) in factor.iter_mut().zip(delta).zip(delta_tangent) {
        // A row that sees nothing has no probabilities to scale.
        *factor = if *factor == zero { one } else { one / *factor };
        *delta *= *factor;
        *delta_tangent *= *factor;
    }
}
