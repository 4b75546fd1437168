//! dQ, dK and dV in one sweep of five products for each tile.
//!
//! ```text
//!   S = scale · Q Kᵀ → policy → P = exp(S - lse)          dV += (P ∘ Z)ᵀ G
//!   dP = Z ∘ (G Vᵀ)           → dS = P ∘ (dP - δ)         dK += scale · dSᵀ Q     dQ += scale · dS K
//! ```
//!
//! The tiles come in the order of [`waves`](super::waves).

use faer::Accum;
use theria_contract::{Element, Shape};

use super::Operand;
use super::cotangent_tile::{TileMaker, Weights, steps};
use super::slots::Slots;
use super::softmax::RowStatistics;
use super::tile::{blocks, matrix, matrix_mut, product, rows};
use super::waves::{self, Part, Rows};

/// Overwrites dQ, dK and dV, all packed.
pub(super) fn run<E: Operand>(
    maker: &TileMaker<'_, E>,
    statistics: RowStatistics<'_, E::Acc>,
    dq: &mut [E::Acc],
    dk: &mut [E::Acc],
    dv: &mut [E::Acc],
    slots: &Slots<'_, E::Acc>,
) {
    let shape = maker.problem.shape();
    let Shape { d, dv: d_value, .. } = shape;
    let steps = steps::<E::Acc>(&shape);
    let (queries, keys) = (Rows::new([dq], [d]), Rows::new([dk, dv], [d, d_value]));
    waves::run(&shape, steps, queries, keys, &|queries, keys| {
        slots.with(|scratch| sweep(maker, statistics, queries, keys, scratch));
    });
}

/// Adds what some queries and some keys give to each other.
fn sweep<E: Operand>(
    maker: &TileMaker<'_, E>,
    statistics: RowStatistics<'_, E::Acc>,
    mut range: Part<'_, E::Acc, 1>,
    mut segment: Part<'_, E::Acc, 2>,
    scratch: &mut [E::Acc],
) {
    let shape = maker.problem.shape();
    let Shape { d, dv: d_value, .. } = shape;
    let [rows_step, keys_step] = steps::<E::Acc>(&shape);
    let scale = E::Acc::from_f64(maker.problem.scale());
    let one = E::Acc::from_f64(1.0);
    let ([batch, head], head_kv) = (range.head, segment.head[1]);
    let key_end = segment.rows.end.min(maker.policy.key_length(batch));
    for keys in blocks(segment.rows.start..key_end, keys_step) {
        let (at, columns) = (keys.start - segment.rows.start, keys.len());
        let [dk, dv] = segment.outputs.block(at..at + columns);
        let k = rows(maker.operands.k, batch, head_kv, keys.clone());
        for queries in blocks(range.rows.clone(), rows_step) {
            let statistics = statistics.of(&shape, [batch, head], queries.clone());
            let (wanted, n) = (Weights::Dropped, queries.len());
            let tile = maker.make([batch, head], queries.clone(), keys.clone(), statistics, wanted, scratch);
            let Some(tile) = tile else { continue };
            let at = queries.start - range.rows.start;
            let [dq] = range.outputs.block(at..at + n);
            let q = rows(maker.operands.q, batch, head, queries.clone());
            let g = rows(maker.operands.g, batch, head, queries);
            let weights = matrix(tile.weights, n, columns, tile.stride);
            let ds = matrix(tile.ds, n, columns, tile.stride);
            product(matrix_mut(dv, columns, d_value, d_value), Accum::Add, weights.transpose(), g, one);
            product(matrix_mut(dk, columns, d, d), Accum::Add, ds.transpose(), q, scale);
            product(matrix_mut(dq, n, d, d), Accum::Add, ds, k, scale);
        }
    }
}
