//! Every other mode of order two, made of the four rules: once, for any backend.
//!
//! | what a caller wants | call |
//! |---|---|
//! | the Hessian-vector product of a loss L(O) | [`hvp`] |
//! | double backward: cotangents have arrived on dQ, dK, dV | [`double_backward`] |
//! | reverse over forward: cotangents have arrived on O and O′ | [`reverse_over_forward`] |
//!
//! All three come down to one JVP and one second-order sweep, whose first-order half is kept where it
//! is a result as well. Each asks for the exact derivative before it computes anything: frozen
//! statistics and opaque backends are refused by type, not approximated.
//!
//! One query `x` over the keys 0, 0, 1 with values equal to the keys: O is the mean of a coin whose
//! log-odds are `x - ln 2`, so its derivatives at 0 are 2/9 and 2/27.
//!
//! ```
//! use approx::assert_relative_eq;
//! use theria_contract::{
//!     Attention, Cotangent, DType, Directions, Inputs, Primal, Problem, Tangent, Tensor,
//! };
//! use theria_jvp_hvp::Dense;
//! use theria_jvp_hvp::composition::{Linear, double_backward, hvp, reverse_over_forward};
//!
//! let q = Tensor::from_vec(vec![0.0], [1, 1, 1, 1])?;
//! let k = Tensor::from_vec(vec![0.0, 0.0, 1.0], [1, 1, 3, 1])?;
//! let problem = Problem::for_qkv(DType::F64, q.shape(), k.shape(), k.shape()).build()?;
//! let inputs = Inputs::new(q.view(), k.view(), k.view());
//! let (dense, inputs) = (Dense::new(), Primal(&inputs));
//! let saved = dense.forward(&problem, inputs)?;
//!
//! let one = Tensor::from_vec(vec![1.0], [1, 1, 1, 1])?;
//! let along_q = Directions { q: Some(one.view()), ..Directions::default() };
//!
//! // The loss is O itself.
//! let loss = Linear(Cotangent(&one));
//! let made = hvp(&dense, &problem, inputs, saved.as_ref(), Tangent(along_q), &loss)?;
//! assert_relative_eq!(made.gradient.0.q.at([0; 4]), 2.0 / 9.0, max_relative = 1e-14);
//! assert_relative_eq!(made.product.0.0.q.at([0; 4]), 2.0 / 27.0, max_relative = 1e-14);
//!
//! // The loss is dQ, with G = 1.
//! let (g, on_gradients) = (Cotangent(one.view()), Cotangent(Cotangent(along_q)));
//! let made = double_backward(&dense, &problem, inputs, saved.as_ref(), g, on_gradients)?;
//! assert_relative_eq!(made.cotangent.0.0.at([0; 4]), 2.0 / 9.0, max_relative = 1e-14);
//! assert_relative_eq!(made.inputs.0.q.at([0; 4]), 2.0 / 27.0, max_relative = 1e-14);
//!
//! // The loss is O′.
//! let pushed = dense.jvp(&problem, inputs, saved.as_ref(), Tangent(along_q))?;
//! let on_tangent = Cotangent(Tangent(one.view()));
//! let made = reverse_over_forward(
//!     &dense, &problem, inputs, saved.as_ref(), Tangent(along_q), pushed.as_ref(), None, on_tangent,
//! )?;
//! assert_relative_eq!(made.directions.0.0.q.at([0; 4]), 2.0 / 9.0, max_relative = 1e-14);
//! assert_relative_eq!(made.inputs.0.q.at([0; 4]), 2.0 / 27.0, max_relative = 1e-14);
//! # Ok::<(), theria_contract::Error>(())
//! ```

mod double_backward;
mod hvp;
mod loss;
mod reverse_over_forward;

use theria_contract::{
    Attention, Cotangent, Directions, Element, Inputs, Primal, Problem, Qkv, Result, SavedTensor,
    SecondOrder, Storage, Tangent,
};

pub use double_backward::{DoubleBackward, double_backward};
pub use hvp::{Hvp, hvp};
pub use loss::{Lent, Linear, Loss};
pub use reverse_over_forward::{ReverseOverForward, reverse_over_forward};

/// A view in the memory of a backend.
type View<'a, A, E> = <<A as Attention<E>>::Storage as Storage>::View<'a, E>;
/// A tensor in the memory of a backend.
type Tensor<A, E> = <<A as Attention<E>>::Storage as Storage>::Tensor<E>;
/// A row statistic in the memory of a backend.
type AccTensor<A, E> = <<A as Attention<E>>::Storage as Storage>::Tensor<<E as Element>::Acc>;

/// The tangent of the backward, and the backward itself from the same sweep.
fn both_orders<E, A>(
    attention: &A,
    problem: &Problem,
    inputs: Primal<&Inputs<'_, A::Storage, E>>,
    saved: Primal<&SavedTensor<A::Storage, E>>,
    directions: Tangent<Directions<View<'_, A, E>>>,
    saved_tangent: Tangent<&SavedTensor<A::Storage, E>>,
    cotangent: Cotangent<View<'_, A, E>>,
    cotangent_tangent: Option<Tangent<Cotangent<View<'_, A, E>>>>,
) -> Result<(Tangent<Cotangent<Qkv<Tensor<A, E>>>>, Cotangent<Qkv<Tensor<A, E>>>)>
where
    E: Element,
    A: Attention<E>,
{
    let SecondOrder { tangent, first } = attention.second_order(
        problem,
        inputs,
        saved,
        directions,
        saved_tangent,
        cotangent,
        cotangent_tangent,
        true,
    )?;
    Ok((tangent, first.unwrap_or_else(|| unreachable!("the first order was asked for"))))
}
