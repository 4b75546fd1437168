//! What can go wrong around a training.

use std::fmt::Display;
use std::io;
use std::path::{Path, PathBuf};

use theria_contract::DType;
use thiserror::Error;

use crate::backend::Backend;

/// A result of a training.
pub type Result<T, E = MamlError> = std::result::Result<T, E>;

/// An error of a training.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum MamlError {
    /// A model or a loop failed before a step was asked for.
    #[error(transparent)]
    Learning(#[from] theria_maml::Error),
    /// An outer step failed. The start is what it was before.
    #[error("outer step {step} failed")]
    Step {
        /// Its number, from 1.
        step: usize,
        /// Why.
        source: theria_maml::Error,
    },
    /// A run did not come to its end.
    #[error("the run in {} stopped; its checkpoint of step {kept} is intact", folder.display())]
    Stopped {
        /// Its folder.
        folder: PathBuf,
        /// The step of its last checkpoint.
        kept: usize,
        /// Why.
        source: Box<MamlError>,
    },
    /// A start that is no number would be of no use to go on from.
    #[error(
        "after outer step {step} the parameter `{name}` is no longer finite, so nothing was written: the outer loop diverges; a smaller outer rate or a clip may help"
    )]
    NotFinite {
        /// Steps that were made.
        step: usize,
        /// The parameter, or what is remembered of it.
        name: String,
    },
    /// A setting is outside its range.
    #[error("{name} is {given}, but must be {allowed}")]
    Setting {
        /// The setting, as on the command line.
        name: &'static str,
        /// What it is.
        given: String,
        /// What it may be.
        allowed: &'static str,
    },
    /// Tasks are not made of it.
    #[error("{name} is given, but {task} tasks have none: leave it out")]
    Foreign {
        /// The setting.
        name: &'static str,
        /// The tasks.
        task: &'static str,
    },
    /// A backend does not compute models in this type.
    #[error(
        "{backend} does not compute models in {dtype}: streaming, dense and cuda-ref take f64 and f32, cuda-fused f32 and bf16"
    )]
    NotServed {
        /// The backend.
        backend: Backend,
        /// The type.
        dtype: DType,
    },
    /// There is no device for a backend that needs one.
    #[error("no device: {reason}")]
    NoDevice {
        /// Why.
        reason: String,
    },
    /// A run was made with other settings.
    #[error("the run in {} has other settings: {differences}; leave them out to go on with those of the run, or start another one with --out", folder.display())]
    OtherSettings {
        /// Its folder.
        folder: PathBuf,
        /// Each one that differs.
        differences: String,
    },
    /// A new run in the folder of another one.
    #[error("{folder} has a run already; --resume {folder} goes on with it, another --out starts a new one", folder = folder.display())]
    Occupied {
        /// The folder.
        folder: PathBuf,
    },
    /// Nothing to go on with.
    #[error("{} has no run to go on with: there is no {log} in it; --out starts one", folder.display())]
    NoRun {
        /// The folder.
        folder: PathBuf,
        /// The file that every run has.
        log: &'static str,
    },
    /// Somebody else trains there.
    #[error("another process is training in {}", folder.display())]
    Busy {
        /// The folder.
        folder: PathBuf,
    },
    /// A checkpoint that nothing can go on from.
    #[error("cannot go on from {}: {damage}{}", path.display(), advice(previous.as_ref()))]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        damage: Damage,
        /// The checkpoint before it, if that can be read: its file and its step.
        previous: Option<(PathBuf, usize)>,
    },
    /// A checkpoint of another model.
    #[error("the checkpoint does not fit the model of this build: {0}")]
    Unfit(Damage),
    /// A log that does not belong to the checkpoint.
    #[error("the log {} does not fit the checkpoint of step {step}: {reason}", path.display())]
    Log {
        /// The log.
        path: PathBuf,
        /// The step of the checkpoint.
        step: usize,
        /// What does not fit.
        reason: &'static str,
    },
    /// A file or folder cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `read`, `write`, …
        action: &'static str,
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A picture could not be drawn.
    #[error("cannot draw {name}: {reason}")]
    Picture {
        /// Its file.
        name: &'static str,
        /// Why.
        reason: String,
    },
}

/// What is wrong with a checkpoint.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Damage {
    /// It cannot be read at all.
    #[error("it cannot be read ({0})")]
    Unreadable(#[from] io::Error),
    /// It is no safetensors file.
    #[error("it is truncated, damaged, or no safetensors file ({0})")]
    Container(#[from] safetensors::SafeTensorError),
    /// Its numbers are not those that were written.
    #[error("its numbers are not those that were written: the checksum differs")]
    Checksum,
    /// It lacks something, or has it in another form.
    #[error("it has no usable {0}")]
    Lacks(String),
}

fn advice(previous: Option<&(PathBuf, usize)>) -> String {
    previous.map_or_else(
        || "; there is no checkpoint before it that can be read".to_owned(),
        |(path, step)| {
            let path = path.display();
            format!("; {path}, of step {step}, can be read: --from-previous goes on from there")
        },
    )
}

impl MamlError {
    pub(super) fn setting(name: &'static str, given: impl Display, allowed: &'static str) -> Self {
        Self::Setting { name, given: given.to_string(), allowed }
    }

    /// What the system says of a file.
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { action, path: path.to_owned(), source }
    }
}
