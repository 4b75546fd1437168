//! Meta-gradients of loops that adapt a model to a task.

mod diagnostics;
mod element_rates;
mod implicit;
mod inner;
mod learner;
mod optimiser;
mod reptile;
mod trainer;
mod way;

pub use diagnostics::{Astray, Contribution, Moment, SecondOrderPath, Symmetry, hessian_symmetry};
pub use implicit::{Solved, Solver};
pub use inner::{Adapted, Inner, Keep, Mode};
pub use learner::Learner;
pub use optimiser::Optimiser;
pub use trainer::{Outer, Seen, State, Trainer};

use theria_gpu_fwd::Source;

use crate::machine::{Assign, Update as _};

/// The texts of all changes of elements.
pub(crate) fn update_sources() -> Vec<Source> {
    [optimiser::sources(), element_rates::sources(), vec![Assign.cuda()]].concat()
}
