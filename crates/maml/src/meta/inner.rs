//! The loop that adapts: its steps, what makes them, how much of them is differentiated, and what is kept for that.

use std::ops::Range;

use super::Optimiser;

/// The loop that adapts.
#[derive(Clone, Debug, PartialEq)]
pub struct Inner {
    /// Its steps, K.
    pub steps: usize,
    /// What makes a step of a gradient.
    pub optimiser: Optimiser,
    /// The rate of each adapted parameter; its elements may have factors of their own
    /// ([`Learner::with_element_rates`](super::Learner::with_element_rates)).
    pub rates: Vec<f64>,
    /// Whether the rates have gradients, too. What they are made of is kept then.
    pub learns_rates: bool,
    /// The norm that the gradient is cut down to, all adapted parameters together.
    pub clip: Option<f64>,
    /// What of the parameter is added to its gradient, after that.
    pub decay: f64,
    /// What of its distance from the start is added to it: the pull of ½ proximal |θ - θ₀|².
    pub proximal: f64,
    /// Which steps are kept on the way forward, and which are made again.
    pub keep: Keep,
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
            keep: Keep::All,
        }
    }

    /// With gradients of the rates.
    #[must_use]
    pub fn learning_rates(mut self) -> Self {
        self.learns_rates = true;
        self
    }

    /// With these steps kept.
    #[must_use]
    pub fn keeping(mut self, keep: Keep) -> Self {
        self.keep = keep;
        self
    }

    /// The last steps, as many, in stretches: each is pulled back as a whole, and made again for that but for the last.
    pub(super) fn stretches(&self, last: usize) -> Vec<Range<usize>> {
        let (first, length) = (self.steps - last.min(self.steps), self.keep.stretch(last));
        (first..self.steps).step_by(length).map(|k| k..self.steps.min(k + length)).collect()
    }
}

/// Which steps are kept on the way forward. The numbers are the same for each, bit by bit.
///
/// A stretch of steps is kept as a whole while it is pulled back. Of the stretches before it there is the state alone
/// that they begin from, and they are made again from there when it is their turn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// All of them: K states, and no step is made twice.
    #[default]
    All,
    /// Stretches of so many steps, one at least.
    Stretches(usize),
    /// Stretches of ⌈√K⌉ steps, K being those that are pulled back: about 2√K states, for one more gradient a step.
    Roots,
}

impl Keep {
    /// Steps of a stretch, of so many in all.
    fn stretch(self, steps: usize) -> usize {
        let length = match self {
            Self::All => steps,
            Self::Stretches(length) => length,
            Self::Roots => (1..=steps).find(|n| n * n >= steps).unwrap_or(1),
        };
        length.max(1)
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
    /// None, and no gradient of the query's loss either: `θ_0 - θ_K`, the direction of Reptile (Nichol, Achiam and Schulman,
    /// 2018), stands in for the gradient. What is not adapted has a direction of zero.
    Reptile,
}

impl Mode {
    /// The last steps whose Hessian counts, of so many.
    pub(super) fn curved(self, steps: usize) -> usize {
        match self {
            Self::Full => steps,
            Self::Truncated(last) => last.min(steps),
            Self::FirstOrder | Self::Reptile => 0,
        }
    }
}

/// What an adaptation came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Adapted {
    /// The loss on the task's own data before the first step; that of the query for no steps.
    pub before: f64,
    /// The loss on the query after the last one.
    pub after: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stretches_are_the_last_steps_each_once_and_in_order() {
        for steps in 0..30 {
            for keep in [Keep::All, Keep::Stretches(0), Keep::Stretches(3), Keep::Stretches(99), Keep::Roots]
            {
                let inner = Inner::new(steps, Optimiser::Sgd, 0.1, 1).keeping(keep);
                for last in 0..=steps {
                    let stretches = inner.stretches(last);
                    let all: Vec<usize> = stretches.iter().cloned().flatten().collect();
                    assert_eq!(all, (steps - last..steps).collect::<Vec<_>>(), "{keep:?}");
                    let longest = stretches.first().map_or(0, ExactSizeIterator::len);
                    assert!(stretches.iter().all(|stretch| (1..=longest).contains(&stretch.len())));
                    // States and steps that are kept: 2√K or fewer.
                    let kept = longest + stretches.len().saturating_sub(1);
                    assert!(keep != Keep::Roots || kept * kept <= 4 * last, "{last}: {kept}");
                    assert!(keep != Keep::All || kept == last, "{last}: {kept}");
                }
            }
        }
    }
}
