//! Runs a backend through the cases.

use std::collections::BTreeMap;

use super::outputs::Outputs;
use super::rests;
use super::stage::{Absent, Stage, starts_from};
use super::{Case, CaseData, Form, Outcome, Report, Verdict, standard_cases};
use crate::judge::{self, Magnitudes, Output};
use crate::{Attention, Element, Error, Host, Precision, Rule, Support, Tensor, bound};

/// A list of cases, and the precision in which outputs are judged.
#[derive(Clone, Debug)]
pub struct Suite {
    /// The cases.
    pub cases: Vec<Case>,
    /// Overrides the precision that goes with the element type, for a backend that multiplies in
    /// less than it stores (TF32).
    pub precision: Option<Precision>,
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
    ///
    /// # Panics
    /// If the data of a case cannot be made: the case contradicts itself.
    pub fn run<E, B, O>(&self, backend: &B, oracle: &O) -> Report
    where
        E: Element,
        B: Attention<E>,
        O: Attention<f64, Storage = Host>,
    {
        let mut report = Report::default();
        for case in &self.cases {
            let data = CaseData::<E>::of(case).expect("the data of a valid case");
            let wide = data.widen();
            let stages = Stage::new(backend, &data, Absent::LeftOut)
                .and_then(|tested| Ok((tested, Stage::new(oracle, &wide, Absent::Zeros)?)));
            let row = Row { case, backend: backend.name(), precision: self.precision, rule: Rule::Forward };
            match stages {
                Ok((tested, trusted)) => {
                    let magnitudes = magnitudes(&data, &trusted);
                    let mut trial = Trial { row, backend, data: &data, tested, trusted, magnitudes };
                    for rule in Rule::ALL {
                        trial.judge(rule, &mut report);
                    }
                }
                Err(error) => {
                    let reason = format!("the operands do not fit into its memory: {error}");
                    report.outcomes.push(row.failed::<E>(&Form::EVERYTHING, reason));
                }
            }
        }
        report
    }
}

/// Magnitudes of all operands. How far the probabilities concentrate is read off the output.
fn magnitudes<E: Element, O: Attention<f64>>(data: &CaseData<E>, trusted: &Stage<'_, f64, O>) -> Magnitudes {
    let mut magnitudes = data.magnitudes();
    if let Ok(forward) = trusted.run(Rule::Forward, &Form::EVERYTHING, 0) {
        let out = judge::rms(forward.tensors[0].1.to_f64().view());
        magnitudes.concentration = Magnitudes::concentration_of(out, magnitudes.v);
    }
    magnitudes
}

/// What all rows of one case and rule share.
#[derive(Clone, Copy)]
struct Row<'a> {
    case: &'a Case,
    backend: &'static str,
    precision: Option<Precision>,
    rule: Rule,
}

impl Row<'_> {
    fn outcome<E: Element>(&self, form: &Form, output: Option<Output>, error: f64) -> Outcome {
        Outcome {
            case: self.case.name,
            form: *form,
            rule: self.rule,
            output,
            backend: self.backend,
            dtype: E::DTYPE,
            error,
            bound: bound(self.precision.unwrap_or(Precision::of(E::DTYPE)), self.rule),
            verdict: Verdict::Passed,
            reason: String::new(),
        }
    }

    fn failed<E: Element>(&self, form: &Form, reason: String) -> Outcome {
        Outcome { verdict: Verdict::Failed, reason, ..self.outcome::<E>(form, None, f64::INFINITY) }
    }

    fn refused<E: Element>(&self, reason: String) -> Outcome {
        Outcome { verdict: Verdict::Refused, reason, ..self.outcome::<E>(&Form::EVERYTHING, None, 0.0) }
    }
}

/// One case, the backend under test, and the oracle.
struct Trial<'a, E: Element, B: Attention<E>, O: Attention<f64>> {
    row: Row<'a>,
    backend: &'a B,
    data: &'a CaseData<E>,
    tested: Stage<'a, E, B>,
    trusted: Stage<'a, f64, O>,
    magnitudes: Magnitudes,
}

impl<E: Element, B: Attention<E>, O: Attention<f64>> Trial<'_, E, B, O> {
    fn judge(&mut self, rule: Rule, report: &mut Report) {
        self.row.rule = rule;
        match self.admitted(rule) {
            Ok(everything) => self.judge_forms(rule, everything, report),
            Err(settled) => report.outcomes.push(*settled),
        }
    }

    /// The results of a rule that the backend vouches for. Where it does not, what it does must be
    /// what it says, and one row settles it.
    fn admitted(&self, rule: Rule) -> Result<Outputs<E>, Box<Outcome>> {
        let support = self.backend.support(&self.data.problem, rule);
        let failed = |reason| Box::new(self.row.failed::<E>(&Form::EVERYTHING, reason));
        let refused = |reason| Box::new(self.row.refused::<E>(reason));
        if let (Support::Exact, Some(earlier)) = (&support, starts_from(rule)) {
            let other = self.backend.support(&self.data.problem, earlier);
            if !other.is_exact() {
                return Err(failed(format!(
                    "said '{support}', but of the {earlier} rule, from whose results it starts: '{other}'"
                )));
            }
        }
        match (self.tested.run(rule, &Form::EVERYTHING, 0xFF), support) {
            (Ok(outputs), Support::Exact) => Ok(outputs),
            (Ok(_), Support::FrozenStats) => Err(refused("frozen statistics".into())),
            (Ok(_), Support::Refused(reason)) => Err(failed(format!("said '{reason}' but computed"))),
            (Err(Error::Refused { rule: named, reason, .. }), Support::Refused(promised))
                if named == rule && reason == promised =>
            {
                Err(refused(reason.to_string()))
            }
            (Err(error), support) => Err(failed(format!("said '{support}' but returned: {error}"))),
        }
    }

    fn judge_forms(&self, rule: Rule, everything: Outputs<E>, report: &mut Report) {
        let problem = &self.data.problem;
        let mut everything = Some(everything);
        let mut references = BTreeMap::new();
        for form in self.forms(rule) {
            let asked = form.with_the_same_operands(rule, problem);
            let reference = references.entry(asked.name).or_insert_with(|| self.trusted.run(rule, &asked, 0));
            // The first form is run twice, with other garbage in its scratch.
            let runs = match everything.take() {
                Some(outputs) => self.tested.run(rule, &form, 0x3F).map(|again| (outputs, Some(again))),
                None => self.tested.run(rule, &form, 0xFF).map(|outputs| (outputs, None)),
            };
            match (runs, reference) {
                (Ok((outputs, again)), Ok(reference)) => {
                    self.judge_outputs(&form, &outputs, again.as_ref(), reference, report);
                }
                (Err(error), _) => {
                    report.outcomes.push(self.row.failed::<E>(&form, format!("returned: {error}")));
                }
                (_, Err(error)) => {
                    let reason = format!("cannot be judged, the oracle says: {error}");
                    report.outcomes.push(self.row.failed::<E>(&form, reason));
                }
            }
        }
    }

    /// The forms in which a rule is called on this case.
    fn forms(&self, rule: Rule) -> impl Iterator<Item = Form> {
        let problem = &self.data.problem;
        let large = self.row.case.is_large();
        Form::ALL
            .into_iter()
            .filter(move |form| form.as_seen_by(rule, problem) == *form && (form.at_scale || !large))
    }

    fn judge_outputs(
        &self,
        form: &Form,
        outputs: &Outputs<E>,
        again: Option<&Outputs<E>>,
        reference: &Outputs<f64>,
        report: &mut Report,
    ) {
        let magnitudes = form.magnitudes(self.magnitudes);
        for (place, (output, made)) in outputs.tensors.iter().enumerate() {
            let wanted = reference.tensors.iter().find(|(name, _)| name == output);
            let wanted = wanted.map(|(_, wanted)| wanted.to_f64());
            let Some(wanted) = wanted else {
                let reason = format!("cannot be judged, the oracle makes no {}", output.name());
                report.outcomes.push(self.row.failed::<E>(form, reason));
                continue;
            };
            let natural = magnitudes.natural_size(&self.data.problem, *output);
            let comparison = made.compare(&wanted, natural);
            let mut outcome = self.row.outcome::<E>(form, Some(*output), comparison.error);
            let repeated = again.is_none_or(|again| made.same_bits(&again.tensors[place].1));
            let rest = outputs.rest.as_ref().filter(|_| place == 0);
            let rest = rest.and_then(|rest| rests::wrong(rest, &made.to_f64(), &wanted));
            let wrong = if outcome.error > outcome.bound {
                Some(format!("largest at {:?}", comparison.at))
            } else if natural == 0.0 && is_zero(&wanted) && !is_zero(&made.to_f64()) {
                Some("not exactly zero, though every term of it has a factor that is".into())
            } else if !repeated || again.is_some_and(|again| !same_rest(outputs, again)) {
                Some("another result when repeated".into())
            } else {
                rest
            };
            if let Some(reason) = wrong {
                (outcome.verdict, outcome.reason) = (Verdict::Failed, reason);
            }
            report.outcomes.push(outcome);
        }
    }
}

fn same_rest<E: Element>(a: &Outputs<E>, b: &Outputs<E>) -> bool {
    match (&a.rest, &b.rest) {
        (Some(a), Some(b)) => a.bytes() == b.bytes(),
        (None, None) => true,
        _ => false,
    }
}

/// With nothing to compute there is nothing to round: no bound applies.
fn is_zero(tensor: &Tensor<f64>) -> bool {
    tensor.data().iter().all(|x| *x == 0.0)
}
