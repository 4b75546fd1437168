//! The textbook backend passes the suite, and the suite refuses every operator that is wrong on purpose.
//!
//! In binary64 the textbook is held against itself, which shows that it is deterministic, covers the
//! features and overwrites its outputs, and nothing about its formulas: those are held against hyper-dual
//! numbers in `hyper_dual.rs`. The narrower types are held against binary64.

use half::{bf16, f16};
use theria_contract::conformance::{Suite, Verdict};
use theria_contract::{Rule, Support};
use theria_jvp_hvp::variant::{Variant, Varied};
use theria_jvp_hvp::{Dense, Linearisation};

#[test]
fn the_textbook_passes_in_every_element_type() {
    let suite = Suite::standard();
    suite.run::<f64, _, _>(&Dense::new(), &Dense::new()).assert_passed();
    suite.run::<f32, _, _>(&Dense::new(), &Dense::new()).assert_passed();
    suite.run::<f16, _, _>(&Dense::new(), &Dense::new()).assert_passed();
    suite.run::<bf16, _, _>(&Dense::new(), &Dense::new()).assert_passed();
}

#[test]
fn the_exact_variant_passes_with_every_feature() {
    Suite::standard().run::<f64, _, _>(&Varied::new(Variant::Exact), &Dense::new()).assert_passed();
}

/// The rules that are wrong in each variant: these and no others.
fn wrong_rules(variant: Variant) -> &'static [Rule] {
    use Rule::{Backward, Jvp, SecondOrder};
    match variant {
        // Frozen statistics say so themselves, and are not judged.
        Variant::Exact | Variant::FrozenStats => &[],
        Variant::FrozenLse
        | Variant::FrozenDelta
        | Variant::FrozenBoth
        | Variant::OnceDifferentiable
        | Variant::MissingCotangentTangent
        | Variant::MissingValueTangent
        | Variant::SumLossOnly => &[SecondOrder],
        Variant::DetachedLogits | Variant::DetachedOutput | Variant::RedrawnDropout => {
            &[Backward, Jvp, SecondOrder]
        }
        Variant::DqWrongBy1e4 | Variant::DqWrongBy1e6 => &[Backward, SecondOrder],
        Variant::ZeroJvp | Variant::NegatedJvp => &[Jvp],
    }
}

#[test]
fn every_variant_fails_in_the_rules_that_it_breaks_and_in_no_other() {
    for variant in Variant::ALL {
        let case = if *variant == Variant::RedrawnDropout { "dropout" } else { "everything" };
        let report = Suite::standard()
            .only(|name| name == case)
            .run::<f64, _, _>(&Varied::new(*variant), &Dense::new());
        for rule in Rule::ALL {
            let failed = report.with(Verdict::Failed).any(|outcome| outcome.rule == rule);
            assert_eq!(failed, wrong_rules(*variant).contains(&rule), "{variant}, {rule}");
        }
    }
}

#[test]
fn frozen_statistics_are_announced_and_therefore_not_judged() {
    use theria_contract::{Attention, DType, Problem};
    let problem = Problem::builder(DType::F64).build().unwrap();
    for rule in Rule::ALL {
        let support = Varied::new(Variant::FrozenStats).support(&problem, rule);
        let expected = if rule == Rule::Forward { Linearisation::Exact } else { Linearisation::FrozenStats };
        assert_eq!(Linearisation::of(&support), Some(expected));
    }
    assert_eq!(Varied::new(Variant::FrozenLse).support(&problem, Rule::SecondOrder), Support::Exact);
}
