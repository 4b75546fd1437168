//! Where a model lives, and what it is computed by.
//!
//! A machine has memory, attention, and five primitives: products of matrices, functions of rows, rows of
//! tables, updates of elements, inner products. Operations are written on these once, so that a machine that has them
//! has every model.
//!
//! Tensors are packed here, and a matrix is its rows one after the other: what `[B, T, H, D]` is to attention is a
//! matrix of `B·T` rows and `H·D` columns to a product.

mod gpu;
mod host;

use std::fmt;

use theria_contract::{Attention, Element, Layout, Storage};
use theria_gpu_fwd::Source;

use crate::number::Number;
use crate::{Error, Result};

#[doc(hidden)]
pub use gpu::WRONG;
pub use gpu::{Attended, Factors, Gpu, GpuTensor, HeldFactors, Precision, kernels};
pub use host::Host;
pub use theria_gpu_fwd::Multiplied as Product;

/// A tensor of a machine that is as wide as what it computes in: parameters, their gradients, what optimisers remember,
/// and data.
pub type TensorOf<M> = <<M as Machine>::Storage as Storage>::Tensor<<M as Machine>::Element>;

/// A tensor as attention computes with it.
pub type AttendedOf<M> = <<M as Machine>::Storage as Storage>::Tensor<<M as Machine>::Attended>;

/// A view of one.
pub type AttendedView<'a, M> = <<M as Machine>::Storage as Storage>::View<'a, <M as Machine>::Attended>;

/// A view of one that is written.
pub type AttendedViewMut<'a, M> = <<M as Machine>::Storage as Storage>::ViewMut<'a, <M as Machine>::Attended>;

/// The text of a kernel in `kernels/`.
macro_rules! kernel_source {
    ($name:literal) => {
        theria_gpu_fwd::Source {
            name: $name,
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/kernels/", $name)),
            headers: crate::machine::HEADERS,
        }
    };
}
pub(crate) use kernel_source;

/// What kernels may include.
pub(crate) const HEADERS: &[(&str, &str)] = &[
    theria_gpu_fwd::HEADERS[0],
    ("number.cuh", include_str!("../../kernels/number.cuh")),
    ("width.cuh", include_str!("../../kernels/width.cuh")),
    ("vector.cuh", include_str!("../../kernels/vector.cuh")),
    ("shares.cuh", include_str!("../../kernels/shares.cuh")),
    ("normal.cuh", include_str!("../../kernels/normal.cuh")),
    ("rows.cuh", include_str!("../../kernels/rows.cuh")),
    ("elements.cuh", include_str!("../../kernels/elements.cuh")),
    ("adam.cuh", include_str!("../../kernels/adam.cuh")),
];

/// Which row of an operand belongs to row `r` of a function of rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// Row `r / n`: `n` rows share one. A gradient of it is a sum over them, and so is a result.
    Shared(usize),
    /// Row `r % n`: rows take turns, as positions do.
    Cyclic(usize),
}

impl Follow {
    /// A row of its own.
    pub const OWN: Self = Self::Shared(1);

    /// The row that belongs to row `r`.
    pub fn row(self, r: usize) -> usize {
        match self {
            Self::Shared(n) => r / n,
            Self::Cyclic(n) => r % n,
        }
    }
}

/// How wide the numbers of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Width {
    /// As what is computed in.
    Wide,
    /// What products and attention round to anyway.
    Narrow,
}

/// Places for cotangents of operands, of those that are wanted.
pub type Places<'a, T> = [Option<Place<'a, T>>];

/// What the columns of a function of rows have to do with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    /// Nothing: element n of the result is made of element n of every operand.
    Apart,
    /// They are summed over, and all of them are alike: none is named but as the n-th of all operands and of the result,
    /// which are as wide.
    Alike,
    /// Some are named: the one of a class, or the one of a loss.
    Named,
}

/// A function of rows: of one row of each operand, to one row of the result.
pub trait Rowwise: Copy + fmt::Debug + Send + Sync + 'static {
    /// The name, for messages.
    const NAME: &'static str;

    /// Whether rows mean nothing to it, so that several of them may be one longer row: each element of the result belongs to
    /// one of every operand, or the result is one number that all elements of a row add to.
    const ELEMENTWISE: bool = false;

    /// How columns are named.
    const COLUMNS: Columns = Columns::Named;

    /// The same two functions in CUDA C++: a struct for `rows.cuh`.
    const CUDA: Source;

    /// What that is given.
    fn constants(&self) -> [f64; 2] {
        [0.0; 2]
    }

    /// Adds the result to `y`.
    fn value<N: Number>(&self, x: &[&[N]], y: &mut [N]);

    /// Pulls a cotangent back, and adds it to those of the operands that are wanted.
    fn pull<N: Number>(&self, x: &[&[N]], g: &[N], into: &mut [Option<&mut [N]>]);
}

/// Rows of an operand: how long they are, and whose they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rows {
    /// Elements of a row.
    pub width: usize,
    /// Which of them belongs to which row of the function.
    pub follow: Follow,
}

/// The geometry of a function of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// Rows that are gone through.
    pub rows: usize,
    /// Of each operand.
    pub inputs: Vec<Rows>,
    /// Of the result.
    pub output: Rows,
}

impl Sweep {
    /// The same over fewer and longer rows, for a function to which rows mean nothing, where operands have rows of their
    /// own and the result has, too, or is one number of all.
    pub(crate) fn joined(mut self) -> Self {
        /// Elements of a row that are enough.
        const LONG: usize = 1024;
        let own = |rows: &Rows| rows.follow == Follow::OWN;
        let total = self.output.follow == Follow::Shared(self.rows) && self.output.width == 1;
        let widest = self.inputs.iter().map(|rows| rows.width).max().unwrap_or(0);
        if !self.inputs.iter().all(own) || !(total || own(&self.output)) || widest == 0 {
            return self;
        }
        let most = (LONG / widest).clamp(1, self.rows.max(1));
        let Some(factor) = (1..=most).rev().find(|factor| self.rows.is_multiple_of(*factor)) else {
            return self;
        };
        self.rows /= factor;
        self.inputs.iter_mut().for_each(|rows| rows.width *= factor);
        if total {
            self.output.follow = Follow::Shared(self.rows);
        } else {
            self.output.width *= factor;
        }
        self
    }
}

/// Rows that are picked from a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Picks {
    /// Rows of the table.
    pub rows: usize,
    /// Columns of it.
    pub columns: usize,
    /// Rows that are picked, one after the other, some of them perhaps more than once.
    pub count: usize,
}

/// A place for a result.
#[derive(Debug)]
pub struct Place<'a, T> {
    /// Where.
    pub to: &'a mut T,
    /// Whether what is there is added to; otherwise it is of no account. Who writes sets it.
    pub add: bool,
}

impl<'a, T> Place<'a, T> {
    /// What is there is of no account.
    pub fn fresh(to: &'a mut T) -> Self {
        Self { to, add: false }
    }
}

/// What a product is added to.
#[derive(Clone, Copy, Debug)]
pub struct Onto<'a, T> {
    /// The number of a row among the factors, which is added to every row.
    pub row: usize,
    /// A matrix.
    pub matrix: Option<&'a T>,
}

/// A change of numbers in place, element by element: a step of an optimiser, or its pull-back.
pub trait Update: Copy + fmt::Debug + Send + Sync + 'static {
    /// Changes lists by others, all as long: element n of them by element n.
    fn update<N: Number>(&self, state: &mut [&mut [N]], read: &[&[N]]);

    /// How many lists it changes, and how many it reads.
    fn operands(&self) -> (usize, usize);

    /// The same in CUDA C++, on one element: a struct for `elements.cuh`, with as many operands.
    fn cuda(&self) -> Source;

    /// What that is given.
    fn constants(&self) -> [f64; 8];
}

/// A change of tensors of one size.
#[derive(Debug)]
pub struct Change<'a, K, T> {
    /// How.
    pub kernel: K,
    /// What changes.
    pub state: Vec<&'a mut T>,
    /// What is read for it.
    pub read: Vec<&'a T>,
}

/// `state = read`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Assign;

impl Update for Assign {
    fn update<N: Number>(&self, state: &mut [&mut [N]], read: &[&[N]]) {
        state[0].copy_from_slice(read[0]);
    }

    fn operands(&self) -> (usize, usize) {
        (1, 1)
    }

    fn cuda(&self) -> Source {
        kernel_source!("assign.cu")
    }

    fn constants(&self) -> [f64; 8] {
        [0.0; 8]
    }
}

/// Memory, attention, and the primitives that operations are written on.
pub trait Machine: Sized + Sync {
    /// What it computes in.
    type Element: Element<Acc = Self::Element>;
    /// Where tensors lie.
    type Storage: Storage;
    /// What attention computes in: the same, or what its operands are rounded to.
    type Attended: Element<Acc = Self::Element>;
    /// Attention on this memory.
    type Attention: Attention<Self::Attended, Storage = Self::Storage>;
    /// A tensor of a model: one that is wide, or what an operation makes.
    type Tensor: Send + Sync;
    /// Tensors as products take them.
    type Factors<'a>;
    /// Tensors that are prepared to be factors as long as it is there.
    type Held;
    /// Work that was recorded once, to be replayed.
    type Recording: Send;
    /// Whether work is recorded: what is computed again and again is replayed then.
    const RECORDS: bool;

    /// Its attention.
    fn attention(&self) -> &Self::Attention;

    /// Its memory.
    fn storage(&self) -> &Self::Storage {
        self.attention().storage()
    }

    /// How wide values, tangents and cotangents are that operations make and operations read. What rows share is wide
    /// all the same, and so is what names rows or classes.
    fn between(&self) -> Width {
        Width::Wide
    }

    /// A tensor of a model.
    fn allocate(&self, layout: Layout, width: Width) -> Result<Self::Tensor>;

    /// What it was allocated as.
    fn form(tensor: &Self::Tensor) -> (Layout, Width);

    /// It, if it is wide.
    fn wide(tensor: &Self::Tensor) -> Option<&TensorOf<Self>>;

    /// It, to be written, if it is wide.
    fn wide_mut(tensor: &mut Self::Tensor) -> Option<&mut TensorOf<Self>>;

    /// Sets all its numbers to zero.
    fn clear(&self, tensor: &mut Self::Tensor) -> Result<()>;

    /// How many of its numbers are NaN or infinite.
    fn count_non_finite(&self, tensor: &Self::Tensor) -> Result<usize>;

    /// Prepares tensors that are factors of products again and again, and that nobody changes while this is there.
    fn hold(&self, all: &[&Self::Tensor]) -> Result<Self::Held>;

    /// Tensors as products take them: themselves, or rounded once for several products.
    fn factors<'a>(&self, all: &[&'a Self::Tensor]) -> Result<Self::Factors<'a>>;

    /// The product of two of them.
    fn product(
        &self,
        product: Product,
        factors: &Self::Factors<'_>,
        which: (usize, usize),
        out: &mut Place<'_, Self::Tensor>,
    ) -> Result<()>;

    /// The same, added to what is given, if the machine has that as one step: then it is done, and `true`.
    fn product_onto(
        &self,
        _product: Product,
        _factors: &Self::Factors<'_>,
        _which: (usize, usize),
        _onto: Onto<'_, Self::Tensor>,
        _out: &mut Self::Tensor,
    ) -> Result<bool> {
        Ok(false)
    }

    /// A function of rows.
    fn value<K: Rowwise>(
        &self,
        kernel: K,
        sweep: &Sweep,
        x: &[&Self::Tensor],
        y: &mut Self::Tensor,
    ) -> Result<()>;

    /// Its push-forward: operands without a tangent do not move.
    fn push<K: Rowwise>(
        &self,
        kernel: K,
        sweep: &Sweep,
        x: &[&Self::Tensor],
        x_tangent: &[Option<&Self::Tensor>],
        y_tangent: &mut Self::Tensor,
    ) -> Result<()>;

    /// Its pull-back of `g`, to the cotangents that are wanted.
    fn pull<K: Rowwise>(
        &self,
        kernel: K,
        sweep: &Sweep,
        x: &[&Self::Tensor],
        g: &Self::Tensor,
        into: &mut Places<'_, Self::Tensor>,
    ) -> Result<()>;

    /// The tangent of its pull-back, to the tangents of cotangents that are wanted.
    fn pull_tangent<K: Rowwise>(
        &self,
        kernel: K,
        sweep: &Sweep,
        x: &[&Self::Tensor],
        x_tangent: &[Option<&Self::Tensor>],
        g: &Self::Tensor,
        g_tangent: Option<&Self::Tensor>,
        into: &mut Places<'_, Self::Tensor>,
    ) -> Result<()>;

    /// Rows of a table, as many as there are indices, which are whole numbers from 0. A number that names no row picks one
    /// of NaN.
    fn gather(
        &self,
        picks: Picks,
        table: &Self::Tensor,
        indices: &Self::Tensor,
        out: &mut Self::Tensor,
    ) -> Result<()>;

    /// Adds rows to those of a table that the indices name. Each row of the table adds what falls to it one after the
    /// other, in the order of the indices, so that the same numbers come out every time: a stable sort by index brings those
    /// of a row together, and nothing has to be added atomically. A row whose index names none goes nowhere.
    fn scatter_add(
        &self,
        picks: Picks,
        rows: &Self::Tensor,
        indices: &Self::Tensor,
        table: &mut Place<'_, Self::Tensor>,
    ) -> Result<()>;

    /// Makes changes of one kind, each of lists of tensors of one size, element by element.
    fn update_all<K: Update>(&self, changes: Vec<Change<'_, K, TensorOf<Self>>>) -> Result<()>;

    /// Changes tensors of one size, element by element.
    fn update<K: Update>(
        &self,
        kernel: K,
        state: &mut [&mut TensorOf<Self>],
        read: &[&TensorOf<Self>],
    ) -> Result<()> {
        let state = state.iter_mut().map(|tensor| &mut **tensor).collect();
        self.update_all(vec![Change { kernel, state, read: read.to_vec() }])
    }

    /// Copies tensors into others of the same size.
    fn copy_all<'a>(
        &self,
        pairs: impl IntoIterator<Item = (&'a TensorOf<Self>, &'a mut TensorOf<Self>)>,
    ) -> Result<()>
    where
        TensorOf<Self>: 'a,
    {
        let change = |(from, to)| Change { kernel: Assign, state: vec![to], read: vec![from] };
        self.update_all(pairs.into_iter().map(change).collect())
    }

    /// Fills a tensor.
    fn fill(&self, tensor: &mut TensorOf<Self>, value: f64) -> Result<()>;

    /// Copies a tensor into another of the same size.
    fn copy(&self, from: &TensorOf<Self>, to: &mut TensorOf<Self>) -> Result<()>;

    /// Σ x, summed in f64.
    fn sum(&self, x: &TensorOf<Self>) -> Result<f64>;

    /// Σ x·y, summed in f64.
    fn dot(&self, x: &TensorOf<Self>, y: &TensorOf<Self>) -> Result<f64>;

    /// A tensor as attention reads it: itself, or a copy that is made in `room`, unless it is there `already`.
    fn attended<'a>(
        &self,
        x: &'a Self::Tensor,
        room: &'a mut Option<AttendedOf<Self>>,
        already: bool,
    ) -> Result<AttendedView<'a, Self>>;

    /// Where attention writes a tensor: there, or in `room`, from where [`Machine::take_attended`] takes it.
    fn attended_mut<'a>(
        &self,
        x: &'a mut Self::Tensor,
        room: &'a mut Option<AttendedOf<Self>>,
    ) -> Result<AttendedViewMut<'a, Self>>;

    /// What attention wrote.
    fn take_attended(&self, room: Option<&AttendedOf<Self>>, x: &mut Self::Tensor) -> Result<()>;

    /// Records work instead of doing it. None where nothing is recorded, or where the work has to make memory first: it is
    /// not done then.
    fn record(&self, work: impl FnOnce() -> Result<()>) -> Result<Option<Self::Recording>>;

    /// Whether recorded work is this machine's: another computes in another way.
    fn made(&self, recording: &Self::Recording) -> bool;

    /// Does recorded work.
    ///
    /// # Safety
    /// All tensors and all scratch that the work was recorded with are alive, and nobody else uses them meanwhile.
    #[allow(unsafe_code)] // recorded work names memory, and does not keep it
    unsafe fn replay(&self, _recording: &Self::Recording) -> Result<()> {
        unreachable!("who records replays, and nobody else makes recordings")
    }
}

/// An error unless a tensor has as many elements.
pub(crate) fn expect(what: &'static str, given: usize, expected: usize) -> Result<()> {
    if given == expected { Ok(()) } else { Err(Error::Elements { what, given, expected }) }
}
