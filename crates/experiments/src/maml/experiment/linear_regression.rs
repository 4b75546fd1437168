//! Linear regression from a context: attention reads the points that are known, and gradient steps adapt how.
//!
//! ```text
//! known     rows (x_i, y_i) of the context, embedded
//! asked     x                                          y = attention(x W_q, known W_k, known W_v) W_o + b
//! support   each point of the context, the others being known
//! query     each point of the query, the whole context being known
//! ```
//!
//! Without an inner step this is learning in context alone.

use theria_maml::operation::Heads;
use theria_maml::tasks::{LinearRegression, Task, TaskSource};
use theria_maml::{Machine, Result};

use super::{Draft, Experiment, Places, Side};
use crate::maml::settings::Defaults;

pub(super) const DEFAULTS: Defaults = Defaults {
    inner_steps: 3,
    inner_rate: 1e-3,
    learn_rates: true,
    outer_rate: 1e-3,
    outer_steps: 5000,
    batch: 16,
    clip: Some(1.0),
};

/// Attention over a context; all of it is adapted.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearRegressionExperiment {
    /// The points.
    pub source: LinearRegression,
    /// Numbers of a token inside.
    pub width: usize,
    /// Heads of attention.
    pub heads: usize,
}

impl Default for LinearRegressionExperiment {
    fn default() -> Self {
        Self { source: LinearRegression::default(), width: 64, heads: 4 }
    }
}

impl LinearRegressionExperiment {
    /// Points that are known where one is asked.
    fn known(&self, side: Side) -> usize {
        match side {
            Side::Support => self.source.context.saturating_sub(1),
            Side::Query => self.source.context,
        }
    }
}

impl<M: Machine + 'static> Experiment<M> for LinearRegressionExperiment {
    fn source(&self) -> &dyn TaskSource {
        &self.source
    }

    fn draft(&self, draft: &mut Draft<M>, side: Side) -> Result<Places> {
        let (count, columns, width) = (side.count(&self.source), self.source.width, self.width);
        let known = draft.graph.input(count * self.known(side), columns + 1);
        let (asked, target) = (draft.graph.input(count, columns), draft.graph.input(count, 1));
        let tokens = draft.linear(known, ["embedding", "embedding bias"], width)?;
        let q = draft.project(asked, "wq", width)?;
        let k = draft.project(tokens, "wk", width)?;
        let v = draft.project(tokens, "wv", width)?;
        let heads = Heads { queries: self.heads, keys: self.heads, batch: count, causal: false };
        let read = draft.graph.attention(q, k, v, heads)?;
        let outputs = draft.linear(read, ["head", "head bias"], 1)?;
        let loss = draft.graph.squared_error(outputs, target, 1.0 / count as f64)?;
        Ok(Places { data: vec![known, asked, target], outputs, loss })
    }

    fn numbers(&self, task: &Task, side: Side) -> Result<Vec<Vec<f64>>> {
        let samples = side.of(task);
        let shown = |asked: usize, n: &usize| side == Side::Query || *n != asked;
        let row = |n: usize| task.support.input(n).iter().chain(task.support.target(n)).copied();
        let known = |asked| (0..task.support.count).filter(move |n| shown(asked, n)).flat_map(row);
        let tokens = (0..samples.count).flat_map(known).collect();
        Ok(vec![tokens, samples.inputs.clone(), samples.targets.clone()])
    }
}

#[cfg(test)]
mod tests {
    use theria_jvp_hvp::Streaming;
    use theria_maml::Host;

    use super::*;

    #[test]
    fn a_point_of_the_context_is_asked_without_being_shown() {
        let experiment = LinearRegressionExperiment::default();
        let subject: &dyn Experiment<Host<Streaming, f64>> = &experiment;
        let task = experiment.source.task(1, 2).unwrap();
        for side in [Side::Support, Side::Query] {
            let numbers = subject.numbers(&task, side).unwrap();
            let (known, rows) = (experiment.known(side), &numbers[0]);
            let columns = experiment.source.width + 1;
            assert_eq!(rows.len(), side.of(&task).count * known * columns);
            for (n, shown) in rows.chunks(known * columns).enumerate() {
                let asked = side.of(&task).input(n);
                assert!(shown.chunks(columns).all(|row| row[..columns - 1] != *asked), "{side:?} {n}");
                let others = (0..task.support.count).filter(|other| side == Side::Query || *other != n);
                for (row, other) in shown.chunks(columns).zip(others) {
                    assert_eq!(row[..columns - 1], *task.support.input(other));
                    assert_eq!(row[columns - 1..], *task.support.target(other));
                }
            }
        }
    }
}
