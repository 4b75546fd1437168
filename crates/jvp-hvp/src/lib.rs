//! Attention on the CPU, whole: the JVP and the second-order rule beside forward and backward.
//!
//! - [`Streaming`] is the default: one sweep over tiles for each rule, memory linear in the length.
//! - [`Dense`] is the textbook, and the oracle of everything else.
//! - [`composition`] makes every other mode of order two out of the four rules, for any backend.
//! - [`proof`] says whether derivatives are right, of these backends or of anybody's function.
//! - [`linearisation`] names the two maps that call themselves the derivative; only one of them is.
//! - [`variant`] holds operators that are broken on purpose, and [`matrix`] which proof catches which.

#![forbid(unsafe_code)]

pub mod composition;
pub mod dense;
pub mod linearisation;
pub mod matrix;
mod opaque;
pub mod proof;
pub mod streaming;
pub mod variant;

pub use dense::Dense;
pub use linearisation::Linearisation;
pub use opaque::Opaque;
pub use streaming::Streaming;
