//! What attention is, for every backend and every caller.
//!
//! This crate computes nothing. It fixes the words: a [`Problem`] says everything about a call but
//! the data, a [`Rule`] is one of the four derivative rules, a [`role`] keeps tangents and
//! cotangents apart, [`Support`] says what a backend vouches for, and the [`Attention`] trait is
//! the operator that every backend implements. The suite in `conformance` (feature of the same
//! name) judges an implementation.
//!
//! ```
//! use theria_contract::{Causal, DType, Problem, Visibility};
//!
//! let problem = Problem::builder(DType::F32)
//!     .batch(2).heads(8, 2)          // eight query heads share two key/value heads
//!     .lengths(128, 160)             // T queries, M keys
//!     .head_dims(64, 32)             // D, Dv
//!     .causal(Causal::BottomRight)
//!     .build()?;
//! assert_eq!(problem.scale(), 0.125);
//! assert_eq!(Visibility::of(&problem).keys(0, 160), 0..33);
//! # Ok::<(), theria_contract::Error>(())
//! ```
//!
//! # The operator
//!
//! For each batch and head, with `P` the row softmax of the masked scores,
//!
//! ```text
//! S = scale · Q Kᵀ + bias      lse = logsumexp_j S      P = exp(S - lse)      O = (P ∘ Z) V
//! ```
//!
//! and `Z` the dropout weights of [`Dropout`]. A row that sees no key has `O = 0`, `lse = -inf` and
//! zero in every derivative. Non-finite inputs are never turned
//! into finite results at a position that is visible. Only keys and values at and beyond a key length
//! are never read, so padding may hold anything; a mask, a window or causality hides a key, and a NaN
//! bias with it, but does not keep a NaN in K or V from the results of its head. `bias = -inf` hides a
//! key.

#![deny(missing_docs)]
#![forbid(unsafe_code)]

mod admit;
mod checks;
mod dropout;
mod element;
mod error;
pub mod judge;
mod layout;
mod mask;
mod operands;
mod operator;
mod problem;
pub mod role;
mod rule;
mod storage;
mod tensor;
mod tolerance;
mod workspace;

#[cfg(feature = "conformance")]
pub mod conformance;

pub use checks::Checks;
pub use dropout::{Dropout, DropoutRow, philox4x32_10};
pub use element::{DType, Element, Scalar};
pub use error::{Error, Result};
pub use layout::{Layout, broadcasts_to};
pub use mask::{Causal, Visibility, Window, any_visible};
pub use operands::{Directions, Inputs, Qkv, Saved, SecondOrder};
pub use operator::{Attention, SavedTensor, SavedView, SavedViewMut, reborrow_saved, saved_mut, saved_view};
pub use problem::{Problem, ProblemBuilder, Shape};
pub use role::{Cotangent, Primal, Tangent};
pub use rule::{Refusal, Rule, Support};
pub use storage::{Host, Storage};
pub use tensor::{Tensor, TensorView, TensorViewMut};
pub use tolerance::{Precision, bound};
pub use workspace::{Arena, Workspace};
