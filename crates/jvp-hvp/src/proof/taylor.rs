//! Five Taylor proofs: each claimed term must leave a remainder of the next order.
//!
//! ```text
//! value        ‖f(x + hv) - f(x)‖                                   ~ h     f moves at all
//! JVP          ‖f(x + hv) - f(x) - h J v‖                           ~ h²
//! VJP          |φ(x + hv) - φ(x) - h ⟨Jᵀu, v⟩|                      ~ h²    φ = ⟨u, f⟩
//! second order |φ(x + hv) - φ(x) - h ⟨Jᵀu, v⟩ - h²/2 ⟨v, H v⟩|      ~ h³
//! gradient     ‖g(x + hv) - g(x) - h H v‖                           ~ h²    g = Jᵀu
//! ```
//!
//! One direction can be unlucky: where the leading term of its remainder happens to be small, the
//! next one bends the slope. So a remainder here is the root mean square over eight random
//! directions (and as many u), each walked both ways, +h and -h. The leading terms are not all small,
//! and in the sum of squares over both ways the product of the leading term and the next one cancels:
//! what is left bends the slope by O(h²). Nothing is fitted to the function, and no direction is
//! chosen by its result.

use super::finding::{Detail, Measured, Measurement, Obstacle};
use super::point::Part;
use super::remainders::halved;
use super::vectors::{dot, plus, square};
use super::{Claim, Point, Remainders};

/// Random directions of one proof.
const WALKS: u32 = 8;

/// Steps of a proof as fractions of the reach. The remainder of order two is about h², that of
/// order three about h³: both ranges end where these are 1e5 roundings, more than the guard asks.
const TO_ORDER_TWO: (f64, i32) = (1.0 / 512.0, 6);
const TO_ORDER_THREE: (f64, i32) = (1.0 / 64.0, 5);

/// What is followed along one walk: f or g at a step, and the polynomial that it should follow.
struct Walk {
    direction: Vec<f64>,
    /// c₀, c₁, c₂ of the polynomial in h; each has as many entries as the function.
    coefficients: Vec<Vec<f64>>,
    /// The square of the size of the terms that are subtracted.
    square_of_scale: f64,
}

/// The root mean square of the remainders of `f(walk, x + hv)` over all walks and both ways.
fn follow(
    point: &Point,
    walks: &[Walk],
    (first, halvings): (f64, i32),
    mut f: impl FnMut(usize, &[f64]) -> Result<Vec<f64>, Obstacle>,
) -> Measured {
    let steps = halved(first, halvings);
    let mut remainders = Vec::with_capacity(steps.len());
    let ways = 2.0 * walks.len() as f64;
    for step in &steps {
        let mut sum = 0.0;
        for (index, walk) in walks.iter().enumerate() {
            for h in [*step, -step] {
                let mut remainder = f(index, &plus(&point.x, h, &walk.direction))?;
                let mut power = 1.0;
                for coefficient in &walk.coefficients {
                    remainder = plus(&remainder, -power, coefficient);
                    power *= h;
                }
                sum += square(&remainder);
            }
        }
        remainders.push((sum / ways).sqrt());
    }
    let mean_square = walks.iter().map(|walk| walk.square_of_scale).sum::<f64>() / walks.len() as f64;
    let remainders = Remainders::new(steps, remainders, mean_square.sqrt());
    Ok(Measurement {
        measured: remainders.slope,
        invalid: remainders.invalid(),
        detail: Detail::Remainders(remainders),
    })
}

/// f along v, after the given terms beyond c₀.
fn follow_value<C: Claim + ?Sized>(
    claim: &C,
    point: &Point,
    terms: impl Fn(&[f64]) -> Result<Vec<Vec<f64>>, Obstacle>,
) -> Measured {
    let value = claim.value(&point.x)?;
    let mut walks = Vec::new();
    for index in 0..WALKS {
        let direction = point.direction(index);
        let mut coefficients = vec![value.clone()];
        coefficients.extend(terms(&direction)?);
        walks.push(Walk { direction, coefficients, square_of_scale: square(&value) });
    }
    follow(point, &walks, TO_ORDER_TWO, |_, x| Ok(claim.value(x)?))
}

/// Order 1: f moves.
pub(super) fn value<C: Claim + ?Sized>(claim: &C, point: &Point) -> Measured {
    follow_value(claim, point, |_| Ok(Vec::new()))
}

/// Order 2 through the JVP.
pub(super) fn jvp<C: Claim + ?Sized>(claim: &C, point: &Point) -> Measured {
    follow_value(claim, point, |v| Ok(vec![claim.jvp(&point.x, v)?]))
}

/// φ along v, after the terms that the VJP and, for order 3, the second-order rule give.
fn follow_functional<C: Claim + ?Sized>(claim: &C, point: &Point, with_curvature: bool) -> Measured {
    let value = claim.value(&point.x)?;
    let mut walks = Vec::new();
    let mut cotangents = Vec::new();
    for index in 0..WALKS {
        let v = point.direction(index);
        let u = point.draw(Part::Cotangent, index, claim.outputs());
        let mut coefficients = vec![vec![dot(&u, &value)], vec![dot(&claim.vjp(&point.x, &u)?, &v)]];
        if with_curvature {
            let curvature = dot(&v, &claim.second_order(&point.x, &v, &u, None)?);
            coefficients.push(vec![curvature / 2.0]);
        }
        let square_of_scale = u.iter().zip(&value).map(|(u, value)| (u * value).powi(2)).sum();
        walks.push(Walk { direction: v, coefficients, square_of_scale });
        cotangents.push(u);
    }
    let steps = if with_curvature { TO_ORDER_THREE } else { TO_ORDER_TWO };
    follow(point, &walks, steps, |walk, x| Ok(vec![dot(&cotangents[walk], &claim.value(x)?)]))
}

/// Order 2 through the VJP.
pub(super) fn vjp<C: Claim + ?Sized>(claim: &C, point: &Point) -> Measured {
    follow_functional(claim, point, false)
}

/// Order 3 through the VJP and the second-order rule.
pub(super) fn second_order<C: Claim + ?Sized>(claim: &C, point: &Point) -> Measured {
    follow_functional(claim, point, true)
}

/// Order 2 of the gradient, through the second-order rule.
pub(super) fn gradient<C: Claim + ?Sized>(claim: &C, point: &Point) -> Measured {
    let mut walks = Vec::new();
    let mut cotangents = Vec::new();
    for index in 0..WALKS {
        let v = point.direction(index);
        let u = point.draw(Part::Cotangent, index, claim.outputs());
        let gradient = claim.vjp(&point.x, &u)?;
        let square_of_scale = square(&gradient);
        let coefficients = vec![gradient, claim.second_order(&point.x, &v, &u, None)?];
        walks.push(Walk { direction: v, coefficients, square_of_scale });
        cotangents.push(u);
    }
    follow(point, &walks, TO_ORDER_TWO, |walk, x| Ok(claim.vjp(x, &cotangents[walk])?))
}
