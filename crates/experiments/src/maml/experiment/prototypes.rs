//! Sequences that show the prototype of their class at a few positions, classified by a small transformer.

use theria_maml::tasks::{Prototypes, TaskSource};
use theria_maml::{Machine, Result};

use super::{Classifier, Draft, Experiment, Places, Side};
use crate::maml::settings::Defaults;

pub(super) const DEFAULTS: Defaults = Defaults {
    inner_steps: 5,
    inner_rate: 0.1,
    learn_rates: true,
    outer_rate: 1e-3,
    outer_steps: 500,
    batch: 4,
    clip: Some(1.0),
};

/// A [`Classifier`] of sequences; all of it is adapted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrototypesExperiment {
    /// The sequences.
    pub source: Prototypes,
    /// Numbers of a token inside.
    pub width: usize,
    /// Heads of attention.
    pub heads: usize,
}

impl Default for PrototypesExperiment {
    fn default() -> Self {
        Self { source: Prototypes::default(), width: 64, heads: 4 }
    }
}

impl<M: Machine + 'static> Experiment<M> for PrototypesExperiment {
    fn source(&self) -> &dyn TaskSource {
        &self.source
    }

    fn draft(&self, draft: &mut Draft<M>, side: Side) -> Result<Places> {
        let Prototypes { length, width, classes, .. } = self.source;
        let classifier = Classifier { length, columns: width, width: self.width, heads: self.heads, classes };
        classifier.draft(draft, side.count(&self.source))
    }
}
