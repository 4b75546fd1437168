//! Everything that must hold before a change is merged, cheapest first. The same command runs on
//! a laptop and in CI.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::builder::PossibleValuesParser;
use xshell::{Shell, cmd};

use crate::{docs, kernels, layers, links, phase_check, roadmap};

struct Step {
    name: &'static str,
    /// What to type to repeat the step alone.
    command: &'static str,
    run: fn(&Path) -> Result<()>,
}

/// The steps in the order they run.
const STEPS: &[Step] = &[
    Step { name: "fmt", command: "cargo fmt --all --check", run: fmt },
    Step { name: "layers", command: "cargo xtask layers", run: layers::check },
    Step { name: "roadmap", command: "cargo xtask roadmap --check", run: roadmap::check },
    Step { name: "links", command: "cargo xtask links", run: links::check },
    Step { name: "clippy", command: "cargo clippy --workspace --all-targets -- -D warnings", run: clippy },
    Step { name: "docs", command: "cargo xtask docs", run: docs::build },
    Step { name: "kernels", command: "cargo xtask kernels --check", run: |root| kernels::check(root, None) },
    Step { name: "tests", command: "cargo test --workspace", run: tests },
    // The tests step has just run every suite of the workspace, so seals are only compared here.
    Step { name: "phase-check", command: "cargo xtask phase-check --no-run", run: seals },
];

pub(crate) fn step_names() -> PossibleValuesParser {
    PossibleValuesParser::new(STEPS.iter().map(|step| step.name))
}

pub(crate) fn list() {
    for step in STEPS {
        println!("{:<12} {}", step.name, step.command);
    }
}

/// Runs the chosen steps and stops at the first that fails, with the command to repeat it.
pub(crate) fn run(root: &Path, only: &[String], skip: &[String]) -> Result<()> {
    let named = |names: &[String], step: &Step| names.iter().any(|name| name == step.name);
    let chosen = STEPS.iter().filter(|step| (only.is_empty() || named(only, step)) && !named(skip, step));
    let mut passed: Vec<(&str, Duration)> = Vec::new();
    for step in chosen {
        println!("\n== {}: {}", step.name, step.command);
        let start = Instant::now();
        let outcome = (step.run)(root);
        let time = start.elapsed();
        if let Err(error) = outcome {
            summarise(&passed, Some((step.name, time)));
            return Err(error).with_context(|| {
                format!("ci stopped at {}; repeat it alone with `{}`", step.name, step.command)
            });
        }
        println!("== {} passed in {:.1} s", step.name, time.as_secs_f64());
        passed.push((step.name, time));
    }
    summarise(&passed, None);
    Ok(())
}

fn summarise(passed: &[(&str, Duration)], failed: Option<(&str, Duration)>) {
    println!();
    let rows = passed.iter().map(|row| (row, "passed")).chain(failed.iter().map(|row| (row, "FAILED")));
    let mut total = Duration::ZERO;
    for ((name, time), verdict) in rows {
        total += *time;
        println!("{name:<12} {verdict} {:>8.1} s", time.as_secs_f64());
    }
    println!("{:<19} {:>8.1} s", "total", total.as_secs_f64());
}

fn shell(root: &Path) -> Result<Shell> {
    let shell = Shell::new()?;
    shell.change_dir(root);
    Ok(shell)
}

fn fmt(root: &Path) -> Result<()> {
    let shell = shell(root)?;
    cmd!(shell, "cargo fmt --all --check").quiet().run().context("run `cargo fmt --all`")
}

fn clippy(root: &Path) -> Result<()> {
    let shell = shell(root)?;
    Ok(cmd!(shell, "cargo clippy --workspace --all-targets -- -D warnings").quiet().run()?)
}

fn seals(root: &Path) -> Result<()> {
    phase_check::check(root, None, false)
}

fn tests(root: &Path) -> Result<()> {
    let shell = shell(root)?;
    Ok(cmd!(shell, "cargo test --workspace").quiet().run()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_have_names_of_their_own() {
        let mut names: Vec<&str> = STEPS.iter().map(|step| step.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), STEPS.len());
    }
}
