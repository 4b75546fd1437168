//! One tile of P and dS: what every sweep of the backward rule is made of.
//!
//! ```text
//!   S = scale · Q Kᵀ → policy → P = exp(S - lse)      dP = Z ∘ (G Vᵀ)      dS = P ∘ (dP - δ)
//! ```

use std::ops::Range;

use faer::Accum;
use pulp::Arch;
use theria_contract::{Element, Problem, Shape, TensorView};

use super::bias::CotangentTiles;
use super::passes::MultiplyRows;
use super::policy::{Policy, Tile};
use super::softmax::{RowStatistics, ScoreCotangent};
use super::tile::{Tiles, even_block, matrix_mut, padded, product, rows};
use super::{Operand, Vector};

/// The middle of a flat optimum (64…256 × 256…512 lie within 3 %): two tiles, K, V, dK and dV stay
/// in the L2 cache.
const TILES: Tiles = Tiles { rows: 128, keys: 256 };

/// Block sizes: a function of the problem alone.
pub(super) fn steps<A>(shape: &Shape) -> [usize; 2] {
    [even_block(shape.t, TILES.rows), even_block(shape.m, TILES.keys_of::<A>())]
}

/// Elements of scratch that a tile needs: the scores, their cotangent, and dropout weights.
pub(super) fn tile_scratch<A: Vector>(problem: &Problem) -> usize {
    let [rows, keys] = steps::<A>(&problem.shape());
    let tiles = if problem.dropout().is_some() { 3 } else { 2 };
    tiles * rows * padded::<A>(keys)
}

/// Operands of the backward rule in the type of computation.
pub(super) struct Operands<'a, A> {
    pub(super) q: TensorView<'a, A>,
    pub(super) k: TensorView<'a, A>,
    pub(super) v: TensorView<'a, A>,
    pub(super) g: TensorView<'a, A>,
}

/// One tile of P and dS, made from the operands.
pub(super) struct TileMaker<'a, E: Operand> {
    pub(super) problem: &'a Problem,
    pub(super) operands: &'a Operands<'a, E::Acc>,
    pub(super) policy: &'a Policy<'a, E>,
    pub(super) arch: Arch,
}

/// Which weights a tile is wanted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weights {
    /// P ∘ Z, which multiplies V and G.
    Dropped,
    /// P itself.
    Kept,
}

/// The tiles that [`TileMaker::make`] left in scratch.
pub(super) struct MadeTile<'s, A> {
    /// P ∘ Z, or P if that was asked for.
    pub(super) weights: &'s mut [A],
    /// dS
    pub(super) ds: &'s mut [A],
    pub(super) stride: usize,
}

impl<E: Operand> TileMaker<'_, E> {
    /// P ∘ Z (or P) and dS of these queries and keys, with the statistics of these rows; `None` when
    /// no query sees a key.
    pub(super) fn make<'s>(
        &self,
        head: [usize; 2],
        queries: Range<usize>,
        keys: Range<usize>,
        statistics: RowStatistics<'_, E::Acc>,
        weights: Weights,
        scratch: &'s mut [E::Acc],
    ) -> Option<MadeTile<'s, E::Acc>> {
        let [batch, head_q] = head;
        let tile = self.policy.tile(batch, queries.clone(), keys.clone());
        if tile == Tile::Hidden {
            return None;
        }
        let Operands { q, k, v, g } = self.operands;
        let shape = self.problem.shape();
        let head_kv = shape.head_kv(head_q);
        let (n, columns) = (queries.len(), keys.len());
        let stride = padded::<E::Acc>(columns);
        let (scores, scratch) = scratch.split_at_mut(n * stride);
        let (cotangent, dropout) = scratch.split_at_mut(n * stride);
        let scale = E::Acc::from_f64(self.problem.scale());
        let k = rows(*k, batch, head_kv, keys.clone());
        let v = rows(*v, batch, head_kv, keys.clone());
        let q = rows(*q, batch, head_q, queries.clone());
        let g = rows(*g, batch, head_q, queries.clone());
        product(matrix_mut(scores, n, columns, stride), Accum::Replace, q, k.transpose(), scale);
        if tile == Tile::Edited {
            self.policy.edit(head, queries.clone(), keys.clone(), scores, stride);
        }
        let one = E::Acc::from_f64(1.0);
        product(matrix_mut(cotangent, n, columns, stride), Accum::Replace, g, v.transpose(), one);
        if self.policy.drops() {
            let dropout = &mut dropout[..n * stride];
            self.policy.dropout_weights(head, queries, keys, dropout, stride);
            self.arch.dispatch(MultiplyRows { a: cotangent, b: dropout, stride, columns });
            self.arch.dispatch(ScoreCotangent { scores, cotangent, stride, columns, rows: statistics });
            if weights == Weights::Dropped {
                self.arch.dispatch(MultiplyRows { a: scores, b: dropout, stride, columns });
            }
        } else {
            self.arch.dispatch(ScoreCotangent { scores, cotangent, stride, columns, rows: statistics });
        }
        Some(MadeTile { weights: scores, ds: cotangent, stride })
    }
}

/// Tiles of dS.
pub(super) struct BackwardTiles<'a, E: Operand> {
    pub(super) maker: &'a TileMaker<'a, E>,
    pub(super) statistics: RowStatistics<'a, E::Acc>,
}

impl<E: Operand> CotangentTiles<E::Acc> for BackwardTiles<'_, E> {
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
        let rows = self.statistics.of(&self.shape(), head, queries.clone());
        let tile = self.maker.make(head, queries, keys, rows, Weights::Kept, scratch)?;
        Some((tile.ds, tile.stride))
    }
}
