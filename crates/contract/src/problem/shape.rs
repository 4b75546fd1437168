//! The sizes of a problem, and the shapes of its tensors.

/// The sizes of a problem.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shape {
    /// B: independent sequences.
    pub batch: usize,
    /// Hq: query heads.
    pub heads_q: usize,
    /// Hkv: key/value heads, each shared by `heads_q / heads_kv` query heads.
    pub heads_kv: usize,
    /// T: queries.
    pub t: usize,
    /// M: keys.
    pub m: usize,
    /// D: dimension of queries and keys.
    pub d: usize,
    /// Dv: dimension of values and outputs.
    pub dv: usize,
}

impl Shape {
    /// Query heads that share one key/value head.
    pub fn group(&self) -> usize {
        self.heads_q / self.heads_kv
    }

    /// Whether there is neither a query nor a key: every tensor but a bias is empty.
    pub fn is_empty(&self) -> bool {
        self.batch == 0 || (self.t == 0 && self.m == 0)
    }

    /// The key/value head of a query head.
    pub fn head_kv(&self, head_q: usize) -> usize {
        head_q / self.group()
    }

    /// `[B, Hq, T, D]`.
    pub fn q(&self) -> [usize; 4] {
        [self.batch, self.heads_q, self.t, self.d]
    }

    /// `[B, Hkv, M, D]`.
    pub fn k(&self) -> [usize; 4] {
        [self.batch, self.heads_kv, self.m, self.d]
    }

    /// `[B, Hkv, M, Dv]`.
    pub fn v(&self) -> [usize; 4] {
        [self.batch, self.heads_kv, self.m, self.dv]
    }

    /// `[B, Hq, T, Dv]`.
    pub fn output(&self) -> [usize; 4] {
        [self.batch, self.heads_q, self.t, self.dv]
    }

    /// `[B, Hq, T, 1]`: a row statistic.
    pub fn rows(&self) -> [usize; 4] {
        [self.batch, self.heads_q, self.t, 1]
    }

    /// `[B, Hq, T, M]`: what bias and mask broadcast to. Never stored by a streaming backend.
    pub fn scores(&self) -> [usize; 4] {
        [self.batch, self.heads_q, self.t, self.m]
    }

    /// `[1, 1, 1, B]`: the shape of key lengths.
    pub fn key_lengths(&self) -> [usize; 4] {
        [1, 1, 1, self.batch]
    }

    /// Floating-point operations of one unit: `2 · B · H · T · M · D`, with the mean of D and Dv
    /// where they differ. Forward counts 2 units, backward 5, jvp 6, second order 10 (12 with G′).
    pub fn unit_flops(&self) -> f64 {
        let scores = self.batch as f64 * self.heads_q as f64 * self.t as f64 * self.m as f64;
        scores * (self.d + self.dv) as f64
    }
}
