//! What can go wrong above the operator.

use std::path::PathBuf;

use thiserror::Error as ThisError;

use crate::machine::Follow;

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a model or of a loop.
#[derive(Debug, ThisError)]
#[non_exhaustive]
pub enum Error {
    /// The operator refused, or was called wrongly.
    #[error(transparent)]
    Attention(#[from] theria_contract::Error),
    /// A tensor has another number of elements than what it is used as.
    #[error("{what} has {given} elements, but {expected} are needed")]
    Elements {
        /// What it is used as.
        what: &'static str,
        /// Its elements.
        given: usize,
        /// Those needed.
        expected: usize,
    },
    /// Two values do not fit an operation.
    #[error("{operation} of {left:?} and {right:?} (rows, columns): {needed}")]
    Shapes {
        /// The operation.
        operation: &'static str,
        /// Rows and columns of the first.
        left: (usize, usize),
        /// Rows and columns of the second.
        right: (usize, usize),
        /// What would fit.
        needed: &'static str,
    },
    /// A parameter that one of two models does not have.
    #[error("the parameter `{name}` is missing from the model of the {model} data")]
    Unpaired {
        /// Its name.
        name: String,
        /// `support`, `query`, or `either`.
        model: &'static str,
    },
    /// A parameter was given a direction by a plan in which it does not move.
    #[error("`{0}` does not move in this plan: name it among those that tangents are taken along")]
    Still(String),
    /// A loss or a gradient is NaN or infinite; [`Learner::first_not_finite`](crate::meta::Learner::first_not_finite) says where
    /// that began.
    #[error("{what} is {value} after {steps} inner steps: the loop diverges; a smaller inner rate may help")]
    Diverged {
        /// Loss or norm.
        what: &'static str,
        /// What it came to.
        value: f64,
        /// Steps that were made.
        steps: usize,
    },
    /// A parameter of a generator of tasks is outside its range.
    #[error("`{parameter}` of the {generator} tasks is {given}, but must be {allowed}")]
    TaskParameter {
        /// The generator.
        generator: &'static str,
        /// The parameter.
        parameter: &'static str,
        /// What it is.
        given: String,
        /// What it may be.
        allowed: String,
    },
    /// A folder has fewer classes or images than a task draws.
    #[error("{} has {given} {what}, but {needed} are needed", folder.display())]
    TooFewImages {
        /// The folder.
        folder: PathBuf,
        /// `classes` or `images`.
        what: &'static str,
        /// Those it has.
        given: usize,
        /// Those a task draws.
        needed: usize,
    },
    /// The decoded images of a folder would take more memory than they may.
    #[error("the images of {} take {needed} bytes, but {allowed} are allowed: make them smaller or allow more", folder.display())]
    ImageMemory {
        /// The folder.
        folder: PathBuf,
        /// Bytes they take.
        needed: u64,
        /// Bytes they may take.
        allowed: u64,
    },
    /// A file or folder cannot be read, or a file is no image.
    #[error("cannot read {}: {source}", path.display())]
    UnreadableImage {
        /// The file or folder.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A function of rows is larger than a launch on a device counts.
    #[error(
        "a function of {operands} operands and {most} rows or columns is larger than a launch counts: at most 3, and 2³¹ - 1"
    )]
    LargeSweep {
        /// Its operands.
        operands: usize,
        /// The most rows or columns.
        most: usize,
    },
    /// A function of rows adds up rows in two ways at once.
    #[error(
        "a function of rows adds rows up as {one:?} and as {other:?} in one launch: ask for one of them at a time"
    )]
    SharedTwice {
        /// One way.
        one: Follow,
        /// The other.
        other: Follow,
    },
    /// Changes that are asked for together are of two kinds.
    #[error("changes of two kinds, {one} and {other}, in one launch: ask for each kind apart")]
    MixedChanges {
        /// One kind.
        one: &'static str,
        /// The other.
        other: &'static str,
    },
    /// A tensor that goes along with another is not as wide.
    #[error("of a value and what goes along with it, one is wide and one is narrow")]
    MixedWidths,
    /// What rows share is narrow.
    #[error("{what} is narrow, and has to be wide: sums of many numbers come to lie in it, or it names rows")]
    Narrow {
        /// What it is.
        what: &'static str,
    },
    /// A step over no tasks has no gradient.
    #[error("an outer step was asked for with no tasks; it needs one at least")]
    NoTasks,
    /// A step without a learner.
    #[error("an outer step was asked for with no learner; it needs one at least")]
    NoLearners,
    /// An implicit gradient needs the pull to the start.
    #[error(
        "an implicit gradient is that of a loop which a pull to the start holds, but `proximal` is {proximal}: it must be above 0"
    )]
    NoPull {
        /// The weight of it.
        proximal: f64,
    },
    /// Conjugate gradients met a direction in which the loss bends down more than the pull bends it up.
    #[error(
        "H + {proximal} is not positive (a direction has {curvature:e}), which conjugate gradients need: a larger `proximal` makes it so, or the series of Neumann"
    )]
    NotPositive {
        /// The curvature along it.
        curvature: f64,
        /// The weight of the pull.
        proximal: f64,
    },
}
