//! Numbers as tables have them. What is not there is a dash, and what is no number is said to be none.

fn shown(number: Option<f64>, how: impl Fn(f64) -> String) -> String {
    match number {
        None => "-".into(),
        Some(number) if number.is_finite() => how(number),
        Some(_) => "not finite".into(),
    }
}

/// An error: two digits and a power of ten.
pub(super) fn scientific(number: Option<f64>) -> String {
    shown(number, |number| if number == 0.0 { "0".into() } else { format!("{number:.1e}") })
}

/// Digits after the point.
pub(super) fn fixed(number: Option<f64>, digits: usize) -> String {
    shown(number, |number| {
        let text = format!("{number:.digits$}");
        // What is rounded to zero has no sign.
        if text.bytes().all(|byte| b"-0.".contains(&byte)) { text.replace('-', "") } else { text }
    })
}

/// Microseconds, in the unit that fits.
pub(super) fn time(micros: Option<f64>) -> String {
    shown(micros, |micros| match micros {
        short if short < 1e3 => format!("{short:.0} µs"),
        middle if middle < 1e6 => format!("{:.2} ms", middle / 1e3),
        long => format!("{:.2} s", long / 1e6),
    })
}

/// Bytes, in MiB.
pub(super) fn mib(bytes: Option<f64>) -> String {
    shown(bytes, |bytes| format!("{:.1} MiB", bytes / f64::from(1 << 20)))
}

/// The mean; none of nothing.
pub(super) fn mean(numbers: &[f64]) -> Option<f64> {
    (!numbers.is_empty()).then(|| numbers.iter().sum::<f64>() / numbers.len() as f64)
}

/// The largest one, and not a number if one is not; none of nothing.
pub(super) fn worst(numbers: &[f64]) -> Option<f64> {
    numbers.iter().copied().reduce(|a, b| if a.is_nan() || b.is_nan() { f64::NAN } else { a.max(b) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_shown_in_the_unit_that_fits_and_the_worst_hides_nothing() {
        assert_eq!((scientific(Some(5.06e-16)), scientific(Some(0.0))), ("5.1e-16".into(), "0".into()));
        assert_eq!((scientific(None), scientific(Some(f64::NAN))), ("-".into(), "not finite".into()));
        assert_eq!([12.4, 1234.0, 2.5e6].map(|us| time(Some(us))), ["12 µs", "1.23 ms", "2.50 s"]);
        assert_eq!((fixed(Some(-0.0004), 3), fixed(Some(-0.004), 3)), ("0.000".into(), "-0.004".into()));
        assert_eq!(mib(Some(1_572_864.0)), "1.5 MiB");
        assert_eq!((worst(&[1.0, 3.0, 2.0]), worst(&[])), (Some(3.0), None));
        assert!(worst(&[1.0, f64::NAN, 2.0]).unwrap().is_nan());
    }
}
