//! Meta-gradients of loops that adapt a model to a task.

mod implicit;
mod learner;
mod optimiser;
mod trainer;

pub use implicit::{Solved, Solver};
pub use learner::{Adapted, Inner, Learner, Mode};
pub use optimiser::Optimiser;
pub use trainer::{Outer, Seen, State, Trainer};
