//! dQ′, dK′ and dV′ in one sweep of ten products for each tile, twelve with G′; three more give dQ, dK
//! and dV from the same tiles.
//!
//! ```text
//!   P, P′, dS, dS′ of a tile      dV′ += (P′ ∘ Z)ᵀ G + (P ∘ Z)ᵀ G′          dV += (P ∘ Z)ᵀ G
//!                                 dK′ += scale · (dS′ᵀ Q + dSᵀ Q′)          dK += scale · dSᵀ Q
//!                                 dQ′ += scale · (dS′ K + dS K′)            dQ += scale · dS K
//! ```
//!
//! The tiles come in the order of [`waves`], and dBias′ and dBias by sweeps of their own.

use std::ops::Range;

use faer::{Accum, MatRef};
use theria_contract::{Arena, Element, Qkv, Shape, TensorViewMut};
use theria_reference::streaming::bias::{self, CotangentTiles};
use theria_reference::streaming::operand::Target;
use theria_reference::streaming::slots::Slots;
use theria_reference::streaming::tile::{blocks, matrix, matrix_mut, product};
use theria_reference::streaming::waves::{self, Part, Rows};
use theria_reference::streaming::{Operand, Vector};

use super::row_statistics::RowStatistics;
use super::tangent_tile::{MadeTile, Operands, TileMaker, Weights, steps};

/// Overwrites the tangents of the gradients, and the gradients themselves if they are wanted.
pub(super) fn run<'a, 'w: 'a, E: Operand>(
    maker: &TileMaker<'_, E>,
    statistics: RowStatistics<'_, E::Acc>,
    tangent: Qkv<TensorViewMut<'a, E>>,
    first: Option<Qkv<TensorViewMut<'a, E>>>,
    arena: &mut Arena<'w>,
    slots: &Slots<'_, E::Acc>,
) where
    E::Acc: Operand,
{
    let shape = maker.problem.shape();
    let Shape { d, dv, .. } = shape;
    let steps = steps::<E::Acc>(&shape);
    let mut tangents = Targets::new(tangent, arena);
    let Some(first) = first else {
        let Targets { q, k, v, .. } = &mut tangents;
        let (queries, keys) = (Rows::new([q.data()], [d]), Rows::new([k.data(), v.data()], [d, dv]));
        waves::run(&shape, steps, queries, keys, &|queries, keys| {
            slots.with(|scratch| sweep(maker, statistics, queries, keys, scratch));
        });
        return tangents.finish(maker, statistics, Which::Tangent, slots);
    };
    let mut firsts = Targets::new(first, arena);
    let (tangent, first) = (&mut tangents, &mut firsts);
    let queries = Rows::new([tangent.q.data(), first.q.data()], [d, d]);
    let keys = [tangent.k.data(), tangent.v.data(), first.k.data(), first.v.data()];
    waves::run(&shape, steps, queries, Rows::new(keys, [d, dv, d, dv]), &|queries, keys| {
        slots.with(|scratch| sweep(maker, statistics, queries, keys, scratch));
    });
    tangents.finish(maker, statistics, Which::Tangent, slots);
    firsts.finish(maker, statistics, Which::First, slots);
}

/// Gradients under computation.
struct Targets<'a, E: Operand> {
    q: Target<'a, E>,
    k: Target<'a, E>,
    v: Target<'a, E>,
    bias: Option<Target<'a, E>>,
}

impl<'a, E: Operand> Targets<'a, E> {
    fn new<'w: 'a>(gradients: Qkv<TensorViewMut<'a, E>>, arena: &mut Arena<'w>) -> Self {
        let Qkv { q, k, v, bias } = gradients.map(|gradient| Target::new(gradient, arena));
        Self { q, k, v, bias }
    }

    /// The gradient of the bias, if it is wanted, and everything rounded into the caller's memory.
    fn finish(
        mut self,
        maker: &TileMaker<'_, E>,
        statistics: RowStatistics<'_, E::Acc>,
        which: Which,
        slots: &Slots<'_, E::Acc>,
    ) {
        if let (Some(bias), Some(shape)) = (&mut self.bias, maker.problem.bias()) {
            bias::run(&BiasTiles { maker, statistics, which }, shape, bias.data(), slots);
        }
        for target in [Some(self.q), Some(self.k), Some(self.v), self.bias].into_iter().flatten() {
            target.finish();
        }
    }
}

/// Adds what some queries and some keys give to each other.
fn sweep<E: Operand, const R: usize, const K: usize>(
    maker: &TileMaker<'_, E>,
    statistics: RowStatistics<'_, E::Acc>,
    mut range: Part<'_, E::Acc, R>,
    mut segment: Part<'_, E::Acc, K>,
    scratch: &mut [E::Acc],
) {
    let shape = maker.problem.shape();
    let [rows_step, keys_step] = steps::<E::Acc>(&shape);
    let [batch, head] = range.head;
    let key_end = segment.rows.end.min(maker.policy.key_length(batch));
    for keys in blocks(segment.rows.start..key_end, keys_step) {
        let at = keys.start - segment.rows.start;
        let mut of_keys = segment.outputs.block(at..at + keys.len());
        for queries in blocks(range.rows.clone(), rows_step) {
            let Some(block) = maker.block([batch, head], queries.clone(), keys.clone()) else { continue };
            let rows = statistics.of(&shape, [batch, head], queries.clone());
            let tile = maker.make(&block, rows, Weights::Dropped, scratch);
            let at = queries.start - range.rows.start;
            let mut of_queries = range.outputs.block(at..at + queries.len());

            let directed = &maker.operands.directed;
            let Operands { g, g_tangent, .. } = maker.operands;
            let (q, k, g) = (block.of_queries(directed.q), block.of_keys(directed.k), block.of_queries(g));
            let q_tangent = directed.q_tangent.map(|tangent| block.of_queries(tangent));
            let k_tangent = directed.k_tangent.map(|tangent| block.of_keys(tangent));
            let g_tangent = g_tangent.map(|tangent| block.of_queries(tangent));
            let scale = E::Acc::from_f64(maker.problem.scale());
            let tile = Matrices::of(&tile, block.queries.len(), block.keys.len());

            let ([dq_tangent, dq @ ..], [dk_tangent, dv_tangent, first @ ..]) =
                (&mut of_queries[..], &mut of_keys[..])
            else {
                unreachable!("one or two outputs of queries, two or four of keys");
            };
            add(dq_tangent, tile.ds_tangent, Some(k), scale);
            add(dq_tangent, tile.ds, k_tangent, scale);
            add(dk_tangent, tile.ds_tangent.transpose(), Some(q), scale);
            add(dk_tangent, tile.ds.transpose(), q_tangent, scale);
            let one = E::Acc::from_f64(1.0);
            add(dv_tangent, tile.weights_tangent.transpose(), tile.moved.then_some(g), one);
            add(dv_tangent, tile.weights.transpose(), g_tangent, one);
            if let ([dq], [dk, dv]) = (dq, first) {
                add(dq, tile.ds, Some(k), scale);
                add(dk, tile.ds.transpose(), Some(q), scale);
                add(dv, tile.weights.transpose(), Some(g), one);
            }
        }
    }
}

/// The tiles as matrices.
struct Matrices<'s, A> {
    weights: MatRef<'s, A>,
    weights_tangent: MatRef<'s, A>,
    ds: MatRef<'s, A>,
    ds_tangent: MatRef<'s, A>,
    moved: bool,
}

impl<'s, A: Vector> Matrices<'s, A> {
    fn of(tile: &'s MadeTile<'_, A>, rows: usize, columns: usize) -> Self {
        let view = |data| matrix(data, rows, columns, tile.stride);
        Self {
            weights: view(tile.weights),
            weights_tangent: view(tile.weights_tangent),
            ds: view(tile.ds),
            ds_tangent: view(tile.ds_tangent),
            moved: tile.moved,
        }
    }
}

/// `sum += alpha · a · b`; nothing if `b` is absent.
fn add<A: Vector>(sum: &mut [A], a: MatRef<'_, A>, b: Option<MatRef<'_, A>>, alpha: A) {
    if let Some(b) = b {
        product(matrix_mut(sum, a.nrows(), b.ncols(), b.ncols()), Accum::Add, a, b, alpha);
    }
}

/// Which cotangents of scores are summed into the gradient of the bias.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Which {
    /// dS
    First,
    /// dS′
    Tangent,
}

/// Tiles of dS or dS′.
struct BiasTiles<'a, E: Operand> {
    maker: &'a TileMaker<'a, E>,
    statistics: RowStatistics<'a, E::Acc>,
    which: Which,
}

impl<E: Operand> CotangentTiles<E::Acc> for BiasTiles<'_, E> {
    fn shape(&self) -> Shape {
        self.maker.problem.shape()
    }

    fn steps(&self) -> [usize; 2] {
        steps::<E::Acc>(&self.shape())
    }

    fn key_length(&self, batch: usize) -> usize {
        self.maker.policy.key_length(batch)
    }

    fn tile<'s>(
        &self,
        head: [usize; 2],
        queries: Range<usize>,
        keys: Range<usize>,
        scratch: &'s mut [E::Acc],
    ) -> Option<(&'s mut [E::Acc], usize)> {
        let block = self.maker.block(head, queries.clone(), keys)?;
        let rows = self.statistics.of(&self.shape(), head, queries);
        let tile = self.maker.make(&block, rows, Weights::Kept, scratch);
        let wanted = match self.which {
            Which::First => tile.ds,
            Which::Tangent => tile.ds_tangent,
        };
        Some((wanted, tile.stride))
    }
}
