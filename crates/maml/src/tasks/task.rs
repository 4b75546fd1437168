//! What a task is, and what makes one.

use crate::Result;

/// What is to be said of a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// So many real numbers.
    Numbers(usize),
    /// One of so many classes, as a number from 0.
    Class(usize),
}

impl Target {
    /// Numbers that a target is stored as.
    pub fn columns(self) -> usize {
        match self {
            Self::Numbers(columns) => columns,
            Self::Class(_) => 1,
        }
    }

    /// Numbers that a model puts out for it: one for each number, or one for each class.
    pub fn outputs(self) -> usize {
        match self {
            Self::Numbers(outputs) | Self::Class(outputs) => outputs,
        }
    }
}

/// What every sample of a source looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleShape {
    /// Rows of a sample: the length of a sequence, 1 for what is no sequence.
    pub length: usize,
    /// Columns of each row.
    pub columns: usize,
    /// What is to be said of it.
    pub target: Target,
}

/// Samples with what is to be said of each.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    /// How many.
    pub count: usize,
    /// What each looks like.
    pub shape: SampleShape,
    /// `count` × `length` × `columns`, the last varying fastest: a matrix of `count · length` rows.
    pub inputs: Vec<f64>,
    /// `count` × [`Target::columns`], the last varying fastest.
    pub targets: Vec<f64>,
}

impl Samples {
    /// None yet, with room for so many.
    pub(super) fn with_room(shape: SampleShape, count: usize) -> Self {
        Self {
            count: 0,
            shape,
            inputs: Vec::with_capacity(count * shape.length * shape.columns),
            targets: Vec::with_capacity(count * shape.target.columns()),
        }
    }

    /// Adds a sample.
    pub(super) fn push(
        &mut self,
        input: impl IntoIterator<Item = f64>,
        target: impl IntoIterator<Item = f64>,
    ) {
        self.count += 1;
        self.inputs.extend(input);
        self.targets.extend(target);
        debug_assert_eq!(self.inputs.len(), self.count * self.shape.length * self.shape.columns);
        debug_assert_eq!(self.targets.len(), self.count * self.shape.target.columns());
    }

    /// The rows of sample `n`, one after the other.
    pub fn input(&self, n: usize) -> &[f64] {
        let size = self.shape.length * self.shape.columns;
        &self.inputs[n * size..(n + 1) * size]
    }

    /// What is to be said of sample `n`.
    pub fn target(&self, n: usize) -> &[f64] {
        let size = self.shape.target.columns();
        &self.targets[n * size..(n + 1) * size]
    }
}

/// Samples to adapt to, and samples to judge what was adapted by.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// What is adapted to.
    pub support: Samples,
    /// What is judged by.
    pub query: Samples,
}

/// A family of tasks: everything that a model for them must know, and each of them by number.
pub trait TaskSource {
    /// What every sample looks like.
    fn shape(&self) -> SampleShape;

    /// Samples in the support of every task.
    fn support_count(&self) -> usize;

    /// Samples in the query of every task.
    fn query_count(&self) -> usize;

    /// Task `number` of `seed`: the same for the same two, whatever was drawn before.
    fn task(&self, seed: u64, number: u64) -> Result<Task>;
}
