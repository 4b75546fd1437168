//! `theria eval`: exact derivatives of attention for anybody's tensors.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::Args;
use clap::builder::PossibleValuesParser;
use serde_json::{Value, json};
use theria_contract::{Checks, DType, Problem, Refusal, Rule, Support};

use super::console::{self, Console};
use super::progress::Progress;
use super::{Common, Outcome, boundary};
use crate::backend::{self, Backend, Served, with_element};
use crate::case_file::{CaseFile, Destination, ResultFile};
use crate::evaluation::built_on;

const EXAMPLES: &str = "Examples:
  theria eval --input case.safetensors --output out.safetensors
  theria eval --input case.safetensors --output out.safetensors --rules forward,backward
  theria eval --input case.safetensors --output out.safetensors --backend dense --dtype f64 --json

A case holds q [B, Hq, T, D], k [B, Hkv, M, D], v [B, Hkv, M, Dv], and optionally bias, mask, kv_lengths,
dout, q_tangent, k_tangent, v_tangent, bias_tangent, dout_tangent; metadata scale, causal, window, dropout,
dropout_seed. Results: out, lse; dq, dk, dv, dbias; out_tangent, lse_tangent; dq_tangent, dk_tangent,
dv_tangent, dbias_tangent.

Double backward of cotangents (aq, ak, av) that arrive on (dq, dk, dv): pass them as the tangents, without
dout_tangent; the gradient with respect to dout is out_tangent, those with respect to q, k, v are
dq_tangent, dk_tangent, dv_tangent.";

/// Evaluate the rules on a case file
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct EvalArgs {
    /// The case: a safetensors file
    #[arg(long, value_name = "FILE")]
    input: PathBuf,
    /// Where the results go; written whole or not at all
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
    /// Which backend computes
    #[arg(
        long,
        default_value = "auto",
        value_parser = backend_name,
        help = format!("Which backend computes: {}; auto takes the best one present", backend::names().join(", "))
    )]
    backend: String,
    /// Convert the inputs to this type first: f64, f32, f16 or bf16 [default: that of the case]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<DType>,
    /// Rules, by name: forward, backward, jvp, second-order [default: all that the case has the
    /// operands for and the backend supports]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    rules: Vec<Rule>,
    /// finite: a NaN or an infinity in an input or a result is an error; none: they propagate
    #[arg(long, default_value = "finite", value_parser = PossibleValuesParser::new(["finite", "none"]))]
    checks: String,
    #[command(flatten)]
    common: Common,
}

/// A name that `--backend` takes. What only experiments may run is refused with its reason.
pub(super) fn backend_name(name: &str) -> anyhow::Result<String> {
    let names = backend::names();
    if names.contains(&name) {
        return Ok(name.to_owned());
    }
    let reason = boundary::not_a_backend(name).unwrap_or_else(|| format!("unknown backend '{name}'"));
    bail!("{reason}; allowed: {}; see `theria boundary`", names.join(", "))
}

pub(super) fn run(args: &EvalArgs, mut console: Console) -> anyhow::Result<Outcome> {
    let case = CaseFile::read(&args.input).with_context(|| format!("case {}", args.input.display()))?;
    if same_file(&args.input, &args.output) {
        bail!("--output {} is the case itself; choose another name for the results", args.output.display());
    }
    let destination = Destination::open(&args.output)?;
    let dtype = args.dtype.unwrap_or(case.problem().dtype());
    let report = with_element!(dtype, E => evaluate::<E>(args, &case, destination))?;
    if args.common.json {
        console.json(&report.json(args))?;
    } else {
        report.print(args, &mut console)?;
    }
    Ok(Outcome::Done)
}

fn same_file(a: &Path, b: &Path) -> bool {
    matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

/// What became of one rule.
struct RuleReport {
    rule: Rule,
    /// Seconds, if it ran.
    time: Option<f64>,
    /// `exact`, or why it did not run.
    support: Support,
    missing: Option<&'static str>,
    outputs: Vec<(&'static str, [usize; 4])>,
}

struct Report {
    problem: Problem,
    backend: Backend,
    rules: Vec<RuleReport>,
}

fn evaluate<E: Served>(args: &EvalArgs, file: &CaseFile, destination: Destination) -> anyhow::Result<Report> {
    let checks = if args.checks == "finite" { Checks::Finite } else { Checks::None };
    if checks == Checks::Finite {
        file.fits::<E>().with_context(|| format!("case {}", args.input.display()))?;
    }
    let case = file.load::<E>()?;
    let problem = &case.problem;
    let asked = |rule: &Rule| args.rules.is_empty() || args.rules.contains(rule);
    for rule in &args.rules {
        if let Some(missing) = case.missing_for(*rule) {
            bail!("the {rule} rule needs {}, which {} does not have", missing.0, args.input.display());
        }
    }
    let possible: Vec<Rule> =
        Rule::ALL.into_iter().filter(|rule| asked(rule) && case.missing_for(*rule).is_none()).collect();
    let backend = Backend::named(&args.backend).unwrap_or_else(|| Backend::best(problem, &possible));
    // Rules asked for by name are refused by name below; otherwise there would be nothing to say.
    if let (true, Err(reason)) = (args.rules.is_empty(), backend.availability()) {
        bail!("{backend} is {reason}; `--backend auto` takes the best one that is here");
    }
    let rules =
        supported(backend.name(), &possible, !args.rules.is_empty(), |rule| backend.support(problem, rule))?;
    tracing::debug!(%backend, ?rules, ?problem, "evaluating");

    let progress = Progress::start("evaluating");
    let results = backend::evaluate(backend, checks, &case, &rules)?;
    let support: Vec<(Rule, String)> =
        Rule::ALL.into_iter().map(|rule| (rule, backend.support(problem, rule).to_string())).collect();
    let written =
        ResultFile::new(backend.name(), E::DTYPE, &support).bias_rank(case.bias_rank).to_bytes(&results);
    destination.commit(&written)?;
    drop(progress);

    let rules = Rule::ALL.into_iter().filter(asked).map(|rule| RuleReport {
        rule,
        time: results.time(rule).map(|time| time.as_secs_f64()),
        support: backend.support(problem, rule),
        missing: case.missing_for(rule).map(|missing| missing.0),
        outputs: results
            .iter()
            .filter(|(output, _)| output.rule() == rule)
            .map(|(output, tensor)| (output.name(), tensor.shape()))
            .collect(),
    });
    Ok(Report { problem: problem.clone(), backend, rules: rules.collect() })
}

/// The rules to run: a rule asked for by name must be the derivative itself, another one may be
/// passed over.
fn supported(
    backend: &str,
    possible: &[Rule],
    by_name: bool,
    support: impl Fn(Rule) -> Support,
) -> anyhow::Result<Vec<Rule>> {
    let mut rules = Vec::new();
    for rule in possible {
        let obstacle = built_on(*rule).iter().find_map(|needed| match support(*needed) {
            Support::Exact => None,
            Support::FrozenStats => Some(Refusal::FrozenStats),
            Support::Refused(reason) => Some(reason),
        });
        match obstacle {
            None => rules.push(*rule),
            Some(reason) if by_name => bail!(
                "{backend} refuses {rule}: {reason}; leave it out of --rules, or see `theria boundary` for what each backend supports"
            ),
            Some(_) => {}
        }
    }
    Ok(rules)
}

/// The problem in a line.
pub(super) fn describe(problem: &Problem) -> String {
    let s = problem.shape();
    let mut text = format!(
        "{} B={} Hq={} Hkv={} T={} M={} D={} Dv={} scale={:.6}",
        problem.dtype(),
        s.batch,
        s.heads_q,
        s.heads_kv,
        s.t,
        s.m,
        s.d,
        s.dv,
        problem.scale()
    );
    let features = [
        (problem.causal() != theria_contract::Causal::None).then(|| format!("causal={}", problem.causal())),
        (!problem.window().is_unbounded()).then(|| format!("window={}", problem.window())),
        problem.bias().map(|shape| format!("bias={shape:?}")),
        problem.mask().map(|shape| format!("mask={shape:?}")),
        problem.key_lengths().then(|| "kv_lengths".to_owned()),
        problem.dropout().map(|dropout| format!("dropout={} seed={}", dropout.p(), dropout.seed())),
    ];
    for feature in features.into_iter().flatten() {
        text.push(' ');
        text.push_str(&feature);
    }
    text
}

impl Report {
    fn print(&self, args: &EvalArgs, console: &mut Console) -> std::io::Result<()> {
        console.line(format_args!("problem  {}", describe(&self.problem)))?;
        console.line(format_args!("backend  {}: {}", self.backend, self.backend.summary()))?;
        let mut table = console::table(["rule", "support", "results", "time"]);
        for rule in &self.rules {
            let outputs: Vec<&str> = rule.outputs.iter().map(|(name, _)| *name).collect();
            let (results, time) = match (rule.time, rule.missing) {
                (Some(seconds), _) => (outputs.join(" "), format!("{:.3} ms", seconds * 1e3)),
                (None, Some(missing)) => (format!("none: the case lacks {missing}"), String::new()),
                (None, None) => ("none".to_owned(), String::new()),
            };
            table.add_row([rule.rule.name().to_owned(), rule.support.to_string(), results, time]);
        }
        console.table(&table)?;
        console.line(format_args!("written  {}", args.output.display()))
    }

    fn json(&self, args: &EvalArgs) -> Value {
        let rules = self.rules.iter().map(|rule| {
            let results: serde_json::Map<String, Value> =
                rule.outputs.iter().map(|(name, shape)| ((*name).to_owned(), json!(shape))).collect();
            json!({
                "rule": rule.rule.name(),
                "support": rule.support.to_string(),
                "missing": rule.missing,
                "seconds": rule.time,
                "results": results,
            })
        });
        json!({
            "schema": 1,
            "command": "eval",
            "input": args.input.display().to_string(),
            "output": args.output.display().to_string(),
            "backend": self.backend.name(),
            "dtype": self.problem.dtype().name(),
            "problem": describe(&self.problem),
            "version": env!("CARGO_PKG_VERSION"),
            "rules": rules.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use theria_contract::Attention;
    use theria_jvp_hvp::variant::{Variant, Varied};
    use theria_jvp_hvp::{Dense, Opaque};

    use super::*;

    fn ask<A: Attention<f64>>(backend: &A, rules: &[Rule], by_name: bool) -> anyhow::Result<Vec<Rule>> {
        let problem = Problem::builder(DType::F64).build().unwrap();
        supported(backend.name(), rules, by_name, |rule| backend.support(&problem, rule))
    }

    #[test]
    fn a_rule_that_is_not_the_derivative_is_passed_over_or_when_asked_for_by_name_an_error() {
        let opaque = Opaque::new(Dense::new());
        assert_eq!(ask(&opaque, &Rule::ALL, false).unwrap(), [Rule::Forward, Rule::Backward]);
        let error = ask(&opaque, &[Rule::SecondOrder], true).unwrap_err().to_string();
        assert!(
            error.starts_with("opaque refuses second-order: its forward and backward are opaque"),
            "{error}"
        );

        let frozen = Varied::new(Variant::FrozenStats);
        assert_eq!(ask(&frozen, &Rule::ALL, false).unwrap(), [Rule::Forward]);
        let error = ask(&frozen, &[Rule::Jvp], true).unwrap_err().to_string();
        assert!(error.contains("another linear map"), "{error}");

        assert_eq!(ask(&Dense::new(), &Rule::ALL, true).unwrap(), Rule::ALL);
    }
}
