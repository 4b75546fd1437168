//! Choices of kernels for the device at hand: tables of what was measured, and how it is measured.
//!
//! What is chosen for is a [`Situation`]: an occasion of the forward here, a part of another rule on one elsewhere.

mod operands;
mod table;
mod trial;

pub use operands::{Operands, drawn, drawn_for_each, numbers};
pub use table::{Situation, Table};
pub use trial::{Trial, Tuned, median_time, search};
