//! Forward by row blocks: one task owns a block of queries and walks the keys that they may see.
//!
//! ```text
//!            keys →
//!   queries  [tile][tile][tile]      task: (batch, head, block of queries), tiles left to right
//!      ↓     [tile][tile][tile]      a tile: S = scale · Q Kᵀ → policy → online softmax → O += (P ∘ Z) V
//! ```
//!
//! Tasks depend on the problem alone and each sums its tiles in ascending order, so the result does
//! not depend on the number of threads.

use faer::Accum;
use rayon::prelude::*;
use theria_contract::{Element, Problem, Shape, TensorView};

use super::passes::MultiplyRows;
use super::policy::{Policy, Tile};
use super::slots::Slots;
use super::softmax::{OnlineSoftmax, ScaleRows, WriteRows};
use super::tile::{Tiles, blocks, even_block, matrix, matrix_mut, padded, product, rows};
use super::{Operand, Vector};
use crate::Real;

/// Tall tiles spread the packing of K and V over more rows; the tile (512 KB) stays in the L2 cache.
/// Measured: 128 × 512 costs 3 %, 64 × 256 costs 8 %.
const TILES: Tiles = Tiles { rows: 256, keys: 512 };

/// Tasks wanted of a small problem before its tiles are shortened, never below 64 rows.
const TASKS: usize = 32;

/// Block sizes: a function of the problem alone, as determinism demands.
fn steps<A>(shape: &Shape) -> (usize, usize) {
    let queries = shape.batch * shape.heads_q * shape.t;
    let wanted = queries.div_ceil(TASKS).next_multiple_of(16).clamp(64, TILES.rows);
    (even_block(shape.t, wanted), even_block(shape.m, TILES.keys_of::<A>()))
}

/// Elements of scratch that a thread needs: the tile of scores, the output rows, three statistics,
/// and the tile of dropout weights.
pub(super) fn scratch<A: Vector>(problem: &Problem) -> usize {
    let shape = problem.shape();
    let (rows, keys) = steps::<A>(&shape);
    let tiles = if problem.dropout().is_some() { 2 } else { 1 };
    rows * (tiles * padded::<A>(keys) + padded::<A>(shape.dv)) + 3 * padded::<A>(rows)
}

/// Operands of the forward rule in the type of computation.
pub(super) struct Operands<'a, A> {
    pub(super) q: TensorView<'a, A>,
    pub(super) k: TensorView<'a, A>,
    pub(super) v: TensorView<'a, A>,
}

/// Writes O (packed) and lse (packed).
pub(super) fn run<E: Operand>(
    problem: &Problem,
    operands: &Operands<'_, E::Acc>,
    policy: &Policy<'_, E>,
    out: &mut [E::Acc],
    lse: &mut [E::Acc],
    slots: &Slots<'_, E::Acc>,
) {
    let shape = problem.shape();
    if shape.batch == 0 || shape.t == 0 {
        return;
    }
    let (rows_step, keys_step) = steps::<E::Acc>(&shape);
    let heads = out.par_chunks_mut(shape.t * shape.dv).zip(lse.par_chunks_mut(shape.t)).enumerate();
    heads.with_max_len(1).for_each(|(head, (out, lse))| {
        let head = [head / shape.heads_q, head % shape.heads_q];
        let blocks = out.par_chunks_mut(rows_step * shape.dv).zip(lse.par_chunks_mut(rows_step)).enumerate();
        blocks.with_max_len(1).for_each(|(block, (out, lse))| {
            let task = Task { problem, operands, policy, head, start: block * rows_step, keys_step };
            slots.with(|scratch| task.run(out, lse, scratch));
        });
    });
}

/// A block of queries of one head.
struct Task<'a, E: Operand> {
    problem: &'a Problem,
    operands: &'a Operands<'a, E::Acc>,
    policy: &'a Policy<'a, E>,
    head: [usize; 2],
    start: usize,
    keys_step: usize,
}

impl<E: Operand> Task<'_, E> {
    fn run(&self, out: &mut [E::Acc], lse: &mut [E::Acc], scratch: &mut [E::Acc]) {
        let (zero, one) = (E::Acc::default(), E::Acc::from_f64(1.0));
        let unseen = E::Acc::from_f64(f64::NEG_INFINITY);
        let arch = pulp::Arch::new();
        let [batch, head] = self.head;
        let shape = self.problem.shape();
        let head_kv = shape.head_kv(head);
        let scale = E::Acc::from_f64(self.problem.scale());

        let n = lse.len();
        let queries = self.start..self.start + n;
        let (stride, out_stride) = (padded::<E::Acc>(self.keys_step), padded::<E::Acc>(shape.dv));
        let (max, scratch) = scratch.split_at_mut(padded::<E::Acc>(n));
        let (sum, scratch) = scratch.split_at_mut(padded::<E::Acc>(n));
        let (correction, scratch) = scratch.split_at_mut(padded::<E::Acc>(n));
        let (scores, scratch) = scratch.split_at_mut(n * stride);
        let (sums, weights) = scratch.split_at_mut(n * out_stride);
        let (max, sum, correction) = (&mut max[..n], &mut sum[..n], &mut correction[..n]);
        max.fill(unseen);
        sum.fill(zero);

        let q = rows(self.operands.q, batch, head, queries.clone());
        let mut first = true;
        for keys in blocks(self.policy.keys(batch, queries.clone()), self.keys_step) {
            let tile = self.policy.tile(batch, queries.clone(), keys.clone());
            if tile == Tile::Hidden {
                continue;
            }
            let columns = keys.len();
            let k = rows(self.operands.k, batch, head_kv, keys.clone());
            let v = rows(self.operands.v, batch, head_kv, keys.clone());
            product(matrix_mut(scores, n, columns, stride), Accum::Replace, q, k.transpose(), scale);
            if tile == Tile::Edited {
                self.policy.edit(self.head, queries.clone(), keys.clone(), scores, stride);
            }
            arch.dispatch(OnlineSoftmax { scores, stride, columns, max, sum, correction });
            if self.policy.drops() {
                let weights = &mut weights[..n * stride];
                self.policy.dropout_weights(self.head, queries.clone(), keys, weights, stride);
                arch.dispatch(MultiplyRows { a: scores, b: weights, stride, columns });
            }
            if !first {
                arch.dispatch(ScaleRows { rows: sums, stride: out_stride, factor: correction });
            }
            let accum = if first { Accum::Replace } else { Accum::Add };
            product(
                matrix_mut(sums, n, shape.dv, out_stride),
                accum,
                matrix(scores, n, columns, stride),
                v,
                one,
            );
            first = false;
        }
        if first {
            sums.fill(zero);
        }
        let rows = lse.iter_mut().zip(correction.iter_mut()).zip(max).zip(sum).enumerate();
        for (i, (((lse, factor), max), sum)) in rows {
            // A row that has seen a finite score has one equal to its maximum, so its sum is at least one.
            let empty = *sum == zero;
            if empty && self.policy.sees_a_key(self.head, self.start + i) {
                // Not a row that sees nothing: its scores are lost, and so is its output.
                *sum = E::Acc::from_f64(f64::NAN);
                *max = *sum;
            }
            *factor = if *sum == zero { zero } else { one / *sum };
            *lse = if *sum == zero { unseen } else { *max + Real::ln(*sum) };
        }
        arch.dispatch(WriteRows {
            out,
            rows: sums,
            columns: shape.dv,
            stride: out_stride,
            factor: correction,
        });
    }
}
