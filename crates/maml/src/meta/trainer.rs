//! The outer loop: where tasks begin is learned, over batches of them.

use rayon::iter::{IndexedParallelIterator as _, IntoParallelRefMutIterator as _, ParallelIterator as _};
use theria_contract::{Layout, Scalar, Storage, Tensor};

use super::optimiser::{Optimiser, Plus, Scaled, Step};
use super::{Adapted, Inner, Learner, Mode};
use crate::machine::{Change, Machine, TensorOf, Update as _, expect};
use crate::{Error, Result};

/// How the start is changed by a batch of tasks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outer {
    /// What makes a step of the mean of gradients.
    pub optimiser: Optimiser,
    /// Its rate.
    pub rate: f64,
    /// The norm that the mean is cut down to, all parameters and rates together.
    pub clip: Option<f64>,
}

/// What a step saw: means over its tasks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Seen {
    /// Losses before and after adaptation.
    pub losses: Adapted,
    /// The norm of the mean of gradients, before it was cut.
    pub norm: f64,
}

/// Everything that a trainer goes on from, in the memory of the host. Rates that are learned belong to the inner loop, and
/// are not in it.
#[derive(Clone, Debug)]
pub struct State<E: Scalar> {
    /// Steps that were made.
    pub steps: usize,
    /// What has been learned, in the order of [`Learner::names`].
    pub parameters: Vec<Tensor<E>>,
    /// What the outer optimiser remembers of each of them.
    pub memories: Vec<Vec<Tensor<E>>>,
    /// What it remembers of the rates: as many lists, empty as long as rates are not learned.
    pub rate_memories: Vec<Vec<f64>>,
}

/// A start that is being learned, and what the outer optimiser remembers.
pub struct Trainer<M: Machine> {
    outer: Outer,
    parameters: Vec<TensorOf<M>>,
    memories: Vec<Vec<TensorOf<M>>>,
    means: Vec<TensorOf<M>>,
    /// Of the rates.
    rate_memories: Vec<Vec<f64>>,
    steps: usize,
}

impl<M: Machine> Trainer<M> {
    /// From these parameters, in the order of [`Learner::names`].
    pub fn new(machine: &M, start: Vec<TensorOf<M>>, outer: Outer) -> Result<Self> {
        let zero = |like: &TensorOf<M>| -> Result<TensorOf<M>> {
            let shape = M::Storage::layout(&M::Storage::view(like)).shape();
            Ok(machine.storage().allocate(Layout::contiguous(shape)?)?)
        };
        let memories = outer.optimiser.memories();
        let many = |like: &TensorOf<M>| (0..memories).map(|_| zero(like)).collect();
        Ok(Self {
            outer,
            memories: start.iter().map(many).collect::<Result<_>>()?,
            means: start.iter().map(zero).collect::<Result<_>>()?,
            rate_memories: vec![Vec::new(); memories],
            parameters: start,
            steps: 0,
        })
    }

    /// The trainer of a state: its next step is, bit by bit, what it would have been there.
    pub fn resume(machine: &M, state: State<M::Element>, outer: Outer) -> Result<Self> {
        let State { steps, parameters, memories, rate_memories } = state;
        let each = outer.optimiser.memories();
        expect("the memories of parameters", memories.len(), parameters.len())?;
        expect("the memories of rates", rate_memories.len(), each)?;
        for (of_one, parameter) in memories.iter().zip(&parameters) {
            expect("the memories of a parameter", of_one.len(), each)?;
            for memory in of_one {
                expect("a memory of a parameter", memory.data().len(), parameter.data().len())?;
            }
        }
        let lift = |all: &[Tensor<M::Element>]| -> Result<Vec<TensorOf<M>>> {
            all.iter().map(|tensor| Ok(machine.storage().upload(tensor)?)).collect()
        };
        let mut trainer = Self::new(machine, lift(&parameters)?, outer)?;
        trainer.memories = memories.iter().map(|of_one| lift(of_one)).collect::<Result<_>>()?;
        Ok(Self { rate_memories, steps, ..trainer })
    }

    /// Where it stands.
    pub fn state(&self, machine: &M) -> Result<State<M::Element>> {
        let lower = |all: &[TensorOf<M>]| -> Result<Vec<Tensor<M::Element>>> {
            all.iter().map(|tensor| Ok(machine.storage().download(M::Storage::view(tensor))?)).collect()
        };
        Ok(State {
            steps: self.steps,
            parameters: lower(&self.parameters)?,
            memories: self.memories.iter().map(|of_one| lower(of_one)).collect::<Result<_>>()?,
            rate_memories: self.rate_memories.clone(),
        })
    }

    /// What has been learned, in the order of [`Learner::names`].
    pub fn parameters(&self) -> &[TensorOf<M>] {
        &self.parameters
    }

    /// Steps that were made.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// A step over `tasks` tasks: `load` gives the learner the data of one. Rates that are learned change, too.
    pub fn step(
        &mut self,
        machine: &M,
        learner: &mut Learner<M>,
        inner: &mut Inner,
        mode: Mode,
        tasks: usize,
        load: impl Fn(&mut Learner<M>, usize) -> Result<()> + Sync,
    ) -> Result<Seen> {
        let learners = std::slice::from_mut(learner);
        Ok(self.step_on(machine, learners, inner, mode, tasks, load, |_, _| Ok(()))?.0)
    }

    /// The same with as many tasks side by side as there are learners, on the threads of the pool that it is called in; `see`
    /// is shown each learner after it has adapted. Gradients are added up in the order of tasks, so the bits are those of
    /// one learner.
    pub fn step_on<S: Send>(
        &mut self,
        machine: &M,
        learners: &mut [Learner<M>],
        inner: &mut Inner,
        mode: Mode,
        tasks: usize,
        load: impl Fn(&mut Learner<M>, usize) -> Result<()> + Sync,
        see: impl Fn(&mut Learner<M>, usize) -> Result<S> + Sync,
    ) -> Result<(Seen, Vec<S>)> {
        if tasks == 0 {
            return Err(Error::NoTasks);
        }
        if learners.is_empty() {
            return Err(Error::NoLearners);
        }
        let share = 1.0 / tasks as f64;
        self.means.iter_mut().try_for_each(|mean| machine.fill(mean, 0.0))?;
        let mut of_rates = vec![0.0; inner.rates.len()];
        let mut losses = Adapted { before: 0.0, after: 0.0 };
        let mut all_seen = Vec::with_capacity(tasks);
        for first in (0..tasks).step_by(learners.len()) {
            let side_by_side = learners.len().min(tasks - first);
            let learners = &mut learners[..side_by_side];
            let (parameters, inner) = (&self.parameters, &*inner);
            let one = |(n, learner): (usize, &mut Learner<M>)| -> Result<(Adapted, S)> {
                load(learner, first + n)?;
                let start: Vec<_> = parameters.iter().collect();
                let adapted = learner.meta_gradient(machine, &start, inner, mode)?;
                Ok((adapted, see(learner, first + n)?))
            };
            let outcomes: Vec<_> = if let [learner] = learners {
                vec![one((0, learner))]
            } else {
                learners.par_iter_mut().enumerate().map(one).collect()
            };
            for (outcome, learner) in outcomes.into_iter().zip(learners) {
                let (adapted, seen) = outcome?;
                all_seen.push(seen);
                losses.before += share * adapted.before;
                losses.after += share * adapted.after;
                let means = self.means.iter_mut().zip(learner.gradients());
                let plus = |(mean, gradient)| Change {
                    kernel: Plus(share),
                    state: vec![mean],
                    read: vec![gradient],
                };
                machine.update_all(means.map(plus).collect())?;
                for (mean, gradient) in of_rates.iter_mut().zip(learner.rate_gradients()) {
                    *mean += share * gradient;
                }
            }
        }
        let squares = self.means.iter().map(|mean| machine.dot(mean, mean)).sum::<Result<f64>>()?;
        let norm = (squares + of_rates.iter().map(|g| g * g).sum::<f64>()).sqrt();
        if !norm.is_finite() {
            return Err(Error::Diverged {
                what: "the norm of the meta-gradient",
                value: norm,
                steps: inner.steps,
            });
        }
        if let Some(most) = self.outer.clip.filter(|most| norm > *most) {
            let less = most / norm;
            self.means.iter_mut().try_for_each(|mean| machine.update(Scaled(less), &mut [mean], &[]))?;
            for g in &mut of_rates {
                *g *= less;
            }
        }
        let step = Step { optimiser: self.outer.optimiser, rate: self.outer.rate, number: self.steps };
        let mut changes = Vec::with_capacity(self.means.len());
        for ((parameter, memories), mean) in
            self.parameters.iter_mut().zip(&mut self.memories).zip(&self.means)
        {
            let state = std::iter::once(parameter).chain(memories).collect();
            changes.push(Change { kernel: step, state, read: vec![mean] });
        }
        machine.update_all(changes)?;
        if inner.learns_rates {
            self.rate_memories.iter_mut().for_each(|memory| memory.resize(of_rates.len(), 0.0));
            let mut state = vec![&mut inner.rates[..]];
            state.extend(self.rate_memories.iter_mut().map(|memory| &mut memory[..]));
            step.update(&mut state, &[&of_rates]);
        }
        self.steps += 1;
        Ok((Seen { losses, norm }, all_seen))
    }
}
