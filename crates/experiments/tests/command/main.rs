//! The `theria` command from outside: what it prints, what it writes, and its exit codes.

mod bench;
mod check;
mod eval;
mod experiment;
mod maml;
mod surface;
mod tune;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;
use theria_contract::{Causal, DType, Problem};
use theria_experiments::case_file::Case;

/// A folder with a case in it.
struct Bench {
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        Self { folder: TempDir::new().unwrap() }
    }

    /// A folder with `case.safetensors`: grouped heads, causal, a bias, everything that rules need.
    fn with_case() -> (Self, Case<f64>) {
        let bench = Self::new();
        let problem = Problem::builder(DType::F64)
            .batch(2)
            .heads(4, 2)
            .lengths(6, 9)
            .head_dims(8, 4)
            .causal(Causal::BottomRight)
            .bias([1, 4, 1, 9])
            .build()
            .unwrap();
        let case = Case::<f64>::random(&problem, 7).unwrap();
        case.write(&bench.path("case.safetensors")).unwrap();
        (bench, case)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = std::fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    fn eval(&self, case: &str, output: &str, more: &[&str]) -> Ran {
        let (case, output) = (self.path(case), self.path(output));
        let mut arguments = vec!["eval", "--input", text(&case), "--output", text(&output)];
        arguments.extend(more);
        theria(&arguments)
    }

    fn check(&self, case: &str, candidate: &str, more: &[&str]) -> Ran {
        let (case, candidate) = (self.path(case), self.path(candidate));
        let mut arguments = vec!["check", "--case", text(&case), "--candidate", text(&candidate)];
        arguments.extend(more);
        theria(&arguments)
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// What a run left behind.
#[derive(Debug)]
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn of(command: &mut Command) -> Self {
        let Output { status, stdout, stderr } = command.env_remove("RUST_LOG").output().unwrap();
        Self {
            code: status.code().expect("an exit code, not a signal"),
            out: String::from_utf8(stdout).unwrap(),
            err: String::from_utf8(stderr).unwrap(),
        }
    }

    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// It went wrong in the way that usage does, and its message holds these phrases.
    #[track_caller]
    fn complains(&self, phrases: &[&str]) {
        assert_eq!(self.code, 2, "{self:?}");
        for phrase in phrases {
            assert!(self.err.contains(phrase), "no '{phrase}' in: {}", self.err);
        }
        assert!(!self.err.contains("panicked"), "{}", self.err);
    }
}

fn theria(arguments: &[&str]) -> Ran {
    Ran::of(Command::new(env!("CARGO_BIN_EXE_theria")).args(arguments))
}
