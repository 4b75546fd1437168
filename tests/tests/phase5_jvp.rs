//! Phase 5: the JVP rule is the derivative of the forward, row statistics included.

use theria_contract::judge::Output;
use theria_contract::{
    Attention, DType, Directions, Error, Host, Inputs, Primal, Qkv, Rule, Tangent, Tensor, TensorView,
};
use theria_experiments::evaluation::evaluate;
use theria_jvp_hvp::proof::{Answer, Claim, Gap, Proof};
use theria_jvp_hvp::variant::{Variant, Varied};
use theria_jvp_hvp::{Dense, Streaming};
use theria_tests::evidence::{self, Row, assert_passed};
use theria_tests::fixtures;
use theria_tests::judging::{conform, judge_fixtures};
use theria_tests::proving::{Subject, prove, subjects, worst};

/// The proofs in which the JVP has a part.
const PROOFS: [Proof; 7] = [
    Proof::ValueOrder,
    Proof::JvpOrder,
    Proof::Adjoint,
    Proof::Linearity,
    Proof::Invariance,
    Proof::Repeatability,
    Proof::Agreement,
];

/// lse as a function of Q, K, V and bias, with μ claimed as its derivative. A row that sees nothing
/// has an lse that does not move, counted as zero.
struct RowStatistic<'a, A> {
    attention: &'a A,
    subject: &'a Subject,
}

impl<A: Attention<f64, Storage = Host>> RowStatistic<'_, A> {
    fn split<'x>(&self, x: &'x [f64]) -> Qkv<TensorView<'x, f64>> {
        let (problem, mut rest) = (&self.subject.problem, x);
        let mut take = |shape: [usize; 4]| {
            let (head, tail) = rest.split_at(shape.iter().product());
            rest = tail;
            TensorView::contiguous(head, shape).expect("as many numbers as the shape says")
        };
        let shape = problem.shape();
        Qkv { q: take(shape.q()), k: take(shape.k()), v: take(shape.v()), bias: problem.bias().map(take) }
    }

    fn run(&self, x: &[f64], v: Option<&[f64]>) -> Result<Vec<f64>, Error> {
        let (problem, operands) = (&self.subject.problem, self.split(x));
        let inputs = Inputs::<Host, f64> {
            bias: operands.bias,
            mask: self.subject.mask().map(Tensor::view),
            key_lengths: self.subject.key_lengths().map(Tensor::view),
            ..Inputs::new(operands.q, operands.k, operands.v)
        };
        let saved = self.attention.forward(problem, Primal(&inputs))?;
        let lse = match v {
            None => saved.0.lse,
            Some(v) => {
                let along = Tangent(Directions::from(self.split(v)));
                self.attention.jvp(problem, Primal(&inputs), saved.as_ref(), along)?.0.lse
            }
        };
        Ok(lse.into_vec().into_iter().map(|x| if x == f64::NEG_INFINITY { 0.0 } else { x }).collect())
    }
}

impl<A: Attention<f64, Storage = Host>> Claim for RowStatistic<'_, A> {
    type Error = Error;

    fn outputs(&self) -> usize {
        self.subject.problem.shape().rows().iter().product()
    }

    fn value(&self, x: &[f64]) -> Answer<Error> {
        self.run(x, None).map_err(Gap::Failed)
    }

    fn jvp(&self, x: &[f64], v: &[f64]) -> Answer<Error> {
        self.run(x, Some(v)).map_err(Gap::Failed)
    }
}

/// One row for each problem: μ is the derivative of lse.
fn statistics<A: Attention<f64, Storage = Host>>(attention: &A) -> Vec<Row> {
    let of_subject = |subject: &Subject| {
        let claim = RowStatistic { attention, subject };
        let findings = (1..=8).map(|seed| Proof::JvpOrder.run(&claim, &subject.claim(attention).point(seed)));
        worst(&format!("lse, {}", subject.name), attention.name(), findings)
    };
    subjects().iter().map(of_subject).collect()
}

/// A wrong JVP must fail these proofs.
fn caught(variant: Variant, rows: Vec<Row>) -> Vec<Row> {
    let statement = |row: Row| {
        let name = format!("control: {variant} is caught by {}", row.name);
        Row::statement(name, Rule::Jvp.name(), variant.name(), "f64", row.verdict == "failed", row.reason)
    };
    rows.into_iter().map(statement).collect()
}

/// Σ a b, and Σ |a b|: what rounding is relative to.
fn inner(a: &Tensor<f64>, b: &Tensor<f64>) -> (f64, f64) {
    let (a, b) = (a.view().to_tensor(), b.view().to_tensor());
    let products = a.data().iter().zip(b.data()).map(|(a, b)| a * b);
    products.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()))
}

/// ⟨G, O′⟩ = ⟨dQ, Q′⟩ + ⟨dK, K′⟩ + ⟨dV, V′⟩ + ⟨dBias, bias′⟩ with the gradients of the independent
/// system: our JVP is the adjoint of its reverse mode, in which no rule of ours had a part.
/// The JVP is multiplied by `factor`: 1, or what must not pass.
fn adjoint_of_the_independent_reverse_mode<A>(attention: &A, factor: f64) -> Vec<Row>
where
    A: Attention<f64, Storage = Host>,
{
    let mut rows = Vec::new();
    for fixture in fixtures::all().iter().filter(|fixture| fixture.dtype() == DType::F64) {
        let case = fixture.case.load::<f64>().unwrap();
        let (Some(dout), Some(_)) = (&case.dout, fixture.expected(Output::OutTangent)) else { continue };
        let made = evaluate(attention, &case, &[Rule::Jvp]).unwrap();
        let (pushed, mut size) = inner(dout, made.get(Output::OutTangent).unwrap());
        let directions = &case.directions;
        let mut pulled = 0.0;
        for (output, direction) in [
            (Output::Dq, &directions.q),
            (Output::Dk, &directions.k),
            (Output::Dv, &directions.v),
            (Output::Dbias, &directions.bias),
        ] {
            if let (Some(gradient), Some(direction)) = (fixture.expected(output), direction) {
                let (sum, magnitude) = inner(gradient, direction);
                pulled += sum;
                size += magnitude;
            }
        }
        // Where nothing is summed there is nothing to round.
        let error = if size == 0.0 { 0.0 } else { (factor * pushed - pulled).abs() / size };
        let name = format!("adjoint of the independent reverse mode: {}", fixture.name);
        rows.push(Row::measured(name, Rule::Jvp.name(), attention.name(), "f64", error, 1e-13));
    }
    rows
}

#[test]
fn the_jvp_is_the_derivative_of_the_forward_and_its_row_statistic_that_of_lse() {
    let (dense, streaming) = (Dense::new(), Streaming::new());
    let mut rows = judge_fixtures(&dense, &[Rule::Jvp]);
    rows.extend(judge_fixtures(&streaming, &[Rule::Jvp]));
    assert_passed(&rows, 400);

    rows.extend(prove(&dense, &Varied::new(Variant::Exact), &PROOFS));
    rows.extend(prove(&streaming, &dense, &PROOFS));
    rows.extend(statistics(&dense));
    rows.extend(statistics(&streaming));
    rows.extend(adjoint_of_the_independent_reverse_mode(&dense, 1.0));
    rows.extend(adjoint_of_the_independent_reverse_mode(&streaming, 1.0));

    for variant in [Variant::ZeroJvp, Variant::NegatedJvp] {
        let wrong = Varied::new(variant);
        rows.extend(caught(variant, prove(&wrong, &dense, &[Proof::JvpOrder, Proof::Adjoint])));
        rows.extend(caught(variant, statistics(&wrong)));
    }
    // A frozen lse has no derivative: its μ is zero.
    rows.extend(caught(Variant::FrozenStats, statistics(&Varied::new(Variant::FrozenStats))));

    // In binary64 the textbook is its own oracle.
    rows.extend(conform(&dense, &dense, &[DType::F32, DType::F16, DType::Bf16], &[Rule::Jvp]));
    rows.extend(conform(&streaming, &dense, &DType::ALL, &[Rule::Jvp]));
    assert_passed(&rows, 900);
    evidence::write(5, &rows);
}

/// Why slopes and not tolerances: along a short direction O hardly moves, and a difference within
/// 1e-3 of a JVP of zero says nothing.
#[test]
fn a_tolerance_lets_a_jvp_of_zero_pass_where_the_slope_does_not() {
    let zero = Varied::new(Variant::ZeroJvp);
    let [subject, ..] = subjects();
    let claim = subject.claim(&zero);
    let point = claim.point(1);
    let v = vec![1e-4; point.x.len()];
    let there: Vec<f64> = point.x.iter().zip(&v).map(|(x, v)| x + v).collect();
    let (here, there) = (claim.value(&point.x).unwrap(), claim.value(&there).unwrap());
    let claimed = claim.jvp(&point.x, &v).unwrap();
    let gap = here.iter().zip(&there).zip(&claimed).map(|((a, b), c)| (b - a - c).abs()).fold(0.0, f64::max);
    assert!(gap > 0.0 && gap < 1e-3, "{gap:e}: a tolerance would have passed it");
    assert!(Proof::JvpOrder.run(&claim, &point).verdict.is_failed());
}

/// The control: of most stored cases the adjoint identity notices one part in a million.
#[test]
fn a_jvp_that_is_off_by_a_millionth_is_no_adjoint() {
    let rows = adjoint_of_the_independent_reverse_mode(&Streaming::new(), 1.0 + 1e-6);
    let noticed = rows.iter().filter(|row| row.verdict == "failed").count();
    assert!(noticed > 60, "only {noticed} of {} cases notice", rows.len());
}
