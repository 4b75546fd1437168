//! Case files: anybody's tensors, with the problem that they pose.
//!
//! A case file is safetensors with the names of [`names`]: `q`, `k`, `v`, optionally `bias`, `mask`,
//! `kv_lengths`, tangents and cotangents, and metadata for what is not a tensor (`scale`, `causal`,
//! `window`, `dropout`, `dropout_seed`). [`CaseFile`] holds one, validated; [`CaseFile::load`] gives
//! a [`Case`] of typed tensors; [`Destination`] writes files that are there whole or not at all.

mod case;
mod error;
mod metadata;
pub mod names;
mod parsed;
mod raw;
mod result_file;
mod write;

pub use case::{Case, Missing};
pub use error::CaseError;
pub use parsed::CaseFile;
pub use result_file::{Candidate, ResultFile};
pub use write::{Destination, FileTensor, encode};
