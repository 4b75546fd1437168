//! Every rule against an oracle: another claim of the same function.
//!
//! ```text
//! max |claimed - oracle| / RMS(oracle)          for each rule, and each block of a cotangent
//! ```

use super::finding::{Measured, Obstacle, Worst};
use super::point::Part;
use super::vectors::square;
use super::{Answer, Block, Claim, Gap, Point};

/// Random (u, u′, v).
const DRAWS: u32 = 2;

/// The worst error of the rules that both claim.
pub(super) fn agrees<C: Claim + ?Sized, O: Claim + ?Sized>(claim: &C, oracle: &O, point: &Point) -> Measured {
    let x = &point.x;
    let mut blocks = claim.blocks();
    if blocks.is_empty() {
        blocks.push(Block::new("all", 0..x.len()));
    }
    if oracle.outputs() != claim.outputs() {
        let (given, right) = (claim.outputs(), oracle.outputs());
        return Err(Obstacle::Invalid(format!("{given} outputs against {right} of the oracle")));
    }
    let outputs = [Block::new("all", 0..claim.outputs())];
    let mut worst = Worst::default();
    for index in 0..DRAWS {
        let v = point.direction(index);
        let [u, u_tangent] =
            [Part::Cotangent, Part::CotangentTangent].map(|part| point.draw(part, index, claim.outputs()));
        compare(&mut worst, "the value", &outputs, claim.value(x), oracle.value(x))?;
        compare(&mut worst, "the JVP", &outputs, claim.jvp(x, &v), oracle.jvp(x, &v))?;
        compare(&mut worst, "the VJP", &blocks, claim.vjp(x, &u), oracle.vjp(x, &u))?;
        for u_tangent in [None, Some(u_tangent.as_slice())] {
            let claimed = claim.second_order(x, &v, &u, u_tangent);
            let right = oracle.second_order(x, &v, &u, u_tangent);
            compare(&mut worst, "the second order", &blocks, claimed, right)?;
        }
    }
    Ok(worst.finish("everything is zero"))
}

fn compare<E, F>(
    worst: &mut Worst,
    rule: &str,
    blocks: &[Block],
    claimed: Answer<E>,
    oracle: Answer<F>,
) -> Result<(), Obstacle>
where
    E: std::fmt::Display,
    F: std::fmt::Display,
{
    let (claimed, right) = match (claimed, oracle) {
        (Ok(claimed), Ok(right)) => (claimed, right),
        (Err(Gap::NotClaimed(_)), _) | (_, Err(Gap::NotClaimed(_))) => return Ok(()),
        (Err(failed), _) => return Err(failed.into()),
        (_, Err(failed)) => return Err(failed.into()),
    };
    for block in blocks {
        let right = &right[block.range.clone()];
        let rms = (square(right) / right.len().max(1) as f64).sqrt();
        let differences = claimed[block.range.clone()].iter().zip(right).map(|(a, b)| (a - b).abs());
        let largest =
            differences.fold(0.0, |a: f64, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) });
        worst.take(largest, rms, || format!("{rule}, {}", block.name));
    }
    Ok(())
}
