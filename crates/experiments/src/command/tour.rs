//! `theria` without a command: the tour.

use std::time::Instant;

use clap::Args;
use serde_json::{Value, json};
use theria_contract::{Causal, DType, Problem, Rule};

use super::console::{self, Console, bytes, json_number, scientific};
use super::doctor::{row_json, verdict};
use super::eval::describe;
use super::progress::Progress;
use super::proofs::{self, Accuracy, Probe};
use super::{Common, Outcome, boundary};
use crate::backend::{Backend, Scores};
use crate::machine::Machine;
use crate::taylor::Remainders;

/// How far the gradient of the negative control is off.
const SPOILED: f64 = 1.001;
/// What ⟨G, J v⟩ = ⟨Jᵀ G, v⟩ must hold to in binary64, relatively.
const ADJOINT_BOUND: f64 = 1e-12;

#[derive(Debug, Args)]
pub(super) struct TourArgs {
    /// Seed of the random inputs of the tour
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    common: Common,
}

/// A statement that was put to the proof.
struct Proof {
    what: String,
    passed: bool,
    /// The number that decides, for machines.
    value: f64,
}

struct Tour {
    problem: Problem,
    backend: Backend,
    accuracy: Vec<Accuracy>,
    proofs: Vec<Proof>,
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
    if !args.common.json {
        let machine = Machine::here();
        console.line(format_args!(
            "theria {}: attention with exact derivatives to second order",
            env!("CARGO_PKG_VERSION")
        ))?;
        console.line(format_args!("{}, {} threads; seed {}", machine.cpu, machine.threads, args.seed))?;
    }
    let progress = Progress::start("measuring");
    let accuracy = proofs::accuracy::<f32>(backend, &problem, args.seed, 3)?;
    let proofs = prove(backend, &problem, args.seed)?;
    drop(progress);
    let tour = Tour { problem, backend, accuracy, proofs, seconds: start.elapsed().as_secs_f64() };
    if args.common.json {
        console.json(&tour.json(args.seed)?)?;
    } else {
        tour.print(&mut console)?;
    }
    Ok(if tour.failed() { Outcome::Failed } else { Outcome::Done })
}

fn prove(backend: Backend, problem: &Problem, seed: u64) -> anyhow::Result<Vec<Proof>> {
    let probe = Probe::new(backend, seed)?;
    let slope = |what: &str, order: usize, wanted: bool, remainders: &Remainders| Proof {
        what: format!(
            "{what}: the Taylor remainder has slope {:.4} over {} halvings, {}",
            remainders.slope,
            remainders.steps.len() - 1,
            if wanted { format!("{order} expected") } else { format!("rightly not {order}") },
        ),
        passed: remainders.shows_order(order) == wanted,
        value: remainders.slope,
    };
    let off = format!("{:.1} % off", (SPOILED - 1.0) * 100.0);
    let mut proofs = vec![
        slope("backward", 2, true, &probe.first_order(1.0)?),
        slope(&format!("negative control, a gradient {off}"), 2, false, &probe.first_order(SPOILED)?),
    ];
    if let (Some(right), Some(wrong)) = (probe.second_order(1.0)?, probe.second_order(SPOILED)?) {
        proofs.push(slope("second order", 3, true, &right));
        proofs.push(slope(&format!("negative control, a curvature {off}"), 3, false, &wrong));
    }
    if let Some(gap) = probe.adjoint_gap() {
        proofs.push(Proof {
            what: format!(
                "jvp and backward are adjoint: <u, J v> = <J'u, v> to {} relatively",
                scientific(gap)
            ),
            passed: gap <= ADJOINT_BOUND,
            value: gap,
        });
    }
    let threads = rayon::current_num_threads().max(2);
    let same = proofs::same_bits_on_any_threads::<f32>(backend, problem, seed, threads)?;
    proofs.push(Proof {
        what: format!(
            "deterministic: 1 and {threads} threads give {} bits",
            if same { "the same" } else { "different" }
        ),
        passed: same,
        value: f64::from(u8::from(same)),
    });
    Ok(proofs)
}

/// Floating-point operations of a rule, in units of mathematics; a causal mask halves them.
fn flops(problem: &Problem, rule: Rule) -> f64 {
    let units = match rule {
        Rule::Forward => 2.0,
        Rule::Backward => 5.0,
        Rule::Jvp => 6.0,
        Rule::SecondOrder => 12.0,
    };
    let visible = if problem.causal() == Causal::None { 1.0 } else { 0.5 };
    units * visible * problem.shape().unit_flops()
}

impl Tour {
    fn failed(&self) -> bool {
        self.accuracy.iter().any(Accuracy::failed) || self.proofs.iter().any(|proof| !proof.passed)
    }

    /// Largest workspace of the rules that the backend has, and the size of the scores.
    fn memory(&self) -> (usize, f64) {
        let rules = proofs::exact_rules(self.backend, &self.problem);
        let workspace = rules.into_iter().map(|rule| self.backend.workspace_bytes(&self.problem, rule)).max();
        let scores: f64 = self.problem.shape().scores().iter().map(|n| *n as f64).product();
        (workspace.unwrap_or(0), scores * self.problem.dtype().size() as f64)
    }

    fn print(&self, console: &mut Console) -> anyhow::Result<()> {
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
        let (workspace, scores) = self.memory();
        let workspace = bytes(workspace as f64);
        console.line(match self.backend.scores() {
            Scores::Streamed => format!(
                "memory: a workspace of {workspace}; the score matrix, {}, is never stored",
                bytes(scores)
            ),
            Scores::Stored => format!(
                "memory: a workspace of {workspace}, and score matrices head by head ({} for all heads): this backend is made to be right, not small",
                bytes(scores)
            ),
        })?;

        console.heading(
            "Proved on the spot, in f64 on a small problem with grouped heads, causal mask and bias",
        )?;
        for proof in &self.proofs {
            console.verdict(format_args!(
                "{}  {}",
                if proof.passed { "passed" } else { "FAILED" },
                proof.what
            ))?;
        }

        console.heading("The boundary: what is exact, and what is refused")?;
        boundary::print(console)?;

        console.heading("Go on with your own tensors")?;
        console.line(GO_ON)?;
        console.line(format_args!("\n{:.1} s", self.seconds))?;
        Ok(())
    }

    fn json(&self, seed: u64) -> theria_contract::Result<Value> {
        let (workspace, scores) = self.memory();
        let rules = self.accuracy.iter().map(|row| {
            let mut value = row_json(row);
            value["gflops"] =
                json!(row.seconds.map(|seconds| flops(&self.problem, row.rule) / seconds / 1e9));
            value
        });
        let proofs = self.proofs.iter().map(
            |proof| json!({"what": proof.what, "value": json_number(proof.value), "passed": proof.passed}),
        );
        Ok(json!({
            "schema": 1,
            "command": "tour",
            "version": env!("CARGO_PKG_VERSION"),
            "seed": seed,
            "backend": self.backend.name(),
            "problem": describe(&self.problem),
            "rules": rules.collect::<Vec<_>>(),
            "memory": {
                "workspace_bytes": workspace,
                "score_matrix_bytes": scores,
                "scores_stored": self.backend.scores() == Scores::Stored,
            },
            "proofs": proofs.collect::<Vec<_>>(),
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

  theria eval --input case.safetensors --output out.safetensors      out, lse, dq, dk, dv
  theria check --case case.safetensors --candidate theirs.safetensors  judge another kernel
  theria doctor                                                      this machine
  theria --help";
