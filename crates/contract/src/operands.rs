//! What goes into a rule and what comes out, for any kind of memory.

use crate::{Cotangent, Element, Storage, Tangent};

/// One value for each differentiable operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Qkv<V> {
    /// For the queries.
    pub q: V,
    /// For the keys.
    pub k: V,
    /// For the values.
    pub v: V,
    /// For the bias, when the problem has one. As an output of a rule it may be left out even then:
    /// its gradient costs extra and is not always wanted.
    pub bias: Option<V>,
}

impl<V> Qkv<V> {
    /// Changes every value.
    pub fn map<U>(self, mut change: impl FnMut(V) -> U) -> Qkv<U> {
        Qkv { q: change(self.q), k: change(self.k), v: change(self.v), bias: self.bias.map(change) }
    }

    /// References to every value.
    pub fn as_ref(&self) -> Qkv<&V> {
        Qkv { q: &self.q, k: &self.k, v: &self.v, bias: self.bias.as_ref() }
    }

    /// Mutable references to every value.
    pub fn as_mut(&mut self) -> Qkv<&mut V> {
        Qkv { q: &mut self.q, k: &mut self.k, v: &mut self.v, bias: self.bias.as_mut() }
    }

    /// The values with their names in case files.
    pub fn named(self) -> impl Iterator<Item = (&'static str, V)> {
        [("q", Some(self.q)), ("k", Some(self.k)), ("v", Some(self.v)), ("bias", self.bias)]
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
    }
}

/// A direction in the space of the operands. One that is absent is zero, and its products are not
/// computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directions<V> {
    /// Q′.
    pub q: Option<V>,
    /// K′.
    pub k: Option<V>,
    /// V′.
    pub v: Option<V>,
    /// bias′.
    pub bias: Option<V>,
}

impl<V> Default for Directions<V> {
    fn default() -> Self {
        Self { q: None, k: None, v: None, bias: None }
    }
}

impl<V> From<Qkv<V>> for Directions<V> {
    fn from(all: Qkv<V>) -> Self {
        Self { q: Some(all.q), k: Some(all.k), v: Some(all.v), bias: all.bias }
    }
}

/// The primal operands: what is differentiated with respect to, and what decides visibility.
#[derive(Debug)]
pub struct Inputs<'a, S: Storage, E: Element> {
    /// `[B, Hq, T, D]`.
    pub q: S::View<'a, E>,
    /// `[B, Hkv, M, D]`.
    pub k: S::View<'a, E>,
    /// `[B, Hkv, M, Dv]`.
    pub v: S::View<'a, E>,
    /// Added to the scaled scores; broadcast over axes of length 1.
    pub bias: Option<S::View<'a, E>>,
    /// Nonzero = visible; broadcast over axes of length 1.
    pub mask: Option<S::View<'a, u8>>,
    /// `[1, 1, 1, B]`: keys at and beyond the length are not visible, and never read.
    pub key_lengths: Option<S::View<'a, i32>>,
}

impl<'a, S: Storage, E: Element> Inputs<'a, S, E> {
    /// Queries, keys and values with nothing else.
    pub fn new(q: S::View<'a, E>, k: S::View<'a, E>, v: S::View<'a, E>) -> Self {
        Self { q, k, v, bias: None, mask: None, key_lengths: None }
    }
}

impl<S: Storage, E: Element> Clone for Inputs<'_, S, E> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Storage, E: Element> Copy for Inputs<'_, S, E> {}

/// What the forward rule makes and the other rules need: `Primal<Saved>`. The JVP rule makes its
/// tangent, `Tangent<Saved>`: O′ and lse′, which is the row statistic μ that the second order needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saved<V, W> {
    /// O, `[B, Hq, T, Dv]`.
    pub output: V,
    /// Natural logarithm of the row sums, `[B, Hq, T, 1]`, in the accumulation type; `-inf` for a
    /// row that sees nothing.
    pub lse: W,
    /// What rounding took from O, in the shape and type of `output`: O in the type of sums is `output + rest`, up to
    /// the rounding of `rest`. Where 16 bits of O are too few, see
    /// [`Attention::keeps_rest`](crate::Attention::keeps_rest).
    pub rest: Option<V>,
}

/// What the second-order rule makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SecondOrder<V> {
    /// dQ′, dK′, dV′, dBias′: the tangent of the backward.
    pub tangent: Tangent<Cotangent<Qkv<V>>>,
    /// dQ, dK, dV, dBias, when they are wanted from the same sweep.
    pub first: Option<Cotangent<Qkv<V>>>,
}
