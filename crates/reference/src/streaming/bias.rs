//! dBias = dS, summed over the axes along which the bias is broadcast.
//!
//! A sweep of its own, only when the gradient of a bias is wanted: a task owns a piece of dBias and
//! walks everything that it stands for, in a fixed order. The piece is a block of rows of one
//! (batch, head) entry of the bias, or a block of keys when its rows are broadcast.

use std::ops::Range;

use rayon::prelude::*;
use theria_contract::Shape;

use super::Vector;
use super::slots::Slots;
use super::tile::blocks;

/// Whatever makes tiles of cotangents of scores: dS, or its tangent.
pub trait CotangentTiles<A>: Sync {
    /// The sizes of the problem.
    fn shape(&self) -> Shape;

    /// Rows and keys of the largest tile.
    fn steps(&self) -> [usize; 2];

    /// Real keys of a batch entry.
    fn key_length(&self, batch: usize) -> usize;

    /// The tile of these queries and keys, which is the caller's to change, and the stride of its rows;
    /// `None` when no query sees a key.
    fn tile<'s>(
        &self,
        head: [usize; 2],
        queries: Range<usize>,
        keys: Range<usize>,
        scratch: &'s mut [A],
    ) -> Option<(&'s mut [A], usize)>;
}

/// Overwrites `dbias`, packed, of shape `bias`, with the sum of all tiles.
pub fn run<A: Vector>(
    tiles: &impl CotangentTiles<A>,
    bias: [usize; 4],
    dbias: &mut [A],
    slots: &Slots<'_, A>,
) {
    dbias.fill(A::default());
    let shape = tiles.shape();
    if dbias.is_empty() || shape.batch * shape.t * shape.m == 0 {
        return;
    }
    let [rows_step, keys_step] = tiles.steps();
    let [_, heads, bias_rows, bias_keys] = bias;
    let by_rows = bias_rows > 1;
    let piece = if by_rows { rows_step * bias_keys } else { keys_step.min(bias_keys) };
    dbias.par_chunks_mut(bias_rows * bias_keys).enumerate().with_max_len(1).for_each(|(entry, dbias)| {
        let entry = [entry / heads, entry % heads];
        dbias.par_chunks_mut(piece).enumerate().with_max_len(1).for_each(|(index, dbias)| {
            let queries = if by_rows { block(index, rows_step, shape.t) } else { 0..shape.t };
            let keys = if !by_rows && bias_keys > 1 { block(index, keys_step, shape.m) } else { 0..shape.m };
            let piece = Piece { bias, entry, queries, keys };
            slots.with(|scratch| piece.sum(tiles, dbias, scratch));
        });
    });
}

fn block(index: usize, step: usize, end: usize) -> Range<usize> {
    index * step..end.min((index + 1) * step)
}

/// Adds the rows of a tile to its first one.
fn sum_into_first_row<A: Vector>(tile: &mut [A], stride: usize, rows: usize, columns: usize) {
    let (first, others) = tile.split_at_mut(stride);
    for row in others.chunks(stride).take(rows - 1) {
        for (sum, x) in first[..columns].iter_mut().zip(row) {
            *sum += *x;
        }
    }
}

/// What one task owns.
struct Piece {
    bias: [usize; 4],
    entry: [usize; 2],
    queries: Range<usize>,
    keys: Range<usize>,
}

impl Piece {
    fn sum<A: Vector>(&self, tiles: &impl CotangentTiles<A>, dbias: &mut [A], scratch: &mut [A]) {
        let shape = tiles.shape();
        let [rows_step, keys_step] = tiles.steps();
        // An axis of length 1 stands for every index.
        let indices = |axis: usize, length: usize| {
            if self.bias[axis] == 1 { 0..length } else { self.entry[axis]..self.entry[axis] + 1 }
        };
        for batch in indices(0, shape.batch) {
            let key_end = self.keys.end.min(tiles.key_length(batch)).max(self.keys.start);
            for head in indices(1, shape.heads_q) {
                for queries in blocks(self.queries.clone(), rows_step) {
                    for keys in blocks(self.keys.start..key_end, keys_step) {
                        let tile = tiles.tile([batch, head], queries.clone(), keys.clone(), scratch);
                        let Some((tile, stride)) = tile else { continue };
                        // Where all queries add to one row, the tile's own sum first: over a long sweep
                        // one addition for each query would be one naive sum.
                        let broadcast = self.bias[2] == 1;
                        if broadcast {
                            sum_into_first_row(tile, stride, queries.len(), keys.len());
                        }
                        let rows = queries.clone().take(if broadcast { 1 } else { queries.len() });
                        for (i, ds) in rows.zip(tile.chunks(stride)) {
                            self.add_row(i, keys.clone(), &ds[..keys.len()], dbias);
                        }
                    }
                }
            }
        }
    }

    /// Adds a row of dS to where it belongs.
    fn add_row<A: Vector>(&self, row: usize, keys: Range<usize>, ds: &[A], dbias: &mut [A]) {
        let [_, _, rows, columns] = self.bias;
        let row = if rows == 1 { 0 } else { row - self.queries.start };
        if columns == 1 {
            let sum: A = ds.iter().copied().sum();
            dbias[row] += sum;
            return;
        }
        // A piece of broadcast rows starts at its own first key; a row of its own starts at key 0.
        let first = if rows == 1 { keys.start - self.keys.start } else { row * columns + keys.start };
        for (sum, ds) in dbias[first..first + keys.len()].iter_mut().zip(ds) {
            *sum += *ds;
        }
    }
}
