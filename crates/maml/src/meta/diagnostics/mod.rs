//! What a loop is like, and where it goes wrong.
//!
//! Norms of what the second order adds describe a loop and certify nothing: an operator that is wrong has them, too. Whether
//! a meta-gradient is right its distance from an oracle says, and of a Hessian its symmetry says part of it.

mod astray;
mod second_order_path;
mod symmetry;

pub use astray::{Astray, Moment};
pub use second_order_path::{Contribution, SecondOrderPath};
pub use symmetry::{Symmetry, hessian_symmetry};

/// A norm as a part of another one; a norm of zero is no part of any.
fn part(norm: f64, whole: f64) -> f64 {
    if norm == 0.0 { 0.0 } else { norm / whole }
}
