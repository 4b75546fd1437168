//! The same call twice gives the same bits.
//!
//! What is redrawn between calls (a dropout mask, say) has no derivative, and every other proof
//! takes differences of calls. Numbers that are not finite, and none at all, repeat without saying
//! anything: then the proof is invalid.

use super::finding::{Detail, Measured, Measurement, Obstacle};
use super::point::Part;
use super::{Answer, Claim, Gap, Point};

/// The number of values whose bits differ.
pub(super) fn repeats<C: Claim + ?Sized>(claim: &C, point: &Point) -> Measured {
    let x = &point.x;
    let v = point.direction(0);
    let u = point.draw(Part::Cotangent, 0, claim.outputs());
    let u_tangent = point.draw(Part::CotangentTangent, 0, claim.outputs());
    let rules: [(&str, &dyn Fn() -> Answer<C::Error>); 4] = [
        ("the value", &|| claim.value(x)),
        ("the JVP", &|| claim.jvp(x, &v)),
        ("the VJP", &|| claim.vjp(x, &u)),
        ("the second order", &|| claim.second_order(x, &v, &u, Some(&u_tangent))),
    ];
    let mut measurement = Measurement::new(0.0);
    if claim.outputs() == 0 {
        measurement.invalid = Some("there is no output".into());
    }
    for (name, rule) in rules {
        match [rule(), rule()] {
            [Ok(first), Ok(again)] => {
                let differing = first.iter().zip(&again).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
                if differing > 0 && measurement.measured == 0.0 {
                    measurement.detail = Detail::Where(name.into());
                }
                measurement.measured += differing as f64;
                if first.iter().any(|number| !number.is_finite()) {
                    measurement.invalid.get_or_insert(format!("{name} is not finite"));
                }
            }
            [Err(Gap::NotClaimed(_)), Err(Gap::NotClaimed(_))] => {}
            [Err(Gap::Failed(error)), _] | [_, Err(Gap::Failed(error))] => {
                return Err(Obstacle::Invalid(format!("{name} failed: {error}")));
            }
            _ => return Err(Obstacle::Invalid(format!("{name} is claimed only sometimes"))),
        }
    }
    if measurement.measured > 0.0 {
        measurement.invalid = None;
    }
    Ok(measurement)
}
