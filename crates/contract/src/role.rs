//! Roles: what a tensor means to a derivative.
//!
//! A tangent and a cotangent of one tensor have the same shape and opposite meaning: a tangent is
//! pushed forward by a JVP, a cotangent is pulled back by a backward. Mixing them up yields numbers
//! that look right. So each carries its role as a type, and the compiler refuses the mix:
//!
//! ```
//! use theria_contract::{Attention, Directions, Host, Inputs, Primal, Problem, Result, SavedTensor, Tangent, TensorView};
//!
//! fn push<A: Attention<f64, Storage = Host>>(
//!     attention: &A, problem: &Problem, inputs: Primal<&Inputs<'_, Host, f64>>,
//!     saved: Primal<&SavedTensor<Host, f64>>, direction: TensorView<'_, f64>,
//! ) -> Result<Tangent<SavedTensor<Host, f64>>> {
//!     let direction = Directions { q: Some(direction), ..Directions::default() };
//!     attention.jvp(problem, inputs, saved, Tangent(direction))
//! }
//! ```
//!
//! The same with a cotangent in the place of the tangent is another program, and not a legal one:
//!
//! ```compile_fail,E0308
//! use theria_contract::{Attention, Cotangent, Directions, Host, Inputs, Primal, Problem, Result, SavedTensor, Tangent, TensorView};
//!
//! fn push<A: Attention<f64, Storage = Host>>(
//!     attention: &A, problem: &Problem, inputs: Primal<&Inputs<'_, Host, f64>>,
//!     saved: Primal<&SavedTensor<Host, f64>>, direction: TensorView<'_, f64>,
//! ) -> Result<Tangent<SavedTensor<Host, f64>>> {
//!     let direction = Directions { q: Some(direction), ..Directions::default() };
//!     attention.jvp(problem, inputs, saved, Cotangent(direction))
//! }
//! ```
//!
//! Nor does the result of a JVP pass for a cotangent, where a backward wants one:
//!
//! ```compile_fail,E0308
//! use theria_contract::{Attention, Cotangent, Host, Inputs, Primal, Problem, Qkv, Result, SavedTensor, Tangent, Tensor};
//!
//! fn pull<A: Attention<f64, Storage = Host>>(
//!     attention: &A, problem: &Problem, inputs: Primal<&Inputs<'_, Host, f64>>,
//!     saved: Primal<&SavedTensor<Host, f64>>, pushed: &Tangent<SavedTensor<Host, f64>>,
//! ) -> Result<Cotangent<Qkv<Tensor<f64>>>> {
//!     attention.backward(problem, inputs, saved, pushed.as_ref().map(|saved| saved.output.view()))
//! }
//! ```
//!
//! Roles compose: `Tangent<Cotangent<T>>` is the tangent of a cotangent, which is what the
//! second-order rule gives.

macro_rules! role {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
        pub struct $name<T>(pub T);

        impl<T> $name<T> {
            /// The same role around a reference.
            pub fn as_ref(&self) -> $name<&T> {
                $name(&self.0)
            }

            /// The same role around a mutable reference.
            pub fn as_mut(&mut self) -> $name<&mut T> {
                $name(&mut self.0)
            }

            /// The same role around a changed value.
            pub fn map<U>(self, change: impl FnOnce(T) -> U) -> $name<U> {
                $name(change(self.0))
            }

            /// The value, without its role.
            pub fn into_inner(self) -> T {
                self.0
            }
        }
    };
}

role! {
    /// The point at which a rule is evaluated: inputs, and what the forward rule made of them.
    Primal
}
role! {
    /// A direction in the space of the primal, or its image under the derivative (x′).
    Tangent
}
role! {
    /// A linear functional on tangents: what a backward takes and gives (dX).
    Cotangent
}
