//! Sweeps that sum over queries and over keys at once, without partial sums and in a fixed order.
//!
//! dK and dV sum over queries, dQ over keys, so no cut of the scores gives every sum one owner. The
//! sweep goes in waves instead: the keys of a key/value head are cut into segments and its queries
//! into at least as many ranges, both by the problem alone, and in wave w segment s meets range
//! (s + w) mod R. Within a wave no two segments touch the same rows of dQ. Every sum is taken in an
//! order fixed by segment and wave: there is no atomic, no partial sum to store, and the bits do not
//! depend on the number of threads.
//!
//! Nothing is allocated: parts are split off their outputs as the recursion descends.

use std::ops::Range;

use theria_contract::Shape;

use super::Vector;

/// Tasks wanted in one wave over all heads: enough for common machines, few enough to keep segments
/// long.
const TASKS: usize = 32;

/// Packed outputs that share their rows: N matrices, one under the other for every head.
#[derive(Debug)]
pub struct Rows<'a, A, const N: usize> {
    data: [&'a mut [A]; N],
    columns: [usize; N],
}

impl<'a, A: Vector, const N: usize> Rows<'a, A, N> {
    /// Outputs and their numbers of columns.
    pub fn new(data: [&'a mut [A]; N], columns: [usize; N]) -> Self {
        Self { data, columns }
    }

    /// The same outputs for a shorter time.
    fn reborrow(&mut self) -> Rows<'_, A, N> {
        Rows { data: self.data.each_mut().map(|data| &mut **data), columns: self.columns }
    }

    fn split_at(self, row: usize) -> (Self, Self) {
        let columns = self.columns;
        let mut i = 0;
        let mut halves = self.data.map(|data| {
            let (before, after) = data.split_at_mut(row * columns[i]);
            i += 1;
            (Some(before), Some(after))
        });
        let before = halves.each_mut().map(|half| half.0.take().expect("taken once"));
        let after = halves.map(|half| half.1.expect("taken once"));
        (Self { data: before, columns }, Self { data: after, columns })
    }

    /// Some of the rows, of every output.
    pub fn block(&mut self, rows: Range<usize>) -> [&mut [A]; N] {
        let columns = self.columns;
        let mut i = 0;
        self.data.each_mut().map(|data| {
            let columns = columns[i];
            i += 1;
            &mut data[rows.start * columns..rows.end * columns]
        })
    }

    fn fill_zero(&mut self) {
        for data in &mut self.data {
            data.fill(A::default());
        }
    }
}

/// A run of rows of one head: queries of a query head, or keys of a key/value head.
#[derive(Debug)]
pub struct Part<'a, A, const N: usize> {
    /// Batch entry and head.
    pub head: [usize; 2],
    /// The rows of the head.
    pub rows: Range<usize>,
    /// Their outputs, counted from the first of them.
    pub outputs: Rows<'a, A, N>,
}

/// How the rows of one key/value head are cut.
#[derive(Clone, Copy)]
struct Cut {
    shape: Shape,
    segment: usize,
    range: usize,
}

impl Cut {
    /// Segments are whole key blocks and ranges whole row blocks. There must be at least as many
    /// ranges as segments, or a wave would leave segments without one: so the count of segments is
    /// held to that of row blocks, and the length of a range is rounded down.
    fn new(shape: Shape, [rows_step, keys_step]: [usize; 2]) -> Self {
        let (key_blocks, row_blocks) = (shape.m.div_ceil(keys_step), shape.t.div_ceil(rows_step));
        let most = row_blocks * shape.group();
        let wanted = TASKS.div_ceil(shape.batch * shape.heads_kv).min(key_blocks).min(most).max(1);
        let segment = key_blocks.div_ceil(wanted) * keys_step;
        let range = row_blocks / shape.m.div_ceil(segment).div_ceil(shape.group()) * rows_step;
        Self { shape, segment, range }
    }

    fn segments(&self) -> usize {
        self.shape.m.div_ceil(self.segment)
    }

    fn ranges_of_a_head(&self) -> usize {
        self.shape.t.div_ceil(self.range)
    }

    fn ranges(&self) -> usize {
        self.ranges_of_a_head() * self.shape.group()
    }

    fn segment_start(&self, segment: usize) -> usize {
        (segment * self.segment).min(self.shape.m)
    }

    /// The first row of a range among the queries of the whole group.
    fn range_start(&self, range: usize) -> usize {
        let each = self.ranges_of_a_head();
        range / each * self.shape.t + range % each * self.range
    }
}

/// Overwrites `queries` (of every query head) and `keys` (of every key/value head) with what `sweep`
/// adds to zero. It is called once for each segment and range that share a key/value head.
pub fn run<A, const R: usize, const K: usize>(
    shape: &Shape,
    steps: [usize; 2],
    mut queries: Rows<'_, A, R>,
    mut keys: Rows<'_, A, K>,
    sweep: &(impl Fn(Part<'_, A, R>, Part<'_, A, K>) + Sync),
) where
    A: Vector,
{
    if shape.batch == 0 || shape.t == 0 || shape.m == 0 {
        queries.fill_zero();
        keys.fill_zero();
        return;
    }
    heads(&Cut::new(*shape, steps), 0..shape.batch * shape.heads_kv, queries, keys, sweep);
}

fn heads<A: Vector, const R: usize, const K: usize>(
    cut: &Cut,
    heads_kv: Range<usize>,
    queries: Rows<'_, A, R>,
    keys: Rows<'_, A, K>,
    sweep: &(impl Fn(Part<'_, A, R>, Part<'_, A, K>) + Sync),
) {
    if heads_kv.len() == 1 {
        return one_head(cut, heads_kv.start, queries, keys, sweep);
    }
    let half = heads_kv.len() / 2;
    let (queries, more_queries) = queries.split_at(half * cut.shape.group() * cut.shape.t);
    let (keys, more_keys) = keys.split_at(half * cut.shape.m);
    let middle = heads_kv.start + half;
    rayon::join(
        || heads(cut, heads_kv.start..middle, queries, keys, sweep),
        || heads(cut, middle..heads_kv.end, more_queries, more_keys, sweep),
    );
}

fn one_head<A: Vector, const R: usize, const K: usize>(
    cut: &Cut,
    head_kv: usize,
    mut queries: Rows<'_, A, R>,
    mut keys: Rows<'_, A, K>,
    sweep: &(impl Fn(Part<'_, A, R>, Part<'_, A, K>) + Sync),
) {
    // Here and not before the sweep: by every thread, and into the cache that reads it next.
    queries.fill_zero();
    keys.fill_zero();
    let (segments, ranges) = (cut.segments(), cut.ranges());
    assert!(ranges >= segments, "every segment needs a range of its own in every wave");
    for wave in 0..ranges {
        let (before, after) = queries.reborrow().split_at(cut.range_start(wave));
        let ahead = segments.min(ranges - wave);
        let (keys, wrapped) = keys.reborrow().split_at(cut.segment_start(ahead));
        let pairs = Pairs { cut, head_kv, sweep };
        rayon::join(
            || pairs.run(0..ahead, wave, after, keys),
            || pairs.run(ahead..segments, 0, before, wrapped),
        );
    }
}

/// Segments that meet consecutive ranges.
struct Pairs<'a, F> {
    cut: &'a Cut,
    head_kv: usize,
    sweep: &'a F,
}

impl<F> Pairs<'_, F> {
    /// `queries` start at `first_range`, `keys` at the first segment.
    fn run<A: Vector, const R: usize, const K: usize>(
        &self,
        segments: Range<usize>,
        first_range: usize,
        queries: Rows<'_, A, R>,
        keys: Rows<'_, A, K>,
    ) where
        F: Fn(Part<'_, A, R>, Part<'_, A, K>) + Sync,
    {
        let cut = self.cut;
        match segments.len() {
            0 => {}
            1 => {
                let Shape { heads_kv, t, .. } = cut.shape;
                let start = cut.range_start(first_range);
                let rows = start % t..(start % t + cut.range).min(t);
                let batch = self.head_kv / heads_kv;
                let head_q = self.head_kv % heads_kv * cut.shape.group() + start / t;
                let segment = cut.segment_start(segments.start)..cut.segment_start(segments.end);
                (self.sweep)(
                    Part { head: [batch, head_q], rows, outputs: queries },
                    Part { head: [batch, self.head_kv % heads_kv], rows: segment, outputs: keys },
                );
            }
            n => {
                let half = n / 2;
                let middle = segments.start + half;
                let (first, second) = (cut.range_start(first_range), cut.range_start(first_range + half));
                let (queries, more_queries) = queries.split_at(second - first);
                let (keys, more_keys) =
                    keys.split_at(cut.segment_start(middle) - cut.segment_start(segments.start));
                rayon::join(
                    || self.run(segments.start..middle, first_range, queries, keys),
                    || self.run(middle..segments.end, first_range + half, more_queries, more_keys),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every (query, key) pair of a group meets once: queries count keys, keys count queries.
    fn count(shape: Shape, steps: [usize; 2]) -> (Vec<f64>, Vec<f64>) {
        let (mut q, mut k) = (
            vec![7.0; shape.batch * shape.heads_q * shape.t],
            vec![7.0; shape.batch * shape.heads_kv * shape.m],
        );
        run(&shape, steps, Rows::new([&mut q], [1]), Rows::new([&mut k], [1]), &|mut queries, mut keys| {
            assert_eq!(queries.head[1] / shape.group(), keys.head[1]);
            let (rows, columns) = (queries.rows.len(), keys.rows.len());
            let [q] = queries.outputs.block(0..rows);
            for x in q {
                *x += columns as f64;
            }
            let [k] = keys.outputs.block(0..columns);
            for x in k {
                *x += rows as f64;
            }
        });
        (q, k)
    }

    #[test]
    fn every_query_meets_every_key_of_its_head_once() {
        for (batch, heads_q, heads_kv, t, m) in
            [(1, 1, 1, 1, 1), (2, 4, 2, 37, 53), (1, 6, 1, 5, 300), (3, 2, 2, 300, 5), (1, 1, 1, 1000, 1000)]
        {
            let shape = Shape { batch, heads_q, heads_kv, t, m, d: 1, dv: 1 };
            for steps in [[1, 1], [8, 16], [128, 256]] {
                let (q, k) = count(shape, steps);
                assert!(q.iter().all(|x| *x == m as f64), "{shape:?} {steps:?}");
                assert!(k.iter().all(|x| *x == (t * shape.group()) as f64), "{shape:?} {steps:?}");
            }
        }
    }

    #[test]
    fn an_empty_problem_gives_zero() {
        let shape = Shape { batch: 2, heads_q: 1, heads_kv: 1, t: 3, m: 0, d: 1, dv: 1 };
        assert_eq!(count(shape, [8, 8]), (vec![0.0; 6], vec![]));
    }
}
