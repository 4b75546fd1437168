//! Products of matrices.
//!
//! ```text
//! y  = a b              y′ = a′ b + a b′
//! ā += ḡ bᵀ             ā′ += ḡ′ bᵀ + ḡ b′ᵀ
//! b̄ += aᵀ ḡ             b̄′ += aᵀ ḡ′ + a′ᵀ ḡ
//! ```

use super::{Into, Operation, Second};
use crate::graph::{Graph, ValueId};
use crate::machine::{Machine, Place, Product, TensorOf};
use crate::{Error, Result};

#[derive(Debug)]
struct Multiply {
    rows: usize,
    inner: usize,
    columns: usize,
}

impl Multiply {
    fn product(&self) -> Product {
        let Self { rows, inner, columns } = *self;
        Product { rows, inner, columns, a_transposed: false, b_transposed: false }
    }

    /// What `g bᵀ` is.
    fn to_left(&self) -> Product {
        let Self { rows, inner, columns } = *self;
        Product { rows, inner: columns, columns: inner, a_transposed: false, b_transposed: true }
    }

    /// What `aᵀ g` is.
    fn to_right(&self) -> Product {
        let Self { rows, inner, columns } = *self;
        Product { rows: inner, inner: rows, columns, a_transposed: true, b_transposed: false }
    }
}

impl<M: Machine> Operation<M> for Multiply {
    fn name(&self) -> &'static str {
        "product"
    }

    fn reads_cotangent(&self, moves: &[bool], wanted: &[bool]) -> bool {
        wanted[0] && moves[1] || wanted[1] && moves[0]
    }

    fn value(&mut self, machine: &M, x: &[&TensorOf<M>], y: &mut TensorOf<M>) -> Result<()> {
        machine.multiply(self.product(), x[0], x[1], &mut Place::fresh(y))
    }

    fn push(
        &mut self,
        machine: &M,
        x: &[&TensorOf<M>],
        x_tangent: &[Option<&TensorOf<M>>],
        _y: &TensorOf<M>,
        y_tangent: &mut TensorOf<M>,
    ) -> Result<()> {
        let mut place = Place::fresh(y_tangent);
        if let Some(a_tangent) = x_tangent[0] {
            machine.multiply(self.product(), a_tangent, x[1], &mut place)?;
        }
        if let Some(b_tangent) = x_tangent[1] {
            machine.multiply(self.product(), x[0], b_tangent, &mut place)?;
        }
        Ok(())
    }

    fn pull(
        &mut self,
        machine: &M,
        x: &[&TensorOf<M>],
        _y: &TensorOf<M>,
        g: &TensorOf<M>,
        into: &mut Into<'_, M>,
    ) -> Result<()> {
        if let Some(a) = &mut into[0] {
            machine.multiply(self.to_left(), g, x[1], a)?;
        }
        if let Some(b) = &mut into[1] {
            machine.multiply(self.to_right(), x[0], g, b)?;
        }
        Ok(())
    }

    fn pull_tangent(
        &mut self,
        machine: &M,
        at: &Second<'_, M>,
        into: &mut Into<'_, M>,
        first: &mut Into<'_, M>,
    ) -> Result<()> {
        if let Some(g) = at.g {
            self.pull(machine, at.x, at.y, g, first)?;
            if let (Some(a), Some(b_tangent)) = (&mut into[0], at.x_tangent[1]) {
                machine.multiply(self.to_left(), g, b_tangent, a)?;
            }
            if let (Some(b), Some(a_tangent)) = (&mut into[1], at.x_tangent[0]) {
                machine.multiply(self.to_right(), a_tangent, g, b)?;
            }
        }
        at.g_tangent.map_or(Ok(()), |g_tangent| self.pull(machine, at.x, at.y, g_tangent, into))
    }
}

impl<M: Machine> Graph<M> {
    /// `a b`.
    pub fn multiply(&mut self, a: ValueId, b: ValueId) -> Result<ValueId> {
        let ((rows, inner), (inner_b, columns)) = (self.shape(a), self.shape(b));
        if inner != inner_b {
            let needed = "the columns of the first are the rows of the second";
            return Err(Error::Shapes {
                operation: "product",
                left: self.shape(a),
                right: self.shape(b),
                needed,
            });
        }
        Ok(self.add(Box::new(Multiply { rows, inner, columns }), vec![a, b], (rows, columns)))
    }
}
