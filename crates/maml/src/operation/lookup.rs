//! Rows of a table by their numbers: embeddings.
//!
//! ```text
//! y_i = t_{n(i)}     y′_i = t′_{n(i)}     t̄_r += Σ_{i: n(i) = r} ḡ_i     t̄′_r += Σ_{i: n(i) = r} ḡ′_i
//! ```
//!
//! The numbers n are data and have no derivative. A table may be looked up in more than one place.

use super::{Into, Operation, Second};
use crate::graph::{Graph, ValueId};
use crate::machine::{Machine, Picks};
use crate::{Error, Result};

#[derive(Debug)]
struct Lookup {
    picks: Picks,
}

impl<M: Machine> Operation<M> for Lookup {
    fn name(&self) -> &'static str {
        "lookup"
    }

    fn is_linear(&self) -> bool {
        true
    }

    fn value(&mut self, machine: &M, x: &[&M::Tensor], y: &mut M::Tensor) -> Result<()> {
        machine.gather(self.picks, x[0], x[1], y)
    }

    fn push(
        &mut self,
        machine: &M,
        x: &[&M::Tensor],
        x_tangent: &[Option<&M::Tensor>],
        _y: &M::Tensor,
        y_tangent: &mut M::Tensor,
    ) -> Result<()> {
        match x_tangent[0] {
            Some(table_tangent) => machine.gather(self.picks, table_tangent, x[1], y_tangent),
            // The numbers move alone, and nothing with them.
            None => machine.clear(y_tangent),
        }
    }

    fn pull(
        &mut self,
        machine: &M,
        x: &[&M::Tensor],
        _y: &M::Tensor,
        g: &M::Tensor,
        into: &mut Into<'_, M>,
    ) -> Result<()> {
        if let Some(table) = &mut into[0] {
            machine.scatter_add(self.picks, g, x[1], table)?;
        }
        match &mut into[1] {
            Some(numbers) if !numbers.add => {
                numbers.add = true;
                machine.clear(numbers.to)
            }
            _ => Ok(()),
        }
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
        }
        at.g_tangent.map_or(Ok(()), |g_tangent| self.pull(machine, at.x, at.y, g_tangent, into))
    }
}

impl<M: Machine> Graph<M> {
    /// Rows of a table that a column of numbers names: whole ones from 0, as classes are. The row of a number that names
    /// none is NaN, and so is a loss that depends on it.
    pub fn lookup(&mut self, table: ValueId, numbers: ValueId) -> Result<ValueId> {
        let ((rows, columns), right) = (self.shape(table), self.shape(numbers));
        if right.1 != 1 {
            let needed = "a column of numbers of rows";
            return Err(Error::Shapes { operation: "lookup", left: (rows, columns), right, needed });
        }
        let picks = Picks { rows, columns, count: right.0 };
        // Rows of the table are added to as often as they were picked, and a number has to be that very number.
        self.widen(&[table, numbers]);
        Ok(self.add(Box::new(Lookup { picks }), vec![table, numbers], (right.0, columns)))
    }
}
