//! `theria doctor`: what this machine and this build have, and what to do about what is missing.

mod cuda;

use std::io::Write as _;

use clap::Args;
use cuda::CudaFindings;
use serde_json::{Value, json};
use theria_contract::DType;
use theria_contract::judge::Output;

use super::accuracy::{self, Accuracy};
use super::console::{self, Console, bytes, json_number, scientific};
use super::progress::Progress;
use super::{Common, Outcome};
use crate::backend::{Backend, with_element};
use crate::machine::Machine;

const EXAMPLES: &str = "Examples:
  theria doctor
  theria doctor --json > doctor.json

Exit code 1 when a backend fails its self-test; findings about the machine do not change it.";

/// Look at this machine and test every backend that it can run
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DoctorArgs {
    /// Seed of the random inputs of the self-test
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    common: Common,
}

/// Something to know, and what to do about it.
#[derive(Clone)]
struct Advice {
    what: String,
    todo: String,
}

struct SelfTest {
    backend: Backend,
    dtype: DType,
    accuracy: Vec<Accuracy>,
}

impl SelfTest {
    /// Whether the backend is held against itself, which proves nothing.
    fn is_oracle(&self) -> bool {
        self.backend == Backend::ORACLE && self.dtype == DType::F64
    }
}

pub(super) fn run(args: &DoctorArgs, mut console: Console) -> anyhow::Result<Outcome> {
    let progress = Progress::start("testing every backend");
    let machine = Machine::here();
    let cuda = CudaFindings::of_this_machine();
    let mut advice = [cuda.advice(), advice(&machine)].concat();
    let (mut tests, mut broken) = (Vec::new(), false);
    for backend in Backend::present() {
        for dtype in DType::ALL {
            let problem = accuracy::small_problem(dtype)?;
            let outcome = with_element!(dtype, E => accuracy::accuracy::<E>(backend, &problem, args.seed, 1));
            match outcome {
                Ok(accuracy) => tests.push(SelfTest { backend, dtype, accuracy }),
                // Whatever stops one backend is told, and the others are tested.
                Err(error) => {
                    broken = true;
                    let todo = "leave this backend out (--backend), and report it".to_owned();
                    advice.push(Advice { what: format!("{backend} cannot run on {dtype}: {error:#}"), todo });
                }
            }
        }
    }
    drop(progress);
    let failed = broken || tests.iter().flat_map(|test| &test.accuracy).any(Accuracy::failed);
    if args.common.json {
        console.json(&as_json(&machine, &cuda, &advice, &tests))?;
    } else {
        print(&mut console, &machine, &cuda, &advice, &tests)?;
    }
    Ok(if failed { Outcome::Failed } else { Outcome::Done })
}

fn advice(machine: &Machine) -> Vec<Advice> {
    let mut advice = Vec::new();
    let missing: Vec<&str> =
        machine.features.iter().filter(|(_, here)| !here).map(|(name, _)| *name).collect();
    if !missing.is_empty() {
        advice.push(Advice {
            what: format!("the processor lacks {}", missing.join(", ")),
            todo: "results are the same, products are slower; in a virtual machine, ask for the host's CPU model".into(),
        });
    }
    if machine.threads == 1 {
        advice.push(Advice {
            what: "one thread is used".into(),
            todo: "unset RAYON_NUM_THREADS, or give the container more cores".into(),
        });
    }
    if let Err(error) = temporary_file() {
        advice.push(Advice {
            what: format!("the folder for temporary files cannot be written to: {error}"),
            todo: "set TMPDIR to a folder that can".into(),
        });
    }
    advice
}

fn temporary_file() -> std::io::Result<()> {
    tempfile::NamedTempFile::new()?.write_all(b"theria")
}

fn print(
    console: &mut Console,
    machine: &Machine,
    cuda: &CudaFindings,
    advice: &[Advice],
    tests: &[SelfTest],
) -> anyhow::Result<()> {
    console.line(format_args!("theria   {}", env!("CARGO_PKG_VERSION")))?;
    console.line(format_args!("cpu      {}", machine.cpu))?;
    let features: Vec<String> = machine
        .features
        .iter()
        .map(|(name, here)| format!("{name} {}", if *here { "yes" } else { "no" }))
        .collect();
    console.line(format_args!("         {}; {} threads", features.join(", "), machine.threads))?;
    let memory = machine.memory.map_or_else(
        || "unknown: this system does not say".to_owned(),
        |(total, free)| format!("{}, {} free", bytes(total as f64), bytes(free as f64)),
    );
    console.line(format_args!("memory   {memory}"))?;
    cuda.print(console)?;

    console.heading("Self-test: largest error of each rule against binary64, and its bound")?;
    let mut table = console::table(["backend", "type", "rule", "error", "bound", "verdict"]);
    for test in tests {
        for row in &test.accuracy {
            table.add_row([
                test.backend.name().to_owned(),
                test.dtype.name().to_owned(),
                row.rule.name().to_owned(),
                row.error.map_or_else(String::new, scientific),
                format!("{:.0e}", row.bound),
                if test.is_oracle() && row.error.is_some() {
                    "is the oracle".to_owned()
                } else {
                    verdict(row)
                },
            ]);
        }
    }
    console.table(&table)?;

    console.heading("Findings")?;
    if advice.is_empty() {
        console.line("nothing is missing")?;
    }
    for finding in advice {
        console.line(format_args!("- {}\n  {}", finding.what, finding.todo))?;
    }
    Ok(())
}

/// The word for a rule: how it did, or why it did not run.
pub(super) fn verdict(row: &Accuracy) -> String {
    match (row.error, row.seconds) {
        (None, None) => row.support.to_string(),
        (None, Some(_)) => "not judged: the oracle does not have this rule".to_owned(),
        (Some(_), _) if row.failed() => "FAILED".to_owned(),
        (Some(_), _) => "passed".to_owned(),
    }
}

/// A rule's row for machines.
pub(super) fn row_json(row: &Accuracy) -> Value {
    json!({
        "rule": row.rule.name(),
        "support": row.support.to_string(),
        "error": row.error.map(json_number),
        "worst": row.worst.map(Output::name),
        "bound": row.bound,
        "seconds": row.seconds,
        "verdict": verdict(row).to_lowercase(),
    })
}

fn as_json(machine: &Machine, cuda: &CudaFindings, advice: &[Advice], tests: &[SelfTest]) -> Value {
    let features: serde_json::Map<String, Value> =
        machine.features.iter().map(|(name, here)| ((*name).to_owned(), json!(here))).collect();
    json!({
        "schema": 1,
        "command": "doctor",
        "version": env!("CARGO_PKG_VERSION"),
        "cpu": machine.cpu,
        "features": features,
        "threads": machine.threads,
        "memory": machine.memory.map(|(total, free)| json!({"total": total, "available": free})),
        "gpu_backend": cuda.has_device(),
        "cuda": cuda.json(),
        "findings": advice.iter().map(|finding| json!({"what": finding.what, "todo": finding.todo})).collect::<Vec<_>>(),
        "self_test": tests.iter().map(|test| json!({
            "backend": test.backend.name(),
            "dtype": test.dtype.name(),
            "is_oracle": test.is_oracle(),
            "rules": test.accuracy.iter().map(row_json).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    })
}
