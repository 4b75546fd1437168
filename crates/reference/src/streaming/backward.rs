//! dQ, dK and dV in one sweep of five products for each tile.
//!
//! ```text
//!   S = scale · Q Kᵀ → policy → P = exp(S - lse)          dV += (P ∘ Z)ᵀ G
//!   dP = Z ∘ (G Vᵀ)           → dS = P ∘ (dP - δ)         dK += scale · dSᵀ Q     dQ += scale · dS K
//! ```
//!
//! dK and dV sum over queries, dQ over keys, so no cut of the scores gives every sum one owner. The
//! sweep goes in waves instead: the keys of a key/value head are cut into segments and its queries
//! into at least as many ranges, both by the problem alone, and in wave w segment s works on range
//! (s + w) mod R. Within a wave no two segments touch the same rows of dQ; between waves the list of
//! ranges is rotated by one. Every sum is taken in an order fixed by segment and wave: there is no
//! atomic, no partial sum to store, and the bits do not depend on the number of threads.

use faer::Accum;
use rayon::prelude::*;
use theria_contract::{Element, Shape};

use super::Operand;
use super::cotangent_tile::{TileMaker, Weights, steps};
use super::slots::Slots;
use super::softmax::RowStatistics;
use super::tile::{blocks, matrix, matrix_mut, product, rows};

/// Tasks wanted in one wave over all heads: enough for common machines, few enough to keep segments
/// long.
const TASKS: usize = 32;

/// A run of queries of one head, and its rows of dQ.
struct RowRange<'a, A> {
    head: usize,
    start: usize,
    dq: &'a mut [A],
}

/// A run of keys of one key/value head, and its rows of dK and dV.
struct Segment<'a, A> {
    start: usize,
    dk: &'a mut [A],
    dv: &'a mut [A],
}

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
    let Shape { batch, heads_kv, t, m, d, .. } = shape;
    if batch == 0 || t == 0 || m == 0 {
        for sum in [dq, dk, dv] {
            sum.fill(E::Acc::default());
        }
        return;
    }
    let group = shape.group();
    let (rows_step, keys_step) = steps::<E::Acc>(&shape);
    // Segments are whole key blocks and ranges whole row blocks. There must be at least as many
    // ranges as segments, or a wave would leave segments without one: so the count of segments is
    // held to that of row blocks, and the length of a range is rounded down.
    let (key_blocks, row_blocks) = (m.div_ceil(keys_step), t.div_ceil(rows_step));
    let wanted = TASKS.div_ceil(batch * heads_kv).min(key_blocks).min(row_blocks * group).max(1);
    let segment_len = key_blocks.div_ceil(wanted) * keys_step;
    let range_len = row_blocks / m.div_ceil(segment_len).div_ceil(group) * rows_step;

    let heads =
        dq.par_chunks_mut(group * t * d).zip(dk.par_chunks_mut(m * d)).zip(dv.par_chunks_mut(m * shape.dv));
    heads.enumerate().with_max_len(1).for_each(|(head, ((dq, dk), dv))| {
        let (batch, head_kv) = (head / heads_kv, head % heads_kv);
        // Here and not before the sweep: by every thread, and into the cache that reads it next.
        for sum in [&mut *dq, &mut *dk, &mut *dv] {
            sum.fill(E::Acc::default());
        }
        let mut ranges: Vec<RowRange<'_, E::Acc>> = Vec::with_capacity(group * t.div_ceil(range_len));
        for (i, dq) in dq.chunks_mut(t * d).enumerate() {
            let pieces = dq.chunks_mut(range_len * d).enumerate();
            ranges.extend(pieces.map(|(j, dq)| RowRange {
                head: head_kv * group + i,
                start: j * range_len,
                dq,
            }));
        }
        let pieces = dk.chunks_mut(segment_len * d).zip(dv.chunks_mut(segment_len * shape.dv)).enumerate();
        let mut segments: Vec<Segment<'_, E::Acc>> =
            pieces.map(|(j, (dk, dv))| Segment { start: j * segment_len, dk, dv }).collect();
        assert!(ranges.len() >= segments.len(), "every segment needs a range of its own in every wave");
        for _ in 0..ranges.len() {
            let wave = segments.par_iter_mut().zip(&mut ranges[..]).with_max_len(1);
            wave.for_each(|(segment, range)| {
                slots.with(|scratch| sweep(maker, statistics, [batch, head_kv], segment, range, scratch));
            });
            ranges.rotate_left(1);
        }
    });
}

/// Adds what the queries of `range` and the keys of `segment` give to each other.
fn sweep<E: Operand>(
    maker: &TileMaker<'_, E>,
    statistics: RowStatistics<'_, E::Acc>,
    [batch, head_kv]: [usize; 2],
    segment: &mut Segment<'_, E::Acc>,
    range: &mut RowRange<'_, E::Acc>,
    scratch: &mut [E::Acc],
) {
    let shape = maker.problem.shape();
    let Shape { d, dv: d_value, .. } = shape;
    let (rows_step, keys_step) = steps::<E::Acc>(&shape);
    let scale = E::Acc::from_f64(maker.problem.scale());
    let one = E::Acc::from_f64(1.0);
    let key_end = (segment.start + segment.dk.len() / d).min(maker.policy.key_length(batch));
    let row_end = range.start + range.dq.len() / d;
    for keys in blocks(segment.start..key_end, keys_step) {
        let at = keys.start - segment.start;
        let columns = keys.len();
        let dk = &mut segment.dk[at * d..(at + columns) * d];
        let dv = &mut segment.dv[at * d_value..(at + columns) * d_value];
        let k = rows(maker.operands.k, batch, head_kv, keys.clone());
        for queries in blocks(range.start..row_end, rows_step) {
            let head = [batch, range.head];
            let statistics = statistics.of(&shape, head, queries.clone());
            let tile = maker.make(head, queries.clone(), keys.clone(), statistics, Weights::Dropped, scratch);
            let Some(tile) = tile else { continue };
            let n = queries.len();
            let at = queries.start - range.start;
            let dq = &mut range.dq[at * d..(at + n) * d];
            let q = rows(maker.operands.q, batch, range.head, queries.clone());
            let g = rows(maker.operands.g, batch, range.head, queries);
            let weights = matrix(tile.weights, n, columns, tile.stride);
            let ds = matrix(tile.ds, n, columns, tile.stride);
            product(matrix_mut(dv, columns, d_value, d_value), Accum::Add, weights.transpose(), g, one);
            product(matrix_mut(dk, columns, d, d), Accum::Add, ds.transpose(), q, scale);
            product(matrix_mut(dq, n, d, d), Accum::Add, ds, k, scale);
        }
    }
}
