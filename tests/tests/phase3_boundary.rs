//! Phase 3: where the derivative edge is lost, it is lost loudly; and what a silent loss looks like.

use half::{bf16, f16};
use theria_contract::conformance::{Suite, Verdict};
use theria_contract::{
    Attention, Cotangent, DType, Element, Error, Host, Primal, Problem, Qkv, Refusal, Result, Rule, Saved,
    SecondOrder, Storage, Support, Tangent, Tensor, saved_mut, saved_view,
};
use theria_experiments::case_file::Case;
use theria_experiments::evaluation::{Results, evaluate};
use theria_jvp_hvp::composition::{Linear, double_backward, hvp, reverse_over_forward};
use theria_jvp_hvp::linearisation::require_exact;
use theria_jvp_hvp::proof::Proof;
use theria_jvp_hvp::variant::{Variant, Varied};
use theria_jvp_hvp::{Dense, Opaque, Streaming};
use theria_tests::calls::{cotangent, cotangent_tangent, directions, inputs};
use theria_tests::evidence::{self, Row, assert_passed};
use theria_tests::fixtures;
use theria_tests::judging::{EveryElement, conform};
use theria_tests::proving::prove;

const FIRST_ORDER: [Rule; 2] = [Rule::Forward, Rule::Backward];

fn problem() -> Problem {
    let builder = Problem::builder(DType::F64).batch(2).heads(4, 2).lengths(20, 24).head_dims(8, 6);
    builder.bias([1, 4, 1, 24]).dropout(0.1, 3).build().unwrap()
}

fn case<E: Element>(seed: u64) -> Case<E> {
    Case::random(&problem(), seed).unwrap()
}

fn different<E: Element>(a: &Results<E>, b: &Results<E>) -> usize {
    let differs = |(output, tensor): &(_, &Tensor<E>)| {
        b.get(*output).is_none_or(|other| tensor.bytes() != other.bytes())
    };
    a.iter().filter(differs).count()
}

/// How many results of forward and backward on the stored cases of a type differ in a bit.
fn changed_bits<E, A, B>(a: &A, b: &B) -> usize
where
    E: Element,
    A: Attention<E, Storage = Host>,
    B: Attention<E, Storage = Host>,
{
    let of = |case: &Case<E>| {
        let mut rules = FIRST_ORDER.to_vec();
        rules.retain(|rule| case.missing_for(*rule).is_none());
        different(&evaluate(a, case, &rules).unwrap(), &evaluate(b, case, &rules).unwrap())
    };
    let all = fixtures::all();
    let cases = all.iter().filter(|fixture| fixture.dtype() == E::DTYPE);
    cases.map(|fixture| of(&fixture.case.load::<E>().unwrap())).sum()
}

fn unchanged<E, B>(inner: &str, backend: B) -> Row
where
    E: Element,
    B: Attention<E, Storage = Host> + Copy,
{
    let changed = changed_bits::<E, _, _>(&Opaque::new(backend), &backend);
    let name = format!("opaque over {inner}: forward and backward on stored cases, results with other bits");
    Row::measured(name, Rule::Backward.name(), "opaque", E::DTYPE.name(), changed as f64, 0.0)
}

/// Every way to ask for a higher rule, and what came of it.
fn doors<E, A>(attention: &A) -> Vec<(&'static str, Rule, Result<()>)>
where
    E: Element,
    A: Attention<E, Storage = Host>,
    Dense: Attention<E, Storage = Host>,
{
    let case = case::<E>(1);
    let (problem, inputs, along) = (&case.problem, inputs(&case), directions(&case));
    let inputs = Primal(&inputs);
    let dense = Dense::new();
    let saved = dense.forward(problem, inputs).unwrap();
    let pushed = dense.jvp(problem, inputs, saved.as_ref(), Tangent(along)).unwrap();
    let (g, g_tangent) = (cotangent(&case), cotangent_tangent(&case));
    // More scratch than anybody asks for: a twin is not refused for its workspace.
    let mut workspace = Host.workspace(1 << 24).unwrap();
    let mut out: Saved<Tensor<E>, Tensor<E::Acc>> = dense.allocate_saved(problem).unwrap();
    let mut gradients: Qkv<Tensor<E>> = dense.allocate_gradients(problem).unwrap();
    let loss = Linear(Cotangent(case.dout.as_ref().unwrap()));
    let (saved, pushed) = (saved.as_ref(), pushed.as_ref());
    let read_saved = saved.map(saved_view::<Host, E>);
    let read_pushed = pushed.map(saved_view::<Host, E>);
    let lent = Tangent(saved_mut::<Host, E>(&mut out));
    let outputs =
        SecondOrder { tangent: Tangent(Cotangent(gradients.as_mut().map(Tensor::view_mut))), first: None };
    let second = [Rule::SecondOrder];
    vec![
        ("jvp", Rule::Jvp, attention.jvp(problem, inputs, saved, Tangent(along)).map(drop)),
        (
            "jvp_into",
            Rule::Jvp,
            attention.jvp_into(problem, inputs, read_saved, Tangent(along), lent, &mut workspace),
        ),
        (
            "second_order",
            Rule::SecondOrder,
            attention
                .second_order(problem, inputs, saved, Tangent(along), pushed, g, g_tangent, true)
                .map(drop),
        ),
        (
            "second_order_into",
            Rule::SecondOrder,
            attention.second_order_into(
                problem,
                inputs,
                read_saved,
                Tangent(along),
                read_pushed,
                g,
                g_tangent,
                outputs,
                &mut workspace,
            ),
        ),
        ("require_exact", Rule::SecondOrder, require_exact::<E, _>(attention, problem, &second)),
        ("hvp", Rule::Jvp, hvp(attention, problem, inputs, saved, Tangent(along), &loss).map(drop)),
        (
            "double_backward",
            Rule::Jvp,
            double_backward(attention, problem, inputs, saved, g, Cotangent(Cotangent(along))).map(drop),
        ),
        (
            "reverse_over_forward",
            Rule::Jvp,
            reverse_over_forward(
                attention,
                problem,
                inputs,
                saved,
                Tangent(along),
                pushed,
                g_tangent.map(|g_tangent| g_tangent.0),
                Cotangent(Tangent(g.0)),
            )
            .map(drop),
        ),
    ]
}

/// A door that must be shut for one reason.
fn shut(name: String, rule: Rule, backend: &str, dtype: DType, came: Result<()>, why: &Refusal) -> Row {
    match came {
        Err(Error::Refused { rule: named, reason, .. }) if named == rule && reason == *why => {
            Row::refused(name, rule.name(), backend, dtype.name(), reason.to_string())
        }
        Err(error) => Row::failed(name, rule.name(), backend, dtype.name(), format!("said: {error}")),
        Ok(()) => Row::failed(name, rule.name(), backend, dtype.name(), "it computed"),
    }
}

fn every_door_is_shut<E, B>(inner: &str, backend: B) -> Vec<Row>
where
    E: Element,
    B: Attention<E, Storage = Host>,
    Dense: Attention<E, Storage = Host>,
{
    let row = |(door, rule, came)| {
        let name = format!("opaque over {inner}: {door}");
        shut(name, rule, "opaque", E::DTYPE, came, &Refusal::Opaque)
    };
    doors::<E, _>(&Opaque::new(backend)).into_iter().map(row).collect()
}

fn opaque<B: EveryElement + Copy + Sync>(inner: &str, backend: B) -> Vec<Row> {
    let mut rows = vec![
        unchanged::<f64, _>(inner, backend),
        unchanged::<f32, _>(inner, backend),
        unchanged::<f16, _>(inner, backend),
        unchanged::<bf16, _>(inner, backend),
    ];
    rows.extend(every_door_is_shut::<f64, _>(inner, backend));
    rows.extend(every_door_is_shut::<f32, _>(inner, backend));
    rows.extend(every_door_is_shut::<f16, _>(inner, backend));
    rows.extend(every_door_is_shut::<bf16, _>(inner, backend));
    let conformance = conform(&Opaque::new(backend), &Dense::new(), &[DType::F64, DType::F32], &Rule::ALL);
    let higher = |row: &&Row| row.rule == Rule::Jvp.name() || row.rule == Rule::SecondOrder.name();
    assert!(conformance.iter().filter(higher).all(|row| row.verdict == "refused"), "{inner}");
    rows.extend(conformance);
    rows
}

/// The compositions refuse frozen statistics; an experiment that asks for the rules themselves gets them.
fn frozen_statistics_at_the_doors() -> Vec<Row> {
    let frozen = Varied::new(Variant::FrozenStats);
    let of_door = |(door, rule, came): (&str, Rule, Result<()>)| {
        let name = format!("frozen statistics: {door}");
        if ["jvp", "jvp_into", "second_order", "second_order_into"].contains(&door) {
            let found = came.map_or_else(|error| error.to_string(), |()| "computed".into());
            Row::statement(name, rule.name(), frozen.name(), "f64", found == "computed", found)
        } else {
            shut(name, rule, frozen.name(), DType::F64, came, &Refusal::FrozenStats)
        }
    };
    let mut rows: Vec<Row> = doors::<f64, _>(&frozen).into_iter().map(of_door).collect();
    for rule in [Rule::Backward, Rule::Jvp, Rule::SecondOrder] {
        let support = frozen.support(&problem(), rule);
        let said = support == Support::FrozenStats;
        let name = format!("frozen statistics: what is said of {rule}");
        rows.push(Row::statement(name, rule.name(), frozen.name(), "f64", said, support.to_string()));
    }
    rows
}

/// What a rule called by name gives on a case: the door that experiments have to frozen statistics.
fn called(attention: &impl Attention<f64, Storage = Host>, case: &Case<f64>, rule: Rule) -> Vec<f64> {
    let (problem, inputs) = (&case.problem, inputs(case));
    let (inputs, directions) = (Primal(&inputs), Tangent(directions(case)));
    let saved = attention.forward(problem, inputs).unwrap();
    let tangent = attention.jvp(problem, inputs, saved.as_ref(), directions).unwrap();
    if rule == Rule::Jvp {
        return tangent.0.output.into_vec();
    }
    let (g, g_tangent) = (cotangent(case), cotangent_tangent(case));
    let (saved, tangent) = (saved.as_ref(), tangent.as_ref());
    let made = attention.second_order(problem, inputs, saved, directions, tangent, g, g_tangent, false);
    made.unwrap().tangent.0.0.named().flat_map(|(_, tensor)| tensor.into_vec()).collect()
}

/// ‖a - b‖ / ‖b‖
fn distance(a: &[f64], b: &[f64]) -> f64 {
    let difference: f64 = a.iter().zip(b).map(|(x, y)| (x - y) * (x - y)).sum();
    (difference / b.iter().map(|y| y * y).sum::<f64>()).sqrt()
}

/// Frozen statistics are another linear map, visibly; the same measure finds the exact map written
/// apart nowhere else.
fn how_far_frozen_statistics_are() -> Vec<Row> {
    let mut rows = Vec::new();
    for seed in 1..=5 {
        let case = case::<f64>(seed);
        for rule in [Rule::Jvp, Rule::SecondOrder] {
            let right = called(&Dense::new(), &case, rule);
            let of = |variant| distance(&called(&Varied::new(variant), &case, rule), &right);
            let (frozen, exact) = (of(Variant::FrozenStats), of(Variant::Exact));
            let name = format!("another map: frozen statistics, seed {seed}");
            let found = format!("relative distance {frozen:.3}");
            rows.push(Row::statement(name, rule.name(), "frozen-stats", "f64", frozen > 0.05, found));
            let name = format!("the same map: the exact variant, seed {seed}");
            rows.push(Row::measured(name, rule.name(), "exact", "f64", exact, 1e-13));
        }
    }
    rows
}

/// A backward that is opaque and does not say so: nothing of first order shows it.
fn silent_loss() -> Vec<Row> {
    let silent = Varied::new(Variant::OnceDifferentiable);
    let (name, dense) = (silent.name(), Dense::new());
    let first = [Proof::ValueOrder, Proof::JvpOrder, Proof::VjpOrder, Proof::Adjoint];
    let second = [Proof::SecondOrder, Proof::GradientOrder, Proof::CentralDifference];
    let mut rows = prove(&silent, &dense, &first);
    for row in prove(&silent, &dense, &second) {
        let title = format!("silent loss is caught by {}", row.name);
        rows.push(Row::statement(title, &row.rule, name, "f64", row.verdict == "failed", row.reason));
    }
    let second_order = Rule::SecondOrder.name();
    let support = silent.support(&problem(), Rule::SecondOrder);
    rows.push(Row::statement(
        "silent loss: it says that it is exact",
        second_order,
        name,
        "f64",
        support.is_exact(),
        support.to_string(),
    ));
    let made = evaluate(&silent, &case::<f64>(1), &[Rule::SecondOrder]).unwrap();
    let zero = made.iter().all(|(_, tensor)| tensor.data().iter().all(|x| *x == 0.0));
    let found = "every result is zero, and no error is returned";
    rows.push(Row::statement("silent loss: its second order", second_order, name, "f64", zero, found));
    let report = Suite::standard().only(|case| case == "everything").run::<f64, _, _>(&silent, &dense);
    let failed: Vec<Rule> = report.with(Verdict::Failed).map(|outcome| outcome.rule).collect();
    let only_second = !failed.is_empty() && failed.iter().all(|rule| *rule == Rule::SecondOrder);
    let found = format!("{} failed rows", failed.len());
    let title = "silent loss is caught by the conformance suite, in the second order alone";
    rows.push(Row::statement(title, second_order, name, "f64", only_second, found));
    rows
}

#[test]
fn the_edge_is_lost_loudly_where_a_backend_is_opaque_or_frozen_and_a_silent_loss_is_caught() {
    let mut rows = opaque("streaming", Streaming::new());
    rows.extend(opaque("dense", Dense::new()));
    rows.extend(frozen_statistics_at_the_doors());
    rows.extend(how_far_frozen_statistics_are());
    rows.extend(silent_loss());
    assert_passed(&rows, 400);
    evidence::write(3, &rows);
}

/// The controls: an exact backend passes every door, and the comparison of bits sees another backend.
#[test]
fn the_doors_are_open_for_an_exact_backend_and_its_bits_are_its_own() {
    for (door, _, came) in doors::<f64, _>(&Streaming::new()) {
        assert!(came.is_ok(), "{door}: {came:?}");
    }
    for (door, _, came) in doors::<f16, _>(&Dense::new()) {
        assert!(came.is_ok(), "{door}: {came:?}");
    }
    assert!(changed_bits::<f64, _, _>(&Opaque::new(Streaming::new()), &Dense::new()) > 100);
}
