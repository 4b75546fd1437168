//! What the tour puts to the proof: backends as they run here, and mistakes that proofs must reject.

mod evaluated;
mod mistake;

pub use evaluated::Evaluated;
pub use mistake::{Mistake, control};
