//! Tiles of S and S′, and of P, P′, dS and dS′ made from them: what every sweep is made of.
//!
//! ```text
//!   S  = scale · Q Kᵀ → policy                      dP  = Z ∘ (G Vᵀ)
//!   S′ = scale · (Q′ Kᵀ + Q K′ᵀ) + bias′            dP′ = Z ∘ (G′ Vᵀ + G V′ᵀ)
//! ```

use std::ops::Range;

use faer::{Accum, MatRef};
use theria_contract::{Element, Problem, Shape, TensorView};
use theria_reference::streaming::passes::MultiplyRows;
use theria_reference::streaming::policy::{Policy, Tile};
use theria_reference::streaming::tile::{Tiles, even_block, matrix_mut, padded, product, rows};
use theria_reference::streaming::{Operand, Vector};

use super::passes::Curve;
use super::row_statistics::RowStatistics;

/// As the backward: a flat optimum (96 … 256 rows by 64 … 512 keys lie within 5 %, but for three of them).
const TILES: Tiles = Tiles { rows: 128, keys: 256 };

/// Block sizes of the second order: a function of the problem alone.
pub(super) fn steps<A>(shape: &Shape) -> [usize; 2] {
    [even_block(shape.t, TILES.rows), even_block(shape.m, TILES.keys_of::<A>())]
}

/// Elements of scratch that a thread of the second order needs: four tiles, and dropout weights.
pub(super) fn scratch<A: Vector>(problem: &Problem) -> usize {
    let [rows, keys] = steps::<A>(&problem.shape());
    let tiles = if problem.dropout().is_some() { 5 } else { 4 };
    tiles * rows * padded::<A>(keys) + RowStatistics::<A>::constants(rows)
}

/// Operands and directions in the type of computation.
#[derive(Clone, Copy)]
pub(super) struct Directed<'a, A> {
    pub(super) q: TensorView<'a, A>,
    pub(super) k: TensorView<'a, A>,
    pub(super) v: TensorView<'a, A>,
    pub(super) q_tangent: Option<TensorView<'a, A>>,
    pub(super) k_tangent: Option<TensorView<'a, A>>,
    pub(super) v_tangent: Option<TensorView<'a, A>>,
}

/// A tile that somebody sees: where it lies and what the policy does to it.
pub(super) struct Block<'a, E: Operand> {
    pub(super) policy: &'a Policy<'a, E>,
    pub(super) head: [usize; 2],
    pub(super) head_kv: usize,
    pub(super) queries: Range<usize>,
    pub(super) keys: Range<usize>,
    pub(super) tile: Tile,
}

impl<'p, E: Operand> Block<'p, E> {
    /// The tile of these queries and keys; `None` when no query sees a key.
    pub(super) fn seen(
        policy: &'p Policy<'p, E>,
        shape: &Shape,
        head: [usize; 2],
        queries: Range<usize>,
        keys: Range<usize>,
    ) -> Option<Self> {
        let tile = policy.tile(head[0], queries.clone(), keys.clone());
        let head_kv = shape.head_kv(head[1]);
        (tile != Tile::Hidden).then_some(Self { policy, head, head_kv, queries, keys, tile })
    }

    /// The rows of an operand that belong to the queries.
    pub(super) fn of_queries<'a>(&self, operand: TensorView<'a, E::Acc>) -> MatRef<'a, E::Acc> {
        rows(operand, self.head[0], self.head[1], self.queries.clone())
    }

    /// The rows of an operand that belong to the keys.
    pub(super) fn of_keys<'a>(&self, operand: TensorView<'a, E::Acc>) -> MatRef<'a, E::Acc> {
        rows(operand, self.head[0], self.head_kv, self.keys.clone())
    }
}

/// `tile = Σ alpha · a · bᵀ` over the pairs that are there; whether there was one.
fn sum_of_products<A: Vector>(
    tile: &mut [A],
    stride: usize,
    alpha: A,
    pairs: [Option<(MatRef<'_, A>, MatRef<'_, A>)>; 2],
) -> bool {
    let mut accum = Accum::Replace;
    for (a, b) in pairs.into_iter().flatten() {
        product(matrix_mut(tile, a.nrows(), b.nrows(), stride), accum, a, b.transpose(), alpha);
        accum = Accum::Add;
    }
    accum == Accum::Add
}

impl<A: Vector> Directed<'_, A> {
    /// S of a tile.
    pub(super) fn scores<E: Operand<Acc = A>>(
        &self,
        problem: &Problem,
        block: &Block<'_, E>,
        tile: &mut [A],
        stride: usize,
    ) {
        let scale = A::from_f64(problem.scale());
        let pair = (block.of_queries(self.q), block.of_keys(self.k));
        sum_of_products(tile, stride, scale, [Some(pair), None]);
        if block.tile == Tile::Edited {
            block.policy.edit(block.head, block.queries.clone(), block.keys.clone(), tile, stride);
        }
    }

    /// S′ of a tile. False if no direction moves the scores; then it is zero.
    pub(super) fn scores_tangent<E: Operand<Acc = A>>(
        &self,
        problem: &Problem,
        block: &Block<'_, E>,
        bias_tangent: Option<TensorView<'_, E>>,
        tile: &mut [A],
        stride: usize,
    ) -> bool {
        let scale = A::from_f64(problem.scale());
        let pairs = [
            self.q_tangent.map(|tangent| (block.of_queries(tangent), block.of_keys(self.k))),
            self.k_tangent.map(|tangent| (block.of_queries(self.q), block.of_keys(tangent))),
        ];
        let tile = &mut tile[..block.queries.len() * stride];
        let moved = sum_of_products(tile, stride, scale, pairs);
        if !moved {
            tile.fill(A::default());
        }
        if block.tile == Tile::Edited && (moved || bias_tangent.is_some()) {
            let (queries, keys) = (block.queries.clone(), block.keys.clone());
            block.policy.edit_tangent(block.head, queries, keys, tile, stride, bias_tangent);
        }
        moved || bias_tangent.is_some()
    }
}

/// Operands of the second order in the type of computation.
pub(super) struct Operands<'a, A> {
    pub(super) directed: Directed<'a, A>,
    pub(super) g: TensorView<'a, A>,
    pub(super) g_tangent: Option<TensorView<'a, A>>,
}

/// Makes the tiles of the second order.
pub(super) struct TileMaker<'a, E: Operand> {
    pub(super) problem: &'a Problem,
    pub(super) operands: Operands<'a, E::Acc>,
    pub(super) policy: &'a Policy<'a, E>,
    pub(super) bias_tangent: Option<TensorView<'a, E>>,
}

/// Which weights a tile is wanted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weights {
    /// P ∘ Z and P′ ∘ Z, which multiply G and G′.
    Dropped,
    /// P and P′ themselves.
    Kept,
}

/// The tiles that [`TileMaker::make`] left in scratch.
pub(super) struct MadeTile<'s, A> {
    /// P ∘ Z, or P if that was asked for.
    pub(super) weights: &'s mut [A],
    /// P′ ∘ Z, or P′.
    pub(super) weights_tangent: &'s mut [A],
    /// dS
    pub(super) ds: &'s mut [A],
    /// dS′
    pub(super) ds_tangent: &'s mut [A],
    pub(super) stride: usize,
    /// Whether a direction moves the scores; otherwise P′ is zero.
    pub(super) moved: bool,
}

impl<E: Operand> TileMaker<'_, E> {
    /// The tile of these queries and keys; `None` when no query sees a key.
    pub(super) fn block(
        &self,
        head: [usize; 2],
        queries: Range<usize>,
        keys: Range<usize>,
    ) -> Option<Block<'_, E>> {
        Block::seen(self.policy, &self.problem.shape(), head, queries, keys)
    }

    /// P ∘ Z, P′ ∘ Z (or P, P′), dS and dS′ of a tile, with the statistics of its rows.
    pub(super) fn make<'s>(
        &self,
        block: &Block<'_, E>,
        statistics: RowStatistics<'_, E::Acc>,
        wanted: Weights,
        scratch: &'s mut [E::Acc],
    ) -> MadeTile<'s, E::Acc> {
        let Operands { directed, g, g_tangent } = &self.operands;
        let arch = pulp::Arch::new();
        let one = E::Acc::from_f64(1.0);
        let (n, columns) = (block.queries.len(), block.keys.len());
        let stride = padded::<E::Acc>(columns);
        let (scores, scratch) = scratch.split_at_mut(n * stride);
        let (scores_tangent, scratch) = scratch.split_at_mut(n * stride);
        let (cotangent, scratch) = scratch.split_at_mut(n * stride);
        let (cotangent_tangent, dropout) = scratch.split_at_mut(n * stride);

        directed.scores(self.problem, block, scores, stride);
        let moved = directed.scores_tangent(self.problem, block, self.bias_tangent, scores_tangent, stride);
        let (g, v) = (block.of_queries(*g), block.of_keys(directed.v));
        sum_of_products(cotangent, stride, one, [Some((g, v)), None]);
        let pairs = [
            g_tangent.map(|tangent| (block.of_queries(tangent), v)),
            directed.v_tangent.map(|tangent| (g, block.of_keys(tangent))),
        ];
        if !sum_of_products(cotangent_tangent, stride, one, pairs) {
            cotangent_tangent.fill(E::Acc::default());
        }

        let drops = self.policy.drops();
        if drops {
            let z = &mut dropout[..n * stride];
            self.policy.dropout_weights(block.head, block.queries.clone(), block.keys.clone(), z, stride);
            arch.dispatch(MultiplyRows { a: cotangent, b: z, stride, columns });
            arch.dispatch(MultiplyRows { a: cotangent_tangent, b: z, stride, columns });
        }
        arch.dispatch(Curve {
            scores,
            scores_tangent,
            cotangent,
            cotangent_tangent,
            stride,
            columns,
            rows: statistics,
        });
        if drops && wanted == Weights::Dropped {
            let z = &dropout[..n * stride];
            arch.dispatch(MultiplyRows { a: scores, b: z, stride, columns });
            arch.dispatch(MultiplyRows { a: scores_tangent, b: z, stride, columns });
        }
        MadeTile {
            weights: scores,
            weights_tangent: scores_tangent,
            ds: cotangent,
            ds_tangent: cotangent_tangent,
            stride,
            moved,
        }
    }
}
