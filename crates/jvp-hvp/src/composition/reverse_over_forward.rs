//! Reverse over forward: the backward of the JVP.
//!
//! A loss reads O and O′ = J v, as the losses of consistency models and of physics-informed networks
//! do, and its cotangents gO and gO′ on them have arrived. It moves by
//!
//! ```text
//! ⟨gO, dO⟩ + ⟨gO′, d(J v)⟩ = ⟨gO, J d(Q, K, V)⟩ + ⟨H v, d(Q, K, V)⟩ + ⟨Jᵀ gO′, dv⟩
//! ```
//!
//! where H is the Hessian of ⟨gO′, O⟩. The first two terms are the tangent of the backward with
//! `G = gO′` and `G′ = gO`, the last one is that backward itself: one sweep makes all.

use theria_contract::{
    Attention, Cotangent, Directions, Element, Inputs, Primal, Problem, Qkv, Result, Rule, SavedTensor,
    Tangent,
};

use super::{Tensor, View, both_orders};
use crate::linearisation::require_exact;

/// What [`reverse_over_forward`] makes: the cotangents of everything that the JVP was given.
#[derive(Clone, Debug)]
pub struct ReverseOverForward<T> {
    /// On Q, K, V and bias.
    pub inputs: Cotangent<Qkv<T>>,
    /// On Q′, K′, V′ and bias′.
    pub directions: Cotangent<Tangent<Qkv<T>>>,
}

/// The backward of the JVP along `directions`, for cotangents that arrived on O′ and, perhaps, on O.
/// `saved_tangent` is what the JVP made.
pub fn reverse_over_forward<E, A>(
    attention: &A,
    problem: &Problem,
    inputs: Primal<&Inputs<'_, A::Storage, E>>,
    saved: Primal<&SavedTensor<A::Storage, E>>,
    directions: Tangent<Directions<View<'_, A, E>>>,
    saved_tangent: Tangent<&SavedTensor<A::Storage, E>>,
    on_output: Option<Cotangent<View<'_, A, E>>>,
    on_output_tangent: Cotangent<Tangent<View<'_, A, E>>>,
) -> Result<ReverseOverForward<Tensor<A, E>>>
where
    E: Element,
    A: Attention<E>,
{
    require_exact(attention, problem, &[Rule::Jvp, Rule::SecondOrder])?;
    let (tangent, first) = both_orders(
        attention,
        problem,
        inputs,
        saved,
        directions,
        saved_tangent,
        // O′ lives where O does, so a functional on the one is a functional on the other.
        on_output_tangent.map(Tangent::into_inner),
        // gO enters the sweep where a tangent of G does: both are pulled back by the same Jᵀ.
        on_output.map(Tangent),
    )?;
    Ok(ReverseOverForward {
        // H v = Hᵀ v: the tangent of the backward is the cotangent that is wanted.
        inputs: tangent.0,
        directions: first.map(Tangent),
    })
}
