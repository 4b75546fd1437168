//! Loops of the small transformer that classifies sequences which show a prototype.

use theria_contract::Element;
use theria_maml::machine::TensorOf;
use theria_maml::meta::{Inner, Keep, Learner, Optimiser, SecondOrderPath, Symmetry};
use theria_maml::{Machine, Result, ValueId};

use super::workload::numbers;
use super::{Row, rel_diff};
use crate::maml::experiment::{PrototypesExperiment, Stage};

/// What the parameters are called that attend, and those that judge; the others are the rest.
const ATTENTION: [&str; 4] = ["wq", "wk", "wv", "wo"];
const HEAD: [&str; 2] = ["head", "head bias"];
/// Groups, in the order of [`Second::groups`].
pub(super) const GROUPS: [&str; 3] = ["attention", "head", "rest"];

/// Pairs of directions that the symmetry of a Hessian is looked at along.
const PAIRS: u64 = 3;

/// The transformer with the task of a seed.
pub(super) struct Prototypes<M: Machine> {
    stage: Stage<M>,
    start: Vec<TensorOf<M>>,
    seed: u64,
}

/// What the second order adds to a gradient.
pub(super) struct Second {
    pub(super) gradient: Vec<f64>,
    pub(super) path: SecondOrderPath,
    pub(super) symmetry: Symmetry,
}

impl<M: Machine + 'static> Prototypes<M> {
    /// The parameters begin as the seed says, and the task is the first one of the seed.
    pub(super) fn new(machine: &M, seed: u64) -> Result<Self> {
        let mut stage = Stage::new(machine, Box::new(PrototypesExperiment::default()))?;
        let start = stage.begin(machine, seed)?;
        let task = stage.experiment().source().task(seed, 0)?;
        let (learners, desk) = stage.parts();
        desk.load(machine, &mut learners[0], &task)?;
        Ok(Self { stage, start, seed })
    }

    /// A loop of gradient descent, of whose states as few are kept as 2√K.
    pub(super) fn inner(&self, steps: usize) -> Inner {
        let inner = Inner::new(steps, Optimiser::Sgd, rel_diff::RATE, self.stage.adapted());
        inner.keeping(Keep::Roots)
    }

    fn parts(&mut self) -> (&mut Learner<M>, Vec<&TensorOf<M>>) {
        let Self { stage, start, .. } = self;
        (&mut stage.parts().0[0], start.iter().collect())
    }

    /// The whole gradient; its states are counted.
    pub(super) fn gradient(&mut self, machine: &M, inner: &Inner) -> Result<(Vec<f64>, usize)> {
        let (learner, start) = self.parts();
        learner.meta_gradient(machine, &start, inner, theria_maml::meta::Mode::Full)?;
        Ok((numbers(machine, learner.gradients())?, learner.kept_states()))
    }

    /// The whole gradient, what of it the first order leaves out, and the symmetry of the Hessian where the loop ends.
    pub(super) fn second(&mut self, machine: &M, inner: &Inner) -> Result<Second> {
        let seed = self.seed;
        let (learner, start) = self.parts();
        let names: Vec<String> = learner.names().map(str::to_owned).collect();
        let apart = |name: &&String| !ATTENTION.contains(&name.as_str()) && !HEAD.contains(&name.as_str());
        let rest: Vec<&str> = names.iter().filter(apart).map(String::as_str).collect();
        let groups = [(GROUPS[0], &ATTENTION[..]), (GROUPS[1], &HEAD[..]), (GROUPS[2], &rest[..])];
        let path = learner.second_order_path(machine, &start, inner, &groups)?;
        let gradient = numbers(machine, learner.gradients())?;
        let symmetry = learner.hessian_symmetry(machine, &start, inner, seed, PAIRS)?;
        Ok(Second { gradient, path, symmetry })
    }

    /// The Hessian of the task's own loss, where the loop begins, times a wave.
    pub(super) fn hessian_product(&mut self, machine: &M) -> Result<Vec<f64>> {
        let (learner, start) = self.parts();
        let names: Vec<String> = learner.names().map(str::to_owned).collect();
        let model = learner.support_mut();
        let value =
            |name: &String| model.parameters().find(|(other, _)| other == name).map(|(_, value)| value);
        let ids: Vec<ValueId> = names.iter().filter_map(value).collect();
        let plan = model.plan(&ids, &ids);
        for (id, start) in ids.iter().zip(start) {
            let begin = numbers(machine, std::iter::once(start))?;
            let wave = |n: usize| M::Element::from_f64((n as f64 * 1.7 + 0.3).sin());
            let direction: Vec<_> = (0..begin.len()).map(wave).collect();
            let begin: Vec<_> = begin.into_iter().map(M::Element::from_f64).collect();
            model.write(machine, *id, &begin)?;
            model.write_direction(machine, &plan, *id, &direction)?;
        }
        model.gradient_tangent(machine, &plan)?;
        numbers(machine, ids.iter().filter_map(|id| model.gradient_tangent_of(*id)))
    }
}

/// What a row says of a loop.
pub(super) fn described(row: Row, seed: u64, steps: usize) -> Row {
    row.with("task", "prototypes")
        .with("shape", "16 sequences of 32 tokens, width 64, 4 heads")
        .with("seed", seed)
        .with("steps", steps)
        .with("inner_rate", rel_diff::RATE)
}
