//! Every rule reaches its operands and its results keep their names, seen with a backend whose JVP
//! and second order are differences of its forward and backward: crude, independent, and complete.

use std::path::Path;

use theria_contract::judge::{Output, compare};
use theria_contract::{
    Attention, Cotangent, Directions, Host, Inputs, Primal, Problem, Qkv, Result, Rule, Saved, SavedView,
    SavedViewMut, SecondOrder, Support, Tangent, Tensor, TensorView, TensorViewMut, Workspace,
};
use theria_reference::Dense;

use super::evaluate;
use crate::case_file::{Candidate, CaseFile};

const STEP: f64 = 1e-5;

/// Forward and backward of the oracle; what is built on them by central differences.
struct Differences;

type View<'a> = TensorView<'a, f64>;

fn moved(point: View<'_>, direction: Option<View<'_>>, step: f64) -> Tensor<f64> {
    let mut moved = point.to_tensor();
    if let Some(direction) = direction {
        for (x, d) in moved.data_mut().iter_mut().zip(direction.to_tensor().data()) {
            *x += step * d;
        }
    }
    moved
}

fn difference(plus: &Tensor<f64>, minus: &Tensor<f64>, mut into: TensorViewMut<'_, f64>) -> Result<()> {
    // The lse of a row that sees nothing is -inf on both sides, and its tangent is zero.
    let quotient = |(a, b): (&f64, &f64)| if a == b { 0.0 } else { (a - b) / (2.0 * STEP) };
    let values = plus.data().iter().zip(minus.data()).map(quotient).collect();
    into.copy_from(Tensor::from_vec(values, plus.shape())?.view())
}

/// Runs `body` at a step along the directions.
fn at<R>(
    inputs: &Inputs<'_, Host, f64>,
    directions: &Directions<View<'_>>,
    step: f64,
    body: impl FnOnce(&Inputs<'_, Host, f64>) -> Result<R>,
) -> Result<R> {
    let q = moved(inputs.q, directions.q, step);
    let k = moved(inputs.k, directions.k, step);
    let v = moved(inputs.v, directions.v, step);
    let bias = inputs.bias.map(|bias| moved(bias, directions.bias, step));
    let bias = bias.as_ref().map(Tensor::view);
    body(&Inputs { q: q.view(), k: k.view(), v: v.view(), bias, ..*inputs })
}

impl Attention<f64> for Differences {
    type Storage = Host;

    fn name(&self) -> &'static str {
        "differences"
    }

    fn storage(&self) -> &Host {
        &Host
    }

    fn support(&self, _: &Problem, _: Rule) -> Support {
        Support::Exact
    }

    fn workspace_bytes(&self, _: &Problem, _: Rule) -> usize {
        0
    }

    fn forward_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Host, f64>>,
        saved: Primal<SavedViewMut<'_, Host, f64>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        Dense::new().forward_into(problem, inputs, saved, workspace)
    }

    fn backward_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Host, f64>>,
        saved: Primal<SavedView<'_, Host, f64>>,
        cotangent: Cotangent<View<'_>>,
        gradients: Cotangent<Qkv<TensorViewMut<'_, f64>>>,
        workspace: &mut Workspace,
    ) -> Result<()> {
        Dense::new().backward_into(problem, inputs, saved, cotangent, gradients, workspace)
    }

    fn jvp_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Host, f64>>,
        _: Primal<SavedView<'_, Host, f64>>,
        directions: Tangent<Directions<View<'_>>>,
        saved_tangent: Tangent<SavedViewMut<'_, Host, f64>>,
        _: &mut Workspace,
    ) -> Result<()> {
        let forward = |inputs: &Inputs<'_, Host, f64>| Dense::new().forward(problem, Primal(inputs));
        let plus = at(inputs.0, &directions.0, STEP, forward)?.0;
        let minus = at(inputs.0, &directions.0, -STEP, forward)?.0;
        let Saved { output, lse, rest } = saved_tangent.0;
        // Nothing is rounded to f64.
        if let Some(mut rest) = rest {
            rest.fill(0.0);
        }
        difference(&plus.output, &minus.output, output)?;
        difference(&plus.lse, &minus.lse, lse)
    }

    fn second_order_kernel(
        &self,
        problem: &Problem,
        inputs: Primal<&Inputs<'_, Host, f64>>,
        _: Primal<SavedView<'_, Host, f64>>,
        directions: Tangent<Directions<View<'_>>>,
        _: Tangent<SavedView<'_, Host, f64>>,
        cotangent: Cotangent<View<'_>>,
        cotangent_tangent: Option<Tangent<Cotangent<View<'_>>>>,
        outputs: SecondOrder<TensorViewMut<'_, f64>>,
        _: &mut Workspace,
    ) -> Result<()> {
        let backward = |step: f64| {
            let dout = moved(cotangent.0, cotangent_tangent.map(|tangent| tangent.0.0), step);
            at(inputs.0, &directions.0, step, |inputs| {
                let saved = Dense::new().forward(problem, Primal(inputs))?;
                Dense::new().backward(problem, Primal(inputs), saved.as_ref(), Cotangent(dout.view()))
            })
        };
        let (plus, minus) = (backward(STEP)?.0, backward(-STEP)?.0);
        let into = outputs.tangent.0.0;
        difference(&plus.q, &minus.q, into.q)?;
        difference(&plus.k, &minus.k, into.k)?;
        difference(&plus.v, &minus.v, into.v)?;
        match (&plus.bias, &minus.bias, into.bias) {
            (Some(plus), Some(minus), Some(into)) => difference(plus, minus, into),
            _ => Ok(()),
        }
    }
}

/// The largest error of any result on a fixture, when `spoil` may change the case first.
fn largest_error(fixture: &str, spoil: impl FnOnce(&mut crate::case_file::Case<f64>)) -> f64 {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/cases");
    let file = CaseFile::read(&folder.join(format!("{fixture}.case.safetensors"))).unwrap();
    let expected = Candidate::read(&folder.join(format!("{fixture}.expected.safetensors"))).unwrap();
    let mut case = file.load::<f64>().unwrap();
    spoil(&mut case);
    let results = evaluate(&Differences, &case, &Rule::ALL).unwrap();
    assert_eq!(results.iter().count(), expected.outputs().count(), "every result is there");
    let errors = results.iter().map(|(output, tensor)| expected.compare(output, tensor, 0.1).unwrap().error);
    errors.fold(0.0, f64::max)
}

#[test]
fn every_rule_gets_its_operands_and_its_results_keep_their_names() {
    for fixture in ["bias-by-key", "causal-bottom-right-more-keys"] {
        let error = largest_error(fixture, |_| {});
        assert!(error < 1e-7, "{fixture}: {error}");
    }
}

#[test]
fn a_direction_or_a_cotangent_that_got_lost_would_be_noticed() {
    assert!(largest_error("bias-by-key", |case| case.dout_tangent = None) > 1e-2);
    assert!(largest_error("bias-by-key", |case| case.directions.bias = None) > 1e-2);
}

#[test]
fn the_second_order_alone_brings_its_tangent_along_and_does_not_keep_it() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/cases");
    let case = CaseFile::read(&folder.join("bias-by-key.case.safetensors")).unwrap().load::<f64>().unwrap();
    let all = evaluate(&Differences, &case, &Rule::ALL).unwrap();
    let alone = evaluate(&Differences, &case, &[Rule::SecondOrder]).unwrap();
    assert!(alone.iter().all(|(output, _)| output.rule() == Rule::SecondOrder));
    assert_eq!(alone.iter().count(), 4);
    let dq = Output::DqTangent;
    assert_eq!(compare(alone.get(dq).unwrap().view(), all.get(dq).unwrap().view(), 0.0).error, 0.0);
}
