//! What a variant keeps of the rules, as data.

/// How the probabilities move when the scores do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Softmax {
    /// `P′ = P ∘ (S′ - μ)`: the derivative.
    Centred,
    /// `P′ = P ∘ S′`: the row statistics do not move.
    Uncentred,
    /// `P′ = 0`: the scores do not move.
    Still,
}

/// The terms that a variant keeps, and the factors that it multiplies by.
#[allow(clippy::struct_excessive_bools)] // a table of independent switches, not a state
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Terms {
    /// How the forward sees P move: it decides the JVP, and by transposition the backward.
    pub(super) forward: Softmax,
    /// How the backward sees the P move that it rebuilds.
    pub(super) rebuilt: Softmax,
    /// Whether the backward sees δ move.
    pub(super) delta_moves: bool,
    /// Whether V′ reaches dP′.
    pub(super) value_tangent: bool,
    /// Whether G′ is read.
    pub(super) cotangent_tangent: bool,
    /// Whether the second order reads G, or takes it to be all ones.
    pub(super) second_reads_cotangent: bool,
    /// Whether the derivative rules draw the dropout weights of the forward.
    pub(super) same_dropout: bool,
    /// O′ and lse′ are multiplied by this.
    pub(super) jvp: f64,
    /// All first-order cotangents are multiplied by this.
    pub(super) backward: f64,
    /// All their tangents are multiplied by this.
    pub(super) second_order: f64,
    /// dQ and dQ′ are multiplied by this as well.
    pub(super) dq: f64,
}

impl Terms {
    /// Everything is kept: the rules as they are.
    pub(super) const EXACT: Self = Self {
        forward: Softmax::Centred,
        rebuilt: Softmax::Centred,
        delta_moves: true,
        value_tangent: true,
        cotangent_tangent: true,
        second_reads_cotangent: true,
        same_dropout: true,
        jvp: 1.0,
        backward: 1.0,
        second_order: 1.0,
        dq: 1.0,
    };
}
