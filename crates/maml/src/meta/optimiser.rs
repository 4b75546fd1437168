//! Inner optimisers: a step, and its pull-back.
//!
//! A step is a function of each element: of the parameter θ, of what the optimiser remembers, and of the gradient g. Its
//! pull-back turns the cotangent λ of the new θ, and those of what is remembered, into the cotangent γ of g and into those
//! before the step. The Hessian enters once a step, as H γ, whatever the optimiser:
//!
//! ```text
//! SGD        θ⁺ = θ - α g                              γ = -α λ
//! momentum   u⁺ = β u + g       θ⁺ = θ - α u⁺          υ ← υ - α λ      γ = υ      υ ← β υ
//! Adam       m⁺ = β₁ m + (1-β₁) g     v⁺ = β₂ v + (1-β₂) g²     s = √(v⁺/c₂)     D = s + ε     θ⁺ = θ - α (m⁺/c₁)/D
//!            μ ← μ - α λ/(c₁ D)       ν ← ν + α λ (m⁺/c₁)/(2 c₂ s D²)
//!            γ = (1-β₁) μ + 2 (1-β₂) g ν                μ ← β₁ μ       ν ← β₂ ν
//! ```
//!
//! with c₁ = 1 - β₁ᵗ and c₂ = 1 - β₂ᵗ at step t. Where s = 0, ν is left alone: g is 0 in every step so far.

use crate::machine::Update;
use crate::number::Number;

/// How a gradient becomes a step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Optimiser {
    /// Gradient descent.
    Sgd,
    /// Gradient descent with a velocity.
    Momentum {
        /// What is left of the velocity in the next step.
        decay: f64,
    },
    /// Adam, its bias corrected.
    Adam {
        /// What is left of the mean of gradients.
        first: f64,
        /// What is left of the mean of their squares.
        second: f64,
        /// Added to the root of it.
        epsilon: f64,
    },
}

impl Optimiser {
    /// Adam as it is used nearly everywhere.
    pub const ADAM: Self = Self::Adam { first: 0.9, second: 0.999, epsilon: 1e-8 };

    /// Tensors that it remembers for each parameter.
    pub fn memories(self) -> usize {
        match self {
            Self::Sgd => 0,
            Self::Momentum { .. } => 1,
            Self::Adam { .. } => 2,
        }
    }
}

/// A step: changes θ and memories, reads g.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) optimiser: Optimiser,
    pub(super) rate: f64,
    /// Counted from 0.
    pub(super) step: usize,
}

/// 1 - decayᵗ.
fn correction(decay: f64, step: usize) -> f64 {
    1.0 - decay.powi(step as i32 + 1)
}

impl Update for Step {
    fn update<N: Number>(&self, state: &mut [N], read: &[N]) {
        let (rate, g) = (N::constant(self.rate), read[0]);
        match self.optimiser {
            Optimiser::Sgd => state[0] = state[0] - rate * g,
            Optimiser::Momentum { decay } => {
                state[1] = N::constant(decay) * state[1] + g;
                state[0] = state[0] - rate * state[1];
            }
            Optimiser::Adam { first, second, epsilon } => {
                state[1] = N::constant(first) * state[1] + N::constant(1.0 - first) * g;
                state[2] = N::constant(second) * state[2] + N::constant(1.0 - second) * g * g;
                let mean = state[1] / N::constant(correction(first, self.step));
                let root = (state[2] / N::constant(correction(second, self.step))).sqrt();
                state[0] = state[0] - rate * mean / (root + N::constant(epsilon));
            }
        }
    }
}

/// The pull-back of a step: changes the cotangents of memories, and writes γ and what each element adds to the gradient
/// of the rate; reads λ, g, and the memories after the step. The state is γ, that, and the cotangents.
#[derive(Clone, Copy, Debug)]
pub(super) struct PullStep(pub(super) Step);

impl Update for PullStep {
    fn update<N: Number>(&self, state: &mut [N], read: &[N]) {
        let Step { optimiser, rate, step } = self.0;
        let (rate, lambda, g) = (N::constant(rate), read[0], read[1]);
        match optimiser {
            Optimiser::Sgd => {
                state[0] = -(rate * lambda);
                state[1] = -(lambda * g);
            }
            Optimiser::Momentum { decay } => {
                let velocity = state[2] - rate * lambda;
                state[0] = velocity;
                state[1] = -(lambda * read[2]);
                state[2] = N::constant(decay) * velocity;
            }
            Optimiser::Adam { first, second, epsilon } => {
                let (c1, c2) = (N::constant(correction(first, step)), N::constant(correction(second, step)));
                let (mean, root) = (read[2] / c1, (read[3] / c2).sqrt());
                let below = root + N::constant(epsilon);
                let of_mean = state[2] - rate * lambda / (c1 * below);
                let mut of_square = state[3];
                if root.value() > 0.0 {
                    of_square += rate * lambda * mean / (N::constant(2.0) * c2 * root * below * below);
                }
                state[0] =
                    N::constant(1.0 - first) * of_mean + N::constant(2.0 * (1.0 - second)) * g * of_square;
                state[1] = -(lambda * mean / below);
                state[2] = N::constant(first) * of_mean;
                state[3] = N::constant(second) * of_square;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::number::Dual;

    const ALL: [Optimiser; 3] = [
        Optimiser::Sgd,
        Optimiser::Momentum { decay: 0.8 },
        Optimiser::Adam { first: 0.9, second: 0.99, epsilon: 1e-3 },
    ];

    /// θ, memories, g and the rate before a step.
    const BEFORE: [f64; 5] = [0.3, -0.2, 0.05, 0.7, 0.1];
    /// Cotangents of θ and of memories after it.
    const COTANGENTS: [f64; 3] = [0.9, -0.4, 0.6];

    /// Σ cotangent · (what there is after the step), with its derivative along the nth of what there is before.
    fn along(optimiser: Optimiser, n: usize) -> f64 {
        let at = |m: usize| Dual { value: BEFORE[m], tangent: if m == n { 1.0 } else { 0.0 } };
        let mut state = [at(0), at(1), at(2)];
        let kept = state;
        Step { optimiser, rate: BEFORE[4], step: 2 }.update(&mut state[..=optimiser.memories()], &[at(3)]);
        let moved: f64 = (0..=optimiser.memories()).map(|m| COTANGENTS[m] * state[m].tangent).sum();
        // The step is linear in the rate.
        let by_rate = COTANGENTS[0] * (state[0].value - kept[0].value) / BEFORE[4];
        if n == 4 { by_rate } else { moved }
    }

    #[test]
    fn pull_backs_of_steps_are_the_transposes_of_their_derivatives() {
        for optimiser in ALL {
            let step = Step { optimiser, rate: BEFORE[4], step: 2 };
            let mut after = [BEFORE[0], BEFORE[1], BEFORE[2]];
            step.update(&mut after[..=optimiser.memories()], &[BEFORE[3]]);
            let mut state = [f64::NAN, f64::NAN, COTANGENTS[1], COTANGENTS[2]];
            let memories = optimiser.memories();
            PullStep(step)
                .update(&mut state[..2 + memories], &[COTANGENTS[0], BEFORE[3], after[1], after[2]]);
            let close = |given: f64, n: usize| {
                let expected = along(optimiser, n);
                assert!((given - expected).abs() < 1e-14, "{optimiser:?} {n}: {given} {expected}");
            };
            close(state[0], 3);
            close(state[1], 4);
            (0..memories).for_each(|m| close(state[2 + m], 1 + m));
            assert!((state[0] * 1.001 - along(optimiser, 3)).abs() > 1e-5, "what is a little off is seen");
        }
    }
}
