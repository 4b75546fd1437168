//! Sinusoid regression as MAML was introduced with it: a network that adapts to a wave from ten points.

use theria_maml::tasks::{Sinusoid, TaskSource};
use theria_maml::{Machine, Result};

use super::{Draft, Experiment, Places, Purpose, Side};
use crate::maml::settings::Defaults;

/// As the protocol has them.
pub(super) const DEFAULTS: Defaults = Defaults {
    inner_steps: 5,
    inner_rate: 0.01,
    learn_rates: false,
    outer_rate: 1e-3,
    outer_steps: 70_000,
    batch: 25,
    clip: None,
};

const LAYERS: [[&str; 2]; 3] = [["w1", "b1"], ["w2", "b2"], ["w3", "b3"]];
/// Of weights at first.
const DEVIATION: f64 = 0.01;
/// Points by which a wave is judged.
const JUDGED: usize = 100;

/// A network of two hidden layers; all of it is adapted. There is no attention in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SinusoidExperiment {
    /// The waves.
    pub source: Sinusoid,
    /// Units of a hidden layer.
    pub width: usize,
}

impl SinusoidExperiment {
    /// The classical one.
    pub fn of(purpose: Purpose) -> Self {
        let source = Sinusoid::default();
        let queries = if purpose == Purpose::Judging { JUDGED } else { source.queries };
        Self { source: Sinusoid { queries, ..source }, width: 40 }
    }
}

impl<M: Machine> Experiment<M> for SinusoidExperiment {
    fn source(&self) -> &dyn TaskSource {
        &self.source
    }

    fn draft(&self, draft: &mut Draft<M>, side: Side) -> Result<Places> {
        let points = side.count(&self.source);
        let (x, target) = (draft.graph.input(points, 1), draft.graph.input(points, 1));
        let mut y = x;
        for ([weights, bias], columns) in LAYERS.into_iter().zip([self.width, self.width, 1]) {
            if y != x {
                y = draft.graph.relu(y);
            }
            let rows = draft.graph.shape(y).1;
            let weights = draft.normal(weights, (rows, columns), DEVIATION);
            let bias = draft.constant(bias, columns, 0.0);
            y = draft.graph.multiply(y, weights)?;
            y = draft.graph.sum(y, bias)?;
        }
        let loss = draft.graph.squared_error(y, target, 1.0 / points as f64)?;
        Ok(Places { data: vec![x, target], outputs: y, loss })
    }
}
