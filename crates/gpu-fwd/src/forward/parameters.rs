//! What the forward kernels are given: the structs of `base.cuh`, `score.cuh` and `forward.cuh`, member
//! by member. Both sides assert the same sizes.

use cudarc::driver::sys::CUdeviceptr;
use theria_contract::{Causal, Element, Inputs, Layout, Problem, SavedViewMut};

use crate::Cuda;
use crate::storage::Address;

const _: () = {
    assert!(size_of::<View>() == 32 && size_of::<Broadcast>() == 40 && size_of::<Divisor>() == 12);
    assert!(size_of::<Score>() == 136 && size_of::<Forward>() == 392);
    assert!(size_of::<Fast>() == 456);
};

/// A tensor whose last axis is contiguous: address, and strides in elements.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct View {
    data: CUdeviceptr,
    strides: [i64; 3],
}

impl View {
    /// That of a tensor.
    pub fn of(tensor: &(impl Address + ?Sized)) -> Self {
        let [batch, head, row, _] = tensor.layout().strides().map(|stride| stride as i64);
        Self { data: tensor.address(), strides: [batch, head, row] }
    }

    /// Whether every row starts on 16 bytes and is a whole number of them.
    fn has_whole_vectors(&self, layout: Layout, element: usize) -> bool {
        let whole = |count: u64| count.wrapping_mul(element as u64).is_multiple_of(16);
        let shape = layout.shape();
        // Nothing of an empty tensor is copied.
        layout.is_empty()
            || self.data.is_multiple_of(16)
                && whole(shape[3] as u64)
                && (0..3).all(|axis| shape[axis] <= 1 || whole(self.strides[axis] as u64))
    }
}

/// A tensor that broadcasts: an axis of length 1 has stride 0. All zero where there is none.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Broadcast {
    data: CUdeviceptr,
    strides: [i64; 4],
}

impl Broadcast {
    /// That of a tensor, or none.
    pub fn of(tensor: Option<&impl Address>) -> Self {
        tensor.map_or(Self::default(), |tensor| {
            let (shape, strides) = (tensor.layout().shape(), tensor.layout().strides());
            let stride = |axis: usize| if shape[axis] == 1 { 0 } else { strides[axis] as i64 };
            Self { data: tensor.address(), strides: std::array::from_fn(stride) }
        })
    }
}

/// Everything that decides a score.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Score {
    scale: f64,
    bias: Broadcast,
    mask: Broadcast,
    lengths: CUdeviceptr,
    t: i32,
    m: i32,
    origin: i32,
    back: i32,
    ahead: i32,
    threshold: u32,
    seed: [u32; 2],
    kept: f64,
}

/// A side without bound.
const UNBOUNDED: i32 = i32::MAX;
/// Kernels count queries and keys in 32 bits, and add two such counts.
pub const LONGEST: usize = (1 << 30) - 1;

impl Score {
    /// That of a problem. Both lengths are at most [`LONGEST`].
    pub fn of<E: Element>(problem: &Problem, inputs: &Inputs<'_, Cuda, E>) -> Self {
        let (shape, window) = (problem.shape(), problem.window());
        let side = |side: Option<usize>| side.map_or(UNBOUNDED, |n| n as i32);
        // A side that reaches the last key from the first query is no side: kernels add it to a query.
        let ahead = match problem.causal() {
            Causal::None => window.right.filter(|right| *right < shape.m),
            Causal::TopLeft | Causal::BottomRight => Some(0),
        };
        let (t, m) = (shape.t as i32, shape.m as i32);
        let dropout = problem.dropout();
        let seed = dropout.map_or(0, |dropout| dropout.seed());
        Self {
            scale: problem.scale(),
            bias: Broadcast::of(inputs.bias.as_ref()),
            mask: Broadcast::of(inputs.mask.as_ref()),
            lengths: inputs.key_lengths.as_ref().map_or(0, Address::address),
            t,
            m,
            origin: if problem.causal() == Causal::BottomRight { m - t } else { 0 },
            back: side(window.left),
            ahead: side(ahead),
            threshold: dropout.map_or(0, |dropout| dropout.threshold()),
            seed: [seed as u32, (seed >> 32) as u32],
            kept: dropout.map_or(1.0, |dropout| dropout.kept_weight()),
        }
    }
}

/// A number to divide by, as `Divisor` of base.cuh takes it: division by multiplication (Granlund and
/// Montgomery, 1994), exact for dividends below 2^31.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Divisor {
    number: u32,
    multiplier: u32,
    shift: u32,
}

impl Divisor {
    /// Of a number from 1 to 2^31 - 1; anything else counts as the nearest of them.
    pub fn new(number: usize) -> Self {
        let number = number.clamp(1, i32::MAX as usize) as u32;
        let shift = u32::BITS - (number - 1).leading_zeros();
        let multiplier = (((1_u64 << shift) - u64::from(number)) << 32) / u64::from(number) + 1;
        Self { number, multiplier: multiplier as u32, shift }
    }

    /// What the device computes.
    #[cfg(test)]
    fn quotient(self, n: u32) -> u32 {
        let high = ((u64::from(n) * u64::from(self.multiplier)) >> 32) as u32;
        (high + n) >> self.shift
    }
}

/// Whether the rows of all these tensors can be copied sixteen bytes at a time, with elements of so many bytes.
pub fn whole_vectors<'a>(element: usize, tensors: impl IntoIterator<Item = &'a dyn Address>) -> bool {
    tensors.into_iter().all(|tensor| View::of(tensor).has_whole_vectors(tensor.layout(), element))
}

/// The same of packed tensors of a problem.
pub(super) fn packed_vectors(problem: &Problem) -> bool {
    let shape = problem.shape();
    [shape.d, shape.dv].into_iter().all(|width| (width * problem.dtype().size()).is_multiple_of(16))
}

/// Those of a call of the forward rule.
pub(super) fn forward_tensors<'a, E: Element>(
    inputs: &'a Inputs<'_, Cuda, E>,
    saved: &'a SavedViewMut<'_, Cuda, E>,
) -> impl Iterator<Item = &'a dyn Address> {
    let each: [&dyn Address; 4] = [&inputs.q, &inputs.k, &inputs.v, &saved.output];
    each.into_iter().chain(saved.rest.as_ref().map(|rest| rest as &dyn Address))
}

/// What the blocks of a launch go over: tiles of rows of heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Heads of all batch entries.
    pub heads: usize,
    /// Heads of one of them.
    pub heads_of_entry: usize,
    /// Rows of a head.
    pub rows: usize,
    /// Rows of a tile.
    pub tile: usize,
    /// Heads whose tiles are worked on together, at most.
    pub section: usize,
}

impl Grid {
    /// One over the queries of a problem.
    pub fn of_queries(problem: &Problem, tile: usize, section: usize) -> Self {
        let shape = problem.shape();
        Self {
            heads: shape.batch * shape.heads_q,
            heads_of_entry: shape.heads_q,
            rows: shape.t,
            tile,
            section,
        }
    }

    /// One over its keys.
    pub fn of_keys(problem: &Problem, tile: usize, section: usize) -> Self {
        let shape = problem.shape();
        Self {
            heads: shape.batch * shape.heads_kv,
            heads_of_entry: shape.heads_kv,
            rows: shape.m,
            tile,
            section,
        }
    }

    fn tiles(&self) -> usize {
        self.rows.div_ceil(self.tile)
    }

    /// Blocks of a launch.
    pub fn blocks(&self) -> usize {
        self.heads * self.tiles()
    }

    /// The largest section of whole heads that divides all of them.
    fn whole_section(&self) -> usize {
        (1..=self.section.min(self.heads)).rev().find(|n| self.heads.is_multiple_of(*n)).unwrap_or(1)
    }
}

/// The argument of every forward kernel.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Forward {
    q: View,
    k: View,
    v: View,
    out: View,
    lse: View,
    rest: View,
    score: Score,
    d: i32,
    dv: i32,
    vectors: i32,
    heads: Divisor,
    group: Divisor,
    section: Divisor,
    work: Divisor,
    tiles: i32,
}

impl Forward {
    /// That of a call, with what was saved; its rest is all zero where there is none. `vectors` says whether all rows that
    /// a kernel copies are whole vectors.
    pub fn of<E: Element>(
        problem: &Problem,
        inputs: &Inputs<'_, Cuda, E>,
        [out, lse, rest]: [View; 3],
        vectors: bool,
        grid: Grid,
    ) -> Self {
        let shape = problem.shape();
        let section = grid.whole_section();
        Self {
            q: View::of(&inputs.q),
            k: View::of(&inputs.k),
            v: View::of(&inputs.v),
            out,
            lse,
            rest,
            score: Score::of(problem, inputs),
            d: shape.d as i32,
            dv: shape.dv as i32,
            vectors: i32::from(vectors),
            heads: Divisor::new(grid.heads_of_entry),
            group: Divisor::new(shape.group()),
            section: Divisor::new(section),
            work: Divisor::new(section * grid.tiles()),
            tiles: grid.tiles() as i32,
        }
    }

    /// That of a call of the forward rule.
    pub(super) fn of_rule<E: Element>(
        problem: &Problem,
        inputs: &Inputs<'_, Cuda, E>,
        saved: &SavedViewMut<'_, Cuda, E>,
        grid: Grid,
    ) -> Self {
        let vectors = whole_vectors(size_of::<E>(), forward_tensors(inputs, saved));
        let rest = saved.rest.as_ref().map_or_else(View::default, View::of);
        Self::of(problem, inputs, [View::of(&saved.output), View::of(&saved.lse), rest], vectors, grid)
    }
}

/// The argument of both kernels of `cuda-fast`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Fast {
    forward: Forward,
    weights: View,
    rows: View,
}

/// Where `cuda-fast` keeps what goes from its first kernel to its second one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Halfway {
    /// Elements of a row of weights: M in whole sixteens.
    pitch: usize,
    /// Bytes of all weights.
    weights: usize,
    /// Bytes of the maximum and the sum of all rows.
    rows: usize,
}

impl Halfway {
    /// That of a problem. No memory has as much as the largest problems ask for: sums stay at the end.
    pub fn of(problem: &Problem) -> Self {
        let shape = problem.shape();
        let pitch = shape.m.next_multiple_of(16);
        let rows = shape.batch.saturating_mul(shape.heads_q).saturating_mul(shape.t);
        let weights = rows.saturating_mul(pitch).saturating_mul(problem.dtype().size());
        // Rows start on 16 bytes, so the rows after them do too.
        Self {
            pitch,
            weights: weights.min(usize::MAX >> 8),
            rows: rows.saturating_mul(8).min(usize::MAX >> 8),
        }
    }

    /// Bytes of the whole.
    pub fn bytes(&self) -> usize {
        self.weights + self.rows
    }
}

impl Fast {
    /// That of a call with this scratch, which is as large as [`Halfway`] says.
    pub fn of(forward: Forward, problem: &Problem, scratch: CUdeviceptr) -> Self {
        let (shape, halfway) = (problem.shape(), Halfway::of(problem));
        let view = |data, row: usize| {
            // Of a batch without entries nothing is addressed, however long its rows are.
            let head = row.saturating_mul(shape.t);
            View { data, strides: [head.saturating_mul(shape.heads_q) as i64, head as i64, row as i64] }
        };
        let weights = view(scratch, halfway.pitch);
        Self { forward, weights, rows: view(scratch + halfway.weights as u64, 2) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use theria_contract::DType;

    use super::*;

    #[test]
    fn packed_rows_are_whole_vectors_where_both_widths_are() {
        let vectors =
            |dtype, d, dv| packed_vectors(&Problem::builder(dtype).head_dims(d, dv).build().unwrap());
        assert!(vectors(DType::Bf16, 64, 8) && vectors(DType::F32, 20, 4));
        assert!(!vectors(DType::Bf16, 20, 8) && !vectors(DType::F16, 64, 12) && !vectors(DType::F32, 18, 4));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn division_by_multiplication_is_division(
            number in prop_oneof![1_usize..40, 1_usize..=i32::MAX as usize],
            n in prop_oneof![0_u32..100, 0_u32..1 << 31],
        ) {
            let divisor = Divisor::new(number);
            for n in [n, n / number as u32 * number as u32, (i32::MAX as u32) - n % 3] {
                prop_assert_eq!(divisor.quotient(n), n / number as u32, "{} / {}", n, number);
            }
        }
    }
}
