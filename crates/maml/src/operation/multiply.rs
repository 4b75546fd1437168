//! Products of matrices, and what is added to them.
//!
//! ```text
//! y  = a b + c          y′ = a′ b + a b′ + c′
//! ā += ḡ bᵀ             ā′ += ḡ′ bᵀ + ḡ b′ᵀ
//! b̄ += aᵀ ḡ             b̄′ += aᵀ ḡ′ + a′ᵀ ḡ
//! c̄ += ḡ                c̄′ += ḡ′
//! ```
//!
//! c is nothing, a row that is added to every row, or that and a matrix.

use super::mapped::Copied;
use super::sums::Sum;
use super::{Into, Operation, Second};
use crate::graph::{Graph, ValueId};
use crate::machine::{Follow, Machine, Place, Product, Rows, Sweep};
use crate::{Error, Result};

/// What is added to a product.
#[derive(Clone, Debug)]
enum Added {
    Nothing,
    /// A row.
    Row(Sweep),
    /// A matrix and a row.
    MatrixAndRow(Sweep),
}

#[derive(Debug)]
struct Multiply {
    rows: usize,
    inner: usize,
    columns: usize,
    added: Added,
}

/// Places of a, b and their tangents among the factors of a rule.
const A: usize = 0;
const B: usize = 1;

impl Multiply {
    fn product(&self) -> Product {
        let Self { rows, inner, columns, .. } = *self;
        Product { rows, inner, columns, a_transposed: false, b_transposed: false }
    }

    /// What `g bᵀ` is.
    fn to_left(&self) -> Product {
        let Self { rows, inner, columns, .. } = *self;
        Product { rows, inner: columns, columns: inner, a_transposed: false, b_transposed: true }
    }

    /// What `aᵀ g` is.
    fn to_right(&self) -> Product {
        let Self { rows, inner, columns, .. } = *self;
        Product { rows: inner, inner: rows, columns, a_transposed: true, b_transposed: false }
    }

    /// The pull-back of `g` to what is added.
    fn pull_added<M: Machine>(
        &self,
        machine: &M,
        x: &[&M::Tensor],
        g: &M::Tensor,
        into: &mut Into<'_, M>,
    ) -> Result<()> {
        let into = &mut into[2..];
        match &self.added {
            _ if into.iter().all(Option::is_none) => Ok(()),
            Added::Nothing => Ok(()),
            Added::Row(sweep) => machine.pull(Copied, sweep, &x[2..], g, into),
            Added::MatrixAndRow(sweep) => machine.pull(Sum, sweep, &x[2..], g, into),
        }
    }

    /// The pull-back of the factor `g` to both others.
    fn pull_factors<M: Machine>(
        &self,
        machine: &M,
        factors: &M::Factors<'_>,
        g: usize,
        into: &mut Into<'_, M>,
    ) -> Result<()> {
        if let Some(a) = &mut into[A] {
            machine.product(self.to_left(), factors, (g, B), a)?;
        }
        if let Some(b) = &mut into[B] {
            machine.product(self.to_right(), factors, (A, g), b)?;
        }
        Ok(())
    }
}

impl<M: Machine> Operation<M> for Multiply {
    fn name(&self) -> &'static str {
        "product"
    }

    fn factors(&self) -> usize {
        2
    }

    fn reads_cotangent(&self, moves: &[bool], wanted: &[bool]) -> bool {
        wanted[A] && moves[B] || wanted[B] && moves[A]
    }

    fn value(&mut self, machine: &M, x: &[&M::Tensor], y: &mut M::Tensor) -> Result<()> {
        match &self.added {
            Added::Nothing => {}
            Added::Row(sweep) => machine.value(Copied, sweep, &x[2..], y)?,
            Added::MatrixAndRow(sweep) => machine.value(Sum, sweep, &x[2..], y)?,
        }
        let factors = machine.factors(&x[..2])?;
        let mut place = Place { to: y, add: !matches!(self.added, Added::Nothing) };
        machine.product(self.product(), &factors, (A, B), &mut place)
    }

    fn push(
        &mut self,
        machine: &M,
        x: &[&M::Tensor],
        x_tangent: &[Option<&M::Tensor>],
        _y: &M::Tensor,
        y_tangent: &mut M::Tensor,
    ) -> Result<()> {
        let moves = x_tangent[2..].iter().any(Option::is_some);
        match &self.added {
            Added::Row(sweep) if moves => machine.push(Copied, sweep, &x[2..], &x_tangent[2..], y_tangent)?,
            Added::MatrixAndRow(sweep) if moves => {
                machine.push(Sum, sweep, &x[2..], &x_tangent[2..], y_tangent)?;
            }
            _ => {}
        }
        let mut place = Place { to: y_tangent, add: moves };
        let given: Vec<_> = x[..2].iter().copied().chain(x_tangent[..2].iter().flatten().copied()).collect();
        let factors = machine.factors(&given)?;
        let mut next = 2;
        if x_tangent[A].is_some() {
            machine.product(self.product(), &factors, (next, B), &mut place)?;
            next += 1;
        }
        if x_tangent[B].is_some() {
            machine.product(self.product(), &factors, (A, next), &mut place)?;
        }
        Ok(())
    }

    fn pull(
        &mut self,
        machine: &M,
        x: &[&M::Tensor],
        _y: &M::Tensor,
        g: &M::Tensor,
        into: &mut Into<'_, M>,
    ) -> Result<()> {
        let factors = machine.factors(&[x[A], x[B], g])?;
        self.pull_factors(machine, &factors, 2, into)?;
        self.pull_added(machine, x, g, into)
    }

    fn pull_tangent(
        &mut self,
        machine: &M,
        at: &Second<'_, M>,
        into: &mut Into<'_, M>,
        first: &mut Into<'_, M>,
    ) -> Result<()> {
        let optional = [at.g, at.g_tangent, at.x_tangent[A], at.x_tangent[B]];
        let mut given = vec![at.x[A], at.x[B]];
        let [g, g_tangent, a_tangent, b_tangent] = optional.map(|tensor| {
            given.extend(tensor);
            tensor.map(|_| given.len() - 1)
        });
        let factors = machine.factors(&given)?;
        if let Some(g) = g {
            self.pull_factors(machine, &factors, g, first)?;
            if let (Some(a), Some(b_tangent)) = (&mut into[A], b_tangent) {
                machine.product(self.to_left(), &factors, (g, b_tangent), a)?;
            }
            if let (Some(b), Some(a_tangent)) = (&mut into[B], a_tangent) {
                machine.product(self.to_right(), &factors, (a_tangent, g), b)?;
            }
        }
        if let Some(g_tangent) = g_tangent {
            self.pull_factors(machine, &factors, g_tangent, into)?;
        }
        drop(factors);
        if let Some(g) = at.g {
            self.pull_added(machine, at.x, g, first)?;
        }
        at.g_tangent.map_or(Ok(()), |g_tangent| self.pull_added(machine, at.x, g_tangent, into))
    }
}

impl<M: Machine> Graph<M> {
    /// `a b`.
    pub fn multiply(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        self.product(vec![a, b])
    }

    /// `a b + row`: a row that is added to every row.
    pub fn linear(&mut self, a: ValueId, b: ValueId, row: ValueId) -> Result<ValueId> {
        self.product(vec![a, b, row])
    }

    /// `matrix + a b + row`: what comes out of two layers, say, added to what went in.
    pub fn linear_onto(&mut self, matrix: ValueId, a: ValueId, b: ValueId, row: ValueId) -> Result<ValueId> {
        self.product(vec![a, b, matrix, row])
    }

    /// The product of the first two, and what is added to it: nothing, a row, or a matrix and a row.
    fn product(&mut self, inputs: Vec<ValueId>) -> Result<ValueId> {
        let (left, right) = (self.shape(inputs[A]), self.shape(inputs[B]));
        let ((rows, inner), (inner_b, columns)) = (left, right);
        let refused = |left, right, needed| Err(Error::Shapes { operation: "product", left, right, needed });
        if inner != inner_b {
            return refused(left, right, "the columns of the first are the rows of the second");
        }
        let output = Rows { width: columns, follow: Follow::OWN };
        let row = Rows { width: columns, follow: Follow::Shared(rows.max(1)) };
        let sweep = |inputs| Sweep { rows, inputs, output };
        let shapes: Vec<_> = inputs[2..].iter().map(|value| self.shape(*value)).collect();
        let added = match shapes[..] {
            [] => Added::Nothing,
            [one] if one == (1, columns) => Added::Row(sweep(vec![row])),
            [matrix, one] if matrix == (rows, columns) && one == (1, columns) => {
                Added::MatrixAndRow(sweep(vec![output, row]))
            }
            [.., right] => {
                return refused((rows, columns), right, "a row that is as wide, and a matrix of that shape");
            }
        };
        if !matches!(added, Added::Nothing) {
            // The last one is a row that all rows share.
            self.widen(&inputs[inputs.len() - 1..]);
        }
        Ok(self.add(Box::new(Multiply { rows, inner, columns, added }), inputs, (rows, columns)))
    }
}
