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
use crate::machine::{Follow, Machine, Onto, Place, Product, Rows, Sweep};
use crate::{Error, Result};

/// What is added to a product.
#[derive(Clone, Debug)]
enum Added {
    Nothing,
    /// A row.
    Row(Sweep),
    /// A row and a matrix.
    RowAndMatrix(Sweep),
}

#[derive(Debug)]
struct Multiply {
    rows: usize,
    inner: usize,
    columns: usize,
    added: Added,
}

/// Places of a, b, a row and a matrix among the operands; and, but for the matrix, among the factors of a rule.
const A: usize = 0;
const B: usize = 1;
const ROW: usize = 2;
const MATRIX: usize = 3;

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

    /// The value of what is added, which is something.
    fn add<M: Machine>(&self, machine: &M, x: &[&M::Tensor], y: &mut M::Tensor) -> Result<()> {
        match &self.added {
            Added::Nothing => Ok(()),
            Added::Row(sweep) => machine.value(Copied, sweep, &x[ROW..], y),
            Added::RowAndMatrix(sweep) => machine.value(Sum, sweep, &x[ROW..], y),
        }
    }

    /// Its push-forward.
    fn push_added<M: Machine>(
        &self,
        machine: &M,
        x: &[&M::Tensor],
        x_tangent: &[Option<&M::Tensor>],
        y_tangent: &mut M::Tensor,
    ) -> Result<()> {
        match &self.added {
            Added::Nothing => Ok(()),
            Added::Row(sweep) => machine.push(Copied, sweep, &x[ROW..], &x_tangent[ROW..], y_tangent),
            Added::RowAndMatrix(sweep) => machine.push(Sum, sweep, &x[ROW..], &x_tangent[ROW..], y_tangent),
        }
    }

    /// The pull-back of `g` to what is added.
    fn pull_added<M: Machine>(
        &self,
        machine: &M,
        x: &[&M::Tensor],
        g: &M::Tensor,
        into: &mut Into<'_, M>,
    ) -> Result<()> {
        let into = &mut into[ROW..];
        match &self.added {
            _ if into.iter().all(Option::is_none) => Ok(()),
            Added::Nothing => Ok(()),
            Added::Row(sweep) => machine.pull(Copied, sweep, &x[ROW..], g, into),
            Added::RowAndMatrix(sweep) => machine.pull(Sum, sweep, &x[ROW..], g, into),
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
        if matches!(self.added, Added::Nothing) { ROW } else { MATRIX }
    }

    fn reads_cotangent(&self, moves: &[bool], wanted: &[bool]) -> bool {
        wanted[A] && moves[B] || wanted[B] && moves[A]
    }

    fn value(&mut self, machine: &M, x: &[&M::Tensor], y: &mut M::Tensor) -> Result<()> {
        let added = x.len() > ROW;
        let factors = machine.factors(&x[..x.len().min(MATRIX)])?;
        if added {
            let onto = Onto { row: ROW, matrix: x.get(MATRIX).copied() };
            if machine.product_onto(self.product(), &factors, (A, B), onto, y)? {
                return Ok(());
            }
            self.add(machine, x, y)?;
        }
        machine.product(self.product(), &factors, (A, B), &mut Place { to: y, add: added })
    }

    fn push(
        &mut self,
        machine: &M,
        x: &[&M::Tensor],
        x_tangent: &[Option<&M::Tensor>],
        _y: &M::Tensor,
        y_tangent: &mut M::Tensor,
    ) -> Result<()> {
        let row = x_tangent.get(ROW).copied().flatten();
        let matrix = x_tangent.get(MATRIX).copied().flatten();
        let mut given = vec![x[A], x[B]];
        let [a_tangent, b_tangent, row] = [x_tangent[A], x_tangent[B], row].map(|tensor| {
            given.extend(tensor);
            tensor.map(|_| given.len() - 1)
        });
        let factors = machine.factors(&given)?;
        let products: Vec<_> =
            [a_tangent.map(|a| (a, B)), b_tangent.map(|b| (A, b))].into_iter().flatten().collect();
        let mut left = &products[..];
        let add = row.is_some() || matrix.is_some();
        if let (Some(row), [first, others @ ..]) = (row, left)
            && machine.product_onto(self.product(), &factors, *first, Onto { row, matrix }, y_tangent)?
        {
            left = others;
        } else if add {
            self.push_added(machine, x, x_tangent, y_tangent)?;
        }
        let mut place = Place { to: y_tangent, add };
        left.iter().try_for_each(|which| machine.product(self.product(), &factors, *which, &mut place))
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
        self.product(vec![a, b, row, matrix])
    }

    /// The product of the first two, and what is added to it: nothing, a row, or a row and a matrix.
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
        let shapes: Vec<_> = inputs[ROW..].iter().map(|value| self.shape(*value)).collect();
        let added = match shapes[..] {
            [] => Added::Nothing,
            [one] if one == (1, columns) => Added::Row(sweep(vec![row])),
            [one, matrix] if matrix == (rows, columns) && one == (1, columns) => {
                Added::RowAndMatrix(sweep(vec![row, output]))
            }
            [.., right] => {
                return refused((rows, columns), right, "a row that is as wide, and a matrix of that shape");
            }
        };
        // All rows share it.
        self.widen(inputs.get(ROW..=ROW).unwrap_or(&[]));
        Ok(self.add(Box::new(Multiply { rows, inner, columns, added }), inputs, (rows, columns)))
    }
}
