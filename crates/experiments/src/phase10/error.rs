//! What can go wrong around rows and their report.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::bench::NoPeers;
use crate::maml::MamlError;

/// A result of this phase.
pub type Result<T, E = Phase10Error> = std::result::Result<T, E>;

/// An error of the measurements or of the report.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Phase10Error {
    /// Something could not be computed at all. What a backend refuses is a row, and no error.
    #[error(transparent)]
    Maml(#[from] MamlError),
    /// A file cannot be read or written.
    #[error("cannot {action} {}", path.display())]
    File {
        /// `read`, `write`, …
        action: &'static str,
        /// Which one.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A line that is no row.
    #[error("line {line} of {} is no row of phase 10: {reason}; rows are written by `theria experiment phase10 --rows` and not by hand", path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// A file without rows.
    #[error("{} has no rows: `theria experiment phase10 --rows {}` measures some", path.display(), path.display())]
    NoRows {
        /// The file.
        path: PathBuf,
    },
    /// A run that cannot stand for a training of this phase.
    #[error("the run in {} is not one that this phase compares: {reason}", folder.display())]
    Run {
        /// Its folder.
        folder: PathBuf,
        /// Why not.
        reason: String,
    },
    /// A picture could not be drawn.
    #[error("cannot draw {name}: {reason}")]
    Picture {
        /// Its file.
        name: &'static str,
        /// Why.
        reason: String,
    },
    /// Nobody to measure beside.
    #[error(transparent)]
    NoPeers(#[from] NoPeers),
}

impl From<theria_maml::Error> for Phase10Error {
    fn from(error: theria_maml::Error) -> Self {
        Self::Maml(error.into())
    }
}

impl Phase10Error {
    /// What the system says of a file.
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::File { action, path: path.to_owned(), source }
    }
}
