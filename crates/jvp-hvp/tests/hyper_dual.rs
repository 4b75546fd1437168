//! The rules of the textbook are what automatic differentiation makes of its forward: to 1e-13 of the
//! root mean square, over every feature, with no step size to choose.

#[allow(dead_code, unused_imports)] // each test file differentiates in its own way
mod autodiff;
mod cases;

use approx::assert_abs_diff_eq;
use autodiff::{Derivatives, Detached, Packed};
use cases::{Rules, cases, data};
use theria_contract::Attention;
use theria_contract::Host;
use theria_jvp_hvp::Dense;
use theria_jvp_hvp::variant::{Variant, Varied};

/// The largest error over the root mean square of what is wanted, over all tensors of a rule.
fn error(given: &Packed, wanted: &Packed) -> f64 {
    assert_eq!(given.len(), wanted.len());
    let of_tensor = |(given, wanted): (&Vec<f64>, &Vec<f64>)| {
        assert_eq!(given.len(), wanted.len());
        let rms = (wanted.iter().map(|x| x * x).sum::<f64>() / wanted.len().max(1) as f64).sqrt();
        let worst = given.iter().zip(wanted).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
        if worst == 0.0 { 0.0 } else { worst / rms }
    };
    given.iter().zip(wanted).map(of_tensor).fold(0.0, f64::max)
}

const ROUNDING: f64 = 1e-13;

#[test]
fn every_rule_of_the_textbook_is_the_derivative_of_the_forward() {
    for case in cases() {
        let (data, name) = (data(&case), case.name);
        let wanted = Derivatives::of(&data, Detached::default());
        let given = Rules::of(&Dense::new(), &data);
        assert_abs_diff_eq!(error(&given.jvp, &wanted.jvp), 0.0, epsilon = ROUNDING);
        assert_abs_diff_eq!(error(&given.backward, &wanted.backward), 0.0, epsilon = ROUNDING);
        assert!(error(&given.second_order, &wanted.second_order) < ROUNDING, "{name}");
        let without = &wanted.without_cotangent_tangent;
        assert!(error(&given.without_cotangent_tangent, without) < ROUNDING, "{name}");
        assert_eq!(given.first, given.backward, "{name}: the first order of the same sweep");
    }
}

#[test]
fn the_comparison_sees_an_error_of_one_in_a_million_and_a_cotangent_tangent_left_out() {
    for case in cases() {
        let data = data(&case);
        let wanted = Derivatives::of(&data, Detached::default());
        let given = Rules::of(&Varied::new(Variant::DqWrongBy1e6), &data);
        assert!(error(&given.backward, &wanted.backward) > 1e-7, "{}", case.name);
        assert!(error(&given.second_order, &wanted.second_order) > 1e-7, "{}", case.name);
        assert!(error(&given.without_cotangent_tangent, &wanted.second_order) > 1e-2, "{}", case.name);
    }
}

#[test]
fn a_variant_that_detaches_in_the_forward_is_what_autodiff_makes_of_that_forward() {
    let detached = [
        (Variant::FrozenStats, Detached { statistics: true, scores: false }),
        (Variant::DetachedLogits, Detached { statistics: true, scores: true }),
    ];
    for (variant, detached) in detached {
        for case in cases() {
            let (data, name) = (data(&case), case.name);
            let wanted = Derivatives::of(&data, detached);
            let given = Rules::of(&Varied::new(variant), &data);
            assert!(error(&given.jvp, &wanted.jvp) < ROUNDING, "{variant}, {name}: jvp");
            assert!(error(&given.backward, &wanted.backward) < ROUNDING, "{variant}, {name}: backward");
            assert!(error(&given.second_order, &wanted.second_order) < ROUNDING, "{variant}, {name}");
            let exact = Derivatives::of(&data, Detached::default());
            assert!(error(&exact.jvp, &wanted.jvp) > 1e-2, "{variant}, {name}: nothing was detached");
        }
    }
}

#[test]
fn the_exact_variant_is_the_textbook_though_it_is_written_apart() {
    fn same(a: &impl Attention<f64, Storage = Host>, b: &impl Attention<f64, Storage = Host>) {
        for case in cases() {
            let (given, wanted) = (Rules::of(a, &data(&case)), Rules::of(b, &data(&case)));
            assert!(error(&given.second_order, &wanted.second_order) < ROUNDING, "{}", case.name);
        }
    }
    same(&Varied::new(Variant::Exact), &Dense::new());
}
