//! A graph with numbers: values, their tangents, their cotangents, and the tangents of these.

mod finite;

use std::collections::BTreeSet;
use std::fmt;

use theria_contract::{Element, Layout, Storage, Tensor};

use super::spare::Spare;
use super::{Graph, Node, Plan, ValueId};
use crate::machine::{Machine, Place, Places, TensorOf, Width};
use crate::operation::Second;
use crate::{Error, Result};

pub use finite::{NotFinite, Quantity};

/// A tensor for each value that has one.
type Plane<M> = Vec<Option<<M as Machine>::Tensor>>;

/// What is computed again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    LossAndGradient,
    Gradient,
    GradientTangent,
}

/// Work by a plan that was done once, and its recording if it was done again since.
struct Replay<M: Machine> {
    work: Work,
    plan: Plan,
    recording: Option<M::Recording>,
}

/// A model that can be evaluated and differentiated. It allocates when a plan is used first, and no more. Where the machine
/// records, what a plan is used for a second time is recorded, and replayed from then on.
pub struct Model<M: Machine> {
    graph: Graph<M>,
    /// What an operation makes, for each value. The others are parameters and data, which keep all their tensors; what is
    /// made is there for a while.
    made: Vec<bool>,
    layouts: Vec<Layout>,
    /// Which of them are wide: parameters, data, what the user reads, and what operations said.
    wide: Vec<bool>,
    spare: Spare<M>,
    /// Whether what is there for a while stays, for who looks for a number in it.
    stays: bool,
    replays: Vec<Replay<M>>,
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

/// A wide tensor for each value for which `which` says so, beside those that there are.
fn fill_plane<M: Machine>(
    graph: &Graph<M>,
    machine: &M,
    plane: &mut Plane<M>,
    which: impl Fn(usize) -> bool,
) -> Result<()> {
    for (n, place) in plane.iter_mut().enumerate() {
        if place.is_none() && which(n) {
            *place = Some(machine.allocate(graph.layout(ValueId(n))?, Width::Wide)?);
        }
    }
    Ok(())
}

/// The tensor of a value that has one.
fn at<M: Machine>(plane: &Plane<M>, value: ValueId) -> &M::Tensor {
    let Some(tensor) = &plane[value.0] else { unreachable!("the plan has made it") };
    tensor
}

/// The tensor of a parameter, of data, or of what is kept.
fn wide<M: Machine>(tensor: &M::Tensor) -> &TensorOf<M> {
    let Some(tensor) = M::wide(tensor) else { unreachable!("nothing of it is between operations") };
    tensor
}

fn wide_mut<M: Machine>(tensor: &mut M::Tensor) -> &mut TensorOf<M> {
    let Some(tensor) = M::wide_mut(tensor) else { unreachable!("nothing of it is between operations") };
    tensor
}

/// The tensors of several parameters that have one.
fn pick_mut<'a, M: Machine>(plane: &'a mut Plane<M>, values: &[ValueId]) -> Vec<&'a mut TensorOf<M>> {
    let mut all: Vec<_> = plane.iter_mut().map(Option::as_mut).collect();
    let pick = |value: &ValueId| {
        let Some(tensor) = all[value.0].take() else {
            unreachable!("the plan has made it, and it is asked for once")
        };
        wide_mut::<M>(tensor)
    };
    values.iter().map(pick).collect()
}

/// Where tensors for a while come from, and go to.
struct Room<'a, M: Machine> {
    machine: &'a M,
    spare: &'a Spare<M>,
    layouts: &'a [Layout],
    /// Which values are wide, whatever the machine makes of others.
    wide: &'a [bool],
    made: &'a [bool],
    stays: bool,
}

impl<M: Machine> Room<'_, M> {
    /// How wide the tensors of a value are.
    fn width(&self, value: ValueId) -> Width {
        if self.wide[value.0] { Width::Wide } else { self.machine.between() }
    }

    fn take(&self, value: ValueId) -> Result<M::Tensor> {
        self.spare.take(self.machine, (self.layouts[value.0], self.width(value)))
    }

    /// The tensor that is there, or another. A call that ended with an error may have left one, and another machine one that
    /// is not as wide.
    fn take_over(&self, there: Option<M::Tensor>, value: ValueId) -> Result<M::Tensor> {
        match there {
            Some(there) if M::form(&there).1 == self.width(value) => Ok(there),
            Some(there) => {
                self.spare.give(there);
                self.take(value)
            }
            None => self.take(value),
        }
    }

    /// Gives back the tensor of a value that is not needed any more, if it is one for a while.
    fn give(&self, plane: &mut Plane<M>, value: ValueId) {
        if let Some(tensor) = plane[value.0].take_if(|_| self.made[value.0] && !self.stays) {
            self.spare.give(tensor);
        }
    }
}

/// Tensors of operands that were taken out to be written, and which of them were written before.
struct Taken<M: Machine> {
    tensors: Plane<M>,
    written: Vec<bool>,
}

impl<M: Machine> Taken<M> {
    /// Those of operands that `which` says, spare ones for those that were not written yet.
    fn out_of(
        room: &Room<'_, M>,
        plane: &mut Plane<M>,
        inputs: &[ValueId],
        (which, written): (&[bool], &[bool]),
    ) -> Result<Self> {
        let mut taken = Self { tensors: Vec::with_capacity(inputs.len()), written: Vec::new() };
        for value in inputs {
            let tensor = which[value.0].then(|| room.take_over(plane[value.0].take(), *value)).transpose();
            match tensor {
                Ok(tensor) => taken.tensors.push(tensor),
                Err(error) => {
                    // Nothing that a recording may name is released.
                    taken.put_back(plane, inputs, &mut vec![false; plane.len()]);
                    return Err(error);
                }
            }
        }
        taken.written = inputs.iter().map(|value| written[value.0]).collect();
        Ok(taken)
    }

    /// Lends them as places, and notes what was written.
    fn lend<R>(&mut self, rule: impl FnOnce(&mut Places<'_, M::Tensor>) -> R) -> R {
        let each = self.tensors.iter_mut().zip(&self.written);
        let mut places: Vec<_> =
            each.map(|(tensor, add)| tensor.as_mut().map(|to| Place { to, add: *add })).collect();
        let made = rule(&mut places);
        self.written = places.iter().map(|place| place.as_ref().is_some_and(|place| place.add)).collect();
        made
    }

    fn put_back(self, plane: &mut Plane<M>, inputs: &[ValueId], written: &mut [bool]) {
        let written_or_not = self.written.into_iter().chain(std::iter::repeat(false));
        for ((value, tensor), was) in inputs.iter().zip(self.tensors).zip(written_or_not) {
            if tensor.is_some() {
                plane[value.0] = tensor;
                written[value.0] |= was;
            }
        }
    }
}

/// The cotangent of the loss: 1.
fn seed<M: Machine>(
    room: &Room<'_, M>,
    cotangent: &mut Plane<M>,
    loss: ValueId,
    written: &mut [bool],
) -> Result<()> {
    if cotangent[loss.0].is_none() {
        cotangent[loss.0] = Some(room.take(loss)?);
    }
    if let Some(of_loss) = &mut cotangent[loss.0] {
        room.machine.fill(wide_mut::<M>(of_loss), 1.0)?;
        written[loss.0] = true;
    }
    Ok(())
}

/// What nobody wrote is zero: the loss does not depend on it.
fn clear_rest<M: Machine>(
    machine: &M,
    plane: &mut Plane<M>,
    wanted: &[bool],
    written: &[bool],
) -> Result<()> {
    for ((tensor, wanted), written) in plane.iter_mut().zip(wanted).zip(written) {
        if let Some(tensor) = tensor.as_mut().filter(|_| *wanted && !*written) {
            machine.clear(tensor)?;
        }
    }
    Ok(())
}

impl<M: Machine> Model<M> {
    /// The model whose loss is this value.
    pub fn new(machine: &M, mut graph: Graph<M>, loss: ValueId) -> Result<Self> {
        if graph.shape(loss) != (1, 1) {
            let (left, right) = (graph.shape(loss), (1, 1));
            return Err(Error::Shapes { operation: "loss", left, right, needed: "one number" });
        }
        graph.keep(loss);
        graph.keep_what_makes(loss);
        graph.give_copies();
        let none = || (0..graph.values.len()).map(|_| None).collect();
        let (mut primal, tangent, cotangent, cotangent_tangent) = (none(), none(), none(), none());
        let mut made = vec![false; graph.values.len()];
        graph.nodes.iter().for_each(|node| made[node.output.0] = true);
        let layouts = (0..graph.values.len()).map(|n| graph.layout(ValueId(n))).collect::<Result<_>>()?;
        let lasting = |n: usize| !made[n] || graph.values[n].kept;
        let wide = (0..graph.values.len()).map(|n| lasting(n) || graph.values[n].wide).collect();
        fill_plane(&graph, machine, &mut primal, lasting)?;
        let (spare, replays) = (Spare::default(), Vec::new());
        Ok(Self {
            graph,
            made,
            layouts,
            wide,
            spare,
            stays: false,
            replays,
            loss,
            primal,
            tangent,
            cotangent,
            cotangent_tangent,
        })
    }

    /// Takes tensors that are needed for a while from where another model does. The two are never at work at once.
    pub(crate) fn share_spare(&mut self, other: &Self) {
        self.spare = other.spare.clone();
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

    /// The tensor of a parameter or of data, to be written. It stays where it is: recordings name it.
    pub(crate) fn tensor_mut(&mut self, value: ValueId) -> &mut TensorOf<M> {
        let Some(tensor) = &mut self.primal[value.0] else { unreachable!("every value has one") };
        wide_mut::<M>(tensor)
    }

    /// The tensor of a parameter, of data, or of a value that is kept, as it was computed last. None of others: what an
    /// operation makes is there as long as it is needed (see [`Graph::keep`]).
    pub fn tensor(&self, value: ValueId) -> Option<&TensorOf<M>> {
        let there = self.primal[value.0].as_ref();
        there.filter(|_| !self.made[value.0] || self.graph.values[value.0].kept).map(wide::<M>)
    }

    /// The tensor of a parameter.
    pub(crate) fn parameter(&self, value: ValueId) -> &TensorOf<M> {
        wide::<M>(at::<M>(&self.primal, value))
    }

    /// Writes numbers of the host, row by row.
    pub fn write(&mut self, machine: &M, value: ValueId, numbers: &[M::Element]) -> Result<()> {
        let tensor = self.uploaded(machine, value, numbers)?;
        machine.copy(&tensor, self.tensor_mut(value))
    }

    /// A tensor of numbers of the host, as large as a value.
    fn uploaded(&self, machine: &M, value: ValueId, numbers: &[M::Element]) -> Result<TensorOf<M>> {
        let (rows, columns) = self.shape(value);
        if numbers.len() != rows * columns {
            return Err(Error::Elements { what: "a value", given: numbers.len(), expected: rows * columns });
        }
        let tensor = Tensor::from_vec(numbers.to_vec(), [1, 1, rows, columns])?;
        Ok(machine.storage().upload(&tensor)?)
    }

    /// The gradient that was computed last; none of what no plan asked for.
    pub fn gradient_of(&self, value: ValueId) -> Option<&TensorOf<M>> {
        self.cotangent[value.0].as_ref().and_then(M::wide)
    }

    /// Tensors of parameters, to be written.
    pub(crate) fn tensors_mut(&mut self, values: &[ValueId]) -> Vec<&mut TensorOf<M>> {
        pick_mut::<M>(&mut self.primal, values)
    }

    /// Parameters and the gradients that were computed last, to be changed.
    pub(crate) fn parameters_and_gradients(
        &mut self,
        values: &[ValueId],
    ) -> (Vec<&mut TensorOf<M>>, Vec<&mut TensorOf<M>>) {
        (pick_mut::<M>(&mut self.primal, values), pick_mut::<M>(&mut self.cotangent, values))
    }

    /// The tangent of the gradient that was computed last; none of what no plan asked for.
    pub fn gradient_tangent_of(&self, value: ValueId) -> Option<&TensorOf<M>> {
        self.cotangent_tangent[value.0].as_ref().and_then(M::wide)
    }

    /// Computes every value that the loss is made of. The loss is read by [`Model::loss`], which waits for it.
    pub fn evaluate(&mut self, machine: &M) -> Result<()> {
        self.evaluate_some(machine, true)?;
        self.leave_values(machine);
        Ok(())
    }

    /// Gives back what was made and nobody keeps.
    fn leave_values(&mut self, machine: &M) {
        let Self { graph, made, layouts, wide, spare, stays, primal, .. } = self;
        let room = Room { machine, spare, layouts, wide, made, stays: *stays };
        for node in graph.nodes.iter().filter(|node| !graph.values[node.output.0].kept) {
            room.give(primal, node.output);
        }
    }

    /// The same, or what derivatives need of it: all but the loss.
    fn evaluate_some(&mut self, machine: &M, loss_too: bool) -> Result<()> {
        let Self { graph, made, layouts, wide, spare, stays, primal, loss, .. } = self;
        let room = Room { machine, spare, layouts, wide, made, stays: *stays };
        let wanted = |node: &&mut Node<M>| loss_too || node.output != *loss || node.operation.reads_value();
        for node in graph.nodes.iter_mut().filter(wanted) {
            let there = primal[node.output.0].take();
            let mut y = room.take_over(there, node.output)?;
            let x: Vec<_> = node.inputs.iter().map(|value| at::<M>(primal, *value)).collect();
            let done = node.operation.value(machine, &x, &mut y);
            primal[node.output.0] = Some(y);
            done?;
        }
        Ok(())
    }

    /// The loss that was computed last.
    pub fn loss(&self, machine: &M) -> Result<f64> {
        let loss = machine.storage().download(M::Storage::view(self.parameter(self.loss)))?;
        Ok(loss.data()[0].to_f64())
    }

    /// Computes the loss, and the gradients of the plan.
    pub fn loss_and_gradient(&mut self, machine: &M, plan: &Plan) -> Result<()> {
        self.run(machine, plan, Work::LossAndGradient)
    }

    /// Computes the gradients of the plan. The loss itself is not computed.
    pub fn gradient(&mut self, machine: &M, plan: &Plan) -> Result<()> {
        self.run(machine, plan, Work::Gradient)
    }

    /// Does work by a plan: once as it is, which makes all memory that it needs, and from then on as it was recorded.
    fn run(&mut self, machine: &M, plan: &Plan, work: Work) -> Result<()> {
        if !M::RECORDS {
            return self.do_work(machine, plan, work);
        }
        let known = self.replays.iter().position(|replay| replay.work == work && replay.plan == *plan);
        let Some(known) = known else {
            self.do_work(machine, plan, work)?;
            self.replays.push(Replay { work, plan: plan.clone(), recording: None });
            return Ok(());
        };
        let of_machine = |recording: &M::Recording| machine.made(recording);
        if !self.replays[known].recording.as_ref().is_some_and(of_machine) {
            // Another machine may have to make memory first: then it is recorded another time.
            self.replays[known].recording = machine.record(|| self.do_work(machine, plan, work))?;
        }
        match &self.replays[known].recording {
            // SAFETY: work on a model uses its values and what operations keep, both of which are made once and stay
            // where they are as long as the model and its recordings do; nobody else has them while it is borrowed.
            #[allow(unsafe_code)]
            Some(recording) => unsafe { machine.replay(recording) },
            None => self.do_work(machine, plan, work),
        }
    }

    /// Prepares the parameters and data that are factors of products, and those of their directions that work reads.
    fn hold(&self, machine: &M, plan: &Plan, work: Work) -> Result<M::Held> {
        let factors = self.graph.nodes.iter().flat_map(|node| &node.inputs[..node.operation.factors()]);
        let leaves: BTreeSet<ValueId> = factors.filter(|value| !self.made[value.0]).copied().collect();
        let moving = |value: &&ValueId| work == Work::GradientTangent && plan.moves[value.0];
        let directions = leaves.iter().filter(moving).filter_map(|value| self.tangent[value.0].as_ref());
        let all: Vec<_> =
            leaves.iter().map(|value| at::<M>(&self.primal, *value)).chain(directions).collect();
        machine.hold(&all)
    }

    fn do_work(&mut self, machine: &M, plan: &Plan, work: Work) -> Result<()> {
        let _held = self.hold(machine, plan, work)?;
        match work {
            Work::LossAndGradient | Work::Gradient => {
                self.evaluate_some(machine, work == Work::LossAndGradient)?;
                self.pull(machine, plan)?;
            }
            Work::GradientTangent => self.push_and_pull(machine, plan)?,
        }
        self.leave_values(machine);
        Ok(())
    }

    fn pull(&mut self, machine: &M, plan: &Plan) -> Result<()> {
        let mut written = vec![false; self.graph.values.len()];
        let Self { graph, made, layouts, wide, spare, stays, primal, cotangent, loss, .. } = self;
        let room = Room { machine, spare, layouts, wide, made, stays: *stays };
        fill_plane(graph, machine, cotangent, |n| plan.wanted[n] && !made[n])?;
        seed(&room, cotangent, *loss, &mut written)?;
        for node in graph.nodes.iter_mut().rev().filter(|node| plan.wanted[node.output.0]) {
            let mut into = Taken::out_of(&room, cotangent, &node.inputs, (&plan.wanted, &written))?;
            let x: Vec<_> = node.inputs.iter().map(|value| at::<M>(primal, *value)).collect();
            let (y, g) = (at::<M>(primal, node.output), at::<M>(cotangent, node.output));
            let done = into.lend(|places| node.operation.pull(machine, &x, y, g, places));
            into.put_back(cotangent, &node.inputs, &mut written);
            room.give(cotangent, node.output);
            done?;
        }
        clear_rest::<M>(machine, cotangent, &plan.wanted, &written)
    }

    /// Writes the direction of a parameter that moves, before [`Model::gradient_tangent`].
    pub fn write_direction(
        &mut self,
        machine: &M,
        plan: &Plan,
        value: ValueId,
        numbers: &[M::Element],
    ) -> Result<()> {
        let tensor = self.uploaded(machine, value, numbers)?;
        machine.copy(&tensor, self.direction_mut(machine, plan, value)?)
    }

    /// The direction of a parameter that moves, to be written before [`Model::gradient_tangent`].
    pub(crate) fn direction_mut(
        &mut self,
        machine: &M,
        plan: &Plan,
        value: ValueId,
    ) -> Result<&mut TensorOf<M>> {
        let mut all = self.directions_mut(machine, plan, &[value])?;
        let Some(direction) = all.pop() else { unreachable!("as many as were asked for") };
        Ok(direction)
    }

    /// Those of several.
    pub(crate) fn directions_mut(
        &mut self,
        machine: &M,
        plan: &Plan,
        values: &[ValueId],
    ) -> Result<Vec<&mut TensorOf<M>>> {
        if let Some(still) = values.iter().find(|value| !plan.moves[value.0]) {
            return Err(Error::Still(self.graph.values[still.0].name.clone().unwrap_or_default()));
        }
        let made = &self.made;
        fill_plane(&self.graph, machine, &mut self.tangent, |n| plan.moves[n] && !made[n])?;
        Ok(pick_mut::<M>(&mut self.tangent, values))
    }

    /// Computes every value, and the tangents of the gradients of the plan along the directions that were written: a
    /// product of the Hessian, and of the mixed second derivatives of parameters that do not move. The loss itself is not
    /// computed.
    pub fn gradient_tangent(&mut self, machine: &M, plan: &Plan) -> Result<()> {
        self.run(machine, plan, Work::GradientTangent)
    }

    fn push_and_pull(&mut self, machine: &M, plan: &Plan) -> Result<()> {
        self.evaluate_some(machine, false)?;
        self.push(machine, plan)?;
        let both = |a: &[bool], b: &[bool]| -> Vec<bool> { a.iter().zip(b).map(|(a, b)| *a && *b).collect() };
        let (curves, firsts) = (both(&plan.wanted, &plan.curves), both(&plan.wanted, &plan.first));
        let mut written_first = vec![false; self.graph.values.len()];
        let mut written = vec![false; self.graph.values.len()];
        let Self {
            graph,
            made,
            layouts,
            wide,
            spare,
            stays,
            primal,
            tangent,
            cotangent,
            cotangent_tangent,
            loss,
            ..
        } = self;
        let room = Room { machine, spare, layouts, wide, made, stays: *stays };
        fill_plane(graph, machine, cotangent_tangent, |n| plan.wanted[n] && !made[n])?;
        fill_plane(graph, machine, cotangent, |n| firsts[n] && !made[n])?;
        if plan.first[loss.0] {
            seed(&room, cotangent, *loss, &mut written_first)?;
        }
        for node in graph.nodes.iter_mut().rev().filter(|node| plan.wanted[node.output.0]) {
            let output = node.output;
            let mut into = Taken::out_of(&room, cotangent_tangent, &node.inputs, (&curves, &written))?;
            let mut first = Taken::out_of(&room, cotangent, &node.inputs, (&firsts, &written_first))?;
            let moving = |value: ValueId| if plan.moves[value.0] { tangent[value.0].as_ref() } else { None };
            let x: Vec<_> = node.inputs.iter().map(|value| at::<M>(primal, *value)).collect();
            let x_tangent: Vec<_> = node.inputs.iter().map(|value| moving(*value)).collect();
            let second = Second {
                x: &x,
                x_tangent: &x_tangent,
                y: at::<M>(primal, output),
                y_tangent: moving(output),
                g: plan.first[output.0].then(|| at::<M>(cotangent, output)),
                // None where it might have one and has not: a product with what does not move, say.
                g_tangent: written[output.0].then(|| at::<M>(cotangent_tangent, output)),
            };
            let operation = &mut node.operation;
            let done =
                into.lend(|into| first.lend(|first| operation.pull_tangent(machine, &second, into, first)));
            into.put_back(cotangent_tangent, &node.inputs, &mut written);
            first.put_back(cotangent, &node.inputs, &mut written_first);
            for plane in [&mut *cotangent, &mut *cotangent_tangent, &mut *tangent] {
                room.give(plane, output);
            }
            done?;
        }
        clear_rest::<M>(machine, cotangent_tangent, &plan.wanted, &written)
    }

    fn push(&mut self, machine: &M, plan: &Plan) -> Result<()> {
        let Self { graph, made, layouts, wide, spare, stays, primal, tangent, loss, .. } = self;
        let room = Room { machine, spare, layouts, wide, made, stays: *stays };
        fill_plane(graph, machine, tangent, |n| plan.moves[n] && !made[n])?;
        let read = |node: &&mut Node<M>| node.output != *loss || node.operation.reads_value();
        for node in graph.nodes.iter_mut().filter(|node| plan.moves[node.output.0]).filter(read) {
            let there = tangent[node.output.0].take();
            let mut made = room.take_over(there, node.output)?;
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
