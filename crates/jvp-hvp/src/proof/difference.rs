//! The second order against a central difference of the claim's own gradient.
//!
//! ```text
//! H v ≈ (g(x + hv) - g(x - hv)) / 2h,      h = ∛ε,      g = Jᵀu
//! ```
//!
//! It says that two rules of one claim fit together, not that either is right: a gradient that is
//! wrong passes with the Hessian that belongs to it. H v counts where it rises above the rounding of
//! g / h, which is that of the difference.

use super::finding::{Measured, Worst};
use super::point::Part;
use super::vectors::{combine, distance, norm, plus};
use super::{Claim, Point, Proof};

/// Random (u, v).
const DRAWS: u32 = 4;

/// The worst relative distance.
pub(super) fn central<C: Claim + ?Sized>(claim: &C, point: &Point) -> Measured {
    let h = f64::EPSILON.cbrt();
    let mut worst = Worst::of(Proof::CentralDifference);
    for index in 0..DRAWS {
        let v = point.direction(index);
        let u = point.draw(Part::Cotangent, index, claim.outputs());
        let claimed = claim.second_order(&point.x, &v, &u, None)?;
        let gradient = |h: f64| claim.vjp(&plus(&point.x, h, &v), &u);
        let (ahead, behind) = (gradient(h)?, gradient(-h)?);
        let difference = combine(0.5 / h, &ahead, -0.5 / h, &behind);
        let scale = (norm(&ahead) + norm(&behind)) * 0.5 / h;
        let size = norm(&claimed).max(norm(&difference));
        worst.take(distance(&claimed, &difference), size, scale, "all inputs");
    }
    Ok(worst.finish("H is zero, and the gradient does not move"))
}
