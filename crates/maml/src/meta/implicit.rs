//! The gradient of a loop that has come to rest, without the way there.
//!
//! Where the pull to the start holds the loop, `∇L_s(φ) + μ (φ - θ) = 0`, and the place moves with the start as
//!
//! ```text
//! dF/dθ = μ w          dF/dφ' = ∂L_q/∂φ' - (∂²L_s/∂φ'∂φ)ᵀ w          (H + μ) w = ∇L_q(φ)
//! ```
//!
//! φ' being what is not adapted. The system is solved by products with H alone, by conjugate gradients, which need H + μ to
//! be positive, or by the series of Neumann, `w = η Σ_j (1 - η (H + μ))ʲ ∇L_q`, which needs η below 2 over its largest
//! eigenvalue. A loop of gradient descent with rate η that is truncated to R steps, at rest, gives μ w of R terms.

use super::inner::{Adapted, Inner};
use super::learner::{Learner, asked_for};
use super::optimiser::{Plus, Scaled};
use crate::machine::{Machine, TensorOf};
use crate::{Error, Result};

/// How the system is solved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Solver {
    /// Conjugate gradients.
    ConjugateGradients {
        /// Iterations at most.
        most: usize,
        /// The residual, as a part of the right side, that is small enough.
        enough: f64,
    },
    /// The series of Neumann.
    Neumann {
        /// Its terms.
        terms: usize,
        /// η.
        rate: f64,
    },
}

/// What a solution came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Solved {
    /// Products with H.
    pub products: usize,
    /// The norm of the residual, as a part of that of the right side.
    pub residual: f64,
}

/// A vector over all adapted parameters.
type Vector<M> = Vec<TensorOf<M>>;

fn dot<M: Machine>(machine: &M, x: &Vector<M>, y: &Vector<M>) -> Result<f64> {
    x.iter().zip(y).map(|(x, y)| machine.dot(x, y)).sum()
}

fn assign<M: Machine>(machine: &M, to: &mut Vector<M>, from: &Vector<M>) -> Result<()> {
    machine.copy_all(from.iter().zip(to))
}

/// The norm of a residual, as a part of that of the right side.
fn part(square: f64, whole: f64) -> f64 {
    if whole > 0.0 { (square / whole).sqrt() } else { 0.0 }
}

/// `to = scale · to + weight · from`.
fn combine<M: Machine>(
    machine: &M,
    scale: f64,
    to: &mut Vector<M>,
    weight: f64,
    from: &Vector<M>,
) -> Result<()> {
    for (to, from) in to.iter_mut().zip(from) {
        machine.update(Scaled(scale), &mut [&mut *to], &[])?;
        machine.update(Plus(weight), &mut [to], &[from])?;
    }
    Ok(())
}

impl<M: Machine> Learner<M> {
    /// Adapts, and computes the gradient as if the loop had come to rest: how far it is from that is for the caller to know.
    /// Gradients lie where [`Learner::meta_gradient`] leaves them; those of rates are zero:
    /// where a loop rests does not depend on them.
    pub fn implicit_gradient(
        &mut self,
        machine: &M,
        start: &[&TensorOf<M>],
        inner: &Inner,
        solver: Solver,
    ) -> Result<(Adapted, Solved)> {
        if inner.proximal.is_nan() || inner.proximal <= 0.0 {
            return Err(Error::NoPull { proximal: inner.proximal });
        }
        let adapted = self.adapt_and_judge(machine, start, inner, &[])?;
        self.clear_rates(machine)?;
        let solved = match solver {
            Solver::ConjugateGradients { most, enough } => {
                self.by_conjugate_gradients(machine, inner.proximal, most, enough)?
            }
            Solver::Neumann { terms, rate } => self.by_series(machine, inner.proximal, terms, rate)?,
        };
        // λ is w now; one more product gives the mixed derivatives.
        self.product(machine, 0.0, None)?;
        for (pair, of_still) in self.still.iter().zip(&mut self.of_still) {
            let mixed = asked_for(self.support.gradient_tangent_of(pair.support));
            machine.update(Plus(-1.0), &mut [of_still], &[mixed])?;
        }
        for lambda in &mut self.lambda {
            machine.update(Scaled(inner.proximal), &mut [lambda], &[])?;
        }
        Ok((adapted, solved))
    }

    /// (H + μ) x, into `to`; x is λ where none is given.
    fn product(
        &mut self,
        machine: &M,
        proximal: f64,
        x_to: Option<(&Vector<M>, &mut Vector<M>)>,
    ) -> Result<()> {
        let (x, to) = x_to.map_or((&self.lambda, None), |(x, to)| (x, Some(to)));
        for (pair, x) in self.adapted.iter().zip(x) {
            machine.copy(x, self.support.direction_mut(machine, &self.second, pair.support)?)?;
        }
        self.support.gradient_tangent(machine, &self.second)?;
        for ((pair, x), to) in self.adapted.iter().zip(x).zip(to.into_iter().flatten()) {
            machine.copy(asked_for(self.support.gradient_tangent_of(pair.support)), to)?;
            machine.update(Plus(proximal), &mut [to], &[x])?;
        }
        Ok(())
    }

    /// λ to w.
    fn by_conjugate_gradients(
        &mut self,
        machine: &M,
        proximal: f64,
        most: usize,
        enough: f64,
    ) -> Result<Solved> {
        let (mut residual, mut direction) = (self.like_adapted(machine)?, self.like_adapted(machine)?);
        let (mut solution, mut product) = (self.like_adapted(machine)?, self.like_adapted(machine)?);
        assign(machine, &mut residual, &self.lambda)?;
        assign(machine, &mut direction, &self.lambda)?;
        let whole = dot(machine, &residual, &residual)?;
        let (mut square, mut products) = (whole, 0);
        while products < most && square > enough * enough * whole {
            self.product(machine, proximal, Some((&direction, &mut product)))?;
            products += 1;
            let curvature = dot(machine, &direction, &product)?;
            if curvature.is_nan() || curvature <= 0.0 {
                return Err(Error::NotPositive { curvature, proximal });
            }
            let step = square / curvature;
            combine(machine, 1.0, &mut solution, step, &direction)?;
            combine(machine, 1.0, &mut residual, -step, &product)?;
            let next = dot(machine, &residual, &residual)?;
            combine(machine, next / square, &mut direction, 1.0, &residual)?;
            square = next;
        }
        self.lambda = solution;
        Ok(Solved { products, residual: part(square, whole) })
    }

    /// λ to w: `w ← w + η (∇L_q - (H + μ) w)`, from zero.
    fn by_series(&mut self, machine: &M, proximal: f64, terms: usize, rate: f64) -> Result<Solved> {
        let (mut solution, mut product) = (self.like_adapted(machine)?, self.like_adapted(machine)?);
        let whole = dot(machine, &self.lambda, &self.lambda)?;
        let mut residual = self.like_adapted(machine)?;
        assign(machine, &mut residual, &self.lambda)?;
        for _ in 0..terms {
            combine(machine, 1.0, &mut solution, rate, &residual)?;
            self.product(machine, proximal, Some((&solution, &mut product)))?;
            assign(machine, &mut residual, &self.lambda)?;
            combine(machine, 1.0, &mut residual, -1.0, &product)?;
        }
        let square = dot(machine, &residual, &residual)?;
        self.lambda = solution;
        if !square.is_finite() {
            return Err(Error::Diverged { what: "the residual of the series", value: square, steps: terms });
        }
        Ok(Solved { products: terms, residual: part(square, whole) })
    }
}
