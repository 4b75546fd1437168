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

/// So many roundings off, a number is still judged by what rounding took from it.
const CLOSE: f64 = 8.0;

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
        // Where a number is farther off than rounding takes it, what rounding took says nothing: next to a result of zero
        // all of it is noise.
        if error.abs() > CLOSE * most::<E>(made) {
            continue;
        }
        along += rest * error;
        of_rests += rest * rest;
        of_errors += error * error;
        count += 1.0;
    }
    // Of rests that have nothing to do with the errors this is a sum of `count` terms of either sign.
    let by_chance = (of_rests * of_errors / f64::max(count, 1.0)).sqrt();
    (along < -NEVER_BY_CHANCE * by_chance).then(|| "what rounding took has the wrong sign".into())
}

#[cfg(test)]
mod tests {
    use half::bf16;

    use super::*;

    /// What is wanted, what was made of it, and what rounding took.
    fn rounded(shape: [usize; 4]) -> [Tensor<f64>; 3] {
        let wanted = |[_, h, i, c]: [usize; 4]| ((h * 31 + i * 7 + c * 3 + 1) as f64).sin();
        let made = |at| bf16::from_f64(wanted(at)).to_f64();
        let rest = |at| bf16::rest_of(wanted(at) as f32).to_f64();
        [
            Tensor::from_fn(shape, wanted).unwrap(),
            Tensor::from_fn(shape, made).unwrap(),
            Tensor::from_fn(shape, rest).unwrap(),
        ]
    }

    fn judged(change: impl Fn([usize; 4], f64) -> f64) -> Option<String> {
        let [wanted, made, rest] = rounded([1, 2, 10, 8]);
        let rest = Tensor::from_fn(rest.shape(), |at| bf16::from_f64(change(at, rest.at(at)))).unwrap();
        wrong(&rest, &made, &wanted)
    }

    #[test]
    fn what_rounding_took_passes_and_nothing_of_another_size_or_sign() {
        assert_eq!(judged(|_, rest| rest), None);
        assert!(judged(|_, rest| -rest).unwrap().contains("wrong sign"));
        assert!(judged(|_, rest| 4.0 * rest).unwrap().contains("rounding took"));
        let unwritten = |at, rest| if at == [0, 1, 9, 7] { f64::NAN } else { rest };
        assert!(judged(unwritten).unwrap().contains("[0, 1, 9, 7]"));
    }

    #[test]
    fn noise_next_to_zero_is_not_judged_by_its_sign() {
        let [_, made, rest] = rounded([1, 2, 10, 8]);
        let zero = Tensor::<f64>::zeros(made.shape()).unwrap();
        let of_its_sign =
            Tensor::from_fn(made.shape(), |at| bf16::from_f64(rest.at(at).abs() * made.at(at).signum()));
        assert_eq!(wrong(&of_its_sign.unwrap(), &made, &zero), None);
    }

    #[test]
    fn a_type_that_does_not_round_has_nothing_beside_it() {
        let [wanted, _, rest] = rounded([1, 1, 3, 2]);
        assert_eq!(wrong(&Tensor::<f64>::zeros([1, 1, 3, 2]).unwrap(), &wanted, &wanted), None);
        assert!(wrong(&rest, &wanted, &wanted).is_some());
    }
}
