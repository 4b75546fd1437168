//! `theria` without a command: the tour.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use serde_json::{Value, json};
use theria_contract::{Causal, DType, Problem, Rule};

use super::accuracy::{self, Accuracy};
use super::console::{self, Console, bytes, scientific};
use super::doctor::{row_json, verdict};
use super::eval::describe;
use super::progress::Progress;
use super::proofs::{self, Proved};
use super::{Common, Outcome, boundary, plots};
use crate::backend::{Backend, Scores};
use crate::bench;
use crate::machine::Machine;

/// The length at which the tour shows how memory grows.
const LONG: usize = 4096;

#[derive(Debug, Args)]
pub(super) struct TourArgs {
    /// Seed of the random inputs of the tour
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write pictures of the Taylor proofs into this folder, as SVG
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
    #[command(flatten)]
    common: Common,
}

struct Tour {
    seed: u64,
    problem: Problem,
    backend: Backend,
    accuracy: Vec<Accuracy>,
    proofs: Vec<Proved>,
    /// Threads whose bits were held against those of one, and whether they were the same.
    threads: (usize, bool),
    pictures: Vec<PathBuf>,
    seconds: f64,
}

pub(super) fn run(args: &TourArgs, mut console: Console) -> anyhow::Result<Outcome> {
    let start = Instant::now();
    let problem = Problem::builder(DType::F32)
        .heads(8, 8)
        .lengths(1024, 1024)
        .head_dims(64, 64)
        .causal(Causal::TopLeft)
        .build()?;
    let backend = Backend::best(&problem, &Rule::ALL);
    // Opened before the work: a folder that cannot be written to is an error at once.
    let picture = args.plots.as_deref().map(plots::open).transpose()?;
    if !args.common.json {
        let machine = Machine::here();
        console.line(format_args!(
            "theria {}: attention with exact derivatives to second order",
            env!("CARGO_PKG_VERSION")
        ))?;
        console.line(format_args!("{}, {} threads; seed {}", machine.cpu, machine.threads, args.seed))?;
    }
    let progress = Progress::start("measuring");
    let accuracy = accuracy::accuracy::<f32>(backend, &problem, args.seed, 3)?;
    let small = proofs::problem()?;
    let proofs = proofs::prove(backend, &small, args.seed);
    let threads = rayon::current_num_threads().max(2);
    let same = accuracy::same_bits_on_any_threads::<f32>(backend, &problem, args.seed, threads)?;
    let mut pictures = Vec::new();
    if let (Some(destination), Some(folder)) = (picture, &args.plots) {
        destination.commit(plots::taylor(&proofs, backend, &small, args.seed)?.as_bytes())?;
        pictures.push(folder.join(plots::TAYLOR));
    }
    drop(progress);
    let tour = Tour {
        seed: args.seed,
        problem,
        backend,
        accuracy,
        proofs,
        threads: (threads, same),
        pictures,
        seconds: start.elapsed().as_secs_f64(),
    };
    if args.common.json {
        console.json(&tour.json()?)?;
    } else {
        tour.print(&mut console)?;
    }
    Ok(if tour.failed() { Outcome::Failed } else { Outcome::Done })
}

/// Floating-point operations of a rule, the second order with a tangent of the cotangent.
fn flops(problem: &Problem, rule: Rule) -> f64 {
    bench::flops(problem, bench::units(rule, true))
}

/// Bytes of the scores of all heads.
fn scores(problem: &Problem) -> f64 {
    problem.shape().scores().iter().map(|n| *n as f64).product::<f64>() * problem.dtype().size() as f64
}

impl Tour {
    fn failed(&self) -> bool {
        self.accuracy.iter().any(Accuracy::failed)
            || self.proofs.iter().any(Proved::failed)
            || !self.threads.1
    }

    /// The same problem at another length.
    fn longer(&self) -> theria_contract::Result<Problem> {
        self.problem.to_builder().lengths(LONG, LONG).build()
    }

    fn print(&self, console: &mut Console) -> anyhow::Result<()> {
        self.print_accuracy(console)?;
        self.print_memory(console)?;
        self.print_proofs(console)?;

        console.heading("The boundary: what is exact, and what is refused")?;
        boundary::print(console, boundary::Detail::Together)?;

        console.heading("Go on with your own tensors")?;
        console.line(GO_ON)?;
        console.line("")?;
        for picture in &self.pictures {
            console.line(format_args!("written  {}", picture.display()))?;
        }
        console.line(format_args!("{:.1} s", self.seconds))?;
        Ok(())
    }

    fn print_accuracy(&self, console: &mut Console) -> anyhow::Result<()> {
        console.heading(&format!("Every rule on the best backend: {}", self.backend))?;
        console.line(describe(&self.problem))?;
        let mut table =
            console::table(["rule", "error against f64", "of", "bound", "time", "GFLOP/s", "verdict"]);
        for row in &self.accuracy {
            table.add_row([
                row.rule.name().to_owned(),
                row.error.map_or_else(String::new, scientific),
                row.worst.map_or_else(String::new, |worst| worst.name().to_owned()),
                format!("{:.0e}", row.bound),
                row.seconds.map_or_else(String::new, |seconds| format!("{:.2} ms", seconds * 1e3)),
                row.seconds.map_or_else(String::new, |seconds| {
                    format!("{:.1}", flops(&self.problem, row.rule) / seconds / 1e9)
                }),
                verdict(row),
            ]);
        }
        console.table(&table)?;
        let (threads, same) = self.threads;
        console.verdict(format_args!(
            "{}  deterministic: 1 and {threads} threads give {} bits",
            if same { "passed" } else { "FAILED" },
            if same { "the same" } else { "different" },
        ))?;
        Ok(())
    }

    fn print_memory(&self, console: &mut Console) -> anyhow::Result<()> {
        let longer = self.longer()?;
        let workspace = |problem: &Problem| self.backend.workspace_bytes(problem, Rule::SecondOrder) as f64;
        let grows = |of: &dyn Fn(&Problem) -> f64| of(&longer) / of(&self.problem);
        let t = self.problem.shape().t;
        let matrix = format!("{}, {:.1} times", bytes(scores(&longer)), grows(&scores));
        console.line(match self.backend.scores() {
            Scores::Streamed => format!(
                "memory: the second order at T = {LONG} asks for {}, {:.1} times that at {t}; the score matrix would be {matrix}, and never exists",
                bytes(workspace(&longer)),
                grows(&workspace),
            ),
            Scores::Stored => format!(
                "memory: score matrices are stored head by head; at T = {LONG} those of all heads are {matrix} those at {t}"
            ),
        })?;
        Ok(())
    }

    fn print_proofs(&self, console: &mut Console) -> anyhow::Result<()> {
        console.heading(
            "Proved on the spot, in f64 on a small problem with grouped heads, causal mask, bias and dropout; each proof beside a mistake that it must reject",
        )?;
        let mut table = console::table([
            "proof",
            "measured",
            "allowed",
            "verdict",
            "negative control",
            "measured",
            "rejected",
        ]);
        for proved in &self.proofs {
            table.add_row([
                proved.finding.proof.name().to_owned(),
                proofs::measured(&proved.finding),
                proved.finding.allowed.to_string(),
                proofs::word(&proved.finding),
                proved.mistake.name().to_owned(),
                proofs::measured(&proved.control),
                if proved.rejected() { "yes".to_owned() } else { "NO: FAILED".to_owned() },
            ]);
        }
        console.table(&table)?;
        console.line("")?;
        let mut identities = console::table(["proof", "what it says"]);
        for proved in &self.proofs {
            let proof = proved.finding.proof;
            identities.add_row([proof.name(), proof.identity()]);
        }
        console.table(&identities)?;
        Ok(())
    }

    fn json(&self) -> theria_contract::Result<Value> {
        let rules = self.accuracy.iter().map(|row| {
            let mut value = row_json(row);
            value["gflops"] =
                json!(row.seconds.map(|seconds| flops(&self.problem, row.rule) / seconds / 1e9));
            value
        });
        let longer = self.longer()?;
        let memory = [&self.problem, &longer].map(|problem| {
            let workspace: serde_json::Map<String, Value> = Rule::ALL
                .into_iter()
                .map(|rule| (rule.name().to_owned(), json!(self.backend.workspace_bytes(problem, rule))))
                .collect();
            json!({
                "t": problem.shape().t,
                "workspace_bytes": workspace,
                "score_matrix_bytes": scores(problem),
            })
        });
        Ok(json!({
            "schema": 1,
            "command": "tour",
            "version": env!("CARGO_PKG_VERSION"),
            "seed": self.seed,
            "backend": self.backend.name(),
            "problem": describe(&self.problem),
            "rules": rules.collect::<Vec<_>>(),
            "memory": {"scores_stored": self.backend.scores() == Scores::Stored, "at": memory},
            "proofs": self.proofs.iter().map(Proved::json).collect::<Vec<_>>(),
            "deterministic": {"threads": self.threads.0, "same_bits": self.threads.1},
            "pictures": self.pictures.iter().map(|path| path.display().to_string()).collect::<Vec<_>>(),
            "boundary": boundary::as_json()?["entries"],
            "passed": !self.failed(),
            "seconds": self.seconds,
        }))
    }
}

const GO_ON: &str = "  import numpy as np
  from safetensors.numpy import save_file
  rng = np.random.default_rng(0)
  x = lambda *shape: rng.standard_normal(shape).astype(np.float32)
  save_file({\"q\": x(1, 4, 128, 64), \"k\": x(1, 4, 128, 64), \"v\": x(1, 4, 128, 64), \"dout\": x(1, 4, 128, 64)},
            \"case.safetensors\", metadata={\"causal\": \"top-left\"})

  theria eval --input case.safetensors --output out.safetensors      out, lse, dq, dk, dv; with tangents all rules
  theria check --case case.safetensors --candidate theirs.safetensors  judge another kernel
  theria doctor                                                      this machine
  theria --help";
