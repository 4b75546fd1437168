//! Models that many tasks share, out of the operations of a [`Graph`](crate::Graph).

mod transformer;

pub use transformer::{Begin, Block, Transformer};
