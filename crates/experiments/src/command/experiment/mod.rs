//! `theria experiment`: the phases of the research that are experiments, each as rows and a report.

mod phase10;

use clap::{Args, Subcommand};

use super::Outcome;
use super::console::Console;

const EXAMPLES: &str = "Examples:
  theria experiment phase10 --rows rows.jsonl --quick
  theria experiment phase10 --report rows.jsonl --out report";

/// Measure a phase of the research, or make its report; `--json` of a phase prints what was done
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct ExperimentArgs {
    #[command(subcommand)]
    phase: Phase,
}

/// The phases that are experiments.
#[derive(Debug, Subcommand)]
enum Phase {
    #[command(name = "phase10")]
    Phase10(Box<phase10::Phase10Args>),
}

pub(super) fn run(args: &ExperimentArgs, console: Console) -> anyhow::Result<Outcome> {
    match &args.phase {
        Phase::Phase10(args) => phase10::run(args, console),
    }
}
