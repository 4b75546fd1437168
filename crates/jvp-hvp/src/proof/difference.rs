//! The second order against a central difference of the claim's own gradient.
//!
//! ```text
//! H v ≈ (g(x + hv) - g(x - hv)) / 2h,      h = ∛ε,      g = Jᵀu
//! ```
//!
//! It says that two rules of one claim fit together, not that either is right: a gradient that is
//! wrong passes with the Hessian that belongs to it.

use super::finding::{Measured, Worst};
use super::point::Part;
use super::vectors::{combine, distance, norm, plus};
use super::{Claim, Point};

/// Random (u, v).
const DRAWS: u32 = 4;

/// The worst relative distance.
pub(super) fn central<C: Claim + ?Sized>(claim: &C, point: &Point) -> Measured {
    let h = f64::EPSILON.cbrt();
    let mut worst = Worst::default();
    for index in 0..DRAWS {
        let v = point.direction(index);
        let u = point.draw(Part::Cotangent, index, claim.outputs());
        let claimed = claim.second_order(&point.x, &v, &u, None)?;
        let gradient = |h: f64| claim.vjp(&plus(&point.x, h, &v), &u);
        let difference = combine(0.5 / h, &gradient(h)?, -0.5 / h, &gradient(-h)?);
        let size = norm(&claimed).max(norm(&difference));
        worst.take(distance(&claimed, &difference), size, || "all inputs".into());
    }
    Ok(worst.finish("H is zero, and the gradient does not move"))
}
