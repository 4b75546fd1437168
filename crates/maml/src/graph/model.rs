//! A graph with numbers: values, their tangents, their cotangents, and the tangents of these.

use std::fmt;

use theria_contract::{Element, Layout, Storage, Tensor};

use super::{Graph, Plan, ValueId};
use crate::machine::{Machine, TensorOf};
use crate::operation::Second;
use crate::{Error, Result};

/// A tensor for each value that has one.
type Plane<M> = Vec<Option<TensorOf<M>>>;

/// A model that can be evaluated and differentiated. It allocates when a plan is used first, and no more.
pub struct Model<M: Machine> {
    graph: Graph<M>,
    loss: ValueId,
    primal: Plane<M>,
    tangent: Plane<M>,
    cotangent: Plane<M>,
    cotangent_tangent: Plane<M>,
}

impl<M: Machine> fmt::Debug for Model<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Model")
            .field("nodes", &self.graph.nodes)
            .field("loss", &self.loss)
            .finish_non_exhaustive()
    }
}

/// A tensor for each value for which `which` says so, beside those that there are.
fn fill_plane<M: Machine>(
    graph: &Graph<M>,
    machine: &M,
    plane: &mut Plane<M>,
    which: impl Fn(usize) -> bool,
) -> Result<()> {
    for (n, value) in graph.values.iter().enumerate() {
        if plane[n].is_none() && which(n) {
            let packed = || Layout::contiguous([1, 1, value.rows, value.columns]);
            plane[n] = Some(machine.storage().allocate(value.layout.map_or_else(packed, Ok)?)?);
        }
    }
    Ok(())
}

/// The tensor of a value that has one.
fn at<M: Machine>(plane: &Plane<M>, value: ValueId) -> &TensorOf<M> {
    let Some(tensor) = &plane[value.0] else { unreachable!("the plan has made it") };
    tensor
}

/// The tensors of operands, taken out to be written.
fn take<M: Machine>(plane: &mut Plane<M>, inputs: &[ValueId], which: impl Fn(usize) -> bool) -> Plane<M> {
    inputs.iter().map(|value| if which(value.0) { plane[value.0].take() } else { None }).collect()
}

fn put_back<M: Machine>(plane: &mut Plane<M>, inputs: &[ValueId], taken: Plane<M>) {
    for (value, tensor) in inputs.iter().zip(taken) {
        if tensor.is_some() {
            plane[value.0] = tensor;
        }
    }
}

impl<M: Machine> Model<M> {
    /// The model whose loss is this value.
    pub fn new(machine: &M, mut graph: Graph<M>, loss: ValueId) -> Result<Self> {
        if graph.shape(loss) != (1, 1) {
            let (left, right) = (graph.shape(loss), (1, 1));
            return Err(Error::Shapes { operation: "loss", left, right, needed: "one number" });
        }
        graph.give_copies();
        let none = || (0..graph.values.len()).map(|_| None).collect();
        let (mut primal, tangent, cotangent, cotangent_tangent) = (none(), none(), none(), none());
        fill_plane(&graph, machine, &mut primal, |_| true)?;
        Ok(Self { graph, loss, primal, tangent, cotangent, cotangent_tangent })
    }

    /// What gradients of `of` take, and their tangents while `along` moves.
    pub fn plan(&self, of: &[ValueId], along: &[ValueId]) -> Plan {
        Plan::new(&self.graph, of, along)
    }

    /// The parameters, by name.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, ValueId)> {
        let all = self.graph.values.iter().enumerate();
        all.filter_map(|(n, value)| Some((value.name.as_deref()?, ValueId(n))))
    }

    /// Rows and columns of a value.
    pub fn shape(&self, value: ValueId) -> (usize, usize) {
        self.graph.shape(value)
    }

    /// The tensor of a parameter or of data, to be written.
    pub fn tensor_mut(&mut self, value: ValueId) -> &mut TensorOf<M> {
        let Some(tensor) = &mut self.primal[value.0] else { unreachable!("every value has one") };
        tensor
    }

    /// The tensor of a value, as it was computed last.
    pub fn tensor(&self, value: ValueId) -> &TensorOf<M> {
        at::<M>(&self.primal, value)
    }

    /// Writes numbers of the host, row by row.
    pub fn write(&mut self, machine: &M, value: ValueId, numbers: &[M::Element]) -> Result<()> {
        let (rows, columns) = self.shape(value);
        if numbers.len() != rows * columns {
            return Err(Error::Elements { what: "a value", given: numbers.len(), expected: rows * columns });
        }
        let tensor = Tensor::from_vec(numbers.to_vec(), [1, 1, rows, columns])?;
        let tensor = machine.storage().upload(&tensor)?;
        machine.copy(&tensor, self.tensor_mut(value))
    }

    /// The gradient that was computed last, of what it was wanted of.
    pub fn gradient_of(&self, value: ValueId) -> &TensorOf<M> {
        at::<M>(&self.cotangent, value)
    }

    /// The tangent of the gradient that was computed last.
    pub fn gradient_tangent_of(&self, value: ValueId) -> &TensorOf<M> {
        at::<M>(&self.cotangent_tangent, value)
    }

    /// Computes every value. The loss is read by [`Model::loss`], which waits for it.
    pub fn evaluate(&mut self, machine: &M) -> Result<()> {
        for node in &mut self.graph.nodes {
            let Some(mut y) = self.primal[node.output.0].take() else { unreachable!("every value has one") };
            if !node.operation.writes() {
                machine.fill(&mut y, 0.0)?;
            }
            let x: Vec<_> = node.inputs.iter().map(|value| at::<M>(&self.primal, *value)).collect();
            let done = node.operation.value(machine, &x, &mut y);
            self.primal[node.output.0] = Some(y);
            done?;
        }
        Ok(())
    }

    /// The loss that was computed last.
    pub fn loss(&self, machine: &M) -> Result<f64> {
        let loss = machine.storage().download(M::Storage::view(self.tensor(self.loss)))?;
        Ok(loss.data()[0].to_f64())
    }

    /// Computes every value, and the gradients of the plan.
    pub fn gradient(&mut self, machine: &M, plan: &Plan) -> Result<()> {
        self.evaluate(machine)?;
        fill_plane(&self.graph, machine, &mut self.cotangent, |n| plan.wanted[n])?;
        for (n, cotangent) in self.cotangent.iter_mut().enumerate().filter(|(n, _)| plan.wanted[*n]) {
            if let Some(cotangent) = cotangent {
                machine.fill(cotangent, if n == self.loss.0 { 1.0 } else { 0.0 })?;
            }
        }
        for node in self.graph.nodes.iter_mut().rev().filter(|node| plan.wanted[node.output.0]) {
            let mut into = take::<M>(&mut self.cotangent, &node.inputs, |n| plan.wanted[n]);
            let x: Vec<_> = node.inputs.iter().map(|value| at::<M>(&self.primal, *value)).collect();
            let (y, g) = (at::<M>(&self.primal, node.output), at::<M>(&self.cotangent, node.output));
            let mut places: Vec<_> = into.iter_mut().map(Option::as_mut).collect();
            let done = node.operation.pull(machine, &x, y, g, &mut places);
            put_back::<M>(&mut self.cotangent, &node.inputs, into);
            done?;
        }
        Ok(())
    }

    /// The direction of a parameter that moves, to be written before [`Model::gradient_tangent`].
    pub fn direction_mut(&mut self, machine: &M, plan: &Plan, value: ValueId) -> Result<&mut TensorOf<M>> {
        fill_plane(&self.graph, machine, &mut self.tangent, |n| plan.moves[n])?;
        match &mut self.tangent[value.0] {
            Some(tensor) if plan.moves[value.0] => Ok(tensor),
            _ => Err(Error::Still(self.graph.values[value.0].name.clone().unwrap_or_default())),
        }
    }

    /// Computes every value, and the tangents of the gradients of the plan along the directions that were written: a
    /// product of the Hessian, and of the mixed second derivatives of parameters that do not move.
    pub fn gradient_tangent(&mut self, machine: &M, plan: &Plan) -> Result<()> {
        self.evaluate(machine)?;
        self.push(machine, plan)?;
        let curves = |n: usize| plan.wanted[n];
        fill_plane(&self.graph, machine, &mut self.cotangent_tangent, curves)?;
        fill_plane(&self.graph, machine, &mut self.cotangent, |n| plan.wanted[n] && plan.first[n])?;
        for n in (0..self.graph.values.len()).filter(|n| plan.wanted[*n]) {
            if let Some(tangent) = &mut self.cotangent_tangent[n] {
                machine.fill(tangent, 0.0)?;
            }
            if let Some(cotangent) = &mut self.cotangent[n] {
                machine.fill(cotangent, if n == self.loss.0 { 1.0 } else { 0.0 })?;
            }
        }
        let Self { graph, primal, tangent, cotangent, cotangent_tangent, .. } = self;
        for node in graph.nodes.iter_mut().rev().filter(|node| plan.wanted[node.output.0]) {
            let output = node.output;
            let wanted = |n: usize| plan.wanted[n] && plan.curves[n];
            let mut into = take::<M>(cotangent_tangent, &node.inputs, wanted);
            let mut first = take::<M>(cotangent, &node.inputs, |n| plan.wanted[n] && plan.first[n]);
            let moving = |value: ValueId| if plan.moves[value.0] { tangent[value.0].as_ref() } else { None };
            let x: Vec<_> = node.inputs.iter().map(|value| at::<M>(primal, *value)).collect();
            let x_tangent: Vec<_> = node.inputs.iter().map(|value| moving(*value)).collect();
            let second = Second {
                x: &x,
                x_tangent: &x_tangent,
                y: at::<M>(primal, output),
                y_tangent: moving(output),
                g: plan.first[output.0].then(|| at::<M>(cotangent, output)),
                g_tangent: plan.curves[output.0].then(|| at::<M>(cotangent_tangent, output)),
            };
            let mut places: Vec<_> = into.iter_mut().map(Option::as_mut).collect();
            let mut places_first: Vec<_> = first.iter_mut().map(Option::as_mut).collect();
            let done = node.operation.pull_tangent(machine, &second, &mut places, &mut places_first);
            put_back::<M>(cotangent_tangent, &node.inputs, into);
            put_back::<M>(cotangent, &node.inputs, first);
            done?;
        }
        Ok(())
    }

    fn push(&mut self, machine: &M, plan: &Plan) -> Result<()> {
        fill_plane(&self.graph, machine, &mut self.tangent, |n| plan.moves[n])?;
        let Self { graph, primal, tangent, .. } = self;
        for node in graph.nodes.iter_mut().filter(|node| plan.moves[node.output.0]) {
            let Some(mut made) = tangent[node.output.0].take() else { unreachable!("the plan has made it") };
            if !node.operation.writes() {
                machine.fill(&mut made, 0.0)?;
            }
            let moving = |value: &ValueId| if plan.moves[value.0] { tangent[value.0].as_ref() } else { None };
            let x: Vec<_> = node.inputs.iter().map(|value| at::<M>(primal, *value)).collect();
            let x_tangent: Vec<_> = node.inputs.iter().map(moving).collect();
            let y = at::<M>(primal, node.output);
            let done = node.operation.push(machine, &x, &x_tangent, y, &mut made);
            tangent[node.output.0] = Some(made);
            done?;
        }
        Ok(())
    }
}
