//! `theria bench`: how fast the rules are here, and beside other people's attention.

mod choice;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use clap::builder::PossibleValuesParser;
use theria_contract::{DType, Rule};

use super::Outcome;
use super::console::Console;
use super::eval::backend_name;
use super::progress::Progress;
use crate::backend;
use crate::bench::{self, Ceiling, Host, Peers, Plan, Preset, Request, Row, Shape, Task};
use crate::case_file::Destination;

const EXAMPLES: &str = "Examples:
  theria bench
  theria bench --preset kernels --dtype bf16 --peers --json bench.json
  theria bench --shape 4,16,4096,128,causal --shape 2,8,512,64 --rules forward
  theria bench --backend streaming --dtype f32 --preset vit --json - | jq '.rows[].tflops'

Rules write into memory that exists. Before a row is timed its result is held against the oracle, and a wrong
one has no time. Times are medians and percentiles of calls on operands that rotate through more than any cache
holds, as far as sixteen sets of them reach: by marks of the device for CUDA backends (calls below 200 µs are
recorded, twenty at a time, and replayed), by the clock for the CPU. With --peers the attention of PyTorch is
measured between two rounds of theria; a ratio above 1 says that theria is faster. Exit code 1 when a result is wrong.";

/// Measure rules: time, TFLOP/s, memory, beside other implementations if asked
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct BenchArgs {
    /// A list of shapes [default: small, unless --shape is given]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Preset::ALL.iter().map(|preset| preset.name)))]
    preset: Option<String>,
    /// A shape; may be repeated
    #[arg(long, value_name = "B,H,T,D[,causal]")]
    shape: Vec<Shape>,
    /// Rules, by name: forward, backward, jvp, second-order [default: all that the backend supports]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    rules: Vec<Rule>,
    /// Which backend is measured; auto takes the best one present
    #[arg(long, default_value = "auto", value_parser = backend_name)]
    backend: String,
    /// Element type: f64, f32, f16 or bf16 [default: bf16 on a CUDA device, f32 on the CPU]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<DType>,
    /// Timed runs of each row
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    runs: u32,
    /// When the runs of a row would take longer than this, there are fewer of them, and three at least
    #[arg(long, default_value_t = 10.0, value_name = "SECONDS", value_parser = patience)]
    seconds: f64,
    /// Measure other attention beside it: that of a python3 with torch
    #[arg(
        long,
        help = "Measure PyTorch's attention beside it: needs a python3 with torch, or THERIA_PYTHON"
    )]
    peers: bool,
    /// Seed of the operands
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Write the result file, as JSON; `-` prints it instead of the table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn patience(text: &str) -> Result<f64, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("'{text}' is no number of seconds"))?;
    let allowed = (0.0..=3600.0).contains(&seconds);
    if allowed { Ok(seconds) } else { Err(format!("{seconds} s is not allowed: give 0 to 3600")) }
}

pub(super) fn run(args: &BenchArgs, mut console: Console) -> anyhow::Result<Outcome> {
    let tasks = choice::tasks(args)?;
    let to_console = args.json.as_ref().is_some_and(|path| path.as_os_str() == "-");
    // Opened before the work: a file that cannot be written is an error at once.
    let destination = match &args.json {
        Some(path) if !to_console => {
            let opened = Destination::open(path).with_context(|| format!("--json {}", path.display()))?;
            Some((path, opened))
        }
        _ => None,
    };
    let on_device = tasks.iter().any(|(_, task)| task.backend.is_cuda());
    let mut notes = Vec::new();
    let progress = Progress::start("measuring");
    let mut peers = if args.peers { start_peers(on_device, &mut notes) } else { None };
    let ceiling = match &mut peers {
        None => Ceiling::default(),
        Some(peers) => peers.ceiling().unwrap_or_else(|error| {
            notes.push(format!("no ceiling: {error}"));
            Ceiling::default()
        }),
    };
    if ceiling.matmul_tflops.is_none() {
        notes.push("the ceiling is not measured: --peers measures it, with PyTorch".to_owned());
    }
    let rows: Vec<Row> =
        tasks.into_iter().map(|(shape, task)| measure(shape, task, peers.as_mut())).collect();
    drop(progress);

    let host = Host::here(on_device);
    let file = bench::file(&host, ceiling, &rows);
    if let Some((_, destination)) = destination {
        destination.commit(serde_json::to_string_pretty(&file)?.as_bytes())?;
    }
    if to_console {
        console.json(&file)?;
    } else {
        report::print(&mut console, &host, ceiling, &rows, &notes)?;
        if let Some(path) = args.json.as_ref() {
            console.line(format_args!("written  {}", path.display()))?;
        }
    }
    Ok(if rows.iter().any(Row::is_wrong) {
        Outcome::Failed
    } else if rows.iter().all(|row| row.outcome.is_err()) {
        Outcome::NothingJudged
    } else {
        Outcome::Done
    })
}

/// Without peers the bench goes on and says why.
fn start_peers(on_device: bool, notes: &mut Vec<String>) -> Option<Peers> {
    match Peers::start(if on_device { "cuda" } else { "cpu" }) {
        Ok(peers) => Some(peers),
        Err(error) => {
            tracing::warn!(%error, "no peers");
            notes.push(format!("no peers: {error}"));
            None
        }
    }
}

fn measure(shape: Shape, task: Task, peers: Option<&mut Peers>) -> Row {
    let request = Request {
        shape,
        problem: task.problem.clone(),
        rule: task.rule,
        device: if task.backend.is_cuda() { "cuda" } else { "cpu" },
        runs: task.plan.runs,
        seconds: task.plan.patience.as_secs_f64(),
        seed: task.seed,
    };
    tracing::info!(%shape, rule = %task.rule, backend = %task.backend, "measuring");
    let outcome = match peers {
        None => bench::measure(&task, None),
        Some(peers) => bench::measure(&task, Some(&mut || peers.measure(&request))),
    };
    Row { task, shape, outcome: outcome.map_err(|error| format!("{error:#}")) }
}

impl BenchArgs {
    fn plan(&self) -> Plan {
        Plan { runs: self.runs as usize, patience: Duration::from_secs_f64(self.seconds) }
    }

    /// The backend asked for by name.
    fn backend(&self) -> Option<backend::Backend> {
        backend::Backend::named(&self.backend)
    }
}
