//! The way forward: the steps of the loop, and what is kept of them for the way back.

use std::ops::Range;

use super::inner::Inner;
use super::learner::{Learner, Pair, asked_for, change_all, finite, like, queries, read, supports};
use super::optimiser::{Plus, Scaled, Step};
use crate::Result;
use crate::graph::Model;
use crate::machine::{Change, Machine, TensorOf};

/// What is kept of a step: for each adapted parameter `θ_k`, `g_k` as the optimiser read it where that is wanted again, and
/// the memories after it.
pub(super) struct Kept<M: Machine> {
    /// None where it is the start.
    pub(super) theta: Option<Vec<TensorOf<M>>>,
    pub(super) gradient: Vec<TensorOf<M>>,
    pub(super) memories: Vec<Vec<TensorOf<M>>>,
    /// The gradient after it was cut, where it may be.
    pub(super) cut: Vec<TensorOf<M>>,
    /// What it was multiplied by.
    pub(super) factor: f64,
}

/// Where a stretch of steps begins: θ and the memories before its first one.
struct State<M: Machine> {
    theta: Vec<TensorOf<M>>,
    memories: Vec<Vec<TensorOf<M>>>,
}

/// What there is of the way forward.
pub(super) struct Way<M: Machine> {
    /// The steps of the stretch that is pulled back.
    pub(super) steps: Vec<Kept<M>>,
    /// The beginnings of the stretches before it.
    states: Vec<State<M>>,
    /// What the optimiser remembers now.
    memories: Vec<Vec<TensorOf<M>>>,
}

impl<M: Machine> Default for Way<M> {
    fn default() -> Self {
        Self { steps: Vec::new(), states: Vec::new(), memories: Vec::new() }
    }
}

impl<M: Machine> Way<M> {
    /// States of the loop that are held: those of steps, and beginnings of stretches.
    pub(super) fn states(&self) -> usize {
        self.steps.len() + self.states.len()
    }
}

/// Copies of memories over others.
fn assign<M: Machine>(machine: &M, from: &[Vec<TensorOf<M>>], to: &mut [Vec<TensorOf<M>>]) -> Result<()> {
    machine.copy_all(from.iter().flatten().zip(to.iter_mut().flatten()))
}

impl<M: Machine> Learner<M> {
    /// Goes all steps, keeps what these stretches need of them, and leaves the last θ in the model of the query.
    pub(super) fn adapt(
        &mut self,
        machine: &M,
        start: &[&TensorOf<M>],
        inner: &Inner,
        stretches: &[Range<usize>],
    ) -> Result<Option<f64>> {
        self.begin(machine, start, inner, stretches)?;
        let mut before = None;
        for k in 0..inner.steps {
            if k == 0 {
                self.support.loss_and_gradient(machine, &self.on_support)?;
                before = Some(finite("the loss", self.support.loss(machine)?, k)?);
            } else {
                self.support.gradient(machine, &self.on_support)?;
            }
            self.go_on(machine, start, inner, k, stretches)?;
        }
        self.arrive(machine)?;
        Ok(before)
    }

    /// Goes to the start, and makes room for what these stretches need.
    pub(super) fn begin(
        &mut self,
        machine: &M,
        start: &[&TensorOf<M>],
        inner: &Inner,
        stretches: &[Range<usize>],
    ) -> Result<()> {
        let pairs: Vec<Pair> = self.adapted.iter().chain(&self.still).copied().collect();
        let start_of = |to| start.iter().copied().zip(to);
        machine.copy_all(start_of(self.support.tensors_mut(&supports(&pairs))))?;
        machine.copy_all(start_of(self.query.tensors_mut(&queries(&pairs))))?;
        if let Some(rates) = &mut self.element_rates {
            let given = start.iter().skip(self.adapted.len() + self.still.len());
            given.zip(&mut rates.factors).try_for_each(|(from, to)| machine.copy(from, to))?;
        }
        self.make_room(machine, inner, stretches)?;
        self.way.memories.iter_mut().flatten().try_for_each(|memory| machine.fill(memory, 0.0))
    }

    /// Step k, whose gradient is there, with what these stretches need of it.
    pub(super) fn go_on(
        &mut self,
        machine: &M,
        start: &[&TensorOf<M>],
        inner: &Inner,
        k: usize,
        stretches: &[Range<usize>],
    ) -> Result<()> {
        let Some((last, earlier)) = stretches.split_last() else {
            return self.step(machine, start, inner, k, None);
        };
        if let Some(n) = earlier.iter().position(|stretch| stretch.start == k) {
            self.keep_state(machine, n)?;
        }
        let place = last.contains(&k).then(|| k - last.start);
        self.step(machine, start, inner, k, place)
    }

    /// Leaves θ in the model of the query.
    pub(super) fn arrive(&mut self, machine: &M) -> Result<()> {
        let from = self.adapted.iter().map(|pair| self.support.parameter(pair.support));
        machine.copy_all(from.zip(self.query.tensors_mut(&queries(&self.adapted))))
    }

    /// Makes the nth stretch again, and keeps its steps.
    pub(super) fn make_again(
        &mut self,
        machine: &M,
        start: &[&TensorOf<M>],
        inner: &Inner,
        (n, stretch): (usize, Range<usize>),
    ) -> Result<()> {
        let Way { states, memories, .. } = &mut self.way;
        machine.copy_all(states[n].theta.iter().zip(self.support.tensors_mut(&supports(&self.adapted))))?;
        assign(machine, &states[n].memories, memories)?;
        for k in stretch.clone() {
            self.support.gradient(machine, &self.on_support)?;
            self.step(machine, start, inner, k, Some(k - stretch.start))?;
        }
        Ok(())
    }

    fn keep_state(&mut self, machine: &M, n: usize) -> Result<()> {
        let Way { states, memories, .. } = &mut self.way;
        let from = self.adapted.iter().map(|pair| self.support.parameter(pair.support));
        machine.copy_all(from.zip(&mut states[n].theta))?;
        assign(machine, memories, &mut states[n].memories)
    }

    /// Step k, whose gradient is there; what the way back needs of it is kept in a place, where there is one.
    fn step(
        &mut self,
        machine: &M,
        start: &[&TensorOf<M>],
        inner: &Inner,
        k: usize,
        place: Option<usize>,
    ) -> Result<()> {
        let factor = self.factor(machine, inner.clip)?;
        let Way { steps, memories, .. } = &mut self.way;
        let mut kept = place.map(|place| &mut steps[place]);
        let (mut theta, mut gradients) = self.support.parameters_and_gradients(&supports(&self.adapted));
        if let Some(kept) = &mut kept {
            kept.factor = factor;
            machine.copy_all(read(&theta).zip(kept.theta.iter_mut().flatten()))?;
        }
        if factor < 1.0 {
            change_all(machine, Scaled(factor), &mut gradients, std::iter::repeat(None))?;
            if let Some(kept) = &mut kept {
                machine.copy_all(read(&gradients).zip(&mut kept.cut))?;
            }
        }
        if inner.decay != 0.0 {
            change_all(machine, Plus(inner.decay), &mut gradients, read(&theta).map(Some))?;
        }
        if k > 0 && inner.proximal != 0.0 {
            change_all(machine, Plus(inner.proximal), &mut gradients, read(&theta).map(Some))?;
            let start = start.iter().map(|start| Some(*start));
            change_all(machine, Plus(-inner.proximal), &mut gradients, start)?;
        }
        if let Some(kept) = &mut kept {
            machine.copy_all(read(&gradients).zip(&mut kept.gradient))?;
        }
        let step = |n: usize| Step { optimiser: inner.optimiser, rate: inner.rates[n], number: k };
        let each = theta.iter_mut().zip(&gradients).zip(memories.iter_mut()).enumerate();
        let mut changes = Vec::with_capacity(gradients.len());
        for (n, ((theta, gradient), memories)) in each {
            let state = std::iter::once(&mut **theta).chain(memories).collect();
            match &mut self.element_rates {
                Some(rates) => rates.step(machine, n, step(n), state, gradient)?,
                None => changes.push(Change { kernel: step(n), state, read: vec![&**gradient] }),
            }
        }
        machine.update_all(changes)?;
        kept.map_or(Ok(()), |kept| assign(machine, memories, &mut kept.memories))
    }

    /// What the gradient is multiplied by to be no longer than it may.
    fn factor(&self, machine: &M, clip: Option<f64>) -> Result<f64> {
        let Some(most) = clip else { return Ok(1.0) };
        let square = |pair: &Pair| {
            let gradient = asked_for(self.support.gradient_of(pair.support));
            machine.dot(gradient, gradient)
        };
        let norm = self.adapted.iter().map(square).sum::<Result<f64>>()?.sqrt();
        Ok(if norm > most { most / norm } else { 1.0 })
    }

    /// Room for what these stretches need. What an earlier loop kept beyond it goes; where nothing is needed it stays.
    fn make_room(&mut self, machine: &M, inner: &Inner, stretches: &[Range<usize>]) -> Result<()> {
        let memories = inner.optimiser.memories();
        if self.way.memories.first().is_none_or(|all| all.len() != memories) {
            self.way.memories = self.memories_like_adapted(machine, memories)?;
        }
        let Some(first) = stretches.first() else { return Ok(()) };
        let keeps_gradients = self.learns_rates(inner) || inner.optimiser.reads_gradient();
        let gradients = if keeps_gradients { self.adapted.len() } else { 0 };
        let cuts = if inner.clip.is_some() { self.adapted.len() } else { 0 };
        let as_many = |all: &Vec<Vec<TensorOf<M>>>| all.iter().all(|all| all.len() == memories);
        let fits = |kept: &Kept<M>| {
            kept.gradient.len() == gradients && kept.cut.len() == cuts && as_many(&kept.memories)
        };
        self.way.steps.retain(fits);
        self.way.steps.truncate(first.len());
        // One stretch that begins at the start has its first θ there.
        let from_start = stretches.len() == 1 && first.start == 0;
        if let Some(kept) = self.way.steps.first_mut() {
            kept.theta.take_if(|_| from_start);
        }
        for kept in
            self.way.steps.iter_mut().skip(usize::from(from_start)).filter(|kept| kept.theta.is_none())
        {
            kept.theta = Some(tensors_like(machine, &self.support, &self.adapted)?);
        }
        while self.way.steps.len() < first.len() {
            let if_any = |count| if count == 0 { Ok(Vec::new()) } else { self.like_adapted(machine) };
            let is_start = from_start && self.way.steps.is_empty();
            self.way.steps.push(Kept {
                theta: if is_start { None } else { Some(self.like_adapted(machine)?) },
                gradient: if_any(gradients)?,
                memories: self.memories_like_adapted(machine, memories)?,
                cut: if_any(cuts)?,
                factor: 1.0,
            });
        }
        self.way.states.retain(|state| as_many(&state.memories));
        self.way.states.truncate(stretches.len() - 1);
        while self.way.states.len() < stretches.len() - 1 {
            let memories = self.memories_like_adapted(machine, memories)?;
            self.way.states.push(State { theta: self.like_adapted(machine)?, memories });
        }
        Ok(())
    }

    /// A tensor for each adapted parameter, zero.
    pub(super) fn like_adapted(&self, machine: &M) -> Result<Vec<TensorOf<M>>> {
        tensors_like(machine, &self.support, &self.adapted)
    }

    /// As many for each.
    pub(super) fn memories_like_adapted(&self, machine: &M, count: usize) -> Result<Vec<Vec<TensorOf<M>>>> {
        let each = |pair: &Pair| (0..count).map(|_| like(machine, &self.support, pair.support)).collect();
        self.adapted.iter().map(each).collect()
    }
}

/// A tensor for each of these parameters, zero.
fn tensors_like<M: Machine>(machine: &M, model: &Model<M>, pairs: &[Pair]) -> Result<Vec<TensorOf<M>>> {
    pairs.iter().map(|pair| like(machine, model, pair.support)).collect()
}
