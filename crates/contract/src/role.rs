//! Roles: what a tensor means to a derivative.
//!
//! A tangent and a cotangent of one tensor have the same shape and opposite meaning: a tangent is
//! pushed forward by a JVP, a cotangent is pulled back by a backward. Mixing them up yields numbers
//! that look right. So each carries its role as a type, and the compiler refuses the mix:
//!
//! ```compile_fail
//! use theria_contract::{Cotangent, Tangent};
//! fn push_forward(direction: Tangent<f64>) -> f64 { direction.0 }
//! push_forward(Cotangent(1.0)); // expected `Tangent<f64>`, found `Cotangent<f64>`
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
