//! Two symmetries: the VJP is the adjoint of the JVP, and a Hessian is its own.
//!
//! ```text
//! ⟨u, J v⟩ = ⟨Jᵀ u, v⟩        relative to ‖J v‖‖u‖ + ‖v‖‖Jᵀ u‖
//! ⟨w, H v⟩ = ⟨v, H w⟩         relative to |⟨w, H v⟩| + |⟨v, H w⟩|
//! ```

use super::finding::{Measured, Worst};
use super::point::Part;
use super::vectors::{dot, norm};
use super::{Block, Claim, Point};

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
    let mut worst = Worst::default();
    for index in 0..ADJOINT_PAIRS {
        let u = point.draw(Part::Cotangent, index, claim.outputs());
        let pulled = claim.vjp(&point.x, &u)?;
        let direction = point.direction(index);
        for part in &parts {
            // A direction that is zero outside the block sees only the block's share of the VJP.
            let mut v = vec![0.0; n];
            v[part.range.clone()].copy_from_slice(&direction[part.range.clone()]);
            let pushed = claim.jvp(&point.x, &v)?;
            let pulled = &pulled[part.range.clone()];
            let difference = dot(&u, &pushed) - dot(pulled, &v[part.range.clone()]);
            let size = norm(&pushed) * norm(&u) + norm(&v) * norm(pulled);
            worst.take(difference.abs(), size, || part.name.clone());
        }
    }
    Ok(worst.finish("J v and Jᵀ u are zero"))
}

/// Symmetry of H. One pair can be unlucky: where ⟨w, H v⟩ nearly vanishes, its rounding is large
/// beside it. So differences and sizes are summed over all pairs before they are divided.
pub(super) fn hessian<C: Claim + ?Sized>(claim: &C, point: &Point) -> Measured {
    let (mut difference, mut size) = (0.0, 0.0);
    for index in 0..HESSIAN_PAIRS {
        let u = point.draw(Part::Cotangent, index, claim.outputs());
        let (v, w) = (point.direction(index), point.other_direction(index));
        let one = dot(&w, &claim.second_order(&point.x, &v, &u, None)?);
        let other = dot(&v, &claim.second_order(&point.x, &w, &u, None)?);
        difference += (one - other).abs();
        size += one.abs() + other.abs();
    }
    let mut worst = Worst::default();
    worst.take(difference, size, || "all pairs".into());
    Ok(worst.finish("H is zero: a zero is symmetric"))
}
