//! How what rounding took is judged.
//!
//! The bounds of 16-bit types are wider than a rounding, so they see nothing of it. Three things do: it is no number
//! where O is one, it is more than a rounding can take, or O is farther from the oracle with it than without.

use crate::{DType, Element, Tensor};

/// What a rounding to `made` takes at most: half of a unit in the last place, which was rounded once more. Next to zero
/// units of f16 do not shrink with its numbers.
fn most<E: Element>(made: f64) -> f64 {
    let (half_a_unit, smallest) = match E::DTYPE {
        DType::F64 | DType::F32 => (0.0, 0.0),
        DType::F16 => (2.0_f64.powi(-11), 2.0_f64.powi(-24)),
        DType::Bf16 => (2.0_f64.powi(-8), 0.0),
    };
    made.abs() * half_a_unit * (1.0 + 2.0_f64.powi(-6)) + smallest
}

/// Roundings have either sign. So many standard deviations that a sum of them is off, it never is by chance.
const NEVER_BY_CHANCE: f64 = 4.0;

/// What is wrong with what rounding took from `made`, if anything is.
pub(super) fn wrong<E: Element>(
    rest: &Tensor<E>,
    made: &Tensor<f64>,
    wanted: &Tensor<f64>,
) -> Option<String> {
    let (mut along, mut of_rests, mut of_errors, mut count) = (0.0, 0.0, 0.0, 0.0);
    let [batch, heads, rows, columns] = made.shape();
    for at in 0..batch * heads * rows * columns {
        let row = at / columns;
        let index = [row / rows / heads, row / rows % heads, row % rows, at % columns];
        let (rest, made) = (rest.at(index).to_f64(), made.at(index));
        if !made.is_finite() {
            continue;
        }
        if rest.is_nan() || rest.abs() > most::<E>(made) {
            return Some(format!("rounding took {rest:e} from {made:e} at {index:?}"));
        }
        let error = wanted.at(index) - made;
        along += rest * error;
        of_rests += rest * rest;
        of_errors += error * error;
        count += 1.0;
    }
    // Of rests that have nothing to do with the errors this is a sum of `count` terms of either sign.
    let by_chance = (of_rests * of_errors / f64::max(count, 1.0)).sqrt();
    (along < -NEVER_BY_CHANCE * by_chance).then(|| "what rounding took has the wrong sign".into())
}
