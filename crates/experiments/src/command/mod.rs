//! The `theria` command: its arguments, its exit codes, its commands.

mod accuracy;
mod bench;
mod boundary;
mod check;
mod console;
mod doctor;
mod eval;
mod experiment;
mod maml;
mod plots;
mod progress;
mod proofs;
mod tour;
mod tune;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use console::Console;
use tracing_subscriber::EnvFilter;

/// What a command that ran to its end found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It did what was asked: exit code 0.
    Done,
    /// It judged, and something failed: exit code 1.
    Failed,
    /// Nothing could be judged: exit code 2.
    NothingJudged,
}

const EXIT_CODES: &str = "Exit code: 0 done, 1 judged and failed, 2 wrong usage or unreadable input. NO_COLOR turns colours off; RUST_LOG=debug shows what happens.";

/// Attention with exact derivatives to second order. Without a command: a tour, under a minute, in
/// which every rule that this build has is proved on the spot.
#[derive(Debug, Parser)]
#[command(
    name = "theria",
    version,
    args_conflicts_with_subcommands = true,
    after_help = EXIT_CODES,
    after_long_help = format!("Examples:\n  theria\n  theria --plots pictures\n  theria eval --input case.safetensors --output out.safetensors\n  theria check --case case.safetensors --candidate out.safetensors\n  theria boundary --json\n  theria bench --preset small\n  theria maml --out runs/memory --task key-value\n\n{EXIT_CODES}")
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    tour: tour::TourArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    Eval(eval::EvalArgs),
    Check(check::CheckArgs),
    Boundary(boundary::BoundaryArgs),
    Bench(bench::BenchArgs),
    Doctor(doctor::DoctorArgs),
    Tune(tune::TuneArgs),
    Maml(maml::MamlArgs),
    Experiment(experiment::ExperimentArgs),
}

/// What every command takes.
#[derive(Debug, Args)]
struct Common {
    /// Print one JSON object instead of text, for machines
    #[arg(long)]
    json: bool,
}

/// Runs the command line and says with which code to exit.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(answer) => {
            // Help and version go to stdout with code 0, mistakes to stderr with code 2. A reader
            // that is gone is no reason to complain.
            let _ = answer.print();
            return ExitCode::from(answer.exit_code() as u8);
        }
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    // A second call in one process keeps the first subscriber.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .try_init();
    let console = Console::new();
    let outcome = match cli.command {
        None => tour::run(&cli.tour, console),
        Some(Command::Eval(args)) => eval::run(&args, console),
        Some(Command::Check(args)) => check::run(&args, console),
        Some(Command::Boundary(args)) => boundary::run(&args, console),
        Some(Command::Bench(args)) => bench::run(&args, console),
        Some(Command::Doctor(args)) => doctor::run(&args, console),
        Some(Command::Tune(args)) => tune::run(&args, console),
        Some(Command::Maml(args)) => maml::run(&args, console),
        Some(Command::Experiment(args)) => experiment::run(&args, console),
    };
    match outcome {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Failed) => ExitCode::from(1),
        Ok(Outcome::NothingJudged) => ExitCode::from(2),
        // The reader has seen enough, as in `theria boundary | head`.
        Err(error) if console::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error:#}");
            ExitCode::from(2)
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
