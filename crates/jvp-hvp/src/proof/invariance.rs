//! What f does not see, its derivatives do not see either.
//!
//! If `f(x + w) = f(x)` for every x, then
//!
//! ```text
//! J w = 0          ⟨w, Jᵀu⟩ = 0          H w = 0          ⟨w, H v⟩ = 0
//! ```
//!
//! For attention: a bias that is constant along a row, or one vector added to all keys of a head,
//! shifts every score of a row by the same amount, and a softmax does not see that. So J vanishes
//! along such a shift, and each row of dBias and dBias′ sums to zero. A softmax whose statistics are
//! held constant sees every shift.
//!
//! Of a row that sees one key, all of dBias is rounding: a product with w counts where its terms rise
//! above the rounding of ‖w‖‖Jᵀu‖, and H where it rises above the rounding of Jᵀu.

use super::finding::{Measured, Obstacle, Worst};
use super::linearity::gradient_size;
use super::point::Part;
use super::vectors::{dot, norm, plus, size_of_dot};
use super::{Claim, Point, Proof};

/// Random (u, v), and random combinations of the invariant directions.
const DRAWS: u32 = 4;

/// The worst of the four identities, for whichever rules are claimed.
pub(super) fn invariant<C: Claim + ?Sized>(claim: &C, point: &Point) -> Measured {
    let invariant = claim.invariant_directions();
    if invariant.is_empty() {
        return Err(Obstacle::NotApplicable("no invariant direction is named".into()));
    }
    let mut worst = Worst::of(Proof::Invariance);
    for index in 0..DRAWS {
        let factors = point.draw(Part::Combination, index, invariant.len());
        let shift = factors
            .iter()
            .zip(&invariant)
            .fold(vec![0.0; point.x.len()], |sum, (factor, w)| plus(&sum, *factor, w));
        let v = point.direction(index);
        // The derivative along any other direction of the same length.
        let relative = norm(&shift) / norm(&v);
        let u = point.draw(Part::Cotangent, index, claim.outputs());

        let pushed = [claim.jvp(&point.x, &shift), claim.jvp(&point.x, &v)];
        if let [Some(along), Some(elsewhere)] = both(pushed)? {
            let size = norm(&elsewhere) * relative;
            worst.take(norm(&along), size, size, "J w");
        }
        if let [Some(pulled), _] = both([claim.vjp(&point.x, &u), Ok(Vec::new())])? {
            orthogonal(&mut worst, &invariant, &pulled, norm(&pulled), "⟨w, Jᵀu⟩");
        }
        let second = |v| claim.second_order(&point.x, v, &u, None);
        if let [Some(along), Some(elsewhere)] = both([second(&shift), second(&v)])? {
            let size = norm(&elsewhere);
            let scale = size + gradient_size(claim, point, &u)?;
            worst.take(norm(&along), size * relative, scale * relative, "H w");
            orthogonal(&mut worst, &invariant, &elsewhere, scale, "⟨w, H v⟩");
        }
    }
    Ok(worst.finish("every derivative is zero"))
}

fn orthogonal(worst: &mut Worst, invariant: &[Vec<f64>], vector: &[f64], scale: f64, place: &str) {
    for w in invariant {
        worst.take(dot(w, vector).abs(), size_of_dot(w, vector), norm(w) * scale, place);
    }
}

/// The numbers of rules that are claimed, and nothing of those that are not.
fn both<E: std::fmt::Display>(answers: [super::Answer<E>; 2]) -> Result<[Option<Vec<f64>>; 2], Obstacle> {
    let mut numbers = [None, None];
    for (number, answer) in numbers.iter_mut().zip(answers) {
        *number = match answer {
            Ok(vector) => Some(vector),
            Err(super::Gap::NotClaimed(_)) => None,
            Err(failed) => return Err(failed.into()),
        };
    }
    Ok(numbers)
}
