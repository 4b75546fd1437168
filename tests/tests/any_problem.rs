//! Random problems over every feature: streaming agrees with dense, whatever is combined, in every rule.

use proptest::prelude::*;
use theria_contract::conformance::{Case, Suite};
use theria_contract::{Attention, Host};
use theria_tests::problems::any_case;

fn agree(
    case: Case,
    backend: &impl Attention<f64, Storage = Host>,
    oracle: &impl Attention<f64, Storage = Host>,
) {
    let suite = Suite { cases: vec![case], precision: None };
    suite.run::<f64, _, _>(backend, oracle).assert_passed();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn forward_and_backward_agree_with_the_textbook_on_any_problem(case in any_case(19)) {
        agree(case, &theria_reference::Streaming::new(), &theria_reference::Dense::new());
    }

    #[test]
    fn every_rule_agrees_with_the_textbook_on_any_problem(case in any_case(19)) {
        agree(case, &theria_jvp_hvp::Streaming::new(), &theria_jvp_hvp::Dense::new());
    }
}
