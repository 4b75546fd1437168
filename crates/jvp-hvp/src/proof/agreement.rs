//! Every rule against an oracle: another claim of the same function.
//!
//! ```text
//! max |claimed - oracle| / RMS(oracle)          for each rule, and each block of a cotangent
//! ```
//!
//! A cotangent is compared as a whole, because blocks need not cover it, and then block by block. A
//! block counts where it rises above the rounding of the whole, and the second order where it rises
//! above that of the VJP. A rule that the claim has and the oracle has not makes the proof invalid:
//! nothing was said about it.

use super::finding::{Detail, Measured, Measurement, Obstacle, Worst};
use super::point::Part;
use super::vectors::{combine, largest, rms};
use super::{Answer, Block, Claim, Gap, Point, Proof};

/// Random (u, u′, v).
const DRAWS: u32 = 2;

/// The worst error of the rules that both claim.
pub(super) fn agrees<C: Claim + ?Sized, O: Claim + ?Sized>(claim: &C, oracle: &O, point: &Point) -> Measured {
    let x = &point.x;
    if oracle.outputs() != claim.outputs() {
        let (given, right) = (claim.outputs(), oracle.outputs());
        return Err(Obstacle::Invalid(format!("{given} outputs against {right} of the oracle")));
    }
    let mut comparison = Comparison {
        worst: Worst::of(Proof::Agreement),
        blocks: claim.blocks(),
        compared: Vec::new(),
        missing: Vec::new(),
    };
    for index in 0..DRAWS {
        let v = point.direction(index);
        let [u, u_tangent] =
            [Part::Cotangent, Part::CotangentTangent].map(|part| point.draw(part, index, claim.outputs()));
        comparison.output("the value", claim.value(x), oracle.value(x))?;
        comparison.output("the JVP", claim.jvp(x, &v), oracle.jvp(x, &v))?;
        let gradient = oracle.vjp(x, &u);
        let scale = gradient.as_ref().map_or(0.0, |gradient| largest(gradient));
        comparison.cotangent("the VJP", claim.vjp(x, &u), gradient, 0.0)?;
        for u_tangent in [None, Some(u_tangent.as_slice())] {
            let claimed = claim.second_order(x, &v, &u, u_tangent);
            let right = oracle.second_order(x, &v, &u, u_tangent);
            comparison.cotangent("the second order", claimed, right, scale)?;
        }
    }
    Ok(comparison.finish())
}

/// What was compared so far, and what could not be.
struct Comparison {
    worst: Worst,
    blocks: Vec<Block>,
    compared: Vec<&'static str>,
    missing: Vec<&'static str>,
}

impl Comparison {
    fn output<E, F>(
        &mut self,
        rule: &'static str,
        claimed: Answer<E>,
        oracle: Answer<F>,
    ) -> Result<(), Obstacle>
    where
        E: std::fmt::Display,
        F: std::fmt::Display,
    {
        if let Some((claimed, right)) = self.both(rule, claimed, oracle)? {
            self.take(&claimed, &right, 0.0, rule.into());
        }
        Ok(())
    }

    /// A vector like x: all of it, and each block, of which `scale` may be the size of the terms.
    fn cotangent<E, F>(
        &mut self,
        rule: &'static str,
        claimed: Answer<E>,
        oracle: Answer<F>,
        scale: f64,
    ) -> Result<(), Obstacle>
    where
        E: std::fmt::Display,
        F: std::fmt::Display,
    {
        if let Some((claimed, right)) = self.both(rule, claimed, oracle)? {
            self.take(&claimed, &right, scale, format!("{rule}, all inputs"));
            let scale = scale + largest(&right);
            for block in self.blocks.clone() {
                let place = format!("{rule}, {}", block.name);
                self.take(&claimed[block.range.clone()], &right[block.range], scale, place);
            }
        }
        Ok(())
    }

    fn take(&mut self, claimed: &[f64], right: &[f64], scale: f64, place: String) {
        let difference = largest(&combine(1.0, claimed, -1.0, right));
        self.worst.take(difference, rms(right), scale, place);
    }

    /// The numbers of both, or a note of what is missing.
    fn both<E, F>(
        &mut self,
        rule: &'static str,
        claimed: Answer<E>,
        oracle: Answer<F>,
    ) -> Result<Option<(Vec<f64>, Vec<f64>)>, Obstacle>
    where
        E: std::fmt::Display,
        F: std::fmt::Display,
    {
        let (noted, both) = match (claimed, oracle) {
            (Err(Gap::NotClaimed(_)), _) => return Ok(None),
            (Ok(_), Err(Gap::NotClaimed(_))) => (&mut self.missing, None),
            (Ok(claimed), Ok(right)) => (&mut self.compared, Some((claimed, right))),
            (Err(failed), _) => return Err(failed.into()),
            (_, Err(failed)) => return Err(failed.into()),
        };
        if !noted.contains(&rule) {
            noted.push(rule);
        }
        Ok(both)
    }

    /// A mistake that was found stands, whatever else is missing.
    fn finish(self) -> Measurement {
        let allowed = self.worst.is_allowed();
        let mut measurement = self.worst.finish("everything is zero");
        if allowed && !self.missing.is_empty() {
            let missing = self.missing.join(" and ");
            measurement.invalid = Some(format!("{missing} is claimed, and the oracle has none"));
        }
        if let Detail::Where(place) = measurement.detail {
            let compared = self.compared.join(", ");
            measurement.detail = Detail::Where(format!("{place} of {compared} compared"));
        }
        measurement
    }
}
