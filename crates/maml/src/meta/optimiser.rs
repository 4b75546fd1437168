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

use theria_gpu_fwd::Source;

use crate::machine::{Update, kernel_source};
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

    /// Whether its pull-back is made of the gradient itself.
    pub(super) fn reads_gradient(self) -> bool {
        matches!(self, Self::Adam { .. })
    }

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
    pub(super) number: usize,
}

/// 1 - decayᵗ.
fn correction(decay: f64, number: usize) -> f64 {
    1.0 - decay.powi(number as i32 + 1)
}

impl Update for Step {
    fn update<N: Number>(&self, state: &mut [&mut [N]], read: &[&[N]]) {
        let (rate, one) = (N::constant(self.rate), N::constant(1.0));
        match (self.optimiser, state, read) {
            (Optimiser::Sgd, [theta], [g]) => {
                for (theta, g) in theta.iter_mut().zip(*g) {
                    *theta = *theta - rate * *g;
                }
            }
            (Optimiser::Momentum { decay }, [theta, velocity], [g]) => {
                let decay = N::constant(decay);
                for ((theta, velocity), g) in theta.iter_mut().zip(velocity.iter_mut()).zip(*g) {
                    *velocity = decay * *velocity + *g;
                    *theta = *theta - rate * *velocity;
                }
            }
            (Optimiser::Adam { first, second, epsilon }, [theta, mean, square], [g]) => {
                let (c1, c2) = (correction(first, self.number), correction(second, self.number));
                let [c1, c2, epsilon, first, second] = [c1, c2, epsilon, first, second].map(N::constant);
                let memories = mean.iter_mut().zip(square.iter_mut());
                for ((theta, (mean, square)), g) in theta.iter_mut().zip(memories).zip(*g) {
                    *mean = first * *mean + (one - first) * *g;
                    *square = second * *square + (one - second) * *g * *g;
                    *theta = *theta - rate * (*mean / c1) / ((*square / c2).sqrt() + epsilon);
                }
            }
            (optimiser, state, read) => wrong(optimiser, state.len(), read.len()),
        }
    }

    fn operands(&self) -> (usize, usize) {
        (1 + self.optimiser.memories(), 1)
    }

    fn cuda(&self) -> Source {
        match self.optimiser {
            Optimiser::Sgd => kernel_source!("sgd_step.cu"),
            Optimiser::Momentum { .. } => kernel_source!("momentum_step.cu"),
            Optimiser::Adam { .. } => kernel_source!("adam_step.cu"),
        }
    }

    /// α, then β; or β₁, β₂, ε, c₁, c₂.
    fn constants(&self) -> [f64; 8] {
        let mut all = [0.0; 8];
        all[0] = self.rate;
        match self.optimiser {
            Optimiser::Sgd => {}
            Optimiser::Momentum { decay } => all[1] = decay,
            Optimiser::Adam { first, second, epsilon } => {
                let corrections = [correction(first, self.number), correction(second, self.number)];
                all[1..4].copy_from_slice(&[first, second, epsilon]);
                all[4..6].copy_from_slice(&corrections);
            }
        }
        all
    }
}

/// A loop of this crate called a step with what it does not take.
fn wrong(optimiser: Optimiser, state: usize, read: usize) {
    unreachable!("{optimiser:?} was given {state} tensors to change and {read} to read");
}

/// The pull-back of a step: writes γ and changes the cotangents of memories; reads λ, g where it is read, and the memories
/// after the step.
#[derive(Clone, Copy, Debug)]
pub(super) struct PullStep(pub(super) Step);

impl Update for PullStep {
    fn update<N: Number>(&self, state: &mut [&mut [N]], read: &[&[N]]) {
        let Step { optimiser, rate, number } = self.0;
        let (rate, one, two) = (N::constant(rate), N::constant(1.0), N::constant(2.0));
        match (optimiser, state, read) {
            (Optimiser::Sgd, [gamma], [lambda]) => {
                for (gamma, lambda) in gamma.iter_mut().zip(*lambda) {
                    *gamma = -(rate * *lambda);
                }
            }
            (Optimiser::Momentum { decay }, [gamma, of_velocity], [lambda, _]) => {
                for ((gamma, of_velocity), lambda) in
                    gamma.iter_mut().zip(of_velocity.iter_mut()).zip(*lambda)
                {
                    *gamma = *of_velocity - rate * *lambda;
                    *of_velocity = N::constant(decay) * *gamma;
                }
            }
            (
                Optimiser::Adam { first, second, epsilon },
                [gamma, of_mean, of_square],
                [lambda, g, mean, square],
            ) => {
                let (c1, c2) = (correction(first, number), correction(second, number));
                let [c1, c2, epsilon, first, second] = [c1, c2, epsilon, first, second].map(N::constant);
                for n in 0..gamma.len() {
                    let (lambda, g, mean, root) = (lambda[n], g[n], mean[n] / c1, (square[n] / c2).sqrt());
                    let below = root + epsilon;
                    of_mean[n] = of_mean[n] - rate * lambda / (c1 * below);
                    if root.value() > 0.0 {
                        of_square[n] += rate * lambda * mean / (two * c2 * root * below * below);
                    }
                    gamma[n] = (one - first) * of_mean[n] + two * (one - second) * g * of_square[n];
                    of_mean[n] = first * of_mean[n];
                    of_square[n] = second * of_square[n];
                }
            }
            (optimiser, state, read) => wrong(optimiser, state.len(), read.len()),
        }
    }

    fn operands(&self) -> (usize, usize) {
        let Step { optimiser, .. } = self.0;
        (1 + optimiser.memories(), 1 + usize::from(optimiser.reads_gradient()) + optimiser.memories())
    }

    fn cuda(&self) -> Source {
        match self.0.optimiser {
            Optimiser::Sgd => kernel_source!("sgd_pull.cu"),
            Optimiser::Momentum { .. } => kernel_source!("momentum_pull.cu"),
            Optimiser::Adam { .. } => kernel_source!("adam_pull.cu"),
        }
    }

    fn constants(&self) -> [f64; 8] {
        self.0.constants()
    }
}

/// What each element adds to the gradient of the rate: writes it, and reads λ, g, and the memories after the step.
#[derive(Clone, Copy, Debug)]
pub(super) struct PullRate(pub(super) Step);

impl Update for PullRate {
    fn update<N: Number>(&self, state: &mut [&mut [N]], read: &[&[N]]) {
        let Step { optimiser, number, .. } = self.0;
        match (optimiser, state, read) {
            (Optimiser::Sgd, [made], [lambda, step])
            | (Optimiser::Momentum { .. }, [made], [lambda, _, step]) => {
                for ((made, lambda), step) in made.iter_mut().zip(*lambda).zip(*step) {
                    *made = -(*lambda * *step);
                }
            }
            (Optimiser::Adam { first, second, epsilon }, [made], [lambda, _, mean, square]) => {
                let (c1, c2) = (correction(first, number), correction(second, number));
                let [c1, c2, epsilon] = [c1, c2, epsilon].map(N::constant);
                for (((made, lambda), mean), square) in made.iter_mut().zip(*lambda).zip(*mean).zip(*square) {
                    *made = -(*lambda * (*mean / c1) / ((*square / c2).sqrt() + epsilon));
                }
            }
            (optimiser, state, read) => wrong(optimiser, state.len(), read.len()),
        }
    }

    fn operands(&self) -> (usize, usize) {
        (1, 2 + self.0.optimiser.memories())
    }

    fn cuda(&self) -> Source {
        match self.0.optimiser {
            Optimiser::Sgd => kernel_source!("sgd_rate.cu"),
            Optimiser::Momentum { .. } => kernel_source!("momentum_rate.cu"),
            Optimiser::Adam { .. } => kernel_source!("adam_rate.cu"),
        }
    }

    fn constants(&self) -> [f64; 8] {
        self.0.constants()
    }
}

/// `state += weight · read`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plus(pub(super) f64);

impl Update for Plus {
    fn update<N: Number>(&self, state: &mut [&mut [N]], read: &[&[N]]) {
        for (to, from) in state[0].iter_mut().zip(read[0]) {
            *to += N::constant(self.0) * *from;
        }
    }

    fn operands(&self) -> (usize, usize) {
        (1, 1)
    }

    fn cuda(&self) -> Source {
        kernel_source!("plus.cu")
    }

    fn constants(&self) -> [f64; 8] {
        [self.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    }
}

/// `state = weight · state`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scaled(pub(super) f64);

impl Update for Scaled {
    fn update<N: Number>(&self, state: &mut [&mut [N]], _read: &[&[N]]) {
        for to in state[0].iter_mut() {
            *to = N::constant(self.0) * *to;
        }
    }

    fn operands(&self) -> (usize, usize) {
        (1, 0)
    }

    fn cuda(&self) -> Source {
        kernel_source!("scaled.cu")
    }

    fn constants(&self) -> [f64; 8] {
        [self.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    }
}

/// The texts of all changes.
pub(super) fn sources() -> Vec<Source> {
    let optimisers = [Optimiser::Sgd, Optimiser::Momentum { decay: 0.0 }, Optimiser::ADAM];
    let steps = optimisers.map(|optimiser| Step { optimiser, rate: 0.0, number: 0 });
    let of_step = |step: Step| [step.cuda(), PullStep(step).cuda(), PullRate(step).cuda()];
    steps.into_iter().flat_map(of_step).chain([Plus(0.0).cuda(), Scaled(0.0).cuda()]).collect()
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
        let at = |m: usize| [Dual { value: BEFORE[m], tangent: if m == n { 1.0 } else { 0.0 } }];
        let mut state = [at(0), at(1), at(2)];
        let kept = state;
        let memories = optimiser.memories();
        let mut lent: Vec<&mut [_]> = state.iter_mut().take(1 + memories).map(|x| &mut x[..]).collect();
        Step { optimiser, rate: BEFORE[4], number: 2 }.update(&mut lent, &[&at(3)]);
        let moved: f64 = (0..=memories).map(|m| COTANGENTS[m] * state[m][0].tangent).sum();
        // The step is linear in the rate.
        let by_rate = COTANGENTS[0] * (state[0][0].value - kept[0][0].value) / BEFORE[4];
        if n == 4 { by_rate } else { moved }
    }

    #[test]
    fn pull_backs_of_steps_are_the_transposes_of_their_derivatives() {
        for optimiser in ALL {
            let step = Step { optimiser, rate: BEFORE[4], number: 2 };
            let memories = optimiser.memories();
            let mut after = [[BEFORE[0]], [BEFORE[1]], [BEFORE[2]]];
            let mut lent: Vec<&mut [_]> = after.iter_mut().take(1 + memories).map(|x| &mut x[..]).collect();
            step.update(&mut lent, &[&[BEFORE[3]]]);
            let mut made = [[f64::NAN], [COTANGENTS[1]], [COTANGENTS[2]]];
            let mut lent: Vec<&mut [_]> = made.iter_mut().take(1 + memories).map(|x| &mut x[..]).collect();
            let all = [&[COTANGENTS[0]][..], &[BEFORE[3]], &after[1], &after[2]];
            let mut read = all[..2 + memories].to_vec();
            let mut of_rate = [f64::NAN];
            PullRate(step).update(&mut [&mut of_rate[..]], &read);
            if !optimiser.reads_gradient() {
                read.remove(1);
            }
            PullStep(step).update(&mut lent, &read);
            let state = made.map(|x| x[0]);
            let close = |given: f64, n: usize| {
                let expected = along(optimiser, n);
                assert!((given - expected).abs() < 1e-14, "{optimiser:?} {n}: {given} {expected}");
            };
            close(state[0], 3);
            close(of_rate[0], 4);
            (0..memories).for_each(|m| close(state[1 + m], 1 + m));
            assert!((state[0] * 1.001 - along(optimiser, 3)).abs() > 1e-5, "what is a little off is seen");
        }
    }
}
