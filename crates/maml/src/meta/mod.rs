//! Meta-gradients of loops that adapt a model to a task.

mod learner;
mod optimiser;

pub use learner::{Adapted, Inner, Learner, Mode};
pub use optimiser::Optimiser;
