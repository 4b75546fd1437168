//! What is written is read, bit for bit.

use std::path::Path;

use half::{bf16, f16};
use theria_contract::{Causal, Element, Problem, Rule, Window};
use theria_experiments::case_file::{Candidate, Case, CaseFile};
use theria_experiments::judgement::{self, Verdict};

fn rich<E: Element>() -> Case<E> {
    let problem = Problem::builder(E::DTYPE)
        .batch(2)
        .heads(4, 2)
        .lengths(5, 7)
        .head_dims(6, 3)
        .scale(-0.3)
        .causal(Causal::BottomRight)
        .window(Window { left: Some(3), right: None })
        .bias([1, 4, 1, 7])
        .mask([2, 1, 5, 1])
        .key_lengths()
        .dropout(0.25, u64::MAX)
        .build()
        .unwrap();
    Case::random(&problem, 5).unwrap()
}

fn round_trips<E: Element>() {
    let case = rich::<E>();
    let file = CaseFile::parse(case.to_bytes().unwrap()).unwrap();
    assert_eq!(*file.problem(), case.problem);
    let back = file.load::<E>().unwrap();
    assert_eq!(back.operands, case.operands);
    assert_eq!(back.mask, case.mask);
    assert_eq!(back.key_lengths, case.key_lengths);
    assert_eq!(back.directions, case.directions);
    assert_eq!((back.dout, back.dout_tangent), (case.dout, case.dout_tangent));
}

#[test]
fn a_case_with_everything_round_trips_in_every_type() {
    round_trips::<f64>();
    round_trips::<f32>();
    round_trips::<f16>();
    round_trips::<bf16>();
}

#[test]
fn loading_in_another_type_rounds_to_the_nearest() {
    let case = rich::<f64>();
    let rounded = CaseFile::parse(case.to_bytes().unwrap()).unwrap().load::<bf16>().unwrap();
    assert_eq!(rounded.operands.q, case.operands.q.cast());
    assert_eq!(rounded.problem, case.problem.with_dtype(bf16::DTYPE));
}

#[test]
fn a_case_whose_tensors_contradict_its_problem_is_not_written() {
    let mut case = rich::<f32>();
    case.mask = None;
    assert!(case.to_bytes().unwrap_err().to_string().contains("mask"));
    let mut case = rich::<f32>();
    case.operands.v = theria_contract::Tensor::zeros([2, 2, 6, 3]).unwrap();
    assert!(case.to_bytes().is_err());
}

#[test]
fn every_fixture_loads_and_its_expected_results_pass_the_judge() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/cases");
    let mut judged = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let Some(stem) = name.strip_suffix(".case.safetensors") else { continue };
        let case = CaseFile::read(&path).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = path.with_file_name(format!("{stem}.expected.safetensors"));
        let candidate = Candidate::read(&expected).unwrap_or_else(|error| panic!("{stem}: {error}"));
        let judgement = judgement::judge(&case, &candidate, None).unwrap();
        for finding in &judgement.findings {
            let skipped =
                matches!(finding.verdict, Verdict::NotJudged(_)) && finding.output.rule() >= Rule::Jvp;
            assert!(skipped || finding.verdict == Verdict::Passed, "{stem}: {finding:?}");
            judged += usize::from(!skipped);
        }
    }
    assert!(judged > 100, "{judged}");
}
