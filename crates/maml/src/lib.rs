//! Meta-learning on explicit rules.
//!
//! A model is a [`graph`] of operations, each of which gives its value, its pull-back, its push-forward and the tangent
//! of its pull-back. So a model yields its loss, its gradient, and products of its Hessian by forward over reverse, and
//! no graph of an automatic differentiation is stored.

#![forbid(unsafe_code)]

mod error;
pub mod graph;
pub mod machine;
pub mod meta;
pub mod number;
pub mod operation;
pub mod tasks;

pub use error::{Error, Result};
pub use graph::{Graph, Model, Plan, ValueId};
pub use machine::{Host, Machine};
