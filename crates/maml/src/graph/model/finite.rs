//! The first number of a model that is NaN or infinite.

use std::fmt;

use super::{Model, Plane};
use crate::Result;
use crate::graph::{Plan, ValueId};
use crate::machine::Machine;

/// What of a value is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// It itself.
    Value,
    /// The gradient with respect to it.
    Gradient,
    /// Its tangent.
    Tangent,
    /// The tangent of that gradient.
    GradientTangent,
}

/// A value with numbers that are NaN or infinite.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotFinite {
    /// What of it.
    pub quantity: Quantity,
    /// Which.
    pub value: ValueId,
    /// The name of a parameter.
    pub parameter: Option<String>,
    /// The operation that makes it; none makes parameters and data.
    pub operation: Option<&'static str>,
    /// Numbers that are NaN or infinite.
    pub count: usize,
    /// All its numbers.
    pub elements: usize,
}

impl fmt::Display for NotFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { count, elements, value, .. } = self;
        let of = match self.quantity {
            Quantity::Value => "",
            Quantity::Gradient => "the gradient of ",
            Quantity::Tangent => "the tangent of ",
            Quantity::GradientTangent => "the tangent of the gradient of ",
        };
        match (&self.parameter, self.operation) {
            (Some(name), _) => write!(f, "{of}the parameter `{name}`")?,
            (None, Some(operation)) => write!(f, "{of}the result of `{operation}` (value {})", value.0)?,
            (None, None) => write!(f, "{of}data (value {})", value.0)?,
        }
        write!(f, ": {count} of {elements} numbers are NaN or infinite")
    }
}

impl<M: Machine> Model<M> {
    /// Computes every value and everything of a plan, and says what of it is the first that is NaN or infinite: values from
    /// the data to the loss, gradients from the loss to the parameters, then tangents along the directions that were
    /// written, and tangents of gradients. It waits for each of them, and is meant for when a loop has gone astray.
    pub fn first_not_finite(&mut self, machine: &M, plan: &Plan) -> Result<Option<NotFinite>> {
        self.stays = true;
        let found = self.search_all(machine, plan);
        self.stays = false;
        self.leave_values(machine);
        let planes = [&mut self.tangent, &mut self.cotangent, &mut self.cotangent_tangent];
        for (value, tensor) in planes.into_iter().flat_map(|plane| plane.iter_mut().enumerate()) {
            if let Some(tensor) = tensor.take_if(|_| self.made[value]) {
                self.spare.give(tensor);
            }
        }
        found
    }

    fn search_all(&mut self, machine: &M, plan: &Plan) -> Result<Option<NotFinite>> {
        let made: Vec<ValueId> = self.graph.nodes.iter().map(|node| node.output).collect();
        let leaves: Vec<ValueId> =
            (0..self.graph.values.len()).map(ValueId).filter(|value| !made.contains(value)).collect();
        let forward: Vec<ValueId> = leaves.iter().chain(&made).copied().collect();
        let back: Vec<ValueId> = made.iter().rev().chain(&leaves).copied().collect();

        self.evaluate(machine)?;
        if let Some(found) = self.search(machine, Quantity::Value, &forward, |_| true)? {
            return Ok(Some(found));
        }
        self.pull(machine, plan)?;
        let wanted = |value: ValueId| plan.wanted[value.0];
        if let Some(found) = self.search(machine, Quantity::Gradient, &back, wanted)? {
            return Ok(Some(found));
        }
        if !plan.moves.contains(&true) {
            return Ok(None);
        }
        self.push_and_pull(machine, plan)?;
        // The tangent of the loss is made where its operation reads it alone.
        let moves = |value: ValueId| plan.moves[value.0] && value != self.loss;
        if let Some(found) = self.search(machine, Quantity::Tangent, &forward, moves)? {
            return Ok(Some(found));
        }
        self.search(machine, Quantity::GradientTangent, &back, wanted)
    }

    /// The first in this order of those that were computed.
    fn search(
        &self,
        machine: &M,
        quantity: Quantity,
        order: &[ValueId],
        computed: impl Fn(ValueId) -> bool,
    ) -> Result<Option<NotFinite>> {
        let plane: &Plane<M> = match quantity {
            Quantity::Value => &self.primal,
            Quantity::Gradient => &self.cotangent,
            Quantity::Tangent => &self.tangent,
            Quantity::GradientTangent => &self.cotangent_tangent,
        };
        for value in order.iter().copied().filter(|value| computed(*value)) {
            let Some(tensor) = &plane[value.0] else { continue };
            let count = machine.count_non_finite(tensor)?;
            if count > 0 {
                let (rows, columns) = self.shape(value);
                let maker = self.graph.nodes.iter().find(|node| node.output == value);
                return Ok(Some(NotFinite {
                    quantity,
                    value,
                    parameter: self.graph.values[value.0].name.clone(),
                    operation: maker.map(|node| node.operation.name()),
                    count,
                    elements: rows * columns,
                }));
            }
        }
        Ok(None)
    }
}
