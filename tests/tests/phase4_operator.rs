//! Phase 4: one exact second-order operator serves every mode of order two, in tiles.

use half::{bf16, f16};
use theria_contract::conformance::Suite;
use theria_contract::judge::Output;
use theria_contract::{
    Attention, Cotangent, DType, Element, Host, Primal, Problem, Qkv, Result, Rule, Tangent, Tensor,
    TensorView,
};
use theria_experiments::case_file::Case;
use theria_experiments::evaluation::{Results, evaluate};
use theria_jvp_hvp::composition::{Lent, Linear, Loss, double_backward, hvp, reverse_over_forward};
use theria_jvp_hvp::proof::Proof;
use theria_jvp_hvp::{Dense, Streaming};
use theria_tests::calls::{cotangent, directions, inputs};
use theria_tests::evidence::{self, Row, assert_passed};
use theria_tests::fixtures::{self, Fixture};
use theria_tests::judging::{bound_of, conform, judge_fixtures};
use theria_tests::proving::prove;

/// Cotangents, and the tangents of cotangents, of Q, K, V and bias.
const FIRST: [Output; 4] = [Output::Dq, Output::Dk, Output::Dv, Output::Dbias];
const SECOND: [Output; 4] = [Output::DqTangent, Output::DkTangent, Output::DvTangent, Output::DbiasTangent];

/// A loss whose gradient at O is G, and the tangent of that G′.
struct Given<'a> {
    g: &'a Tensor<f64>,
    g_tangent: &'a Tensor<f64>,
}

impl Loss<Host, f64> for Given<'_> {
    fn cotangent(&self, _output: Primal<TensorView<'_, f64>>) -> Result<Cotangent<Lent<'_, Tensor<f64>>>> {
        Ok(Cotangent(Lent::Held(self.g)))
    }

    fn cotangent_tangent(
        &self,
        _output: Primal<TensorView<'_, f64>>,
        _output_tangent: Tangent<TensorView<'_, f64>>,
    ) -> Result<Option<Tangent<Cotangent<Tensor<f64>>>>> {
        Ok(Some(Tangent(Cotangent(self.g_tangent.clone()))))
    }
}

/// One stored case, and what is judged on it.
struct Judged<'a> {
    fixture: &'a Fixture,
    case: Case<f64>,
    backend: &'static str,
    rows: Vec<Row>,
}

impl Judged<'_> {
    /// A result of the kind of `kind` against what is stored under a name of its own.
    fn judge(&mut self, mode: &str, kind: Output, result: &Tensor<f64>, stored: Option<&Tensor<f64>>) {
        let name = format!("{mode}: {} {}", self.fixture.name, kind.name());
        let rule = kind.rule();
        let row = match stored.and_then(|stored| self.fixture.compare_with(&self.case, kind, result, stored))
        {
            Some(found) => {
                let bound = bound_of(DType::F64, rule);
                Row::measured(name, rule.name(), self.backend, "f64", found.error, bound)
            }
            None => Row::failed(name, rule.name(), self.backend, "f64", "nothing is stored"),
        };
        self.rows.push(row);
    }

    /// Cotangents of Q, K, V and bias against stored tensors.
    fn judge_all<'t>(
        &mut self,
        mode: &str,
        kinds: [Output; 4],
        results: &Qkv<Tensor<f64>>,
        stored: impl Fn(usize) -> Option<&'t Tensor<f64>>,
    ) {
        let tensors = [Some(&results.q), Some(&results.k), Some(&results.v), results.bias.as_ref()];
        for (place, (kind, result)) in kinds.into_iter().zip(tensors).enumerate() {
            if let Some(result) = result {
                self.judge(mode, kind, result, stored(place));
            }
        }
    }
}

const REVERSE_OVER_REVERSE: [&str; 4] = ["rr_q", "rr_k", "rr_v", "rr_bias"];
const REVERSE_OVER_FORWARD: [&str; 4] = ["rf_q", "rf_k", "rf_v", "rf_bias"];
const ON_DIRECTIONS: [&str; 4] = ["rf_q_tangent", "rf_k_tangent", "rf_v_tangent", "rf_bias_tangent"];

/// Every mode of order two of a backend on one stored case that has directions and a cotangent.
fn modes<A: Attention<f64, Storage = Host>>(attention: &A, fixture: &Fixture) -> Vec<Row> {
    let case = fixture.case.load::<f64>().unwrap();
    if case.dout.is_none() || case.missing_for(Rule::Jvp).is_some() {
        return Vec::new();
    }
    let without = Case { dout_tangent: None, ..case.clone() };
    let (problem, operands, along) = (&case.problem, inputs(&case), Tangent(directions(&case)));
    let operands = Primal(&operands);
    let saved = attention.forward(problem, operands).unwrap();
    let g = cotangent(&case);
    let made =
        |loss: &dyn Fn() -> Result<_>| loss().unwrap_or_else(|error| panic!("{}: {error}", fixture.name));
    let mut judged = Judged { fixture, case: case.clone(), backend: attention.name(), rows: Vec::new() };

    if let (Some(g), Some(g_tangent)) = (&case.dout, &case.dout_tangent) {
        let loss = Given { g, g_tangent };
        let mode = "forward over reverse";
        let found = made(&|| hvp(attention, problem, operands, saved.as_ref(), along, &loss));
        judged.judge_all(mode, SECOND, &found.product.0.0, |place| fixture.expected(SECOND[place]));
        judged.judge_all(mode, FIRST, &found.gradient.0, |place| fixture.expected(FIRST[place]));
        let pushed = &found.saved_tangent.0.output;
        judged.judge(mode, Output::OutTangent, pushed, fixture.expected(Output::OutTangent));
    }
    if fixture.has_modes() || case.dout_tangent.is_none() {
        // Without G′ the tangent of the backward is the double backward of the same direction.
        judged.case = without.clone();
        let loss = Linear(Cotangent(case.dout.as_ref().unwrap()));
        let mode = "forward over reverse, no G′";
        let found = made(&|| hvp(attention, problem, operands, saved.as_ref(), along, &loss));
        judged.judge_all(mode, SECOND, &found.product.0.0, |place| match case.dout_tangent {
            Some(_) => fixture.mode(REVERSE_OVER_REVERSE[place]),
            None => fixture.expected(SECOND[place]),
        });
    }
    if fixture.has_modes() {
        judged.case = without;
        let arrived = Cotangent(Cotangent(along.0));
        let found = double_backward(attention, problem, operands, saved.as_ref(), g, arrived)
            .expect("an exact backend");
        let mode = "reverse over reverse";
        judged.judge_all(mode, SECOND, &found.inputs.0, |place| fixture.mode(REVERSE_OVER_REVERSE[place]));
        judged.judge(mode, Output::OutTangent, &found.cotangent.0.0, fixture.mode("rr_dout"));

        judged.case = case.clone();
        let pushed = attention.jvp(problem, operands, saved.as_ref(), along).unwrap();
        let found = reverse_over_forward(
            attention,
            problem,
            operands,
            saved.as_ref(),
            along,
            pushed.as_ref(),
            case.dout_tangent.as_ref().map(|tensor| Cotangent(tensor.view())),
            Cotangent(Tangent(g.0)),
        )
        .expect("an exact backend");
        let mode = "reverse over forward";
        judged.judge_all(mode, SECOND, &found.inputs.0, |place| fixture.mode(REVERSE_OVER_FORWARD[place]));
        let mode = "reverse over forward, on the direction";
        judged.judge_all(mode, FIRST, &found.directions.0.0, |place| fixture.mode(ON_DIRECTIONS[place]));
    }
    judged.rows
}

fn modes_of_all<A: Attention<f64, Storage = Host>>(attention: &A) -> Vec<Row> {
    let all = fixtures::all();
    let wide = all.iter().filter(|fixture| fixture.dtype() == DType::F64);
    wide.flat_map(|fixture| modes(attention, fixture)).collect()
}

const HIGHER: [Rule; 2] = [Rule::Jvp, Rule::SecondOrder];

/// The problems of the suite and one of many segments, with random operands.
fn cases_for_threads<E: Element>(seed: u64) -> Vec<Case<E>> {
    let mut problems: Vec<Problem> = Suite::standard().cases.into_iter().map(|case| case.problem).collect();
    let segments = Problem::builder(DType::F64).heads(3, 1).lengths(500, 900).head_dims(16, 8);
    problems.push(segments.build().unwrap());
    problems.iter().map(|problem| Case::random(problem, seed).unwrap()).collect()
}

fn in_a_pool<E: Element>(cases: &[Case<E>], threads: usize) -> Vec<Results<E>>
where
    Streaming: Attention<E, Storage = Host>,
{
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    pool.install(|| cases.iter().map(|case| evaluate(&Streaming::new(), case, &HIGHER).unwrap()).collect())
}

fn other_bits<E: Element>(some: &[Results<E>], others: &[Results<E>], rule: Rule) -> usize {
    let of = |(a, b): (&Results<E>, &Results<E>)| {
        let made = a.iter().filter(|(output, _)| output.rule() == rule);
        made.filter(|(output, tensor)| b.get(*output).is_none_or(|other| tensor.bytes() != other.bytes()))
            .count()
    };
    some.iter().zip(others).map(of).sum()
}

fn same_bits_on_any_threads<E: Element>() -> Vec<Row>
where
    Streaming: Attention<E, Storage = Host>,
{
    let cases = cases_for_threads::<E>(1);
    let one = in_a_pool(&cases, 1);
    let mut rows = Vec::new();
    for threads in [2, 3, 7] {
        let several = in_a_pool(&cases, threads);
        for rule in HIGHER {
            let differ = other_bits(&one, &several, rule) as f64;
            let name = format!("threads: results of {threads} with other bits than of 1");
            rows.push(Row::measured(name, rule.name(), "streaming", E::DTYPE.name(), differ, 0.0));
        }
    }
    rows
}

/// Scratch grows with the length and not with its square.
fn memory<E: Element>() -> Vec<Row>
where
    Streaming: Attention<E, Storage = Host>,
{
    let bytes = |length: usize, rule| {
        let builder = Problem::builder(E::DTYPE).lengths(length, length).head_dims(64, 64);
        Attention::<E>::workspace_bytes(&Streaming::new(), &builder.build().unwrap(), rule) as f64
    };
    let lengths: Vec<usize> = (11..=16).map(|power| 1 << power).collect();
    let mut rows = Vec::new();
    for rule in HIGHER {
        let mut row = |name, measured, bound| {
            rows.push(Row::measured(name, rule.name(), "streaming", E::DTYPE.name(), measured, bound));
        };
        for pair in lengths.windows(2) {
            let growth = bytes(pair[1], rule) / bytes(pair[0], rule);
            row(format!("memory: growth of scratch from T = {} to {}", pair[0], pair[1]), growth, 2.0);
        }
        let longest = lengths[lengths.len() - 1];
        let scores = (longest * longest * size_of::<E::Acc>()) as f64;
        let share = bytes(longest, rule) / scores;
        row(format!("memory: scratch as a share of T × M scores at T = {longest}"), share, 0.02);
    }
    rows
}

#[test]
fn one_operator_in_tiles_serves_every_mode_of_order_two() {
    let streaming = Streaming::new();
    let mut rows = judge_fixtures(&streaming, &[Rule::SecondOrder]);
    assert_passed(&rows, 300);

    for found in [modes_of_all(&streaming), modes_of_all(&Dense::new())] {
        assert_passed(&found, 500);
        rows.extend(found);
    }
    let proofs = prove(&streaming, &Dense::new(), &Proof::ALL);
    assert_passed(&proofs, 3 * Proof::ALL.len());
    rows.extend(proofs);

    rows.extend(same_bits_on_any_threads::<f64>());
    rows.extend(same_bits_on_any_threads::<f32>());
    rows.extend(same_bits_on_any_threads::<f16>());
    rows.extend(same_bits_on_any_threads::<bf16>());
    rows.extend(memory::<f64>());
    rows.extend(memory::<f32>());
    rows.extend(memory::<bf16>());

    rows.extend(conform(&streaming, &Dense::new(), &DType::ALL, &[Rule::SecondOrder]));
    assert_passed(&rows, 1500);
    evidence::write(4, &rows);
}

/// The controls: the modes are not each other, and the comparison of bits sees another operand.
#[test]
fn a_mode_without_its_cotangent_tangent_and_bits_of_other_operands_are_noticed() {
    let all = fixtures::all();
    let mut noticed = 0;
    for fixture in all.iter().filter(|fixture| fixture.has_modes()) {
        let case = fixture.case.load::<f64>().unwrap();
        if case.dout_tangent.is_some() {
            let forgetful = Case { dout_tangent: None, ..case.clone() };
            let made = evaluate(&Streaming::new(), &forgetful, &[Rule::SecondOrder]).unwrap();
            let kind = Output::DvTangent;
            let error = fixture.compare(&case, kind, made.get(kind).unwrap()).unwrap().error;
            assert!(error > 1e-2, "{}: {error:e}", fixture.name);
            noticed += 1;
        }
    }
    assert!(noticed > 10, "only {noticed} cases with G′");
    let of = |seed| in_a_pool(&cases_for_threads::<f32>(seed)[..1], 2);
    assert!(other_bits(&of(1), &of(2), Rule::SecondOrder) > 0);
}

#[test]
fn stored_modes_have_every_name_and_belong_to_many_cases() {
    let all = fixtures::all();
    assert!(all.iter().filter(|fixture| fixture.has_modes()).count() >= 16);
    for name in
        [REVERSE_OVER_REVERSE, REVERSE_OVER_FORWARD, ON_DIRECTIONS].concat().iter().chain(&["rr_dout"])
    {
        assert!(all.iter().any(|fixture| fixture.mode(name).is_some()), "{name}");
    }
}
