//! A learner of an experiment, with places for the data of its tasks.

use theria_contract::{Element, Storage};
use theria_maml::machine::TensorOf;
use theria_maml::meta::{Adapted, Inner, Learner, Mode};
use theria_maml::tasks::{Target, Task};
use theria_maml::{Error, Machine, Model, Result};

use super::{Adapts, Draft, Experiment, Parameter, Places, Side};

/// An experiment on a machine.
pub struct Stage<M: Machine> {
    experiment: Box<dyn Experiment<M>>,
    parameters: Vec<Parameter>,
    places: [Places; 2],
    learners: Vec<Learner<M>>,
}

/// A model and what was drafted with it.
struct Drafted<M: Machine> {
    model: Model<M>,
    places: Places,
    parameters: Vec<Parameter>,
}

fn drafted<M: Machine>(machine: &M, experiment: &dyn Experiment<M>, side: Side) -> Result<Drafted<M>> {
    let mut draft = Draft::default();
    let places = experiment.draft(&mut draft, side)?;
    let (mut graph, parameters) = draft.into_parts();
    graph.keep(places.outputs);
    Ok(Drafted { model: Model::new(machine, graph, places.loss)?, places, parameters })
}

/// A learner of an experiment, with what was drafted for it.
fn learner<M: Machine>(
    machine: &M,
    experiment: &dyn Experiment<M>,
) -> Result<(Learner<M>, Vec<Parameter>, [Places; 2])> {
    let support = drafted(machine, experiment, Side::Support)?;
    let query = drafted(machine, experiment, Side::Query)?;
    let all: Vec<&str> = support.parameters.iter().map(|parameter| parameter.name).collect();
    let adapted = match experiment.adapts() {
        Adapts::Everything => &all[..],
        Adapts::Only(names) => names,
    };
    let learner = Learner::new(machine, support.model, query.model, adapted)?;
    Ok((learner, support.parameters, [support.places, query.places]))
}

impl<M: Machine> Stage<M> {
    /// Both models of the experiment, and a learner of them.
    pub fn new(machine: &M, experiment: Box<dyn Experiment<M>>) -> Result<Self> {
        let (learner, parameters, places) = learner(machine, &*experiment)?;
        let parameters = learner
            .names()
            .filter_map(|name| parameters.iter().find(|parameter| parameter.name == name).cloned())
            .collect();
        Ok(Self { experiment, parameters, places, learners: vec![learner] })
    }

    /// With as many learners, for as many tasks side by side.
    pub fn with_learners(mut self, machine: &M, count: usize) -> Result<Self> {
        while self.learners.len() < count {
            self.learners.push(learner(machine, &*self.experiment)?.0);
        }
        Ok(self)
    }

    /// The experiment.
    pub fn experiment(&self) -> &dyn Experiment<M> {
        &*self.experiment
    }

    /// The parameters, in the order of [`Learner::names`].
    pub fn parameters(&self) -> &[Parameter] {
        &self.parameters
    }

    /// How many of them are adapted: the first ones.
    pub fn adapted(&self) -> usize {
        self.learners[0].rate_gradients().len()
    }

    /// Where learning begins, in the order of [`Stage::parameters`].
    pub fn begin(&self, machine: &M, seed: u64) -> Result<Vec<TensorOf<M>>> {
        let each = self.parameters.iter().enumerate();
        each.map(|(n, parameter)| Ok(machine.storage().upload(&parameter.begin::<M::Element>(seed, n)?)?))
            .collect()
    }

    /// The learners, and what gives them tasks and looks at what came of these.
    pub fn parts(&mut self) -> (&mut [Learner<M>], Desk<'_, M>) {
        (&mut self.learners, Desk { experiment: &*self.experiment, places: &self.places })
    }

    /// Adapts to a task from this start, and computes the gradient of its mode.
    pub fn meta_gradient(
        &mut self,
        machine: &M,
        start: &[TensorOf<M>],
        (inner, mode): (&Inner, Mode),
        task: &Task,
    ) -> Result<Adapted> {
        let (learners, desk) = self.parts();
        desk.load(machine, &mut learners[0], task)?;
        learners[0].meta_gradient(machine, &start.iter().collect::<Vec<_>>(), inner, mode)
    }

    /// The gradients that were computed last, one after the other, on the host.
    pub fn gradient(&self, machine: &M) -> Result<Vec<f64>> {
        let mut all = Vec::new();
        for gradient in self.learners[0].gradients() {
            let on_host = machine.storage().download(M::Storage::view(gradient))?;
            all.extend(on_host.data().iter().map(|x| x.to_f64()));
        }
        Ok(all)
    }
}

/// What stands between tasks and a learner.
pub struct Desk<'a, M: Machine> {
    experiment: &'a dyn Experiment<M>,
    places: &'a [Places; 2],
}

impl<M: Machine> Desk<'_, M> {
    /// Gives the learner the data of a task.
    pub fn load(&self, machine: &M, learner: &mut Learner<M>, task: &Task) -> Result<()> {
        for (side, places) in [Side::Support, Side::Query].into_iter().zip(self.places) {
            let numbers = self.experiment.numbers(task, side)?;
            let (given, expected) = (numbers.len(), places.data.len());
            if given != expected {
                return Err(Error::Elements { what: "the data of a task (lists)", given, expected });
            }
            let model = match side {
                Side::Support => learner.support_mut(),
                Side::Query => learner.query_mut(),
            };
            for (place, numbers) in places.data.iter().zip(numbers) {
                let numbers: Vec<M::Element> = numbers.into_iter().map(M::Element::from_f64).collect();
                model.write(machine, *place, &numbers)?;
            }
        }
        Ok(())
    }

    /// The part of the query that the adapted model classifies rightly; none where there are no classes.
    pub fn accuracy(&self, machine: &M, learner: &mut Learner<M>, task: &Task) -> Result<Option<f64>> {
        let Target::Class(classes) = self.experiment.source().shape().target else { return Ok(None) };
        let Some(outputs) = learner.query_mut().tensor(self.places[1].outputs) else { return Ok(None) };
        let outputs = machine.storage().download(M::Storage::view(outputs))?;
        let said = outputs.data().chunks(classes.max(1)).map(|row| {
            let best = row.iter().enumerate().max_by(|a, b| a.1.to_f64().total_cmp(&b.1.to_f64()));
            best.map_or(0, |(n, _)| n)
        });
        let right = said.zip(&task.query.targets).filter(|(said, class)| *said as f64 == **class).count();
        Ok(Some(right as f64 / task.query.count.max(1) as f64))
    }
}
