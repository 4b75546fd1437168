//! Rules are linear in what they push and pull, whatever f is.
//!
//! ```text
//! J(a v + b w) = a J v + b J w            Jᵀ(a u + b t) = a Jᵀu + b Jᵀt
//! second(a v + b w; u) = a second(v; u) + b second(w; u)          and the same in u
//! second(0; u) = 0
//! second(v; u, u′) - second(v; u) = Jᵀu′
//! ```
//!
//! The second order counts where it rises above the rounding of Jᵀu, of which it is the derivative;
//! and what u′ adds counts where it is more than what the bound forgives of the sum.

use super::finding::{Measured, Obstacle, Worst};
use super::point::Part;
use super::vectors::{combine, distance, norm};
use super::{Claim, Gap, Point, Proof};

/// Combinations that are tried.
const COMBINATIONS: u32 = 4;

/// ‖Jᵀu‖, beside which H v has to be seen; nothing if no VJP is claimed.
pub(super) fn gradient_size<C: Claim + ?Sized>(claim: &C, point: &Point, u: &[f64]) -> Result<f64, Obstacle> {
    match claim.vjp(&point.x, u) {
        Ok(gradient) => Ok(norm(&gradient)),
        Err(Gap::NotClaimed(_)) => Ok(0.0),
        Err(failed) => Err(failed.into()),
    }
}

/// A rule of a sum: `whole`, which should be `a · one + b · other`.
struct Sum<'a> {
    whole: &'a [f64],
    factors: [f64; 2],
    terms: [&'a [f64]; 2],
}

impl Sum<'_> {
    fn difference(&self) -> f64 {
        let ([a, b], [one, other]) = (self.factors, self.terms);
        distance(self.whole, &combine(a, one, b, other))
    }

    fn size(&self) -> f64 {
        let ([a, b], [one, other]) = (self.factors, self.terms);
        a.abs() * norm(one) + b.abs() * norm(other) + norm(self.whole)
    }

    /// Notes how far the whole is from the sum, beside terms of the size of `scale`.
    fn compare(&self, worst: &mut Worst, scale: f64, place: &str) {
        let scale = self.size() + self.factors.iter().map(|factor| factor.abs() * scale).sum::<f64>();
        worst.take(self.difference(), self.size(), scale, place);
    }
}

/// What a rule that is not claimed would have added.
fn claimed<T>(tried: Result<T, Obstacle>) -> Result<Option<T>, Obstacle> {
    match tried {
        Ok(value) => Ok(Some(value)),
        Err(Obstacle::NotApplicable(_)) => Ok(None),
        Err(invalid) => Err(invalid),
    }
}

/// Linearity of every rule that is claimed.
pub(super) fn linear<C: Claim + ?Sized>(claim: &C, point: &Point) -> Measured {
    let mut worst = Worst::of(Proof::Linearity);
    let mut any = false;
    for index in 0..COMBINATIONS {
        for rule in [jvp::<C>, vjp::<C>, second_order::<C>] {
            any |= claimed(rule(claim, point, index, &mut worst))?.is_some();
        }
    }
    if !any {
        return Err(Obstacle::NotApplicable("no derivative is claimed".into()));
    }
    Ok(worst.finish("every derivative is zero"))
}

type Tried = Result<(), Obstacle>;

fn factors(point: &Point, index: u32) -> [f64; 2] {
    let drawn = point.draw(Part::Combination, index, 2);
    [drawn[0], drawn[1]]
}

fn cotangents<C: Claim + ?Sized>(claim: &C, point: &Point, index: u32) -> [Vec<f64>; 2] {
    [Part::Cotangent, Part::OtherCotangent].map(|part| point.draw(part, index, claim.outputs()))
}

fn jvp<C: Claim + ?Sized>(claim: &C, point: &Point, index: u32, worst: &mut Worst) -> Tried {
    let [a, b] = factors(point, index);
    let (v, w) = (point.direction(index), point.other_direction(index));
    let of = |v: &[f64]| claim.jvp(&point.x, v);
    let (whole, one, other) = (of(&combine(a, &v, b, &w))?, of(&v)?, of(&w)?);
    Sum { whole: &whole, factors: [a, b], terms: [&one, &other] }.compare(worst, 0.0, "the JVP");
    Ok(())
}

fn vjp<C: Claim + ?Sized>(claim: &C, point: &Point, index: u32, worst: &mut Worst) -> Tried {
    let [a, b] = factors(point, index);
    let [u, t] = cotangents(claim, point, index);
    let of = |u: &[f64]| claim.vjp(&point.x, u);
    let (whole, one, other) = (of(&combine(a, &u, b, &t))?, of(&u)?, of(&t)?);
    Sum { whole: &whole, factors: [a, b], terms: [&one, &other] }.compare(worst, 0.0, "the VJP");
    Ok(())
}

fn second_order<C: Claim + ?Sized>(claim: &C, point: &Point, index: u32, worst: &mut Worst) -> Tried {
    let [a, b] = factors(point, index);
    let (v, w) = (point.direction(index), point.other_direction(index));
    let [u, t] = cotangents(claim, point, index);
    let of = |v: &[f64], u: &[f64]| claim.second_order(&point.x, v, u, None);
    let one = of(&v, &u)?;
    let scale = gradient_size(claim, point, &u)? + gradient_size(claim, point, &t)?;
    let (whole, other) = (of(&combine(a, &v, b, &w), &u)?, of(&w, &u)?);
    let in_v = Sum { whole: &whole, factors: [a, b], terms: [&one, &other] };
    in_v.compare(worst, scale, "the second order, in v");
    let (whole, other) = (of(&v, &combine(a, &u, b, &t))?, of(&v, &t)?);
    let in_u = Sum { whole: &whole, factors: [a, b], terms: [&one, &other] };
    in_u.compare(worst, scale, "the second order, in u");
    let at_rest = of(&vec![0.0; v.len()], &u)?;
    worst.take(norm(&at_rest), norm(&one), norm(&one) + scale, "the second order, at v = 0");
    Ok(())
}

/// What u′ adds to the second order is the VJP of u′.
pub(super) fn cotangent_tangent<C: Claim + ?Sized>(claim: &C, point: &Point) -> Measured {
    let mut worst = Worst::of(Proof::CotangentTangent);
    for index in 0..COMBINATIONS {
        let v = point.direction(index);
        let u = point.draw(Part::Cotangent, index, claim.outputs());
        let u_tangent = point.draw(Part::CotangentTangent, index, claim.outputs());
        let with = claim.second_order(&point.x, &v, &u, Some(&u_tangent))?;
        let without = claim.second_order(&point.x, &v, &u, None)?;
        let pulled = claim.vjp(&point.x, &u_tangent)?;
        let sum = Sum { whole: &with, factors: [1.0, 1.0], terms: [&without, &pulled] };
        let size = sum.size();
        worst.take_part(sum.difference(), size, norm(&pulled), size, "all inputs");
    }
    Ok(worst.finish("Jᵀu′ is zero, or lost in what it is added to"))
}
