//! Reptile: the outer direction is the way back from where the loop came to.
//!
//! ```text
//! φ ← φ + ε · mean over tasks of (θ_K - φ)               θ_0 = φ
//! ```
//!
//! (Nichol, Achiam and Schulman, "On first-order meta-learning algorithms", 2018, arXiv 1803.02999.) What stands in for the
//! gradient is `θ_0 - θ_K`, as its authors propose for outer optimisers beyond gradient descent, with which an outer rate is ε. It
//! is the gradient of no loss: the query is judged and not learned from, and what the loop does not adapt, rates too, has a
//! direction of zero.

use super::inner::{Adapted, Inner};
use super::learner::{Learner, finite};
use super::optimiser::Plus;
use crate::Result;
use crate::machine::{Machine, TensorOf};

impl<M: Machine> Learner<M> {
    /// Adapts, and leaves `θ_0 - θ_K` where gradients lie.
    pub(super) fn reptile(&mut self, machine: &M, start: &[&TensorOf<M>], inner: &Inner) -> Result<Adapted> {
        self.admit(start, inner)?;
        let before = self.adapt(machine, start, inner, &[])?;
        self.query.evaluate(machine)?;
        let after = finite("the query's loss", self.query.loss(machine)?, inner.steps)?;
        for ((pair, lambda), from) in self.adapted.iter().zip(&mut self.lambda).zip(start) {
            machine.copy(from, lambda)?;
            machine.update(Plus(-1.0), &mut [lambda], &[self.support.parameter(pair.support)])?;
        }
        self.of_still.iter_mut().try_for_each(|direction| machine.fill(direction, 0.0))?;
        self.clear_rates(machine)?;
        Ok(Adapted { before: before.unwrap_or(after), after })
    }
}
