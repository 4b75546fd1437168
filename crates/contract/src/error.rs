//! What can go wrong, with what was given, what is allowed, and what to do.

use crate::{DType, Refusal, Rule};

/// A result whose error is the contract's.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of the contract. Every backend returns this type; what is particular to a backend
/// travels in [`Error::Backend`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A dimension that must not be zero is zero.
    #[error(
        "{name} is 0, but must be at least 1 (an empty batch, T = 0 and M = 0 are allowed; heads and head dimensions of 0 are not)"
    )]
    ZeroDimension {
        /// The dimension.
        name: &'static str,
    },
    /// Query heads cannot be divided among the key/value heads.
    #[error(
        "{heads_q} query heads cannot share {heads_kv} key/value heads: heads_q must be a multiple of heads_kv"
    )]
    UnevenGroups {
        /// Query heads given.
        heads_q: usize,
        /// Key/value heads given.
        heads_kv: usize,
    },
    /// The scale is NaN or infinite.
    #[error("scale is {scale}, but must be finite (the default is 1/sqrt(D))")]
    NonFiniteScale {
        /// The scale given.
        scale: f64,
    },
    /// The dropout probability is outside `[0, 1)`.
    #[error("dropout probability is {p}, but must be in [0, 1)")]
    DropoutProbability {
        /// The probability given.
        p: f64,
    },
    /// A shape does not broadcast to what it is added to.
    #[error(
        "{name} has shape {given:?}, which does not broadcast to [B, Hq, T, M] = {target:?}: each axis must be 1 or equal"
    )]
    NotBroadcastable {
        /// `bias` or `mask`.
        name: &'static str,
        /// The shape given.
        given: [usize; 4],
        /// The shape of the scores.
        target: [usize; 4],
    },
    /// Sizes multiply to more than memory can address.
    #[error("{name} of shape {shape:?} has more elements than this machine can address")]
    TooLarge {
        /// The tensor.
        name: &'static str,
        /// Its shape.
        shape: [usize; 4],
    },
    /// An axis is too long for the 32-bit words of the dropout counter.
    #[error("dropout indexes its generator with 32-bit words, but {name} is {given}; use lengths below 2^32")]
    DropoutIndex {
        /// The axis.
        name: &'static str,
        /// Its length.
        given: usize,
    },
    /// A tensor has another shape than the problem says.
    #[error("{name} has shape {given:?}, but this problem needs {expected:?}")]
    Shape {
        /// The tensor.
        name: &'static str,
        /// The shape it has.
        given: [usize; 4],
        /// The shape it must have.
        expected: [usize; 4],
    },
    /// Shapes of q, k and v contradict each other.
    #[error(
        "{name} is {given} in one tensor and {expected} in another; q is [B, Hq, T, D], k is [B, Hkv, M, D], v is [B, Hkv, M, Dv]"
    )]
    Inconsistent {
        /// The axis, as in `batch`, `D`.
        name: &'static str,
        /// One value.
        given: usize,
        /// The other.
        expected: usize,
    },
    /// The last axis of a tensor is not contiguous.
    #[error(
        "the last axis of a tensor must be contiguous, but its stride is {stride}; strides given {strides:?} for shape {shape:?}"
    )]
    LastAxis {
        /// The stride of the last axis.
        stride: usize,
        /// All strides.
        strides: [usize; 4],
        /// The shape.
        shape: [usize; 4],
    },
    /// A tensor reaches beyond its memory.
    #[error(
        "a tensor of shape {shape:?} and strides {strides:?} needs {needed} elements, but its memory has {available}"
    )]
    OutOfBounds {
        /// The shape.
        shape: [usize; 4],
        /// The strides.
        strides: [usize; 4],
        /// Elements from the first to the last one addressed.
        needed: usize,
        /// Elements there are.
        available: usize,
    },
    /// Two elements of an output share memory.
    #[error(
        "an output of shape {shape:?} and strides {strides:?} addresses some memory twice; outputs must not overlap themselves"
    )]
    Overlapping {
        /// The shape.
        shape: [usize; 4],
        /// The strides.
        strides: [usize; 4],
    },
    /// A tensor that the problem names was not given, or one that it does not name was.
    #[error("the problem {} {name}, but the call {} it", if *.declared { "declares" } else { "has no" }, if *.declared { "does not give" } else { "gives" })]
    Presence {
        /// The tensor.
        name: &'static str,
        /// Whether the problem declares it.
        declared: bool,
    },
    /// The element type of the call is not that of the problem.
    #[error("the problem is {expected}, but the call's tensors are {given}")]
    ElementType {
        /// The type of the call.
        given: DType,
        /// The type of the problem.
        expected: DType,
    },
    /// A key length is negative or longer than the keys.
    #[error("key length {given} of batch {batch} is outside 0..={m} (M = {m})")]
    KeyLength {
        /// The batch entry.
        batch: usize,
        /// The length given.
        given: i32,
        /// The number of keys.
        m: usize,
    },
    /// A workspace is smaller than the rule needs.
    #[error(
        "the {rule} rule needs a workspace of {needed} bytes, but was given {given}; ask workspace_bytes for this problem"
    )]
    Workspace {
        /// The rule.
        rule: Rule,
        /// Bytes needed.
        needed: usize,
        /// Bytes given.
        given: usize,
    },
    /// The backend refuses this rule on this problem.
    #[error("{backend} refuses {rule}: {reason}")]
    Refused {
        /// The backend.
        backend: &'static str,
        /// The rule asked for.
        rule: Rule,
        /// Why.
        reason: Refusal,
    },
    /// `Checks::Finite` found a NaN or an infinity where none may be.
    #[error("{count} elements of {name} are NaN or infinite{}", if *.output { ", from finite inputs: the values overflow this element type, or this is a bug of the backend; try a wider element type" } else { "; mend the input, or turn the check off to let them propagate" })]
    NonFinite {
        /// The tensor.
        name: &'static str,
        /// How many.
        count: usize,
        /// Whether it is a result of the call.
        output: bool,
    },
    /// A name that is not one of the known ones.
    #[error("unknown {what} '{given}'; known: {allowed}")]
    UnknownName {
        /// What was named.
        what: &'static str,
        /// The name given.
        given: String,
        /// The names there are.
        allowed: &'static str,
    },
    /// An error particular to one backend.
    #[error("{backend}: {source}")]
    Backend {
        /// The backend.
        backend: &'static str,
        /// Its own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}
