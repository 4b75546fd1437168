//! An interval for a mean, by drawing the numbers again.

use theria_maml::tasks::Stream;

/// Means that are drawn.
const DRAWS: usize = 10_000;
/// The stream that they are drawn from: none of the tasks' streams.
const STREAM: u32 = 0x1000;
/// What of them lies within the interval.
const WITHIN: f64 = 0.95;

/// The interval between percentiles that holds 95 % of the means of as many numbers, drawn from these with repetition: always
/// the same for the same numbers. None for fewer than two.
pub(super) fn interval(numbers: &[f64]) -> Option<(f64, f64)> {
    if numbers.len() < 2 {
        return None;
    }
    let mut stream = Stream::new(0, 0, STREAM);
    let count = numbers.len();
    let mut mean = || (0..count).map(|_| numbers[stream.below(count)]).sum::<f64>() / count as f64;
    let mut means: Vec<f64> = (0..DRAWS).map(|_| mean()).collect();
    means.sort_by(f64::total_cmp);
    let at = |share: f64| means[(share * (DRAWS - 1) as f64).round() as usize];
    Some((at((1.0 - WITHIN) / 2.0), at(f64::midpoint(1.0, WITHIN))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 400 normal numbers have a mean with a standard error of 1/20, and the interval reaches 1.96 of these to each side.
    #[test]
    fn the_interval_of_many_normal_numbers_is_that_of_their_standard_error() {
        let mut stream = Stream::new(3, 0, STREAM);
        let numbers: Vec<f64> = (0..400).map(|_| 2.0 + stream.normal()).collect();
        let mean = numbers.iter().sum::<f64>() / 400.0;
        let (low, high) = interval(&numbers).unwrap();
        let deviation = (numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 400.0).sqrt();
        let half = 1.96 * deviation / 20.0;
        assert!(((mean - low) / half - 1.0).abs() < 0.06 && ((high - mean) / half - 1.0).abs() < 0.06);
        assert_eq!(interval(&numbers), Some((low, high)), "the same again");
        // A wider spread is a wider interval.
        let wide: Vec<f64> = numbers.iter().map(|x| 3.0 * x).collect();
        let (wide_low, wide_high) = interval(&wide).unwrap();
        assert!((wide_high - wide_low) > 2.9 * (high - low));
    }

    #[test]
    fn equal_numbers_have_an_interval_of_no_width_and_one_has_none() {
        assert_eq!(interval(&[0.5; 5]), Some((0.5, 0.5)));
        assert_eq!((interval(&[1.0]), interval(&[])), (None, None));
    }
}
