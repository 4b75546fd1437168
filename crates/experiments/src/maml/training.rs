//! Outer steps of an experiment, on any machine. What it does is decided by its settings and by nothing else.

use std::time::Instant;

use theria_contract::{Attention as _, Element, Problem, Rule};
use theria_maml::machine::TensorOf;
use theria_maml::meta::{Inner, Mode, Seen, State, Trainer};
use theria_maml::{Error, Machine};

use super::experiment::{self, Stage};
use super::{Checkpoint, Evaluation, MamlError, Purpose, Record, Result, Settings, Spread};

/// The first task that is never learned from: as far away as numbers go.
const HELD_OUT: u64 = 1 << 63;

/// A training under way.
pub struct Training<'m, M: Machine> {
    machine: &'m M,
    settings: Settings,
    stage: Stage<M>,
    trainer: Trainer<M>,
    inner: Inner,
}

impl<'m, M: Machine + 'static> Training<'m, M> {
    /// From where the seed of the settings begins. What the machine refuses is refused here.
    pub fn new(machine: &'m M, settings: &Settings) -> Result<Self> {
        let stage = staged(machine, settings)?;
        let begin = stage.begin(machine, settings.seed)?;
        let trainer = Trainer::new(machine, begin, settings.outer())?;
        let inner = settings.inner(stage.adapted());
        Self { machine, settings: settings.clone(), stage, trainer, inner }.rehearsed()
    }

    /// From a checkpoint, with settings that go on from its own.
    pub fn resume(machine: &'m M, settings: &Settings, checkpoint: &Checkpoint) -> Result<Self> {
        let stage = staged(machine, settings)?;
        let read = checkpoint.state::<M::Element>(stage.parameters(), stage.adapted());
        let (state, rates): (State<M::Element>, _) = read.map_err(MamlError::Unfit)?;
        let trainer = Trainer::resume(machine, state, settings.outer())?;
        let inner = Inner { rates, ..settings.inner(stage.adapted()) };
        Self { machine, settings: settings.clone(), stage, trainer, inner }.rehearsed()
    }

    /// With as many tasks side by side, on the threads of the pool that steps are made in. The bits are the same.
    pub fn side_by_side(self, tasks: usize) -> Result<Self> {
        Ok(Self { stage: self.stage.with_learners(self.machine, tasks)?, ..self })
    }

    /// Adapts to the first task of the next step and forgets it: whatever a step asks of the machine it has been asked once
    /// then.
    fn rehearsed(mut self) -> Result<Self> {
        let step = self.steps();
        let full = (self.settings.rel_diff_every > 0).then_some(Mode::Full);
        for mode in [self.settings.mode.mode()].into_iter().chain(full) {
            let inner = self.inner.clone();
            self.gradient_of(self.number(step, 0), &inner, mode).map_err(in_step(step + 1))?;
        }
        Ok(self)
    }

    /// Outer steps that were made.
    pub fn steps(&self) -> usize {
        self.trainer.steps()
    }

    /// What has been learned, in the order of [`Stage::parameters`].
    pub fn parameters(&self) -> &[TensorOf<M>] {
        self.trainer.parameters()
    }

    /// The inner loop as it is now: its rates may be learned.
    pub fn inner(&self) -> &Inner {
        &self.inner
    }

    /// The experiment.
    pub fn stage(&self) -> &Stage<M> {
        &self.stage
    }

    /// The number of a task of an outer step, counted from 0.
    fn number(&self, step: usize, task: usize) -> u64 {
        step as u64 * self.settings.batch as u64 + task as u64
    }

    fn gradient_of(&mut self, number: u64, inner: &Inner, mode: Mode) -> Result<Vec<f64>, Error> {
        let task = self.stage.experiment().source().task(self.settings.seed, number)?;
        self.stage.meta_gradient(self.machine, self.trainer.parameters(), (inner, mode), &task)?;
        self.stage.gradient(self.machine)
    }

    /// An outer step.
    pub fn step(&mut self) -> Result<Record> {
        let begun = Instant::now();
        let step = self.steps();
        let every = self.settings.rel_diff_every;
        let measured = every > 0 && step.is_multiple_of(every);
        let rel_diff = if measured { self.rel_diff(step).map_err(in_step(step + 1))? } else { None };
        let mut accuracies = Vec::new();
        let seen = self.learn(step, &mut accuracies).map_err(in_step(step + 1))?;
        let classes = accuracies.len() as f64;
        Ok(Record {
            step: step + 1,
            before: seen.losses.before,
            after: seen.losses.after,
            norm: seen.norm,
            accuracy: (classes > 0.0).then(|| accuracies.iter().sum::<f64>() / classes),
            rates: self.inner.learns_rates.then(|| self.inner.rates.clone()),
            rel_diff,
            seconds: begun.elapsed().as_secs_f64(),
        })
    }

    fn learn(&mut self, step: usize, accuracies: &mut Vec<f64>) -> Result<Seen, Error> {
        let Settings { batch, seed, .. } = self.settings;
        let (machine, mode) = (self.machine, self.settings.mode.mode());
        let numbers = (0..batch).map(|task| self.number(step, task));
        let source = self.stage.experiment().source();
        let tasks = numbers.map(|number| source.task(seed, number)).collect::<Result<Vec<_>, _>>()?;
        let (learners, desk) = self.stage.parts();
        let load = |learner: &mut _, n: usize| desk.load(machine, learner, &tasks[n]);
        let see = |learner: &mut _, n: usize| desk.accuracy(machine, learner, &tasks[n]);
        let (seen, found) =
            self.trainer.step_on(machine, learners, &mut self.inner, mode, batch, load, see)?;
        accuracies.extend(found.into_iter().flatten());
        Ok(seen)
    }

    /// What the first order leaves out of the mean gradient of a step, as a part of it.
    fn rel_diff(&mut self, step: usize) -> Result<Option<f64>, Error> {
        // Rates are not differentiated here.
        let inner = Inner { learns_rates: false, ..self.inner.clone() };
        let (mut full, mut less) = (Vec::new(), Vec::new());
        for task in 0..self.settings.batch {
            let number = self.number(step, task);
            add(&mut full, &self.gradient_of(number, &inner, Mode::Full)?);
            add(&mut less, &self.gradient_of(number, &inner, Mode::FirstOrder)?);
        }
        let norm = |numbers: &mut dyn Iterator<Item = f64>| numbers.map(|x| x * x).sum::<f64>().sqrt();
        let (left_out, whole) =
            (norm(&mut full.iter().zip(&less).map(|(x, y)| x - y)), norm(&mut full.iter().copied()));
        Ok((whole > 0.0).then(|| left_out / whole))
    }

    /// Everything that it goes on from.
    pub fn checkpoint(&self) -> Result<Checkpoint> {
        let state = self.trainer.state(self.machine)?;
        Checkpoint::new(&self.settings, self.stage.parameters(), &state, &self.inner.rates)
    }

    /// Adapts to tasks that nothing is learned from, and forgets them.
    pub fn evaluate(&self, tasks: usize) -> Result<Evaluation> {
        let machine = self.machine;
        let mut stage = Stage::new(machine, experiment::experiment(&self.settings, Purpose::Judging)?)?;
        let inner = Inner { learns_rates: false, ..self.inner.clone() };
        let (mut before, mut after, mut accuracies) = (Vec::new(), Vec::new(), Vec::new());
        let mut diverged = 0;
        for number in 0..tasks {
            let task = stage.experiment().source().task(self.settings.seed, HELD_OUT + number as u64)?;
            let start = self.trainer.parameters();
            match stage.meta_gradient(machine, start, (&inner, Mode::FirstOrder), &task) {
                Ok(adapted) => {
                    before.push(adapted.before);
                    after.push(adapted.after);
                    let (learners, desk) = stage.parts();
                    accuracies.extend(desk.accuracy(machine, &mut learners[0], &task)?);
                }
                Err(Error::Diverged { .. }) => diverged += 1,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Evaluation {
            tasks: after.len(),
            diverged,
            before: Spread::of(before),
            loss: Spread::of(after),
            accuracy: (!accuracies.is_empty()).then(|| Spread::of(accuracies)),
        })
    }
}

/// The experiment on the machine, if that has the rules that the mode needs.
fn staged<M: Machine + 'static>(machine: &M, settings: &Settings) -> Result<Stage<M>> {
    settings.check()?;
    let second_order = settings.mode.is_second_order() || settings.rel_diff_every > 0;
    let rules = if second_order { &Rule::ALL[..] } else { &[Rule::Forward, Rule::Backward] };
    // Asked whether or not the model attends: a mode is refused by name, and not by what a model happens to need.
    let problem = Problem::builder(<M::Attended as Element>::DTYPE).lengths(2, 2).head_dims(8, 8).build();
    let problem = problem.map_err(Error::from)?;
    for rule in rules {
        machine.attention().require_exact(&problem, *rule).map_err(Error::from)?;
    }
    // What cannot be read at the end is said at the beginning.
    if settings.test_folder.is_some() {
        drop(experiment::experiment::<M>(settings, Purpose::Judging)?);
    }
    Ok(Stage::new(machine, experiment::experiment(settings, Purpose::Training)?)?)
}

fn in_step(step: usize) -> impl FnOnce(Error) -> MamlError {
    move |source| MamlError::Step { step, source }
}

/// `to += from`, `to` being nothing at first.
fn add(to: &mut Vec<f64>, from: &[f64]) {
    to.resize(from.len(), 0.0);
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}
