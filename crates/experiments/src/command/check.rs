//! `theria check`: judges somebody else's kernel.

use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use clap::Args;
use serde_json::{Value, json};
use theria_contract::Precision;

use super::console::{self, Console, json_number, scientific};
use super::eval::describe;
use super::progress::Progress;
use super::{Common, Outcome};
use crate::case_file::{Candidate, CaseFile};
use crate::judgement::{self, Finding, Judgement, Verdict};

const EXAMPLES: &str = "Examples:
  theria check --case case.safetensors --candidate theirs.safetensors
  theria check --case case.safetensors --candidate theirs.safetensors --precision tf32 --json

Every tensor of the candidate (out, lse, dq, dk, dv, dbias, out_tangent, lse_tangent, dq_tangent,
dk_tangent, dv_tangent, dbias_tangent) is held against binary64 on the same rounded inputs. The error is the
largest absolute difference over the root mean square of the reference (of its row, where that is larger;
of its uncancelled terms, where a derivative vanishes), without the rounding of the candidate to its own
type. Exit code 0 when all that could be
judged is within its bound, 1 when a bound is broken, 2 when nothing could be judged.";

/// Judge a candidate's results for a case
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CheckArgs {
    /// The case that the candidate was given
    #[arg(long, value_name = "FILE")]
    case: PathBuf,
    /// The candidate's results: a safetensors file
    #[arg(long, value_name = "FILE")]
    candidate: PathBuf,
    /// Apply the bounds of this precision: f64, f32, tf32, f16 or bf16 [default: the narrowest
    /// type among the candidate's tensors]
    #[arg(long, value_name = "NAME", value_parser = precision)]
    precision: Option<Precision>,
    #[command(flatten)]
    common: Common,
}

fn precision(name: &str) -> anyhow::Result<Precision> {
    let all = [Precision::F64, Precision::F32, Precision::Tf32, Precision::F16, Precision::Bf16];
    all.into_iter().find(|precision| precision.to_string() == name).ok_or_else(|| {
        anyhow!("unknown precision '{name}'; known: {}", all.map(|known| known.to_string()).join(", "))
    })
}

pub(super) fn run(args: &CheckArgs, mut console: Console) -> anyhow::Result<Outcome> {
    let case = CaseFile::read(&args.case).with_context(|| format!("case {}", args.case.display()))?;
    let candidate = Candidate::read(&args.candidate)
        .with_context(|| format!("candidate {}", args.candidate.display()))?;
    let progress = Progress::start("computing the reference in binary64");
    let judgement = judgement::judge(&case, &candidate, args.precision)?;
    drop(progress);
    let outcome = match &judgement {
        judged if judged.failed() => Outcome::Failed,
        judged if judged.is_empty() => Outcome::NothingJudged,
        _ => Outcome::Done,
    };
    let printed = if args.common.json {
        console.json(&as_json(args, &judgement, outcome)).map_err(anyhow::Error::from)
    } else {
        print(&mut console, &case, &judgement, outcome)
    };
    match printed {
        // The verdict stands, also when its reader left.
        Err(error) if !console::is_broken_pipe(&error) => Err(error),
        _ => Ok(outcome),
    }
}

fn verdict(finding: &Finding) -> String {
    match &finding.verdict {
        Verdict::Passed => "passed".into(),
        Verdict::Failed => "FAILED".into(),
        Verdict::WrongShape { given, expected: Some(expected) } => {
            format!("wrong shape {given:?}, this case needs {expected:?}")
        }
        Verdict::WrongShape { given, expected: None } => {
            format!("wrong shape {given:?}: the case has no bias")
        }
        Verdict::NotJudged(reason) => format!("not judged: {reason}"),
    }
}

fn summary(outcome: Outcome, judgement: &Judgement) -> String {
    let count = |wanted: fn(&Verdict) -> bool| {
        judgement.findings.iter().filter(|finding| wanted(&finding.verdict)).count()
    };
    let passed = count(|verdict| *verdict == Verdict::Passed);
    let skipped = count(|verdict| matches!(verdict, Verdict::NotJudged(_)));
    let failed = judgement.findings.len() - passed - skipped;
    let word = match outcome {
        Outcome::Done => "passed",
        Outcome::Failed => "FAILED",
        Outcome::NothingJudged => "not judged",
    };
    format!("{word}: {passed} within bounds, {failed} wrong, {skipped} without a reference")
}

fn print(
    console: &mut Console,
    case: &CaseFile,
    judgement: &Judgement,
    outcome: Outcome,
) -> anyhow::Result<()> {
    console.line(format_args!("problem  {}", describe(case.problem())))?;
    let (inputs, of_case) = (judgement.inputs, case.problem().dtype());
    let rounded =
        if inputs == of_case { String::new() } else { format!(" rounded to {inputs} like the candidate") };
    console.line(format_args!(
        "oracle   binary64 on the {of_case} inputs{rounded}; bounds of {}",
        judgement.precision
    ))?;
    let mut table = console::table(["tensor", "max error", "rms error", "bound", "where", "verdict"]);
    for finding in &judgement.findings {
        let compared = |text: fn(&theria_contract::judge::Comparison) -> String| {
            finding.comparison.as_ref().map_or_else(String::new, text)
        };
        table.add_row([
            finding.output.name().to_owned(),
            compared(|comparison| scientific(comparison.error)),
            compared(|comparison| scientific(comparison.rms_error)),
            format!("{:.0e}", finding.bound),
            compared(|comparison| format!("{:?}", comparison.at)),
            verdict(finding),
        ]);
    }
    console.table(&table)?;
    console.verdict(summary(outcome, judgement))?;
    Ok(())
}

fn as_json(args: &CheckArgs, judgement: &Judgement, outcome: Outcome) -> Value {
    let tensors = judgement.findings.iter().map(|finding| {
        let (verdict_name, reason) = match &finding.verdict {
            Verdict::Passed => ("passed", None),
            Verdict::Failed => ("failed", None),
            Verdict::WrongShape { .. } => ("failed", Some(verdict(finding))),
            Verdict::NotJudged(reason) => ("not-judged", Some(reason.clone())),
        };
        json!({
            "tensor": finding.output.name(),
            "rule": finding.output.rule().name(),
            "error": finding.comparison.map(|comparison| json_number(comparison.error)),
            "rms_error": finding.comparison.map(|comparison| json_number(comparison.rms_error)),
            "at": finding.comparison.map(|comparison| comparison.at),
            "bound": finding.bound,
            "verdict": verdict_name,
            "reason": reason,
        })
    });
    let verdict = match outcome {
        Outcome::Done => "passed",
        Outcome::Failed => "failed",
        Outcome::NothingJudged => "not-judged",
    };
    json!({
        "schema": 1,
        "command": "check",
        "case": args.case.display().to_string(),
        "candidate": args.candidate.display().to_string(),
        "precision": judgement.precision.to_string(),
        "inputs": judgement.inputs.name(),
        "verdict": verdict,
        "tensors": tensors.collect::<Vec<_>>(),
    })
}
