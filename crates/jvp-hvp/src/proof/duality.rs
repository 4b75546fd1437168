//! Two symmetries: the VJP is the adjoint of the JVP, and a Hessian is its own.
//!
//! ```text
//! ⟨u, J v⟩ = ⟨Jᵀ u, v⟩        relative to ‖J v‖‖u‖ + ‖v‖‖Jᵀ u‖
//! ⟨w, H v⟩ = ⟨v, H w⟩         relative to |⟨w, H v⟩| + |⟨v, H w⟩|
//! ```
//!
//! A block alone counts where it rises above the rounding of all blocks together: the derivative
//! along a bias that a softmax does not see is rounding, and rounding has no adjoint. In the same way
//! H counts where it rises above the rounding of the gradient of which it is the derivative.

use super::finding::{Measured, Worst};
use super::linearity::gradient_size;
use super::point::Part;
use super::vectors::{dot, norm};
use super::{Block, Claim, Point, Proof};

/// Pairs (u, v) of the adjoint identity, for each block alone and for all inputs together.
const ADJOINT_PAIRS: u32 = 20;

/// Pairs (v, w) of the Hessian's symmetry.
const HESSIAN_PAIRS: u32 = 8;

/// The adjoint identity: the worst of all pairs and blocks.
pub(super) fn adjoint<C: Claim + ?Sized>(claim: &C, point: &Point) -> Measured {
    let n = point.x.len();
    let mut parts = vec![Block::new("all inputs together", 0..n)];
    parts.extend(
        claim.blocks().into_iter().map(|block| Block { name: format!("{} alone", block.name), ..block }),
    );
    let mut worst = Worst::of(Proof::Adjoint);
    for index in 0..ADJOINT_PAIRS {
        let u = point.draw(Part::Cotangent, index, claim.outputs());
        let pulled = claim.vjp(&point.x, &u)?;
        let direction = point.direction(index);
        let all = norm(&claim.jvp(&point.x, &direction)?) * norm(&u) + norm(&direction) * norm(&pulled);
        for part in &parts {
            // A direction that is zero outside the block sees only the block's share of the VJP.
            let mut v = vec![0.0; n];
            v[part.range.clone()].copy_from_slice(&direction[part.range.clone()]);
            let pushed = claim.jvp(&point.x, &v)?;
            let pulled = &pulled[part.range.clone()];
            let difference = dot(&u, &pushed) - dot(pulled, &v[part.range.clone()]);
            let size = norm(&pushed) * norm(&u) + norm(&v) * norm(pulled);
            worst.take(difference.abs(), size, all, &part.name);
        }
    }
    Ok(worst.finish("J v and Jᵀ u are zero"))
}

/// Symmetry of H. One pair can be unlucky: where ⟨w, H v⟩ nearly vanishes, its rounding is large
/// beside it. So differences and sizes are summed over all pairs before they are divided.
pub(super) fn hessian<C: Claim + ?Sized>(claim: &C, point: &Point) -> Measured {
    let (mut difference, mut size, mut scale) = (0.0, 0.0, 0.0);
    for index in 0..HESSIAN_PAIRS {
        let u = point.draw(Part::Cotangent, index, claim.outputs());
        let (v, w) = (point.direction(index), point.other_direction(index));
        let along_v = claim.second_order(&point.x, &v, &u, None)?;
        let along_w = claim.second_order(&point.x, &w, &u, None)?;
        let (one, other) = (dot(&w, &along_v), dot(&v, &along_w));
        difference += (one - other).abs();
        size += one.abs() + other.abs();
        let gradient = gradient_size(claim, point, &u)?;
        scale += norm(&w) * (norm(&along_v) + gradient) + norm(&v) * (norm(&along_w) + gradient);
    }
    let mut worst = Worst::of(Proof::Symmetry);
    worst.take(difference, size, scale, "all pairs");
    Ok(worst.finish("H is zero: a zero is symmetric"))
}
