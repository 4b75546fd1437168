//! Tasks to learn to learn from, made from a seed and a number: the same bits on every platform.
//!
//! A [`TaskSource`] draws task number i of a seed without drawing those before it, so tasks can be drawn in any order,
//! by any thread, and again. What a task is about (its law), its support and its query are drawn from streams of their
//! own: asking for more of one leaves the others as they were.
//!
//! ```
//! use theria_maml::tasks::{Sinusoid, TaskSource as _};
//!
//! let source = Sinusoid { shots: 5, ..Sinusoid::default() };
//! let task = source.task(7, 3)?; // task 3 of seed 7
//! assert_eq!(task.support.count, 5);
//! assert_eq!(task, source.task(7, 3)?);
//! # Ok::<(), theria_maml::Error>(())
//! ```

mod images;
mod in_context;
mod key_value;
mod linear_regression;
mod parameter;
mod prototypes;
mod random;
mod sinusoid;
mod task;

pub use images::{Colours, ImageFolder, ImageSettings};
pub use key_value::KeyValue;
pub use linear_regression::LinearRegression;
pub use prototypes::{PrototypeLaw, Prototypes};
pub use random::Stream;
pub use sinusoid::{Sinusoid, Wave};
pub use task::{SampleShape, Samples, Target, Task, TaskSource};
