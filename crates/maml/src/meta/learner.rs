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
//! `θ_k`, and what the optimiser remembered: of every step, or of a stretch of them at a time ([`Keep`](super::Keep)).

use std::ops::Range;

use theria_contract::{Layout, Storage};

use super::element_rates::ElementRates;
use super::inner::{Adapted, Inner, Mode};
use super::optimiser::{Plus, PullRate, PullStep, Scaled, Step};
use super::way::Way;
use crate::graph::{Model, Plan, ValueId};
use crate::machine::{Change, Machine, TensorOf, Update, expect};
use crate::{Error, Result};

/// A parameter in the two models of a learner.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair {
    pub(super) support: ValueId,
    pub(super) query: ValueId,
}

/// A model of a task's own data and one of its query, with the same parameters, and everything that a meta-gradient
/// needs.
pub struct Learner<M: Machine> {
    pub(super) support: Model<M>,
    pub(super) query: Model<M>,
    pub(super) adapted: Vec<Pair>,
    pub(super) still: Vec<Pair>,
    pub(super) on_support: Plan,
    pub(super) on_query: Plan,
    pub(super) second: Plan,
    pub(super) way: Way<M>,
    pub(super) lambda: Vec<TensorOf<M>>,
    of_rate: Vec<TensorOf<M>>,
    /// Of the start, by the pull to it.
    of_centre: Vec<TensorOf<M>>,
    cotangents: Vec<Vec<TensorOf<M>>>,
    pub(super) of_still: Vec<TensorOf<M>>,
    rates: Vec<f64>,
    pub(super) element_rates: Option<ElementRates<M>>,
}

/// A tensor as large as a value, for sums; zero.
pub(super) fn like<M: Machine>(machine: &M, model: &Model<M>, value: ValueId) -> Result<TensorOf<M>> {
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
            way: Way::default(),
            lambda: tensors(&adapted)?,
            of_rate: Vec::new(),
            of_centre: Vec::new(),
            cotangents: Vec::new(),
            of_still: tensors(&still)?,
            rates: vec![0.0; adapted.len()],
            element_rates: None,
            support,
            query,
            adapted,
            still,
        })
    }

    /// With a rate for each element of the parameters that are adapted: the parameter's rate times a factor of its own.
    /// The factors are parameters from now on, as large as those, and called `rate of …`: [`Learner::names`] has them last, a
    /// loop begins with them, and their gradients are made whatever the mode is, but for [`Mode::Reptile`].
    pub fn with_element_rates(mut self, machine: &M) -> Result<Self> {
        let names = self.names().take(self.adapted.len()).map(|name| format!("rate of {name}"));
        self.element_rates = Some(ElementRates::new(names, || self.like_adapted(machine))?);
        Ok(self)
    }

    /// The model of the task's own data, to be given them.
    pub fn support_mut(&mut self) -> &mut Model<M> {
        &mut self.support
    }

    /// The model of the query, to be given its data.
    pub fn query_mut(&mut self) -> &mut Model<M> {
        &mut self.query
    }

    /// The names of parameters: those that are adapted, then the others, then rates of elements. Gradients come in this
    /// order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let name = |pair: &Pair| self.support.parameters().find(|(_, value)| *value == pair.support);
        let names = self.adapted.iter().chain(&self.still).filter_map(move |pair| Some(name(pair)?.0));
        names.chain(self.element_rates.iter().flat_map(|rates| &rates.names).map(String::as_str))
    }

    /// The gradients that were computed last, in the order of [`Learner::names`].
    pub fn gradients(&self) -> impl Iterator<Item = &TensorOf<M>> {
        let of_rates = self.element_rates.iter().flat_map(|rates| &rates.gradients);
        self.lambda.iter().chain(&self.of_still).chain(of_rates)
    }

    /// The gradients of the rates that were computed last; zero where they were not asked for.
    pub fn rate_gradients(&self) -> &[f64] {
        &self.rates
    }

    /// States of the loop that are kept for the way back: of each, θ and what the optimiser remembered.
    pub fn kept_states(&self) -> usize {
        self.way.states()
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
        if mode == Mode::Reptile {
            return self.reptile(machine, start, inner);
        }
        let curved = mode.curved(inner.steps);
        // Before the last steps λ goes on as it is; the rates' gradients are made of it all the same.
        let stretches = inner.stretches(if self.learns_rates(inner) { inner.steps } else { curved });
        let adapted = self.adapt_and_judge(machine, start, inner, &stretches)?;
        self.make_cotangents(machine, inner)?;
        for (n, stretch) in stretches.iter().enumerate().rev() {
            if n + 1 < stretches.len() {
                self.make_again(machine, start, inner, (n, stretch.clone()))?;
            }
            for k in stretch.clone().rev() {
                let place = k - stretch.start;
                self.pull_step(machine, inner, (k, place))?;
                if k >= inner.steps - curved {
                    self.pull_gradient(machine, inner, place)?;
                    self.go_to(machine, start, place)?;
                    self.support.gradient_tangent(machine, &self.second)?;
                    self.add_product(machine)?;
                }
            }
        }
        for (lambda, of_centre) in self.lambda.iter_mut().zip(&self.of_centre) {
            machine.update(Plus(1.0), &mut [lambda], &[of_centre])?;
        }
        Ok(adapted)
    }

    /// Adapts, and leaves the gradients of the query's loss at the last θ in λ and in those of what is not adapted. What
    /// these stretches need is kept.
    pub(super) fn adapt_and_judge(
        &mut self,
        machine: &M,
        start: &[&TensorOf<M>],
        inner: &Inner,
        stretches: &[Range<usize>],
    ) -> Result<Adapted> {
        self.admit(start, inner)?;
        let before = self.adapt(machine, start, inner, stretches)?;
        self.query.loss_and_gradient(machine, &self.on_query)?;
        self.take_gradients_of_query(machine)?;
        let after = finite("the query's loss", self.query.loss(machine)?, inner.steps)?;
        Ok(Adapted { before: before.unwrap_or(after), after })
    }

    /// λ of the last θ, and the gradients of what is not adapted: those of the query's loss.
    pub(super) fn take_gradients_of_query(&mut self, machine: &M) -> Result<()> {
        let pairs = self.adapted.iter().chain(&self.still);
        let gradients = pairs.map(|pair| asked_for(self.query.gradient_of(pair.query)));
        machine.copy_all(gradients.zip(self.lambda.iter_mut().chain(&mut self.of_still)))
    }

    /// An error unless there are as many tensors to start from and rates as there are parameters.
    pub(super) fn admit(&self, start: &[&TensorOf<M>], inner: &Inner) -> Result<()> {
        let rates = self.element_rates.as_ref().map_or(0, |rates| rates.factors.len());
        expect("a start", start.len(), self.adapted.len() + self.still.len() + rates)?;
        expect("a list of inner rates", inner.rates.len(), self.adapted.len())
    }

    /// Whether any rates have gradients.
    pub(super) fn learns_rates(&self, inner: &Inner) -> bool {
        inner.learns_rates || self.element_rates.is_some()
    }

    /// Gradients of rates, zero.
    pub(super) fn clear_rates(&mut self, machine: &M) -> Result<()> {
        self.rates.fill(0.0);
        let of_elements = self.element_rates.iter_mut().flat_map(|rates| &mut rates.gradients);
        of_elements.into_iter().try_for_each(|gradient| machine.fill(gradient, 0.0))
    }

    /// Cotangents of what the optimiser remembers and of rates, zero.
    pub(super) fn make_cotangents(&mut self, machine: &M, inner: &Inner) -> Result<()> {
        let memories = inner.optimiser.memories();
        self.clear_rates(machine)?;
        if self.learns_rates(inner) && self.of_rate.is_empty() {
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
    /// gradients of the rates. It is kept in this place.
    pub(super) fn pull_step(&mut self, machine: &M, inner: &Inner, (k, place): (usize, usize)) -> Result<()> {
        let learns = self.learns_rates(inner);
        let kept = &self.way.steps[place];
        let step = |n: usize| Step { optimiser: inner.optimiser, rate: inner.rates[n], number: k };
        if learns {
            for n in 0..self.adapted.len() {
                let of_rate = &mut self.of_rate[n];
                let mut read = vec![&self.lambda[n]];
                read.extend(kept.gradient.get(n).into_iter().chain(&kept.memories[n]));
                machine.update(PullRate(step(n)), &mut [&mut *of_rate], &read)?;
                if inner.learns_rates {
                    self.rates[n] += match &self.element_rates {
                        Some(elements) => machine.dot(&elements.factors[n], of_rate)?,
                        None => machine.sum(of_rate)?,
                    };
                }
                if let Some(elements) = &mut self.element_rates {
                    machine.update(Plus(step(n).rate), &mut [&mut elements.gradients[n]], &[of_rate])?;
                }
            }
        }
        let lambda = match &mut self.element_rates {
            Some(elements) => elements.scaled(machine, &self.lambda)?,
            None => &self.lambda,
        };
        let gammas = self.support.directions_mut(machine, &self.second, &supports(&self.adapted))?;
        let reads_gradient = inner.optimiser.reads_gradient();
        let mut changes = Vec::with_capacity(gammas.len());
        for (n, (gamma, cotangents)) in gammas.into_iter().zip(&mut self.cotangents).enumerate() {
            let mut read = vec![&lambda[n]];
            read.extend(kept.gradient.get(n).filter(|_| reads_gradient).into_iter().chain(&kept.memories[n]));
            let state = std::iter::once(gamma).chain(cotangents).collect();
            changes.push(Change { kernel: PullStep(step(n)), state, read });
        }
        machine.update_all(changes)
    }

    /// The cotangent of the gradient itself, of that of what the optimiser read.
    pub(super) fn pull_gradient(&mut self, machine: &M, inner: &Inner, place: usize) -> Result<()> {
        let kept = &self.way.steps[place];
        let pull = inner.decay + inner.proximal;
        if pull == 0.0 && kept.factor >= 1.0 {
            return Ok(());
        }
        let mut gammas = self.support.directions_mut(machine, &self.second, &supports(&self.adapted))?;
        if pull != 0.0 {
            change_all(machine, Plus(pull), &mut written(&mut self.lambda), read(&gammas).map(Some))?;
            let mut of_centre = written(&mut self.of_centre);
            change_all(machine, Plus(-inner.proximal), &mut of_centre, read(&gammas).map(Some))?;
        }
        let Some(most) = inner.clip.filter(|_| kept.factor < 1.0) else { return Ok(()) };
        let dots = kept.cut.iter().zip(&gammas).map(|(cut, gamma)| machine.dot(cut, gamma));
        let along = dots.sum::<Result<f64>>()?;
        change_all(machine, Plus(-along / (most * most)), &mut gammas, kept.cut.iter().map(Some))?;
        change_all(machine, Scaled(kept.factor), &mut gammas, std::iter::repeat(None))
    }

    /// Back to the θ that is kept in this place, or to the start.
    pub(super) fn go_to(&mut self, machine: &M, start: &[&TensorOf<M>], place: usize) -> Result<()> {
        let to = self.support.tensors_mut(&supports(&self.adapted));
        match &self.way.steps[place].theta {
            Some(theta) => machine.copy_all(theta.iter().zip(to)),
            None => machine.copy_all(start.iter().copied().zip(to)),
        }
    }

    /// `λ_k` and ∂F/∂φ of `γ_k`: the tangent of the gradient along it, which is there.
    pub(super) fn add_product(&mut self, machine: &M) -> Result<()> {
        let mut sums: Vec<_> = self.lambda.iter_mut().chain(&mut self.of_still).collect();
        let pairs = self.adapted.iter().chain(&self.still);
        let products = pairs.map(|pair| Some(asked_for(self.support.gradient_tangent_of(pair.support))));
        change_all(machine, Plus(1.0), &mut sums, products)
    }
}

/// Adapted parameters and others in the model of a task's own data.
pub(super) fn supports(pairs: &[Pair]) -> Vec<ValueId> {
    pairs.iter().map(|pair| pair.support).collect()
}

/// Those in the model of the query.
pub(super) fn queries(pairs: &[Pair]) -> Vec<ValueId> {
    pairs.iter().map(|pair| pair.query).collect()
}

/// Tensors to be read.
pub(super) fn read<'a, T>(tensors: &'a [&mut T]) -> impl Iterator<Item = &'a T> {
    tensors.iter().map(|tensor| &**tensor)
}

/// Tensors to be changed.
fn written<T>(tensors: &mut [T]) -> Vec<&mut T> {
    tensors.iter_mut().collect()
}

/// Changes tensors, each by one other or by none.
pub(super) fn change_all<'a, M: Machine, K: Update>(
    machine: &M,
    kernel: K,
    state: &mut [&mut TensorOf<M>],
    read: impl Iterator<Item = Option<&'a TensorOf<M>>>,
) -> Result<()>
where
    TensorOf<M>: 'a,
{
    let mut changes = Vec::with_capacity(state.len());
    for (to, from) in state.iter_mut().zip(read) {
        changes.push(Change { kernel, state: vec![&mut **to], read: from.into_iter().collect() });
    }
    machine.update_all(changes)
}

/// What the learner's own plans ask for.
pub(super) fn asked_for<T>(made: Option<&T>) -> &T {
    let Some(made) = made else { unreachable!("the plan asks for it") };
    made
}

pub(super) fn finite(what: &'static str, value: f64, steps: usize) -> Result<f64> {
    if value.is_finite() { Ok(value) } else { Err(Error::Diverged { what, value, steps }) }
}
