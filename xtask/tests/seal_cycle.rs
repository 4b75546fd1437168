//! The life of a seal, on a throw-away workspace with one phase: sealed, checked, made stale,
//! tampered with, reopened. The suite of that phase writes real evidence with the standard library.

use std::fs;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

const MANIFEST: &str = r#"[workspace]
resolver = "3"
members = ["contract"]
"#;

const CRATE: &str = r#"[package]
name = "theria-contract"
version = "0.1.0"
edition = "2024"
"#;

/// Writes evidence whose verdict follows from what the library computes.
const SUITE: &str = r###"
#[test]
fn two_and_two_are_four() {
    let error = f64::from(theria_contract::two_and_two() - 4).abs();
    let (Ok(folder), Ok(hash)) = (std::env::var("THERIA_EVIDENCE_DIR"), std::env::var("THERIA_SOURCE_HASH")) else {
        assert_eq!(error, 0.0);
        return;
    };
    let verdict = if error == 0.0 { "passed" } else { "failed" };
    let (passed, failed) = if error == 0.0 { (1, 0) } else { (0, 1) };
    let text = format!(
        r##"{{"schema":1,"phase":0,"host":{{"cpu":"any"}},"source_hash":"{hash}",
"cases":[{{"name":"sum","rule":"forward","backend":"dense","dtype":"f64","error":{error},"bound":0.0,"verdict":"{verdict}"}}],
"summary":{{"passed":{passed},"failed":{failed},"refused":0}}}}"##
    );
    std::fs::write(std::path::Path::new(&folder).join("phase0.json"), text).unwrap();
}
"###;

const PHASES: &str = r#"# A comment to keep.
[[phase]]
number = 0
title = "The contract"
crates = ["theria-contract"]
suites = [{ package = "theria-contract", test = "sum" }]
sources = ["contract"]
evidence = ["phase0.json"]
state = "open"

[[phase]]
number = 1
title = "Later"
crates = []
state = "planned"
"#;

const ROADMAP: &str =
    "# Roadmap\n\n<!-- phases: written by `cargo xtask roadmap`, do not edit -->\n<!-- end of phases -->\n";

struct Workspace(TempDir);

struct Outcome {
    success: bool,
    stdout: String,
    stderr: String,
}

impl Workspace {
    fn new() -> Self {
        let workspace = Self(tempfile::tempdir().expect("a temporary folder"));
        for (path, text) in [
            ("Cargo.toml", MANIFEST),
            ("contract/Cargo.toml", CRATE),
            ("contract/src/lib.rs", "pub fn two_and_two() -> i32 {\n    2 + 2\n}\n"),
            ("contract/tests/sum.rs", SUITE),
            ("phases.toml", PHASES),
            ("ROADMAP.md", ROADMAP),
        ] {
            workspace.write(path, text);
        }
        workspace
    }

    fn root(&self) -> &Path {
        self.0.path()
    }

    fn read(&self, path: &str) -> String {
        fs::read_to_string(self.root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder can be made");
        fs::write(path, text).expect("a file can be written");
    }

    fn replace(&self, path: &str, from: &str, to: &str) {
        let text = self.read(path);
        assert!(text.contains(from), "{path} has no {from:?}:\n{text}");
        self.write(path, &text.replace(from, to));
    }

    fn xtask(&self, arguments: &[&str]) -> Outcome {
        let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
        command.arg("--root").arg(self.root()).args(arguments);
        // Builds stay inside the throw-away folder, and evidence of an outer run stays outside of it.
        command.env("CARGO_TARGET_DIR", self.root().join("target"));
        command.env_remove("THERIA_EVIDENCE_DIR").env_remove("THERIA_SOURCE_HASH");
        let output = command.output().expect("xtask can be started");
        Outcome {
            success: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn passes(&self, arguments: &[&str]) -> String {
        let outcome = self.xtask(arguments);
        assert!(outcome.success, "{arguments:?} failed:\n{}{}", outcome.stdout, outcome.stderr);
        outcome.stdout
    }

    fn fails(&self, arguments: &[&str], reason: &str) {
        let outcome = self.xtask(arguments);
        assert!(!outcome.success, "{arguments:?} passed:\n{}", outcome.stdout);
        assert!(
            outcome.stderr.contains(reason),
            "{arguments:?} failed without {reason:?}:\n{}",
            outcome.stderr
        );
    }
}

#[test]
fn a_seal_holds_until_something_it_binds_changes() {
    let workspace = Workspace::new();
    let open = workspace.passes(&["phase-check"]);
    assert!(open.contains("OPEN") && open.contains("NOT SEALED"), "an open phase is loud: {open}");

    workspace.passes(&["seal", "0"]);
    assert!(workspace.read("phases.toml").starts_with("# A comment to keep.\n"));
    assert!(workspace.read("ROADMAP.md").contains("| **sealed** "));
    let checked = workspace.passes(&["phase-check"]);
    assert!(checked.contains("test result: ok. 1 passed"), "the suite ran: {checked}");
    let checked = workspace.passes(&["phase-check", "0", "--no-run"]);
    assert!(!checked.contains("test result"), "the suite was left alone: {checked}");

    let library = workspace.read("contract/src/lib.rs");
    workspace.write("contract/src/lib.rs", &library.replace('\n', "\r\n"));
    workspace.passes(&["phase-check", "--no-run"]);
    workspace.write("contract/src/lib.rs", &format!("// A word.\n{library}"));
    workspace.write("contract/src/new.rs", "");
    workspace.fails(&["phase-check", "--no-run"], "changed contract/src/lib.rs, added contract/src/new.rs");
    workspace.fails(&["phase-check", "--no-run"], "cargo xtask seal N");
    fs::remove_file(workspace.root().join("contract/src/new.rs")).expect("the file is there");
    workspace.write("contract/src/lib.rs", &library);
    workspace.passes(&["phase-check", "--no-run"]);

    let evidence = workspace.read("docs/results/phase0.json");
    for (what, from, to, reason) in [
        ("a word", "\"sum\"", "\"another\"", "is not the evidence that was sealed"),
        (
            "a verdict",
            "\"verdict\":\"passed\"",
            "\"verdict\":\"failed\"",
            "case sum (forward, dense, f64) failed",
        ),
        ("an error", "\"error\":0", "\"error\":9", "above its bound"),
    ] {
        workspace.replace("docs/results/phase0.json", from, to);
        workspace.fails(&["phase-check", "--no-run"], reason);
        workspace.write("docs/results/phase0.json", &evidence);
        assert!(workspace.xtask(&["phase-check", "--no-run"]).success, "after {what} was put back");
    }
    fs::remove_file(workspace.root().join("docs/results/phase0.json")).expect("the file is there");
    workspace.fails(&["phase-check", "--no-run"], "evidence phase0.json is missing");
    workspace.write("docs/results/phase0.json", &evidence);
    workspace.replace("docs/results/phase0.sources.json", "contract/src/lib.rs", "contract/src/bil.rs");
    workspace.fails(&["phase-check", "--no-run"], "phase0.sources.json is not the list that was sealed");

    workspace.fails(&["unseal", "0", " "], "say why");
    workspace.passes(&["unseal", "0", "subtraction"]);
    assert!(workspace.passes(&["phase-check", "0"]).contains("NOT SEALED, nothing is promised: subtraction"));
    workspace.passes(&["roadmap", "--check"]);
}

#[test]
fn a_phase_that_does_not_hold_is_not_sealed() {
    let workspace = Workspace::new();
    let suite = "contract/tests/sum.rs";
    for (path, from, to, reason) in [
        ("phases.toml", "[\"contract\"]", "[\"contract\", \"gone\"]", "source `gone` names no file"),
        ("phases.toml", "\"sum\"", "\"product\"", "`theria-contract` has no test `product` (it has: sum)"),
        ("phases.toml", "contract\", test", "contrast\", test", "`theria-contrast` is not in the workspace"),
        (suite, "- 4", "- 5", "case sum (forward, dense, f64) failed"),
        (suite, "let error", "assert!(false);\nlet error", "suite failed"),
        (suite, "#[test]", "#[cfg(any())]\n#[test]", "no test ran"),
        (suite, "\"phase0.json\"", "\"phase1.json\"", "evidence phase0.json is missing"),
        (suite, "\"{hash}\"", "\"0ld{hash}\"", "made from other sources"),
    ] {
        let before = workspace.read(path);
        workspace.replace(path, from, to);
        workspace.fails(&["seal", "0"], reason);
        assert_eq!(workspace.read("ROADMAP.md"), ROADMAP, "a refused seal leaves the roadmap");
        assert!(!workspace.root().join("docs").exists(), "a refused seal records nothing");
        workspace.write(path, &before);
    }
    workspace.fails(&["seal", "1"], "phase 1 names no sources");
    workspace.fails(&["seal", "16"], "there is no phase 16");
    workspace.passes(&["seal", "0"]);
}

#[test]
fn evidence_made_elsewhere_seals_only_the_sources_it_was_made_from() {
    let workspace = Workspace::new();
    workspace.replace("contract/tests/sum.rs", "#[test]", "#[test]\n#[ignore = \"no device here\"]");
    let hash = workspace.passes(&["seal", "0", "--hash-only"]);
    let evidence = format!(
        "{{\"schema\":1,\"phase\":0,\"host\":{{\"device\":\"elsewhere\"}},\"source_hash\":\"{}\",\"cases\":[\
         {{\"name\":\"sum\",\"rule\":\"forward\",\"backend\":\"cuda-ref\",\"dtype\":\"f32\",\"error\":1e-7,\"bound\":2e-5,\
         \"verdict\":\"passed\"}}],\"summary\":{{\"passed\":1,\"failed\":0,\"refused\":0}}}}",
        hash.trim()
    );
    let elsewhere = tempfile::tempdir().expect("a temporary folder");
    fs::write(elsewhere.path().join("phase0.json"), evidence).expect("a file can be written");
    let folder = elsewhere.path().display().to_string();
    workspace.fails(&["seal", "0"], "no test ran (1 ignored)");

    let library = workspace.read("contract/src/lib.rs");
    workspace.write("contract/src/lib.rs", &format!("{library}// Later.\n"));
    workspace.fails(&["seal", "0", "--evidence", &folder], "made from other sources");
    workspace.write("contract/src/lib.rs", &library);
    workspace.passes(&["seal", "0", "--evidence", &folder]);
    let checked = workspace.passes(&["phase-check", "0"]);
    assert!(checked.contains("1 tests ignored here"), "{checked}");
}

#[test]
fn evidence_of_a_device_seals_only_the_kernels_that_the_device_ran() {
    const FILE: &str = "docs/results/phase0_cuda.json";
    let workspace = Workspace::new();
    workspace.replace("contract/tests/sum.rs", "#[test]", "#[test]\n#[ignore = \"no device here\"]");
    workspace.replace(
        "phases.toml",
        "evidence = [\"phase0.json\"]",
        "device_evidence = [\"phase0_cuda.json\"]",
    );
    workspace.fails(&["seal", "0"], "none of theria-contract has kernels");
    workspace.write("crates/contract/kernels/sum.cu", "// a kernel\n");
    workspace.fails(&["seal", "0"], "evidence phase0_cuda.json is missing");
    workspace.fails(&["seal", "0"], "`cargo xtask gpu-bundle` here, `bash run.sh test`");

    let evidence = "{\"schema\":1,\"phase\":0,\"host\":{\"device\":\"a GPU\",\"driver\":\"580\",\"git\":\"4a15f9c\"},\
        \"kernel_source_hash\":\"0ld\",\"cases\":[{\"name\":\"sum\",\"rule\":\"forward\",\"backend\":\"cuda-ref\",\
        \"dtype\":\"f32\",\"error\":1e-7,\"bound\":2e-5,\"verdict\":\"passed\"}],\
        \"summary\":{\"passed\":1,\"failed\":0,\"refused\":0}}";
    workspace.write(FILE, evidence);
    let refusal = workspace.xtask(&["seal", "0"]).stderr;
    let hash = refusal.split("the tree has ").nth(1).and_then(|rest| rest.split_whitespace().next());
    let hash = hash.unwrap_or_else(|| panic!("no hash of the kernels in:\n{refusal}"));
    let evidence = evidence.replace("0ld", hash);
    for (what, edited, reason) in [
        ("a verdict", evidence.replace("verdict\":\"passed", "verdict\":\"failed"), "case sum"),
        ("no device", evidence.replace("a GPU", ""), "names no device"),
        ("no driver", evidence.replace("580", ""), "names no driver"),
        ("no revision", evidence.replace("4a15f9c", ""), "names no revision"),
    ] {
        workspace.write(FILE, &edited);
        let outcome = workspace.xtask(&["seal", "0"]);
        assert!(!outcome.success && outcome.stderr.contains(reason), "{what}: {}", outcome.stderr);
    }
    workspace.write(FILE, &evidence);
    workspace.passes(&["seal", "0"]);
    workspace.passes(&["phase-check", "--no-run"]);
    assert!(workspace.read("ROADMAP.md").contains("(docs/results/phase0_cuda.json)"));

    workspace.write("crates/contract/kernels/sum.cu", "// another kernel\n");
    workspace.fails(&["phase-check", "--no-run"], "it was made with other kernels");
    workspace.fails(&["phase-check", "--no-run"], "copy out/phase0_cuda.json");
    workspace.write("crates/contract/kernels/sum.cu", "// a kernel\n");
    workspace.passes(&["phase-check", "--no-run"]);
    workspace.replace(FILE, "\"sum\"", "\"another\"");
    workspace.fails(&["phase-check", "--no-run"], "is not the evidence that was sealed");
    workspace.write(FILE, &evidence);
    workspace.write("contract/src/lib.rs", "pub fn two_and_two() -> i32 {\n    4\n}\n");
    workspace.fails(&["phase-check", "--no-run"], "changed contract/src/lib.rs");
}

#[test]
fn a_repository_is_read_through_git_and_ignored_files_do_not_count() {
    let workspace = Workspace::new();
    let git = |arguments: &[&str]| {
        let status = Command::new("git").arg("-C").arg(workspace.root()).args(arguments).status();
        assert!(status.expect("git can be started").success(), "git {arguments:?}");
    };
    git(&["init", "--quiet"]);
    workspace.write(".gitignore", "/target\n*.log\n");
    git(&["add", "contract/src/lib.rs"]);
    let before = workspace.passes(&["seal", "0", "--hash-only"]);
    workspace.write("contract/src/run.log", "ignored");
    assert_eq!(workspace.passes(&["seal", "0", "--hash-only"]), before, "an ignored file is no source");
    workspace.write("contract/src/new.rs", "");
    assert_ne!(
        workspace.passes(&["seal", "0", "--hash-only"]),
        before,
        "a new file is a source before it is added"
    );
}
