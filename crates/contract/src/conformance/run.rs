//! Runs a backend through the cases.

use super::data::layout;
use super::{Case, CaseData, Memory, Outcome, Report, Verdict, standard_cases};
use crate::judge::{self, Comparison, Magnitudes, Output, compare};
use crate::{
    Attention, Cotangent, Directions, Element, Error, Host, Inputs, Precision, Primal, Problem, Qkv, Result,
    Rule, Saved, SecondOrder, Storage, Support, Tangent, Tensor, bound,
};

/// A list of cases, and the precision in which outputs are judged.
#[derive(Clone, Debug)]
pub struct Suite {
    /// The cases.
    pub cases: Vec<Case>,
    /// Overrides the precision that goes with the element type, for a backend that multiplies in
    /// less than it stores (TF32).
    pub precision: Option<Precision>,
}

/// The outputs of one rule on the host.
type Outputs<E> = Vec<(Output, Wide<E>)>;

/// A tensor in the element type, or a row statistic in the accumulation type.
enum Wide<E: Element> {
    Element(Tensor<E>),
    Statistic(Tensor<E::Acc>),
}

impl<E: Element> Wide<E> {
    fn to_f64(&self) -> Tensor<f64> {
        match self {
            Self::Element(tensor) => tensor.cast(),
            Self::Statistic(tensor) => tensor.cast(),
        }
    }

    /// Against the oracle's, in its own type: its own rounding is not counted.
    fn compare(&self, wanted: &Tensor<f64>, natural_size: f64) -> Comparison {
        match self {
            Self::Element(tensor) => compare(tensor.view(), wanted.view(), natural_size),
            Self::Statistic(tensor) => compare(tensor.view(), wanted.view(), natural_size),
        }
    }

    fn same_bits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Element(a), Self::Element(b)) => a.bytes() == b.bytes(),
            (Self::Statistic(a), Self::Statistic(b)) => a.bytes() == b.bytes(),
            _ => false,
        }
    }
}

impl Suite {
    /// The standard list.
    pub fn standard() -> Self {
        Self { cases: standard_cases(), precision: None }
    }

    /// The cases whose name passes a filter.
    #[must_use]
    pub fn only(mut self, keep: impl Fn(&str) -> bool) -> Self {
        self.cases.retain(|case| keep(case.name));
        self
    }

    /// Judges `backend` on element type `E` by `oracle`.
    pub fn run<E, B, O>(&self, backend: &B, oracle: &O) -> Report
    where
        E: Element,
        B: Attention<E>,
        O: Attention<f64, Storage = Host>,
    {
        let mut report = Report::default();
        for case in &self.cases {
            self.run_case::<E, B, O>(case, backend, oracle, &mut report);
        }
        report
    }

    fn run_case<E, B, O>(&self, case: &Case, backend: &B, oracle: &O, report: &mut Report)
    where
        E: Element,
        B: Attention<E>,
        O: Attention<f64, Storage = Host>,
    {
        let data = CaseData::<E>::of(case).expect("the data of a valid case");
        let (wide, mut magnitudes) = (data.widen(), data.magnitudes());
        if let Ok(forward) = run_rule(oracle, &wide, Rule::Forward, 0) {
            let out = judge::rms(forward[0].1.to_f64().view());
            magnitudes.concentration = Magnitudes::concentration_of(out, magnitudes.v);
        }
        let precision = self.precision.unwrap_or(Precision::of(E::DTYPE));
        let outcome = |rule, output, error, verdict, reason: String| Outcome {
            case: case.name,
            rule,
            output,
            backend: backend.name(),
            dtype: E::DTYPE,
            error,
            bound: bound(precision, rule),
            verdict,
            reason,
        };
        for rule in Rule::ALL {
            let support = backend.support(&data.problem, rule);
            let failed = |reason: String| outcome(rule, None, f64::INFINITY, Verdict::Failed, reason);
            let first = match (run_rule(backend, &data, rule, 0xFF), &support) {
                (Err(Error::Refused { rule: refused, reason, .. }), Support::Refused(promised))
                    if refused == rule && reason == *promised =>
                {
                    report.outcomes.push(outcome(rule, None, 0.0, Verdict::Refused, reason.to_string()));
                    continue;
                }
                (Ok(_), Support::Refused(reason)) => {
                    report.outcomes.push(failed(format!("said '{reason}' but computed")));
                    continue;
                }
                (Err(error), _) => {
                    report.outcomes.push(failed(format!("said '{support}' but returned: {error}")));
                    continue;
                }
                (Ok(_), Support::FrozenStats) => {
                    report.outcomes.push(outcome(
                        rule,
                        None,
                        0.0,
                        Verdict::Refused,
                        "frozen statistics".into(),
                    ));
                    continue;
                }
                (Ok(outputs), Support::Exact) => outputs,
            };
            let (second, reference) =
                match (run_rule(backend, &data, rule, 0x3F), run_rule(oracle, &wide, rule, 0)) {
                    (Ok(second), Ok(reference)) => (second, reference),
                    (Err(error), _) => {
                        report.outcomes.push(failed(format!("failed when repeated: {error}")));
                        continue;
                    }
                    (_, Err(error)) => {
                        report.outcomes.push(failed(format!("cannot be judged, the oracle says: {error}")));
                        continue;
                    }
                };
            for (((output, value), (_, again)), (_, wanted)) in first.iter().zip(&second).zip(&reference) {
                let natural = magnitudes.natural_size(&data.problem, *output);
                let comparison = value.compare(&wanted.to_f64(), natural);
                let (verdict, reason) = if comparison.error > bound(precision, rule) {
                    (Verdict::Failed, format!("largest at {:?}", comparison.at))
                } else if value.same_bits(again) {
                    (Verdict::Passed, String::new())
                } else {
                    (Verdict::Failed, "another result when repeated".into())
                };
                report.outcomes.push(outcome(rule, Some(*output), comparison.error, verdict, reason));
            }
        }
    }
}

/// A tensor full of NaN on the backend's side: whatever is not written shows.
fn poisoned<T: Element, S: Storage>(storage: &S, memory: Memory, shape: [usize; 4]) -> Result<S::Tensor<T>> {
    let layout = layout(memory, shape)?;
    storage.upload(&Tensor::from_parts(vec![T::from_f64(f64::NAN); layout.span()], layout)?)
}

fn poisoned_saved<E: Element, B: Attention<E>>(
    backend: &B,
    data: &CaseData<E>,
) -> Result<crate::SavedTensor<B::Storage, E>> {
    let shape = data.problem.shape();
    Ok(Saved {
        output: poisoned(backend.storage(), data.memory, shape.output())?,
        // Statistics are the backend's own: always packed.
        lse: poisoned(backend.storage(), Memory::Contiguous, shape.rows())?,
    })
}

fn poisoned_gradients<E: Element, B: Attention<E>>(
    backend: &B,
    data: &CaseData<E>,
) -> Result<Qkv<<B::Storage as Storage>::Tensor<E>>> {
    let shape = data.problem.shape();
    let make = |shape| poisoned(backend.storage(), data.memory, shape);
    Ok(Qkv {
        q: make(shape.q())?,
        k: make(shape.k())?,
        v: make(shape.v())?,
        bias: data.problem.bias().map(make).transpose()?,
    })
}

/// Runs a rule, after the rules that it builds on, in scratch full of `garbage`, and brings its outputs
/// to the host.
fn run_rule<E: Element, B: Attention<E>>(
    backend: &B,
    data: &CaseData<E>,
    rule: Rule,
    garbage: u8,
) -> Result<Outputs<E>> {
    type View<'a, B, E, T> = <<B as Attention<E>>::Storage as Storage>::View<'a, T>;
    let storage = backend.storage();
    let problem: &Problem = &data.problem;
    let upload = |tensor: &Tensor<E>| storage.upload(tensor);
    let primal = Qkv {
        q: upload(&data.primal.q)?,
        k: upload(&data.primal.k)?,
        v: upload(&data.primal.v)?,
        bias: data.primal.bias.as_ref().map(upload).transpose()?,
    };
    let mask = data.mask.as_ref().map(|mask| storage.upload(mask)).transpose()?;
    let lengths = data.key_lengths.as_ref().map(|lengths| storage.upload(lengths)).transpose()?;
    let inputs = Inputs::<B::Storage, E> {
        q: B::Storage::view(&primal.q),
        k: B::Storage::view(&primal.k),
        v: B::Storage::view(&primal.v),
        bias: primal.bias.as_ref().map(B::Storage::view),
        mask: mask.as_ref().map(B::Storage::view),
        key_lengths: lengths.as_ref().map(B::Storage::view),
    };
    let inputs = Primal(&inputs);
    let workspace = |rule| {
        let mut workspace = storage.workspace(backend.workspace_bytes(problem, rule))?;
        storage.fill_workspace(&mut workspace, garbage)?;
        Ok::<_, Error>(workspace)
    };

    let mut saved = poisoned_saved(backend, data)?;
    let forward = backend.forward_into(
        problem,
        inputs,
        Primal(crate::saved_mut::<B::Storage, E>(&mut saved)),
        &mut workspace(Rule::Forward)?,
    );
    // A backend may refuse the forward rule of a problem and must then be asked for the rule itself.
    if rule == Rule::Forward || backend.support(problem, Rule::Forward).is_exact() {
        forward?;
    }
    if rule == Rule::Forward {
        return saved_outputs::<E, B>(backend, [Output::Out, Output::Lse], &saved);
    }
    let saved_view = Primal(crate::saved_view::<B::Storage, E>(&saved));
    let cotangent = upload(&data.cotangent)?;
    let cotangent: Cotangent<View<'_, B, E, E>> = Cotangent(B::Storage::view(&cotangent));
    if rule == Rule::Backward {
        let mut gradients = poisoned_gradients(backend, data)?;
        let lent = Cotangent(gradients.as_mut().map(B::Storage::view_mut));
        backend.backward_into(problem, inputs, saved_view, cotangent, lent, &mut workspace(rule)?)?;
        return gradient_outputs::<E, B>(
            backend,
            [Output::Dq, Output::Dk, Output::Dv, Output::Dbias],
            &gradients,
        );
    }

    let tangents = Qkv {
        q: upload(&data.tangents.q)?,
        k: upload(&data.tangents.k)?,
        v: upload(&data.tangents.v)?,
        bias: data.tangents.bias.as_ref().map(upload).transpose()?,
    };
    let directions: Tangent<Directions<View<'_, B, E, E>>> =
        Tangent(tangents.as_ref().map(B::Storage::view).into());
    let mut saved_tangent = poisoned_saved(backend, data)?;
    let jvp = backend.jvp_into(
        problem,
        inputs,
        saved_view,
        directions,
        Tangent(crate::saved_mut::<B::Storage, E>(&mut saved_tangent)),
        &mut workspace(Rule::Jvp)?,
    );
    if rule == Rule::Jvp || backend.support(problem, Rule::Jvp).is_exact() {
        jvp?;
    }
    if rule == Rule::Jvp {
        return saved_outputs::<E, B>(backend, [Output::OutTangent, Output::LseTangent], &saved_tangent);
    }

    let cotangent_tangent = upload(&data.cotangent_tangent)?;
    let (mut tangent, mut first) = (poisoned_gradients(backend, data)?, poisoned_gradients(backend, data)?);
    let lent = SecondOrder {
        tangent: Tangent(Cotangent(tangent.as_mut().map(B::Storage::view_mut))),
        first: Some(Cotangent(first.as_mut().map(B::Storage::view_mut))),
    };
    backend.second_order_into(
        problem,
        inputs,
        saved_view,
        directions,
        Tangent(crate::saved_view::<B::Storage, E>(&saved_tangent)),
        cotangent,
        Some(Tangent(Cotangent(B::Storage::view(&cotangent_tangent)))),
        lent,
        &mut workspace(rule)?,
    )?;
    let names = [Output::DqTangent, Output::DkTangent, Output::DvTangent, Output::DbiasTangent];
    let mut outputs = gradient_outputs::<E, B>(backend, names, &tangent)?;
    outputs.extend(gradient_outputs::<E, B>(
        backend,
        [Output::Dq, Output::Dk, Output::Dv, Output::Dbias],
        &first,
    )?);
    Ok(outputs)
}

fn saved_outputs<E: Element, B: Attention<E>>(
    backend: &B,
    names: [Output; 2],
    saved: &crate::SavedTensor<B::Storage, E>,
) -> Result<Outputs<E>> {
    Ok(vec![
        (names[0], Wide::Element(backend.storage().download(B::Storage::view(&saved.output))?)),
        (names[1], Wide::Statistic(backend.storage().download(B::Storage::view(&saved.lse))?)),
    ])
}

fn gradient_outputs<E: Element, B: Attention<E>>(
    backend: &B,
    names: [Output; 4],
    gradients: &Qkv<<B::Storage as Storage>::Tensor<E>>,
) -> Result<Outputs<E>> {
    let tensors = [Some(&gradients.q), Some(&gradients.k), Some(&gradients.v), gradients.bias.as_ref()];
    names
        .into_iter()
        .zip(tensors)
        .filter_map(|(name, tensor)| Some((name, tensor?)))
        .map(|(name, tensor)| {
            Ok((name, Wide::Element(backend.storage().download(B::Storage::view(tensor))?)))
        })
        .collect()
}
