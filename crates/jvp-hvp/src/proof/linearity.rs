//! Rules are linear in what they push and pull, whatever f is.
//!
//! ```text
//! J(a v + b w) = a J v + b J w            Jᵀ(a u + b t) = a Jᵀu + b Jᵀt
//! second(a v + b w; u) = a second(v; u) + b second(w; u)          and the same in u
//! second(0; u) = 0
//! second(v; u, u′) - second(v; u) = Jᵀu′
//! ```

use super::finding::{Measured, Obstacle, Worst};
use super::point::Part;
use super::vectors::{combine, distance, norm};
use super::{Claim, Point};

/// Combinations that are tried.
const COMBINATIONS: u32 = 4;

/// Notes how far `whole` is from `a · one + b · other`.
fn compare(worst: &mut Worst, place: &str, whole: &[f64], [a, b]: [f64; 2], [one, other]: [&[f64]; 2]) {
    let size = a.abs() * norm(one) + b.abs() * norm(other) + norm(whole);
    worst.take(distance(whole, &combine(a, one, b, other)), size, || place.into());
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
    let mut worst = Worst::default();
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
    compare(worst, "the JVP", &of(&combine(a, &v, b, &w))?, [a, b], [&of(&v)?, &of(&w)?]);
    Ok(())
}

fn vjp<C: Claim + ?Sized>(claim: &C, point: &Point, index: u32, worst: &mut Worst) -> Tried {
    let [a, b] = factors(point, index);
    let [u, t] = cotangents(claim, point, index);
    let of = |u: &[f64]| claim.vjp(&point.x, u);
    compare(worst, "the VJP", &of(&combine(a, &u, b, &t))?, [a, b], [&of(&u)?, &of(&t)?]);
    Ok(())
}

fn second_order<C: Claim + ?Sized>(claim: &C, point: &Point, index: u32, worst: &mut Worst) -> Tried {
    let [a, b] = factors(point, index);
    let (v, w) = (point.direction(index), point.other_direction(index));
    let [u, t] = cotangents(claim, point, index);
    let of = |v: &[f64], u: &[f64]| claim.second_order(&point.x, v, u, None);
    let one = of(&v, &u)?;
    compare(worst, "the second order, in v", &of(&combine(a, &v, b, &w), &u)?, [a, b], [&one, &of(&w, &u)?]);
    compare(worst, "the second order, in u", &of(&v, &combine(a, &u, b, &t))?, [a, b], [&one, &of(&v, &t)?]);
    let at_rest = of(&vec![0.0; v.len()], &u)?;
    worst.take(norm(&at_rest), norm(&one), || "the second order, at v = 0".into());
    Ok(())
}

/// What u′ adds to the second order is the VJP of u′.
pub(super) fn cotangent_tangent<C: Claim + ?Sized>(claim: &C, point: &Point) -> Measured {
    let mut worst = Worst::default();
    for index in 0..COMBINATIONS {
        let v = point.direction(index);
        let u = point.draw(Part::Cotangent, index, claim.outputs());
        let u_tangent = point.draw(Part::CotangentTangent, index, claim.outputs());
        let with = claim.second_order(&point.x, &v, &u, Some(&u_tangent))?;
        let without = claim.second_order(&point.x, &v, &u, None)?;
        let pulled = claim.vjp(&point.x, &u_tangent)?;
        compare(&mut worst, "all inputs", &with, [1.0, 1.0], [&without, &pulled]);
    }
    Ok(worst.finish("the second order and the VJP are zero"))
}
