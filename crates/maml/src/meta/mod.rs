//! Meta-gradients of loops that adapt a model to a task.

mod implicit;
mod inner;
mod learner;
mod optimiser;
mod trainer;
mod way;

pub use implicit::{Solved, Solver};
pub use inner::{Adapted, Inner, Keep, Mode};
pub use learner::Learner;
pub use optimiser::Optimiser;
pub use trainer::{Outer, Seen, Trainer};
