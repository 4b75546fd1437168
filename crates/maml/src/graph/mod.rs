//! Models as graphs: values, and the operations between them.

mod model;
mod plan;
mod spare;

use std::fmt;

use theria_contract::Layout;

use crate::Result;
use crate::machine::Machine;
use crate::operation::{Operation, copy};

pub use model::{Model, NotFinite, Quantity};
pub use plan::Plan;

/// A value of a graph: rows and columns of numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub(crate) usize);

/// What is known of a value before there are numbers.
#[derive(Clone, Debug)]
struct Value {
    rows: usize,
    columns: usize,
    /// The name of a parameter.
    name: Option<String>,
    /// How attention reads it; packed rows otherwise.
    layout: Option<Layout>,
    /// Whether its numbers are there after an evaluation.
    kept: bool,
    /// Whether it is wide, whatever a machine makes of values between operations.
    wide: bool,
}

/// An operation, its operands, and its result.
pub(crate) struct Node<M: Machine> {
    operation: Box<dyn Operation<M>>,
    inputs: Vec<ValueId>,
    output: ValueId,
    /// How it reads its operands, if not as packed rows.
    layouts: Option<[Layout; 3]>,
}

impl<M: Machine> fmt::Debug for Node<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} = {:?} {:?}", self.output, self.operation, self.inputs)
    }
}

/// A model under construction. Operations are methods, each beside its rules.
#[derive(Debug)]
pub struct Graph<M: Machine> {
    values: Vec<Value>,
    nodes: Vec<Node<M>>,
}

impl<M: Machine> Default for Graph<M> {
    fn default() -> Self {
        Self { values: Vec::new(), nodes: Vec::new() }
    }
}

impl<M: Machine> Graph<M> {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Data: given, and not differentiated.
    pub fn input(&mut self, rows: usize, columns: usize) -> ValueId {
        self.value(rows, columns, None)
    }

    /// What is learned, or adapted.
    pub fn parameter(&mut self, name: &str, rows: usize, columns: usize) -> ValueId {
        self.value(rows, columns, Some(name.to_owned()))
    }

    /// Keeps what an operation makes, to be read after an evaluation: logits, say.
    pub fn keep(&mut self, value: ValueId) {
        self.values[value.0].kept = true;
    }

    /// Says that values have all digits that a machine computes with.
    pub(crate) fn widen(&mut self, values: &[ValueId]) {
        for value in values {
            self.values[value.0].wide = true;
        }
    }

    /// Rows and columns.
    pub fn shape(&self, value: ValueId) -> (usize, usize) {
        let value = &self.values[value.0];
        (value.rows, value.columns)
    }

    /// How the tensors of a value lie.
    fn layout(&self, value: ValueId) -> Result<Layout> {
        let Value { rows, columns, layout, .. } = &self.values[value.0];
        let packed = || Layout::contiguous([1, 1, *rows, *columns]);
        Ok(layout.map_or_else(packed, Ok)?)
    }

    fn value(&mut self, rows: usize, columns: usize, name: Option<String>) -> ValueId {
        self.values.push(Value { rows, columns, name, layout: None, kept: false, wide: false });
        ValueId(self.values.len() - 1)
    }

    /// Adds an operation, and says what its result is.
    pub(crate) fn add(
        &mut self,
        operation: Box<dyn Operation<M>>,
        inputs: Vec<ValueId>,
        (rows, columns): (usize, usize),
    ) -> ValueId {
        let output = self.value(rows, columns, None);
        self.nodes.push(Node { operation, inputs, output, layouts: None });
        output
    }

    /// Says how the operation that made a value reads its operands and lays its result out.
    pub(crate) fn lay_out(&mut self, made: ValueId, inputs: [Layout; 3], output: Layout) {
        self.values[made.0].layout = Some(output);
        if let Some(node) = self.nodes.iter_mut().find(|node| node.output == made) {
            node.layouts = Some(inputs);
        }
    }

    /// Leaves out what a value is not made of.
    fn keep_what_makes(&mut self, value: ValueId) {
        let mut needed = vec![false; self.values.len()];
        needed[value.0] = true;
        for node in self.nodes.iter().rev() {
            if needed[node.output.0] {
                node.inputs.iter().for_each(|value| needed[value.0] = true);
            }
        }
        self.nodes.retain(|node| needed[node.output.0]);
    }

    /// Gives every operand that an operation has to have for itself a copy, where others use it too.
    fn give_copies(&mut self) {
        let mut users = vec![0; self.values.len()];
        for value in self.nodes.iter().flat_map(|node| &node.inputs) {
            users[value.0] += 1;
        }
        for mut node in std::mem::take(&mut self.nodes) {
            let twice = |n: usize| node.inputs.iter().filter(|value| **value == node.inputs[n]).count() > 1;
            let alone = node.operation.writes();
            // Somebody else reads it as other heads.
            let other = |n: usize| {
                let (wanted, given) = (node.layouts.map(|all| all[n]), self.values[node.inputs[n].0].layout);
                matches!((wanted, given), (Some(wanted), Some(given)) if wanted != given)
            };
            let shared: Vec<bool> = (0..node.inputs.len())
                .map(|n| twice(n) || alone && users[node.inputs[n].0] > 1 || other(n))
                .collect();
            for (n, _) in shared.iter().enumerate().filter(|(_, shared)| **shared) {
                let from = node.inputs[n];
                let (rows, columns) = self.shape(from);
                node.inputs[n] = self.add(copy(rows, columns), vec![from], (rows, columns));
                self.values[node.inputs[n].0].wide = self.values[from.0].wide;
            }
            for (value, layout) in node.inputs.iter().zip(node.layouts.iter().flatten()) {
                self.values[value.0].layout = Some(*layout);
            }
            self.nodes.push(node);
        }
    }
}
