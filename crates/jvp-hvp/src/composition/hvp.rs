//! Forward over reverse: `v → (∇φ, H v)` for φ = L(attention(Q, K, V)).
//!
//! ```text
//! O′, μ = jvp(v)      G = ∇L(O)      G′ = L″(O) O′      ∇φ, H v = second_order(v, G, G′)
//! ```

use theria_contract::{
    Attention, Cotangent, Directions, Element, Inputs, Primal, Problem, Qkv, Result, Rule, Saved,
    SavedTensor, Storage, Tangent,
};

use super::{AccTensor, Loss, Tensor, View, both_orders};
use crate::linearisation::require_exact;

/// What [`hvp`] makes.
#[derive(Clone, Debug)]
pub struct Hvp<T, W> {
    /// The gradient of the loss, from the same sweep.
    pub gradient: Cotangent<Qkv<T>>,
    /// H v: the tangent of the gradient along the directions.
    pub product: Tangent<Cotangent<Qkv<T>>>,
    /// O′ and lse′ along the directions.
    pub saved_tangent: Tangent<Saved<T, W>>,
}

/// Gradient and Hessian-vector product of a loss of the output. The Hessian is that of the whole loss:
/// its second derivative enters through G′.
pub fn hvp<E, A>(
    attention: &A,
    problem: &Problem,
    inputs: Primal<&Inputs<'_, A::Storage, E>>,
    saved: Primal<&SavedTensor<A::Storage, E>>,
    directions: Tangent<Directions<View<'_, A, E>>>,
    loss: &impl Loss<A::Storage, E>,
) -> Result<Hvp<Tensor<A, E>, AccTensor<A, E>>>
where
    E: Element,
    A: Attention<E>,
{
    require_exact(attention, problem, &[Rule::Jvp, Rule::SecondOrder])?;
    let saved_tangent = attention.jvp(problem, inputs, saved, directions)?;
    let output = saved.map(|saved| A::Storage::view(&saved.output));
    let output_tangent = saved_tangent.as_ref().map(|tangent| A::Storage::view(&tangent.output));
    let g = loss.cotangent(output)?;
    let g_tangent = loss.cotangent_tangent(output, output_tangent)?;
    let (product, gradient) = both_orders(
        attention,
        problem,
        inputs,
        saved,
        directions,
        saved_tangent.as_ref(),
        g.as_ref().map(|g| A::Storage::view(g.as_ref())),
        g_tangent.as_ref().map(|g_tangent| g_tangent.as_ref().map(|g| g.as_ref().map(A::Storage::view))),
    )?;
    Ok(Hvp { gradient, product, saved_tangent })
}
