//! Reverse over reverse: the backward of the backward.
//!
//! A loss reads dQ, dK, dV (and dBias), and its cotangents a on them have arrived. With φ = ⟨G, O⟩, so
//! that the gradients are ∇φ, the loss moves with the inputs and with G by
//!
//! ```text
//! ⟨a, d∇φ⟩ = ⟨H a, d(Q, K, V)⟩ + ⟨J a, dG⟩         H is symmetric, and ∇φ = Jᵀ G
//! J a = O′ = jvp(a)                                H a = second_order(a, G, 0)
//! ```

use theria_contract::{
    Attention, Cotangent, Directions, Element, Inputs, Primal, Problem, Qkv, Result, Rule, SavedTensor,
    Tangent,
};

use super::{Tensor, View};
use crate::linearisation::require_exact;

/// What [`double_backward`] makes: the cotangents of everything that the backward was given.
#[derive(Clone, Debug)]
pub struct DoubleBackward<T> {
    /// On G. As G is a cotangent itself, this lives where O′ does.
    pub cotangent: Cotangent<Cotangent<T>>,
    /// On Q, K, V and bias.
    pub inputs: Cotangent<Qkv<T>>,
}

/// The backward of the backward at G = `cotangent`, for cotangents that arrived on the gradients; one
/// that did not arrive is zero.
pub fn double_backward<E, A>(
    attention: &A,
    problem: &Problem,
    inputs: Primal<&Inputs<'_, A::Storage, E>>,
    saved: Primal<&SavedTensor<A::Storage, E>>,
    cotangent: Cotangent<View<'_, A, E>>,
    on_gradients: Cotangent<Cotangent<Directions<View<'_, A, E>>>>,
) -> Result<DoubleBackward<Tensor<A, E>>>
where
    E: Element,
    A: Attention<E>,
{
    require_exact(attention, problem, &[Rule::Jvp, Rule::SecondOrder])?;
    // A functional on the gradients, which are functionals on tangents, is a tangent: in finite
    // dimensions the dual of the dual is the space itself.
    let directions = Tangent(on_gradients.0.0);
    let pushed = attention.jvp(problem, inputs, saved, directions)?;
    let made = attention.second_order(
        problem,
        inputs,
        saved,
        directions,
        pushed.as_ref(),
        cotangent,
        None,
        false,
    )?;
    Ok(DoubleBackward {
        cotangent: Cotangent(Cotangent(pushed.0.output)),
        // H a is the tangent of a cotangent; as H is symmetric, it is Hᵀ a, a cotangent, as well.
        inputs: made.tangent.0,
    })
}
