//! Operations: each gives its value, its pull-back, its push-forward, and the tangent of its pull-back.
//!
//! A function of rows is one file with two functions, see [`Rowwise`]: the other two rules are
//! the same lines on dual numbers. Products and attention say their rules themselves.

mod attention;
mod lookup;
mod losses;
mod mapped;
mod multiply;
mod normalise;
mod sums;
mod units;

use std::fmt;

use crate::Result;
use crate::machine::{Machine, Places};

use theria_gpu_fwd::Source;

use crate::machine::{Columns, Rowwise};

pub use attention::Heads;
pub(crate) use mapped::copy;

/// The texts of all functions of rows, and what their columns have to do with each other.
pub(crate) fn row_sources() -> Vec<(Source, Columns)> {
    [mapped::SOURCES, sums::SOURCES, units::SOURCES, losses::SOURCES, normalise::SOURCES].concat()
}

/// What the tangent of a pull-back is made of.
pub struct Second<'a, M: Machine> {
    /// Operands.
    pub x: &'a [&'a M::Tensor],
    /// Their tangents, of those that move.
    pub x_tangent: &'a [Option<&'a M::Tensor>],
    /// The result.
    pub y: &'a M::Tensor,
    /// Its tangent, if an operand moves.
    pub y_tangent: Option<&'a M::Tensor>,
    /// The cotangent of the result, if [`Operation::reads_cotangent`] or a pull-back is wanted.
    pub g: Option<&'a M::Tensor>,
    /// Its tangent; none is zero.
    pub g_tangent: Option<&'a M::Tensor>,
}

/// Places for cotangents of operands, of those that are wanted.
pub type Into<'a, M> = Places<'a, <M as Machine>::Tensor>;

/// A function of tensors and its rules.
pub trait Operation<M: Machine>: fmt::Debug + Send {
    /// The name, for messages.
    fn name(&self) -> &'static str;

    /// Whether pull-backs write cotangents and do not add to them: its operands are used by nobody else then.
    fn writes(&self) -> bool {
        false
    }

    /// How many of its operands, the first ones, are factors of products, or are rounded with these.
    fn factors(&self) -> usize {
        0
    }

    /// Whether rules are made of the value, too, and of its tangent, and not of operands alone.
    fn reads_value(&self) -> bool {
        false
    }

    /// Whether cotangents of operands have no tangent of their own, whatever moves: they come from that of the result
    /// alone.
    fn is_linear(&self) -> bool {
        false
    }

    /// Whether the tangent of the pull-back to the wanted operands is made of the cotangent itself, when these move.
    fn reads_cotangent(&self, moves: &[bool], _wanted: &[bool]) -> bool {
        !self.is_linear() && moves.contains(&true)
    }

    /// The value.
    fn value(&mut self, machine: &M, x: &[&M::Tensor], y: &mut M::Tensor) -> Result<()>;

    /// The push-forward.
    fn push(
        &mut self,
        machine: &M,
        x: &[&M::Tensor],
        x_tangent: &[Option<&M::Tensor>],
        y: &M::Tensor,
        y_tangent: &mut M::Tensor,
    ) -> Result<()>;

    /// The pull-back of `g`.
    fn pull(
        &mut self,
        machine: &M,
        x: &[&M::Tensor],
        y: &M::Tensor,
        g: &M::Tensor,
        into: &mut Into<'_, M>,
    ) -> Result<()>;

    /// The tangent of the pull-back, and the pull-back itself to `first`, where that is wanted.
    fn pull_tangent(
        &mut self,
        machine: &M,
        at: &Second<'_, M>,
        into: &mut Into<'_, M>,
        first: &mut Into<'_, M>,
    ) -> Result<()>;
}

/// The text of a function of rows, and what its columns have to do with each other.
const fn source_of<K: Rowwise>() -> (Source, Columns) {
    (K::CUDA, K::COLUMNS)
}
