//! The JVP by row blocks: one task owns a block of queries and walks the keys that they may see.
//!
//! ```text
//!   S = scale · Q Kᵀ → policy → P = exp(S - lse)           A += (P ∘ Z ∘ S′) V + (P ∘ Z) V′
//!   S′ = scale · (Q′ Kᵀ + Q K′ᵀ) + bias′                   Σ += rowsum(P)      M += rowsum(P ∘ S′)
//!
//!   at the end of a row:   μ = M / Σ      O′ = A / Σ - μ ∘ O
//! ```
//!
//! `O′ = (P′ ∘ Z) V + (P ∘ Z) V′` with `P′ = P ∘ (S′ - μ)`, but μ is known only at the end of the row:
//! what it multiplies is O, which the forward saved. Five products for each tile, and no second pass.
//! Where O was rounded to f16 or bf16 it is summed anew, by a sixth product. Σ is one, up to the
//! rounding of `lse`: dividing by it takes that rounding out again.

use std::ops::Range;

use faer::Accum;
use rayon::prelude::*;
use theria_contract::{Element, Problem, Shape, TensorView};
use theria_reference::streaming::Operand;
use theria_reference::streaming::passes::MultiplyRows;
use theria_reference::streaming::policy::Policy;
use theria_reference::streaming::slots::Slots;
use theria_reference::streaming::tile::{Tiles, blocks, even_block, matrix, matrix_mut, padded, product};

use super::passes::{Centre, Push};
use super::tangent_tile::{Block, Directed};

/// Two tiles of 256 KB each, beside K, K′, V and V′ of a block of keys. 128 … 256 rows by 128 … 512 keys
/// lie within 6 %.
const TILES: Tiles = Tiles { rows: 256, keys: 256 };

/// Tasks wanted of a small problem before its tiles are shortened, never below 64 rows.
const TASKS: usize = 32;

/// Block sizes: a function of the problem alone, as determinism demands.
fn steps<A>(shape: &Shape) -> [usize; 2] {
    let queries = shape.batch * shape.heads_q * shape.t;
    let wanted = queries.div_ceil(TASKS).next_multiple_of(16).clamp(64, TILES.rows);
    [even_block(shape.t, wanted), even_block(shape.m, TILES.keys_of::<A>())]
}

/// Elements of scratch that a thread needs: the tiles of S and S′, row sums, the tile of dropout
/// weights, and O where it is summed anew.
pub(super) fn scratch<E: Operand>(problem: &Problem) -> usize {
    let shape = problem.shape();
    let [rows, keys] = steps::<E::Acc>(&shape);
    let tiles = if problem.dropout().is_some() { 3 } else { 2 };
    let output = if E::IN_PLACE { 0 } else { rows * shape.dv };
    tiles * rows * padded::<E::Acc>(keys) + padded::<E::Acc>(rows) + output
}

/// One call.
pub(super) struct Rule<'a, E: Operand> {
    pub(super) problem: &'a Problem,
    pub(super) operands: Directed<'a, E::Acc>,
    pub(super) policy: &'a Policy<'a, E>,
    pub(super) bias_tangent: Option<TensorView<'a, E>>,
    /// O, if it is exact enough to be used.
    pub(super) output: Option<TensorView<'a, E::Acc>>,
    pub(super) lse: &'a [E::Acc],
}

impl<E: Operand> Rule<'_, E> {
    /// Writes O′ and μ, both packed.
    pub(super) fn run(&self, out: &mut [E::Acc], mu: &mut [E::Acc], slots: &Slots<'_, E::Acc>) {
        let shape = self.problem.shape();
        if shape.batch == 0 || shape.t == 0 {
            return;
        }
        let [rows_step, _] = steps::<E::Acc>(&shape);
        let heads = out.par_chunks_mut(shape.t * shape.dv).zip(mu.par_chunks_mut(shape.t)).enumerate();
        heads.with_max_len(1).for_each(|(head, (out, mu))| {
            let head = [head / shape.heads_q, head % shape.heads_q];
            let blocks = out.par_chunks_mut(rows_step * shape.dv).zip(mu.par_chunks_mut(rows_step));
            blocks.enumerate().with_max_len(1).for_each(|(block, (out, mu))| {
                let queries = block * rows_step..block * rows_step + mu.len();
                slots.with(|scratch| self.block(head, queries, out, mu, scratch));
            });
        });
    }

    /// A block of queries of one head.
    fn block(
        &self,
        head: [usize; 2],
        queries: Range<usize>,
        out: &mut [E::Acc],
        mu: &mut [E::Acc],
        scratch: &mut [E::Acc],
    ) {
        let (zero, one) = (E::Acc::default(), E::Acc::from_f64(1.0));
        let arch = pulp::Arch::new();
        let [batch, head_q] = head;
        let shape = self.problem.shape();
        let n = queries.len();
        let [_, keys_step] = steps::<E::Acc>(&shape);
        let stride = padded::<E::Acc>(keys_step);
        let (sum, scratch) = scratch.split_at_mut(padded::<E::Acc>(n));
        let (scores, scratch) = scratch.split_at_mut(n * stride);
        let (scores_tangent, scratch) = scratch.split_at_mut(n * stride);
        let (own_output, dropout) =
            scratch.split_at_mut(if self.output.is_none() { n * shape.dv } else { 0 });
        let sum = &mut sum[..n];
        let first_row = (batch * shape.heads_q + head_q) * shape.t;
        let lse = &self.lse[first_row + queries.start..first_row + queries.end];
        for sums in [&mut *sum, &mut *mu, &mut *out, &mut *own_output] {
            sums.fill(zero);
        }

        for keys in blocks(self.policy.keys(batch, queries.clone()), keys_step) {
            let columns = keys.len();
            let block = Block::seen(self.policy, &shape, head, queries.clone(), keys);
            let Some(block) = block else { continue };
            self.operands.scores(self.problem, &block, scores, stride);
            let moved =
                self.operands.scores_tangent(self.problem, &block, self.bias_tangent, scores_tangent, stride);
            arch.dispatch(Push { scores, scores_tangent, stride, columns, lse, sum, dot: mu });
            if self.policy.drops() {
                let z = &mut dropout[..n * stride];
                self.policy.dropout_weights(head, block.queries.clone(), block.keys.clone(), z, stride);
                arch.dispatch(MultiplyRows { a: scores, b: z, stride, columns });
                arch.dispatch(MultiplyRows { a: scores_tangent, b: z, stride, columns });
            }
            let v = block.of_keys(self.operands.v);
            let weights = matrix(scores, n, columns, stride);
            let add = |target: &mut [E::Acc], weights, values| {
                product(matrix_mut(target, n, shape.dv, shape.dv), Accum::Add, weights, values, one);
            };
            if moved {
                add(out, matrix(scores_tangent, n, columns, stride), v);
            }
            if let Some(v_tangent) = self.operands.v_tangent {
                add(out, weights, block.of_keys(v_tangent));
            }
            if self.output.is_none() {
                add(own_output, weights, v);
            }
        }

        for (i, (mu, sum)) in mu.iter_mut().zip(sum.iter()).enumerate() {
            // A row that sees nothing has no probabilities to sum.
            let mut factor = if *sum == zero { one } else { one / *sum };
            let blind = lse[i].to_f64().is_infinite();
            if blind && self.policy.sees_a_key(head, queries.start + i) {
                // Whoever saved this lse was wrong, and its derivatives are NaN rather than plausible.
                factor = E::Acc::from_f64(f64::NAN);
            }
            *mu *= factor;
            let columns = i * shape.dv..(i + 1) * shape.dv;
            // O summed anew is as much too large as Σ.
            let (saved, mu) = match self.output {
                Some(output) => (output.row(batch, head_q, queries.start + i), *mu),
                None => (&own_output[columns.clone()], *mu * factor),
            };
            arch.dispatch(Centre { out: &mut out[columns], saved, factor, mu });
        }
    }
}
