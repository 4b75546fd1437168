//! `theria experiment phase10`: meta-gradients on every backend.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use clap::Args;
use serde_json::json;

use crate::backend::Backend;
use crate::case_file::Destination;
use crate::command::console::Console;
use crate::command::progress::Steps;
use crate::command::{Common, Outcome};
use crate::maml::Attending;
use crate::phase10::report::{self, PAGE};
use crate::phase10::{self, Measurement, Part, Row, RowFile, Subject, Watch};

const EXAMPLES: &str = "Examples:
  theria experiment phase10 --rows rows.jsonl --quick
  theria experiment phase10 --rows rows.jsonl --part key-value --seeds 5
  theria experiment phase10 --rows rows.jsonl --part gradients,rel-diff,depth,timings --backend cuda-ref,cuda-fused --peers
  theria experiment phase10 --rows rows.jsonl --from-runs runs/memory-0 runs/memory-1
  theria experiment phase10 --report rows.jsonl --out report

Parts: gradients (every mode and optimiser against an independent system), rel-diff (what the first order leaves out at
K = 1, 5, 10, 20), depth (loops of one to a hundred steps), timings, key-value and sinusoid (trainings of FULL and FO from the
same starts; the last takes hours). Rows are added to the file as they are measured, a JSON object a line. The report is made
of rows and of nothing else. Exit code 1 when a row comes out otherwise than it ought to: a bound that is broken, or a negative
control that passes.";

/// Meta-gradients on every backend: rows, or the report of rows
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Phase10Args {
    /// Measure, and add rows to this file
    #[arg(long, value_name = "FILE", required_unless_present_any = ["report", "bytes_of"], conflicts_with = "report")]
    rows: Option<PathBuf>,
    /// Make the report of the rows in this file
    #[arg(long, value_name = "FILE", requires = "out")]
    report: Option<PathBuf>,
    /// Folder of the report; made if need be
    #[arg(long, value_name = "FOLDER", requires = "report")]
    out: Option<PathBuf>,
    /// Backends: streaming, dense, cuda-ref, cuda-fused [default: those that are here; streaming for trainings]
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = backend, conflicts_with = "report")]
    backend: Vec<Backend>,
    /// Parts: gradients, rel-diff, depth, timings, key-value, sinusoid [default: all but trainings; all with --quick]
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "report")]
    part: Vec<Part>,
    /// Seeds of trainings and of rel-diff
    #[arg(long, default_value_t = 5, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1000))]
    seeds: u32,
    /// A little of each part: a trial, whose rows count only where there are no others
    #[arg(long, conflicts_with = "report")]
    quick: bool,
    /// Measure another framework beside a device
    #[arg(
        long,
        conflicts_with = "report",
        help = "Measure PyTorch beside a device: needs a python3 with torch, or THERIA_PYTHON"
    )]
    peers: bool,
    /// Finished runs of theria maml that stand for trainings; without --part nothing else is measured
    #[arg(long, value_name = "FOLDER", num_args = 1.., conflicts_with = "report")]
    from_runs: Vec<PathBuf>,
    /// Prints the bytes that the large transformer holds on a device: asked by the program of itself
    #[arg(long, hide = true, value_name = "BACKEND:TYPE", value_parser = subject, conflicts_with_all = ["rows", "report"])]
    bytes_of: Option<Subject>,
    #[command(flatten)]
    common: Common,
}

fn subject(text: &str) -> Result<Subject, String> {
    let (name, dtype) = text.split_once(':').ok_or_else(|| format!("'{text}' is no BACKEND:TYPE"))?;
    Ok(Subject::of(backend(name)?, dtype.parse().map_err(|error| format!("{error}"))?))
}

/// A backend that has all rules.
fn backend(name: &str) -> Result<Backend, String> {
    let attending: Attending = name.parse().map_err(|error| format!("{error}"))?;
    if attending.opaque {
        return Err(format!("{name} is a negative control: it comes with {}", attending.backend));
    }
    Ok(attending.backend)
}

pub(super) fn run(args: &Phase10Args, mut console: Console) -> anyhow::Result<Outcome> {
    if let Some(subject) = args.bytes_of {
        let bytes =
            subject.bytes_of_large()?.context("this machine does not say how many bytes are taken")?;
        console.line(bytes)?;
        return Ok(Outcome::Done);
    }
    match (&args.rows, &args.report, &args.out) {
        (Some(rows), ..) => measure(args, rows, console),
        (None, Some(rows), Some(out)) => write_report(args, rows, out, console),
        _ => Err(anyhow!("give --rows FILE to measure, or --report FILE and --out FOLDER")),
    }
}

impl Phase10Args {
    fn measurement(&self) -> Measurement {
        let here = || Attending::BACKENDS.into_iter().filter(|backend| backend.availability().is_ok());
        let given = !self.backend.is_empty();
        let parts = match (&self.part[..], self.quick, self.from_runs.is_empty()) {
            ([], true, true) => Part::ALL.to_vec(),
            ([], false, true) => Part::ALL.into_iter().filter(|part| part.task().is_none()).collect(),
            ([], _, false) => Vec::new(),
            (parts, ..) => parts.to_vec(),
        };
        Measurement {
            parts,
            backends: if given { self.backend.clone() } else { here().collect() },
            trained_on: if given { self.backend.clone() } else { vec![Backend::Streaming] },
            seeds: u64::from(self.seeds),
            quick: self.quick,
            peers: self.peers,
            runs: self.from_runs.clone(),
        }
    }
}

/// Writes rows as they are made, and says what they say.
struct Recorder<'c> {
    file: RowFile,
    console: Option<&'c mut Console>,
    steps: Option<(String, Steps)>,
    rows: usize,
    surprises: usize,
}

impl Watch for Recorder<'_> {
    fn row(&mut self, row: &Row) -> phase10::Result<()> {
        self.steps = None;
        self.file.add(row)?;
        self.rows += 1;
        self.surprises += usize::from(row.is_surprise());
        if let Some(console) = &mut self.console {
            // Whoever reads this may be gone; the rows are in the file.
            let _ = console.line(said(row));
        }
        Ok(())
    }

    fn step(&mut self, what: &str, step: usize, of: usize) {
        if self.steps.as_ref().is_none_or(|(name, _)| name != what) {
            self.steps = Some((what.to_owned(), Steps::new(step, of)));
        }
        if let Some((name, steps)) = &self.steps {
            steps.reached(step, name);
        }
    }
}

/// A row in a line.
fn said(row: &Row) -> String {
    let keys = row.part().identity().iter().filter(|key| !row.get(key).is_null());
    let what: Vec<String> = keys
        .map(|key| match row.get(key) {
            serde_json::Value::String(text) => text.clone(),
            other => format!("{key} {other}"),
        })
        .collect();
    let error = row.number("error").map_or(String::new(), |error| format!("  error {error:.1e}"));
    let verdict = if row.is_surprise() {
        format!("  {} and ought to be {}", row.text("verdict"), row.text("expected"))
    } else {
        format!("  {}", row.text("verdict"))
    };
    let (backend, dtype) = (row.text("backend"), row.text("dtype"));
    format!("{:<10} {backend} {dtype}, {}{error}{verdict}", row.part(), what.join(", ")).trim_end().to_owned()
}

fn measure(args: &Phase10Args, rows: &Path, mut console: Console) -> anyhow::Result<Outcome> {
    let file = RowFile::open(rows)?;
    let measurement = args.measurement();
    let quiet = args.common.json;
    let mut recorder =
        Recorder { file, console: (!quiet).then_some(&mut console), steps: None, rows: 0, surprises: 0 };
    // This thread is a pool of its own: rows are those of one thread, and a call of attention wakes no other.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread().build();
    let _pool = pool.context("cannot compute on this thread")?;
    let measured = measurement.run(&mut recorder);
    recorder.steps = None;
    measured?;
    let Recorder { rows: count, surprises, .. } = recorder;
    if quiet {
        let shown = rows.display().to_string();
        console.json(&json!({ "schema": 1, "command": "experiment phase10", "rows": count, "unexpected": surprises, "file": shown }))?;
    } else {
        console.line(format_args!(
            "written  {count} rows to {}, {surprises} of them unexpected",
            rows.display()
        ))?;
    }
    Ok(if surprises > 0 { Outcome::Failed } else { Outcome::Done })
}

fn write_report(
    args: &Phase10Args,
    rows: &Path,
    out: &Path,
    mut console: Console,
) -> anyhow::Result<Outcome> {
    let report = report::render(&phase10::read(rows)?)?;
    std::fs::create_dir_all(out).with_context(|| format!("cannot make the folder {}", out.display()))?;
    let files =
        [(PAGE, &report.page)].into_iter().chain(report.pictures.iter().map(|(name, text)| (*name, text)));
    let mut written = Vec::new();
    for (name, text) in files {
        let path = out.join(name);
        Destination::open(&path)?.commit(text.as_bytes())?;
        written.push(path.display().to_string());
    }
    if args.common.json {
        console.json(&json!({ "schema": 1, "command": "experiment phase10", "written": written }))?;
    } else {
        written.iter().try_for_each(|path| console.line(format_args!("written  {path}")))?;
    }
    Ok(Outcome::Done)
}
