//! Meta-learning as programs: an experiment is a family of tasks and a model for them, and a training of it can be
//! stopped at any moment and goes on with the same bits.
//!
//! [`Settings`] say everything that a training depends on. [`Training`] makes outer steps on any
//! [`Machine`](theria_maml::Machine) and knows nothing of files; [`Run`] keeps one in a folder: settings, a log of its
//! steps, and checkpoints. [`with_machine`] is the one place where a backend by name becomes a machine.
//!
//! ```
//! use theria_experiments::maml::{Settings, TaskName, Training};
//! use theria_jvp_hvp::Streaming;
//! use theria_maml::Host;
//!
//! let settings = Settings { batch: 2, ..Settings::of(TaskName::Sinusoid) };
//! let machine = Host::<_, f64>::new(Streaming::new());
//! let mut training = Training::new(&machine, &settings)?;
//! let record = training.step()?;
//! assert_eq!(record.step, 1);
//! assert!(training.evaluate(10)?.loss.mean.is_finite());
//! # Ok::<(), theria_experiments::maml::MamlError>(())
//! ```

mod backend;
mod checkpoint;
mod error;
mod evaluation;
pub mod experiment;
mod folder;
mod learning;
mod log;
mod picture;
mod run;
mod settings;
mod training;

pub use backend::{Attending, Visit, with_machine};
pub use checkpoint::Checkpoint;
pub use error::{Damage, MamlError, Result};
pub use evaluation::{Evaluation, Spread};
pub use experiment::{Experiment, Purpose};
pub use folder::{Folder, Source};
pub use learning::{MetaMode, OptimiserName, TaskName};
pub use log::Record;
pub use picture::pictures;
pub use run::{Extras, Run, Summary};
pub use settings::Settings;
pub use training::Training;
