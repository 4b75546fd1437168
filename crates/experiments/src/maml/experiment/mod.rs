//! Experiments: a family of tasks, and a model that adapts to them.
//!
//! An experiment is a file. It drafts its model once for each side of a task, with the parameters and how they begin, and
//! says which of them are adapted. [`Stage`] makes a learner of the two drafts.

mod classifier;
mod draft;
mod images;
mod key_value;
mod linear_regression;
mod prototypes;
mod sinusoid;
mod stage;

use theria_maml::machine::Machine;
use theria_maml::tasks::{Samples, Task, TaskSource};
use theria_maml::{Result as Learned, ValueId};

use super::settings::Defaults;
use super::{Result, Settings, TaskName};

pub use classifier::Classifier;
pub use draft::{Draft, Parameter};
pub use images::ImageExperiment;
pub use key_value::KeyValueExperiment;
pub use linear_regression::LinearRegressionExperiment;
pub use prototypes::PrototypesExperiment;
pub use sinusoid::SinusoidExperiment;
pub use stage::{Desk, Stage};

/// The two sides of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// What is adapted to.
    Support,
    /// What is judged by.
    Query,
}

impl Side {
    /// Its samples.
    pub fn of(self, task: &Task) -> &Samples {
        match self {
            Self::Support => &task.support,
            Self::Query => &task.query,
        }
    }

    /// How many samples every task of a source has there.
    pub fn count(self, source: &dyn TaskSource) -> usize {
        match self {
            Self::Support => source.support_count(),
            Self::Query => source.query_count(),
        }
    }
}

/// What tasks are drawn for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To be learned from.
    Training,
    /// To be judged by: of the same kind, with more to judge by where that is cheap.
    Judging,
}

/// Which parameters an inner loop adapts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adapts {
    /// All of them.
    Everything,
    /// These.
    Only(&'static [&'static str]),
}

/// Where things are in a drafted model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    /// Data, in the order of [`Experiment::numbers`].
    pub data: Vec<ValueId>,
    /// What the model says: a row for each sample, of [`outputs`](theria_maml::tasks::Target::outputs).
    pub outputs: ValueId,
    /// One number.
    pub loss: ValueId,
}

/// A family of tasks, and a model that adapts to them.
pub trait Experiment<M: Machine>: Sync {
    /// The tasks.
    fn source(&self) -> &dyn TaskSource;

    /// Which parameters are adapted.
    fn adapts(&self) -> Adapts {
        Adapts::Everything
    }

    /// Drafts the model of one side. Both sides have the same parameters.
    fn draft(&self, draft: &mut Draft<M>, side: Side) -> Learned<Places>;

    /// The data of a task for one side: numbers for each of [`Places::data`].
    fn numbers(&self, task: &Task, side: Side) -> Learned<Vec<Vec<f64>>> {
        let samples = side.of(task);
        Ok(vec![samples.inputs.clone(), samples.targets.clone()])
    }
}

/// The experiment that settings ask for.
pub fn experiment<M: Machine + 'static>(
    settings: &Settings,
    purpose: Purpose,
) -> Result<Box<dyn Experiment<M>>> {
    Ok(match settings.task {
        TaskName::Sinusoid => Box::new(SinusoidExperiment::of(purpose)),
        TaskName::Prototypes => Box::new(PrototypesExperiment::default()),
        TaskName::KeyValue => Box::new(KeyValueExperiment::default()),
        TaskName::LinearRegression => Box::new(LinearRegressionExperiment::default()),
        TaskName::Images => Box::new(ImageExperiment::open(settings, purpose)?),
    })
}

/// The settings that belong to an experiment.
pub(super) fn defaults(task: TaskName) -> Defaults {
    match task {
        TaskName::Sinusoid => sinusoid::DEFAULTS,
        TaskName::Prototypes => prototypes::DEFAULTS,
        TaskName::KeyValue => key_value::DEFAULTS,
        TaskName::LinearRegression => linear_regression::DEFAULTS,
        TaskName::Images => images::DEFAULTS,
    }
}
