//! Everything about a call but the data.

mod builder;
mod shape;

pub use builder::ProblemBuilder;
pub use shape::Shape;

use crate::{Causal, DType, Dropout, Error, Window};

/// A validated problem. Whoever holds one need not check it again.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    dtype: DType,
    shape: Shape,
    scale: f64,
    causal: Causal,
    window: Window,
    bias: Option<[usize; 4]>,
    mask: Option<[usize; 4]>,
    key_lengths: bool,
    dropout: Option<Dropout>,
}

impl Problem {
    /// Starts describing a problem; sizes default to 1.
    pub fn builder(dtype: DType) -> ProblemBuilder {
        ProblemBuilder {
            dtype,
            shape: Shape { batch: 1, heads_q: 1, heads_kv: 1, t: 1, m: 1, d: 1, dv: 1 },
            scale: None,
            causal: Causal::None,
            window: Window::default(),
            bias: None,
            mask: None,
            key_lengths: false,
            dropout: None,
            conflict: None,
        }
    }

    /// Starts from the shapes of q `[B, Hq, T, D]`, k `[B, Hkv, M, D]` and v `[B, Hkv, M, Dv]`.
    pub fn for_qkv(dtype: DType, q: [usize; 4], k: [usize; 4], v: [usize; 4]) -> ProblemBuilder {
        let mut builder =
            Self::builder(dtype).batch(q[0]).heads(q[1], k[1]).lengths(q[2], k[2]).head_dims(q[3], v[3]);
        let shared = [
            ("batch of k", k[0], q[0]),
            ("batch of v", v[0], q[0]),
            ("heads of v", v[1], k[1]),
            ("length M of v", v[2], k[2]),
            ("head dimension D of k", k[3], q[3]),
        ];
        builder.conflict = shared
            .into_iter()
            .find(|(_, given, expected)| given != expected)
            .map(|(name, given, expected)| Error::Inconsistent { name, given, expected });
        builder
    }

    /// Element type of all floating tensors.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The sizes.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// What `Q Kᵀ` is multiplied by.
    pub fn scale(&self) -> f64 {
        self.scale
    }

    /// The causal mask.
    pub fn causal(&self) -> Causal {
        self.causal
    }

    /// The window.
    pub fn window(&self) -> Window {
        self.window
    }

    /// The shape of the additive bias, if there is one; axes of length 1 broadcast.
    pub fn bias(&self) -> Option<[usize; 4]> {
        self.bias
    }

    /// The shape of the boolean mask, if there is one; axes of length 1 broadcast.
    pub fn mask(&self) -> Option<[usize; 4]> {
        self.mask
    }

    /// Whether each batch entry has its own number of keys.
    pub fn key_lengths(&self) -> bool {
        self.key_lengths
    }

    /// The dropout, unless it would keep everything.
    pub fn dropout(&self) -> Option<Dropout> {
        self.dropout
    }

    /// Whether every query of a batch entry sees the same keys with nothing added or dropped: the
    /// problem that any fused kernel serves.
    pub fn is_plain(&self) -> bool {
        self.causal == Causal::None
            && self.window.is_unbounded()
            && self.bias.is_none()
            && self.mask.is_none()
            && self.dropout.is_none()
    }

    /// A builder that describes this problem, to change something.
    pub fn to_builder(&self) -> ProblemBuilder {
        ProblemBuilder {
            dtype: self.dtype,
            shape: self.shape,
            scale: Some(self.scale),
            causal: self.causal,
            window: self.window,
            bias: self.bias,
            mask: self.mask,
            key_lengths: self.key_lengths,
            dropout: self.dropout.map(|dropout| (dropout.p(), dropout.seed())),
            conflict: None,
        }
    }

    /// The same problem in another element type.
    #[must_use]
    pub fn with_dtype(&self, dtype: DType) -> Self {
        Self { dtype, ..self.clone() }
    }
}
