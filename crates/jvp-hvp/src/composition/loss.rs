//! What is above the operator, as the compositions need to know it.
//!
//! A loss L(O) is known through its gradient and the derivative of that along a tangent:
//!
//! ```text
//! G = ∇L(O)      G′ = L″(O) O′
//! ```

use theria_contract::{Cotangent, Element, Primal, Result, Storage, Tangent};

/// A loss of the output, through its first two derivatives.
///
/// ```
/// use theria_contract::{Cotangent, Host, Primal, Result, Tangent, Tensor, TensorView};
/// use theria_jvp_hvp::composition::{Lent, Loss};
///
/// /// L(O) = ½ |O|²
/// struct HalfSquare;
///
/// impl Loss<Host, f64> for HalfSquare {
///     fn cotangent(&self, output: Primal<TensorView<'_, f64>>) -> Result<Cotangent<Lent<'_, Tensor<f64>>>> {
///         Ok(Cotangent(Lent::Made(output.0.to_tensor()))) // G = O
///     }
///     fn cotangent_tangent(
///         &self, _output: Primal<TensorView<'_, f64>>, output_tangent: Tangent<TensorView<'_, f64>>,
///     ) -> Result<Option<Tangent<Cotangent<Tensor<f64>>>>> {
///         Ok(Some(Tangent(Cotangent(output_tangent.0.to_tensor())))) // G′ = O′
///     }
/// }
/// ```
pub trait Loss<S: Storage, E: Element> {
    /// G = ∇L(O).
    fn cotangent(&self, output: Primal<S::View<'_, E>>) -> Result<Cotangent<Lent<'_, S::Tensor<E>>>>;

    /// G′ = L″(O) O′; none if it is zero, and then its products are not computed.
    fn cotangent_tangent(
        &self,
        output: Primal<S::View<'_, E>>,
        output_tangent: Tangent<S::View<'_, E>>,
    ) -> Result<Option<Tangent<Cotangent<S::Tensor<E>>>>>;
}

/// A tensor that was made for the answer, or one that the loss holds.
#[derive(Debug)]
pub enum Lent<'a, T> {
    /// Made.
    Made(T),
    /// Held.
    Held(&'a T),
}

impl<T> AsRef<T> for Lent<'_, T> {
    fn as_ref(&self) -> &T {
        match self {
            Self::Made(tensor) => tensor,
            Self::Held(tensor) => tensor,
        }
    }
}

/// The loss ⟨G, O⟩ with a constant G: its gradient is the backward, and its Hessian-vector product the
/// tangent of the backward.
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a, T>(
    /// G
    pub Cotangent<&'a T>,
);

impl<S: Storage, E: Element> Loss<S, E> for Linear<'_, S::Tensor<E>> {
    fn cotangent(&self, _output: Primal<S::View<'_, E>>) -> Result<Cotangent<Lent<'_, S::Tensor<E>>>> {
        Ok(self.0.map(Lent::Held))
    }

    fn cotangent_tangent(
        &self,
        _output: Primal<S::View<'_, E>>,
        _output_tangent: Tangent<S::View<'_, E>>,
    ) -> Result<Option<Tangent<Cotangent<S::Tensor<E>>>>> {
        Ok(None)
    }
}
