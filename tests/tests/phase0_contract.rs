//! Phase 0: the contract can be trusted, because its suite fails what is broken.

use half::bf16;
use rayon::prelude::*;
use theria_contract::conformance::controls::{Fault, Faulty};
use theria_contract::conformance::{Report, Suite, Verdict, standard_cases};
use theria_contract::{Attention, Element, Host, philox4x32_10};
use theria_jvp_hvp::{Dense, Streaming};
use theria_tests::evidence::{self, Row};

/// The cases that take no time. No mistake needs more.
fn small_cases() -> Suite {
    let mut suite = Suite::standard();
    suite.cases.retain(|case| !case.is_large());
    suite
}

fn judged<E: Element, B: Attention<E, Storage = Host>>(suite: &Suite, backend: B, fault: Fault) -> Report {
    suite.run::<E, _, _>(&Faulty::new(backend, fault), &Dense::new())
}

/// Runs one control. The row's error counts what is wrong with it: the fault went unnoticed, or a
/// call failed that cannot show it.
fn control<E: Element, B: Attention<E, Storage = Host>>(suite: &Suite, backend: B, fault: Fault) -> Row {
    let problem =
        |name| &suite.cases.iter().find(|case| case.name == name).expect("a case of the suite").problem;
    let name = format!("faulty {}", backend.name());
    let report = judged::<E, B>(suite, backend, fault);
    let caught: Vec<_> = report.with(Verdict::Failed).collect();
    let elsewhere =
        caught.iter().filter(|outcome| !fault.can_show(problem(outcome.case), &outcome.form)).count();
    let unnoticed = usize::from(caught.is_empty() && fault != Fault::None);
    let rule = caught.first().map_or(fault.rule(), |outcome| outcome.rule);
    let wrong = (elsewhere + unnoticed) as f64;
    Row::measured(format!("control: {fault:?}"), rule.name(), &name, E::DTYPE.name(), wrong, 0.0)
}

/// Controls on one backend, and the wrapper without a fault: nothing of it may fail.
fn controls<E, B>(backend: B, faults: &[Fault]) -> Vec<Row>
where
    E: Element,
    B: Attention<E, Storage = Host> + Copy + Sync,
{
    let suite = small_cases();
    faults.par_iter().chain(&[Fault::None]).map(|fault| control::<E, B>(&suite, backend, *fault)).collect()
}

/// Every control on a backend that has all rules and reads everything that other rules saved.
fn all_controls() -> Vec<Row> {
    let mut faults = Fault::ALL.to_vec();
    faults.push(Fault::OutputTangentIgnored);
    let mut rows = controls::<f32, _>(Streaming::new(), &faults);
    rows.extend(controls::<bf16, _>(Streaming::new(), &Fault::OF_ROUNDING));
    rows
}

/// The generator against the vectors of its authors; the row's error counts wrong words.
fn generator() -> Row {
    let known = [
        ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8_u32]),
        ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
        (
            [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
            [0xa409_3822, 0x299f_31d0],
            [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
        ),
    ];
    let wrong: usize = known
        .iter()
        .map(|(counter, key, words)| {
            philox4x32_10(*counter, *key).iter().zip(words).filter(|(a, b)| a != b).count()
        })
        .sum();
    Row::measured("dropout generator: known answers", "forward", "contract", "u32", wrong as f64, 0.0)
}

#[test]
fn the_suite_catches_every_fault_and_the_generator_gives_its_known_answers() {
    let mut rows = all_controls();
    rows.push(generator());
    let failed: Vec<String> = rows
        .iter()
        .filter(|row| row.verdict != "passed")
        .map(|row| format!("{} of {}: {} wrong", row.name, row.backend, row.error))
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    evidence::write(0, &rows);
}

#[test]
fn cases_have_names_of_their_own() {
    let mut names: Vec<&str> = standard_cases().iter().map(|case| case.name).collect();
    let all = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), all);
    assert!(all >= 60, "{all} cases");
}

#[test]
fn a_suite_without_cases_does_not_pass() {
    let nothing = Suite::standard().only(|_| false).run::<f32, _, _>(&Streaming::new(), &Dense::new());
    assert!(std::panic::catch_unwind(|| nothing.assert_passed()).is_err());
}

/// Why [`Fault::OutputTangentIgnored`] is not in [`Fault::ALL`]: the textbook takes δ′ from
/// P′ ∘ dP + P ∘ dP′.
#[test]
fn a_backend_that_does_not_read_the_saved_output_tangent_cannot_mistake_it() {
    let report = judged::<f32, _>(&small_cases(), Dense::new(), Fault::OutputTangentIgnored);
    assert_eq!(report.count(Verdict::Failed), 0);
}
