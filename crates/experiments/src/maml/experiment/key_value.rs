//! A memory written by gradient steps and read by attention: what the first order leaves out, it pays for here.

use theria_maml::operation::Heads;
use theria_maml::tasks::{KeyValue, TaskSource};
use theria_maml::{Machine, Result};

use super::{Adapts, Draft, Experiment, Places, Side};
use crate::maml::settings::Defaults;

pub(super) const DEFAULTS: Defaults = Defaults {
    inner_steps: 2,
    inner_rate: 0.1,
    learn_rates: true,
    outer_rate: 3e-3,
    outer_steps: 2000,
    batch: 64,
    clip: Some(1.0),
};

/// Keys read a memory through one head. The memory alone is adapted; how it is read is learned outside.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct KeyValueExperiment {
    /// The pairs.
    pub source: KeyValue,
    /// Rows of the memory.
    pub slots: usize,
    /// Their width.
    pub width: usize,
}

impl Default for KeyValueExperiment {
    fn default() -> Self {
        Self { source: KeyValue::default(), slots: 8, width: 32 }
    }
}

impl<M: Machine + 'static> Experiment<M> for KeyValueExperiment {
    fn source(&self) -> &dyn TaskSource {
        &self.source
    }

    fn adapts(&self) -> Adapts {
        Adapts::Only(&["memory"])
    }

    fn draft(&self, draft: &mut Draft<M>, side: Side) -> Result<Places> {
        let Self { source, slots, width } = *self;
        let keys = draft.graph.input(source.pairs, source.width);
        let labels = draft.graph.input(source.pairs, 1);
        let memory = draft.matrix("memory", slots, width);
        let q = draft.project(keys, "wq", width)?;
        let k = draft.project(memory, "wk", width)?;
        let v = draft.project(memory, "wv", width)?;
        let read = draft.graph.attention(q, k, v, Heads::default())?;
        let outputs = draft.project(read, "wo", source.labels)?;
        // Writing sums over pairs, so that a step does not get smaller with more to write.
        let weight = if side == Side::Support { 1.0 } else { 1.0 / source.pairs as f64 };
        let loss = draft.graph.cross_entropy(outputs, labels, weight)?;
        Ok(Places { data: vec![keys, labels], outputs, loss })
    }
}
