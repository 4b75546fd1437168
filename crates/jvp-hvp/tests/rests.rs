//! What rounding took from O and O′: made by backends that keep none when they are given a place for it, and noticed
//! where it is wrong.

use half::{bf16, f16};
use theria_contract::conformance::controls::{Fault, Faulty};
use theria_contract::conformance::{Suite, Verdict};
use theria_contract::{Attention, Element, Host};
use theria_jvp_hvp::{Dense, Streaming};

fn suite() -> Suite {
    Suite::standard().only(|name| ["plain", "everything", "key lengths"].contains(&name))
}

fn fills_rests<E: Element>(backend: &impl Attention<E, Storage = Host>) {
    suite().run::<E, _, _>(backend, &Dense::new()).assert_passed();
}

#[test]
fn both_backends_fill_a_rest_in_every_type() {
    fills_rests::<f32>(&Streaming::new());
    fills_rests::<f16>(&Streaming::new());
    fills_rests::<bf16>(&Streaming::new());
    fills_rests::<f16>(&Dense::new());
    fills_rests::<bf16>(&Dense::new());
}

#[test]
fn wrong_rests_are_noticed_where_they_can_show() {
    let of_rests = [Fault::RestUnwritten, Fault::TangentRestUnwritten];
    for fault in Fault::OF_ROUNDING.into_iter().chain(of_rests) {
        let report = suite().run::<bf16, _, _>(&Faulty::new(Streaming::new(), fault), &Dense::new());
        let caught: Vec<_> = report.with(Verdict::Failed).collect();
        assert!(!caught.is_empty(), "{fault:?} went unnoticed");
        let case = |name| suite().cases.into_iter().find(|case| case.name == name).unwrap();
        assert!(caught.iter().all(|row| fault.can_show(&case(row.case).problem, &row.form)), "{fault:?}");
        assert_eq!(caught[0].rule, fault.rule(), "{fault:?}");
    }
}
