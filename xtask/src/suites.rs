//! Runs the tests that speak for a phase.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use cargo_metadata::TargetKind;

use crate::builds;
use crate::phases::{Phase, Suite};

/// What a run of tests reported.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: usize,
    pub(crate) ignored: usize,
}

/// Fails when a suite of the phase names a package or a test target that is not there.
pub(crate) fn require(root: &Path, phase: &Phase) -> Result<()> {
    let metadata = builds::workspace(root)?;
    for suite in &phase.suites {
        let members = metadata.workspace_packages();
        let package = members.iter().find(|package| package.name.as_str() == suite.package);
        let Some(package) = package else {
            bail!("phase {}: suite package `{}` is not in the workspace", phase.number, suite.package);
        };
        let tests = package.targets.iter().filter(|target| target.kind.contains(&TargetKind::Test));
        let names: Vec<&str> = tests.map(|target| target.name.as_str()).collect();
        ensure!(
            suite.test == "*" || names.contains(&suite.test.as_str()),
            "phase {}: package `{}` has no test `{}` (it has: {})",
            phase.number,
            suite.package,
            suite.test,
            names.join(", ")
        );
    }
    Ok(())
}

/// Runs every suite of the phase with `variables` set; fails at the first that fails.
pub(crate) fn run(root: &Path, phase: &Phase, variables: &[(&str, String)]) -> Result<Counts> {
    let mut total = Counts::default();
    for suite in &phase.suites {
        let counts = run_one(root, suite, variables)?;
        total.passed += counts.passed;
        total.ignored += counts.ignored;
    }
    Ok(total)
}

fn arguments(suite: &Suite) -> Vec<&str> {
    let mut arguments = vec!["test", "--package", &suite.package];
    if suite.test != "*" {
        arguments.extend(["--test", &suite.test]);
    }
    arguments
}

fn run_one(root: &Path, suite: &Suite, variables: &[(&str, String)]) -> Result<Counts> {
    let arguments = arguments(suite);
    let line = format!("cargo {}", arguments.join(" "));
    println!("$ {line}");
    let mut command = Command::new("cargo");
    command.current_dir(root).args(&arguments).stdout(Stdio::piped());
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    let mut child = command.spawn().context("cannot start cargo")?;
    let mut counts = Counts::default();
    if let Some(stdout) = child.stdout.take() {
        for text in BufReader::new(stdout).split(b'\n') {
            let text = String::from_utf8_lossy(&text?).into_owned();
            println!("{text}");
            if let Some(found) = parse_result(&text) {
                counts.passed += found.passed;
                counts.ignored += found.ignored;
            }
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "suite failed ({status}); repeat it with `{line}`");
    Ok(counts)
}

/// Reads `test result: ok. 3 passed; 0 failed; 1 ignored; …`, the line that the standard harness
/// and harnesses made in its image print for each binary.
fn parse_result(line: &str) -> Option<Counts> {
    let fields = line.trim().strip_prefix("test result: ok. ")?;
    let number = |word: &str| {
        let field = fields.split(';').find(|field| field.trim().ends_with(word))?;
        field.trim().split(' ').next()?.parse().ok()
    };
    Some(Counts { passed: number(" passed")?, ignored: number(" ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_read_from_the_line_of_the_harness() {
        let line =
            "test result: ok. 12 passed; 0 failed; 3 ignored; 0 measured; 1 filtered out; finished in 0.01s";
        assert_eq!(parse_result(line), Some(Counts { passed: 12, ignored: 3 }));
    }

    #[test]
    fn other_lines_count_nothing() {
        for line in [
            "",
            "running 3 tests",
            "test result: FAILED. 2 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out",
            "test prints_test_result: ok. ... ok",
            "test result: ok. many passed; 0 failed; 0 ignored",
        ] {
            assert_eq!(parse_result(line), None, "{line}");
        }
    }

    #[test]
    fn a_suite_is_one_target_or_the_whole_package() {
        let suite = |test: &str| Suite { package: "theria-tests".to_owned(), test: test.to_owned() };
        assert_eq!(arguments(&suite("*")), ["test", "--package", "theria-tests"]);
        assert_eq!(arguments(&suite("phase0")), ["test", "--package", "theria-tests", "--test", "phase0"]);
    }
}
