//! Phase 0: the contract can be trusted, because its suite fails what is broken.

use theria_contract::conformance::controls::{Fault, Faulty};
use theria_contract::conformance::{Suite, Verdict, standard_cases};
use theria_contract::philox4x32_10;
use theria_reference::{Dense, Streaming};
use theria_tests::evidence::{self, Row};

/// Runs every control on one backend. A row's error counts what is wrong with it: the fault went
/// unnoticed, or a case failed that cannot show it.
fn controls() -> Vec<Row> {
    let (suite, mut rows) = (Suite::standard(), Vec::new());
    let problem =
        |name| &suite.cases.iter().find(|case| case.name == name).expect("a case of the suite").problem;
    for fault in Fault::ALL {
        let report = suite.run::<f32, _, _>(&Faulty::new(Streaming::new(), fault), &Dense::new());
        let caught: Vec<_> = report.with(Verdict::Failed).collect();
        let elsewhere = caught.iter().filter(|outcome| !fault.can_show(problem(outcome.case))).count();
        let rule = caught.first().map_or("forward", |outcome| outcome.rule.name());
        let wrong = elsewhere + usize::from(caught.is_empty());
        rows.push(Row::measured(format!("control: {fault:?}"), rule, "faulty", "f32", wrong as f64, 0.0));
    }
    let sound = suite.run::<f32, _, _>(&Faulty::new(Streaming::new(), Fault::None), &Dense::new());
    let failed = sound.count(Verdict::Failed) as f64;
    rows.push(Row::measured("control: the wrapper without a fault", "forward", "faulty", "f32", failed, 0.0));
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
    let mut rows = controls();
    rows.push(generator());
    let failed: Vec<&str> =
        rows.iter().filter(|row| row.verdict != "passed").map(|row| row.name.as_str()).collect();
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
