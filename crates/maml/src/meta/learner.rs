//! A learner adapts some parameters of a model to a task, and says how the loss after that depends on where it began.
//!
//! ```text
//! θ_{k+1} = step(θ_k, ∇L_s(θ_k))     k = 0 … K-1          F = L_q(θ_K)
//! λ_K     = ∇L_q(θ_K)
//! λ_k     = λ_{k+1} + H_k γ_k                             γ_k: the step's pull-back of λ_{k+1}
//! ∂F/∂φ  += (∂²L_s/∂φ∂θ)ᵀ γ_k                             φ: parameters that are not adapted
//! ∂F/∂α_k: the step's pull-back, too
//! ```
//!
//! A gradient that is cut to a norm, g ← c g with c = most/|g|, turns γ into c (γ - ĝ ⟨ĝ, γ⟩), ĝ = g/|g|; decay, g ← g + w θ,
//! adds w γ to λ. A pull to the start, `g ← g + μ (θ_k - θ_0)`, does that, too, and takes `μ γ_k` from `∂F/∂θ_0`
//! itself.
//!
//! H γ and the mixed product come of one sweep: the tangent of the gradient along γ. What is kept of the way forward is
//! `θ_k`, and what the optimiser remembered.

use theria_contract::{Layout, Storage};

use super::Optimiser;
use super::optimiser::{Plus, PullRate, PullStep, Scaled, Step};
use crate::graph::{Model, Plan, ValueId};
use crate::machine::{Machine, TensorOf};
use crate::{Error, Result};

/// The loop that adapts.
#[derive(Clone, Debug, PartialEq)]
pub struct Inner {
    /// Its steps, K.
    pub steps: usize,
    /// What makes a step of a gradient.
    pub optimiser: Optimiser,
    /// The rate of each adapted parameter.
    pub rates: Vec<f64>,
    /// Whether the rates have gradients, too. What they are made of is kept then.
    pub learns_rates: bool,
    /// The norm that the gradient is cut down to, all adapted parameters together.
    pub clip: Option<f64>,
    /// What of the parameter is added to its gradient, after that.
    pub decay: f64,
    /// What of its distance from the start is added to it: the pull of ½ proximal |θ - θ₀|².
    pub proximal: f64,
}

impl Inner {
    /// A loop of as many steps with one rate for as many parameters, which is not learned.
    pub fn new(steps: usize, optimiser: Optimiser, rate: f64, parameters: usize) -> Self {
        Self {
            steps,
            optimiser,
            rates: vec![rate; parameters],
            learns_rates: false,
            clip: None,
            decay: 0.0,
            proximal: 0.0,
        }
    }

    /// With gradients of the rates.
    #[must_use]
    pub fn learning_rates(mut self) -> Self {
        self.learns_rates = true;
        self
    }

    fn keeps_gradients(&self) -> bool {
        self.learns_rates || self.optimiser.reads_gradient()
    }
}

/// How much of the way is differentiated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// All of it: the gradient.
    Full,
    /// The last steps, as many. None is [`Mode::FirstOrder`], all are [`Mode::Full`], bit by bit.
    Truncated(usize),
    /// None: what was adapted counts as where it began. Asks for no rule beyond the backward.
    FirstOrder,
}

/// What an adaptation came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adapted {
    /// The loss on the task's own data before the first step; that of the query for no steps.
    pub before: f64,
    /// The loss on the query after the last one.
    pub after: f64,
}

/// What is kept of a step: for each adapted parameter `θ_k`, `g_k` as the optimiser read it where that is wanted again, and
/// the memories after it.
struct Kept<M: Machine> {
    theta: Vec<TensorOf<M>>,
    gradient: Vec<TensorOf<M>>,
    memories: Vec<Vec<TensorOf<M>>>,
    /// The gradient after it was cut, where it may be.
    cut: Vec<TensorOf<M>>,
    /// What it was multiplied by.
    factor: f64,
}

/// A parameter in the two models of a learner.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) support: ValueId,
    query: ValueId,
}

/// A model of a task's own data and one of its query, with the same parameters, and everything that a meta-gradient
/// needs.
pub struct Learner<M: Machine> {
    pub(super) support: Model<M>,
    query: Model<M>,
    pub(super) adapted: Vec<Pair>,
    pub(super) still: Vec<Pair>,
    on_support: Plan,
    on_query: Plan,
    pub(super) second: Plan,
    way: Vec<Kept<M>>,
    pub(super) lambda: Vec<TensorOf<M>>,
    of_rate: Vec<TensorOf<M>>,
    /// Of the start, by the pull to it.
    of_centre: Vec<TensorOf<M>>,
    cotangents: Vec<Vec<TensorOf<M>>>,
    pub(super) of_still: Vec<TensorOf<M>>,
    rates: Vec<f64>,
}

/// A tensor as large as a value, for sums; zero.
fn like<M: Machine>(machine: &M, model: &Model<M>, value: ValueId) -> Result<TensorOf<M>> {
    let (rows, columns) = model.shape(value);
    Ok(machine.storage().allocate(Layout::contiguous([1, 1, rows, columns])?)?)
}

impl<M: Machine> Learner<M> {
    /// A learner that adapts these parameters, and no others. Both models have the same parameters.
    pub fn new(machine: &M, support: Model<M>, mut query: Model<M>, adapted: &[&str]) -> Result<Self> {
        query.share_spare(&support);
        let mut pairs = Vec::new();
        for (name, value) in support.parameters() {
            let other = query.parameters().find(|(other, _)| *other == name).map(|(_, value)| value);
            let Some(other) = other else {
                return Err(Error::Unpaired { name: name.to_owned(), model: "query" });
            };
            if support.shape(value) != query.shape(other) {
                let (left, right) = (support.shape(value), query.shape(other));
                return Err(Error::Shapes {
                    operation: "parameter",
                    left,
                    right,
                    needed: "one shape in both models",
                });
            }
            pairs.push((name.to_owned(), Pair { support: value, query: other }));
        }
        let known = |name: &str| pairs.iter().any(|(other, _)| other == name);
        let only = query.parameters().find(|(name, _)| !known(name)).map(|(name, _)| name.to_owned());
        if let Some(name) = only {
            return Err(Error::Unpaired { name, model: "support" });
        }
        if let Some(name) = adapted.iter().find(|name| !known(name)) {
            return Err(Error::Unpaired { name: (*name).to_owned(), model: "either" });
        }
        let of = |wanted: bool| {
            let mine = |(name, _): &&(String, Pair)| adapted.contains(&name.as_str()) == wanted;
            pairs.iter().filter(mine).map(|(_, pair)| *pair).collect::<Vec<_>>()
        };
        let (adapted, still) = (of(true), of(false));
        let supports = |pairs: &[Pair]| pairs.iter().map(|pair| pair.support).collect::<Vec<_>>();
        let all: Vec<ValueId> = [supports(&adapted), supports(&still)].concat();
        let queries: Vec<ValueId> = adapted.iter().chain(&still).map(|pair| pair.query).collect();
        let tensors = |pairs: &[Pair]| -> Result<Vec<_>> {
            pairs.iter().map(|pair| like(machine, &support, pair.support)).collect()
        };
        Ok(Self {
            on_support: support.plan(&supports(&adapted), &[]),
            on_query: query.plan(&queries, &[]),
            second: support.plan(&all, &supports(&adapted)),
            way: Vec::new(),
            lambda: tensors(&adapted)?,
            of_rate: Vec::new(),
            of_centre: Vec::new(),
            cotangents: Vec::new(),
            of_still: tensors(&still)?,
            rates: vec![0.0; adapted.len()],
            support,
            query,
            adapted,
            still,
        })
    }

    /// The model of the task's own data, to be given them.
    pub fn support_mut(&mut self) -> &mut Model<M> {
        &mut self.support
    }

    /// The model of the query, to be given its data.
    pub fn query_mut(&mut self) -> &mut Model<M> {
        &mut self.query
    }

    /// The names of parameters: those that are adapted, then the others. Gradients come in this order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let name = |pair: &Pair| self.support.parameters().find(|(_, value)| *value == pair.support);
        self.adapted.iter().chain(&self.still).filter_map(move |pair| Some(name(pair)?.0))
    }

    /// The gradients that were computed last, in the order of [`Learner::names`].
    pub fn gradients(&self) -> impl Iterator<Item = &TensorOf<M>> {
        self.lambda.iter().chain(&self.of_still)
    }

    /// The gradients of the rates that were computed last; zero where they were not asked for.
    pub fn rate_gradients(&self) -> &[f64] {
        &self.rates
    }

    /// Adapts from these parameters, in the order of [`Learner::names`], and computes the gradient of the loss after that
    /// with respect to them.
    pub fn meta_gradient(
        &mut self,
        machine: &M,
        start: &[&TensorOf<M>],
        inner: &Inner,
        mode: Mode,
    ) -> Result<Adapted> {
        let adapted = self.adapt_and_judge(machine, start, inner)?;
        let steps = match mode {
            Mode::Full => inner.steps,
            Mode::Truncated(last) => last.min(inner.steps),
            Mode::FirstOrder => 0,
        };
        self.rates.fill(0.0);
        self.make_cotangents(machine, inner)?;
        for k in (0..inner.steps).rev() {
            let curved = k >= inner.steps - steps;
            // Before the last steps λ goes on as it is; the rates' gradients are made of it all the same.
            if !curved && !inner.learns_rates {
                break;
            }
            self.pull_step(machine, inner, k)?;
            if curved {
                self.pull_gradient(machine, inner, k)?;
                self.add_hessian(machine, k)?;
            }
        }
        for (lambda, of_centre) in self.lambda.iter_mut().zip(&self.of_centre) {
            machine.update(Plus(1.0), &mut [lambda], &[of_centre])?;
        }
        Ok(adapted)
    }

    /// Adapts, and leaves the gradients of the query's loss at the last θ in λ and in those of what is not adapted.
    pub(super) fn adapt_and_judge(
        &mut self,
        machine: &M,
        start: &[&TensorOf<M>],
        inner: &Inner,
    ) -> Result<Adapted> {
        let expected = self.adapted.len() + self.still.len();
        if start.len() != expected {
            return Err(Error::Elements { what: "a start", given: start.len(), expected });
        }
        if inner.rates.len() != self.adapted.len() {
            let (given, expected) = (inner.rates.len(), self.adapted.len());
            return Err(Error::Elements { what: "a list of inner rates", given, expected });
        }
        for (pair, from) in self.adapted.iter().chain(&self.still).zip(start) {
            machine.copy(from, self.support.tensor_mut(pair.support))?;
            machine.copy(from, self.query.tensor_mut(pair.query))?;
        }
        let before = self.adapt(machine, inner)?;
        self.query.loss_and_gradient(machine, &self.on_query)?;
        for (pair, lambda) in self.adapted.iter().zip(&mut self.lambda) {
            machine.copy(asked_for(self.query.gradient_of(pair.query)), lambda)?;
        }
        for (pair, of_still) in self.still.iter().zip(&mut self.of_still) {
            machine.copy(asked_for(self.query.gradient_of(pair.query)), of_still)?;
        }
        let after = finite("the query's loss", self.query.loss(machine)?, inner.steps)?;
        Ok(Adapted { before: before.unwrap_or(after), after })
    }

    /// A tensor for each adapted parameter, zero.
    pub(super) fn like_adapted(&self, machine: &M) -> Result<Vec<TensorOf<M>>> {
        self.adapted.iter().map(|pair| like(machine, &self.support, pair.support)).collect()
    }

    /// As many for each.
    fn memories_like_adapted(&self, machine: &M, count: usize) -> Result<Vec<Vec<TensorOf<M>>>> {
        let each = |pair: &Pair| (0..count).map(|_| like(machine, &self.support, pair.support)).collect();
        self.adapted.iter().map(each).collect()
    }

    /// Goes all steps, keeps what is needed of them, and leaves the last θ in the model of the query.
    fn adapt(&mut self, machine: &M, inner: &Inner) -> Result<Option<f64>> {
        let memories = inner.optimiser.memories();
        let gradients = if inner.keeps_gradients() { self.adapted.len() } else { 0 };
        let cuts = if inner.clip.is_some() { self.adapted.len() } else { 0 };
        let fits = |kept: &Kept<M>| {
            kept.gradient.len() == gradients
                && kept.cut.len() == cuts
                && kept.memories.iter().all(|all| all.len() == memories)
        };
        if !self.way.iter().all(fits) {
            self.way.clear();
        }
        while self.way.len() < inner.steps {
            let if_any = |count| if count == 0 { Ok(Vec::new()) } else { self.like_adapted(machine) };
            self.way.push(Kept {
                theta: self.like_adapted(machine)?,
                gradient: if_any(gradients)?,
                memories: self.memories_like_adapted(machine, memories)?,
                cut: if_any(cuts)?,
                factor: 1.0,
            });
        }
        let mut before = None;
        for k in 0..inner.steps {
            if k == 0 {
                self.support.loss_and_gradient(machine, &self.on_support)?;
                before = Some(finite("the loss", self.support.loss(machine)?, k)?);
            } else {
                self.support.gradient(machine, &self.on_support)?;
            }
            self.way[k].factor = self.factor(machine, inner.clip)?;
            for (n, pair) in self.adapted.iter().enumerate() {
                let (earlier, rest) = self.way.split_at_mut(k);
                let kept = &mut rest[0];
                let (theta, gradient) = self.support.parameter_and_gradient(pair.support);
                machine.copy(theta, &mut kept.theta[n])?;
                if kept.factor < 1.0 {
                    machine.update(Scaled(kept.factor), &mut [gradient], &[])?;
                    machine.copy(gradient, &mut kept.cut[n])?;
                }
                if inner.decay != 0.0 {
                    machine.update(Plus(inner.decay), &mut [gradient], &[theta])?;
                }
                if let Some(first) = earlier.first().filter(|_| inner.proximal != 0.0) {
                    machine.update(Plus(inner.proximal), &mut [gradient], &[theta])?;
                    machine.update(Plus(-inner.proximal), &mut [gradient], &[&first.theta[n]])?;
                }
                if let Some(kept) = kept.gradient.get_mut(n) {
                    machine.copy(gradient, kept)?;
                }
                for (m, memory) in kept.memories[n].iter_mut().enumerate() {
                    match earlier.last() {
                        Some(last) => machine.copy(&last.memories[n][m], memory)?,
                        None => machine.fill(memory, 0.0)?,
                    }
                }
                let step = Step { optimiser: inner.optimiser, rate: inner.rates[n], number: k };
                let mut state = vec![theta];
                state.extend(kept.memories[n].iter_mut());
                machine.update(step, &mut state, &[gradient])?;
            }
        }
        for pair in &self.adapted {
            machine.copy(self.support.tensor(pair.support), self.query.tensor_mut(pair.query))?;
        }
        Ok(before)
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

    /// Cotangents of what the optimiser remembers, zero; and room for those of rates.
    fn make_cotangents(&mut self, machine: &M, inner: &Inner) -> Result<()> {
        let memories = inner.optimiser.memories();
        if inner.learns_rates && self.of_rate.is_empty() {
            self.of_rate = self.like_adapted(machine)?;
        }
        if inner.proximal == 0.0 {
            self.of_centre.clear();
        } else if self.of_centre.is_empty() {
            self.of_centre = self.like_adapted(machine)?;
        }
        self.of_centre.iter_mut().try_for_each(|tensor| machine.fill(tensor, 0.0))?;
        if self.cotangents.first().is_none_or(|all| all.len() != memories) {
            self.cotangents = self.memories_like_adapted(machine, memories)?;
        }
        self.cotangents.iter_mut().flatten().try_for_each(|tensor| machine.fill(tensor, 0.0))
    }

    /// `γ_k` of `λ_{k+1}`, as the direction that the support's parameters move along, and what the step adds to the
    /// gradients of the rates.
    fn pull_step(&mut self, machine: &M, inner: &Inner, k: usize) -> Result<()> {
        let kept = &self.way[k];
        for (n, pair) in self.adapted.iter().enumerate() {
            let step = Step { optimiser: inner.optimiser, rate: inner.rates[n], number: k };
            let of_step = kept.gradient.get(n).into_iter();
            if inner.learns_rates {
                let mut read = vec![&self.lambda[n]];
                read.extend(of_step.clone().chain(&kept.memories[n]));
                machine.update(PullRate(step), &mut [&mut self.of_rate[n]], &read)?;
                self.rates[n] += machine.sum(&self.of_rate[n])?;
            }
            let gamma = self.support.direction_mut(machine, &self.second, pair.support)?;
            let mut state = vec![gamma];
            state.extend(self.cotangents[n].iter_mut());
            let mut read = vec![&self.lambda[n]];
            read.extend(of_step.filter(|_| inner.optimiser.reads_gradient()).chain(&kept.memories[n]));
            machine.update(PullStep(step), &mut state, &read)?;
        }
        Ok(())
    }

    /// The cotangent of the gradient itself, of that of what the optimiser read.
    fn pull_gradient(&mut self, machine: &M, inner: &Inner, k: usize) -> Result<()> {
        let kept = &self.way[k];
        let mut along = 0.0;
        for (n, pair) in self.adapted.iter().enumerate() {
            let gamma = self.support.direction_mut(machine, &self.second, pair.support)?;
            if inner.decay + inner.proximal != 0.0 {
                machine.update(Plus(inner.decay + inner.proximal), &mut [&mut self.lambda[n]], &[gamma])?;
            }
            if let Some(of_centre) = self.of_centre.get_mut(n) {
                machine.update(Plus(-inner.proximal), &mut [of_centre], &[gamma])?;
            }
            if kept.factor < 1.0 {
                along += machine.dot(&kept.cut[n], gamma)?;
            }
        }
        let Some(most) = inner.clip.filter(|_| kept.factor < 1.0) else { return Ok(()) };
        for (cut, pair) in kept.cut.iter().zip(&self.adapted) {
            let gamma = self.support.direction_mut(machine, &self.second, pair.support)?;
            machine.update(Plus(-along / (most * most)), &mut [&mut *gamma], &[cut])?;
            machine.update(Scaled(kept.factor), &mut [gamma], &[])?;
        }
        Ok(())
    }

    /// `λ_k` and ∂F/∂φ of `γ_k`: the tangent of the gradient at `θ_k` along it.
    fn add_hessian(&mut self, machine: &M, k: usize) -> Result<()> {
        for (theta, pair) in self.way[k].theta.iter().zip(&self.adapted) {
            machine.copy(theta, self.support.tensor_mut(pair.support))?;
        }
        self.support.gradient_tangent(machine, &self.second)?;
        let sums = self.adapted.iter().zip(&mut self.lambda).chain(self.still.iter().zip(&mut self.of_still));
        for (pair, sum) in sums {
            machine.update(
                Plus(1.0),
                &mut [sum],
                &[asked_for(self.support.gradient_tangent_of(pair.support))],
            )?;
        }
        Ok(())
    }
}

/// What the learner's own plans ask for.
pub(super) fn asked_for<T>(made: Option<&T>) -> &T {
    let Some(made) = made else { unreachable!("the plan asks for it") };
    made
}

fn finite(what: &'static str, value: f64, steps: usize) -> Result<f64> {
    if value.is_finite() { Ok(value) } else { Err(Error::Diverged { what, value, steps }) }
}
