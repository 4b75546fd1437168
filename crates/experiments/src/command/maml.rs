//! `theria maml`: trains a start to adapt from, and can be stopped at any moment.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use theria_contract::DType;

use super::console::Console;
use super::progress::Steps;
use super::{Common, Outcome};
use crate::maml::{
    Attending, Evaluation, Extras, MetaMode, OptimiserName, Record, Run, Settings, Source, Spread, Summary,
    TaskName,
};

const EXAMPLES: &str = "Examples:
  theria maml --out runs/memory --task key-value --plots
  theria maml --out runs/first --task key-value --mode first-order-strict
  theria maml --out runs/wave --task sinusoid --outer-steps 5000 --rel-diff-every 100
  theria maml --out runs/faces --task images --folder faces/train --test-folder faces/test --ways 5 --shots 1
  theria maml --resume runs/wave --outer-steps 20000

A task brings its model and the settings of its experiment; what is given takes their place. The folder has
settings.json, log.jsonl (a line for each outer step: losses on the task's own data before adaptation and on the query
after it, the norm of the meta-gradient, accuracy where there are classes, rates where they are learned, rel_diff where
it is measured, seconds) and checkpoint.safetensors. A run that was stopped, by Ctrl-C, by a crash or by a full
disk, goes on from there with --resume, and on the CPU makes the same steps bit by bit. Settings that are not given
are those of the run; --outer-steps and --checkpoint-every may be others.

Modes: full is the gradient; first-order takes what was adapted for where it began; first-order-strict is the same bits
through attention that has no rule for more; truncated:R differentiates the last R inner steps.
opaque(BACKEND) is a backend whose JVP and second order are taken away: what needs them is refused before it begins.";

/// Train a start to adapt from: MAML, with progress, checkpoints and a log
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct MamlArgs {
    /// Folder of a new run; made if need be
    #[arg(long, value_name = "FOLDER", required_unless_present = "resume")]
    out: Option<PathBuf>,
    /// Go on with the run in this folder
    #[arg(long, value_name = "FOLDER", conflicts_with = "out")]
    resume: Option<PathBuf>,
    /// Where the last checkpoint cannot be read, go on from the one before it
    #[arg(long, requires = "resume")]
    from_previous: bool,
    /// sinusoid, prototypes, key-value, linear-regression or images [default: sinusoid]
    #[arg(long, value_name = "NAME")]
    task: Option<TaskName>,
    #[command(flatten)]
    changes: Changes,
    /// Tasks that nothing is learned from, to be judged by at the end
    #[arg(long, default_value_t = 100, value_name = "TASKS", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    evaluate: u32,
    /// Draw losses, accuracy and `rel_diff` over the outer steps, as SVG beside the log
    #[arg(long)]
    plots: bool,
    /// Threads, and tasks side by side; the numbers are the same with any [default: those of the machine]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    #[command(flatten)]
    common: Common,
}

/// Settings other than the usual ones of the task.
#[derive(Debug, Args)]
struct Changes {
    /// Of images: a folder with a sub-folder of PNG or JPEG files for each class
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
    /// Of images: classes to be judged by, apart from those that are learned from
    #[arg(long, value_name = "FOLDER")]
    test_folder: Option<PathBuf>,
    /// Of images: classes of a task
    #[arg(long, value_name = "N")]
    ways: Option<usize>,
    /// Of images: images of each class to adapt to
    #[arg(long, value_name = "K")]
    shots: Option<usize>,
    /// Of images: images of each class to judge by
    #[arg(long, value_name = "COUNT")]
    queries: Option<usize>,
    /// full, first-order, first-order-strict or truncated:R [default: full]
    #[arg(long)]
    mode: Option<MetaMode>,
    /// streaming, dense, cuda-ref, cuda-fused, or opaque(…) around one of them [default: streaming]
    #[arg(long)]
    backend: Option<Attending>,
    /// Element type: f64 or f32; f32 or bf16 for cuda-fused [default: f64]
    #[arg(long, value_name = "TYPE")]
    dtype: Option<DType>,
    /// Steps of the inner loop
    #[arg(long, value_name = "K")]
    inner_steps: Option<usize>,
    /// Their rate, or where it begins
    #[arg(long, value_name = "RATE")]
    inner_rate: Option<f64>,
    /// Learn a rate for each adapted parameter
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    learn_rates: Option<bool>,
    /// What makes a step of the inner loop: sgd, momentum or adam [default: sgd]
    #[arg(long, value_name = "NAME")]
    optimiser: Option<OptimiserName>,
    /// What makes an outer step: sgd, momentum or adam [default: adam]
    #[arg(long, value_name = "NAME")]
    outer_optimiser: Option<OptimiserName>,
    /// Rate of the outer steps
    #[arg(long, value_name = "RATE")]
    outer_rate: Option<f64>,
    /// Outer steps, all together
    #[arg(long, value_name = "COUNT")]
    outer_steps: Option<usize>,
    /// Tasks of an outer step
    #[arg(long, value_name = "TASKS")]
    batch: Option<usize>,
    /// Norm that the mean meta-gradient is cut down to, or none
    #[arg(long, value_name = "NORM", value_parser = clip)]
    clip: Option<Clip>,
    /// What the start and the tasks are drawn by [default: 0]
    #[arg(long)]
    seed: Option<u64>,
    /// Measure |full - first order| / |full| every so many outer steps; 0 is never [default: 0]
    #[arg(long, value_name = "STEPS")]
    rel_diff_every: Option<usize>,
    /// Write a checkpoint every so many outer steps, and at the end [default: 100]
    #[arg(long, value_name = "STEPS")]
    checkpoint_every: Option<usize>,
}

/// A norm, or that there is none.
#[derive(Clone, Copy, Debug)]
struct Clip(Option<f64>);

fn clip(text: &str) -> Result<Clip, String> {
    let number = || text.parse().map(|norm| Clip(Some(norm)));
    if text == "none" {
        Ok(Clip(None))
    } else {
        number().map_err(|_| format!("'{text}' is no norm; give a number above 0, or none"))
    }
}

impl Changes {
    fn apply(&self, settings: Settings) -> Settings {
        let Self { folder, test_folder, clip, .. } = self;
        Settings {
            task: settings.task,
            folder: folder.clone().or(settings.folder),
            test_folder: test_folder.clone().or(settings.test_folder),
            ways: self.ways.unwrap_or(settings.ways),
            shots: self.shots.unwrap_or(settings.shots),
            queries: self.queries.unwrap_or(settings.queries),
            mode: self.mode.unwrap_or(settings.mode),
            backend: self.backend.unwrap_or(settings.backend),
            dtype: self.dtype.unwrap_or(settings.dtype),
            inner_steps: self.inner_steps.unwrap_or(settings.inner_steps),
            inner_rate: self.inner_rate.unwrap_or(settings.inner_rate),
            learn_rates: self.learn_rates.unwrap_or(settings.learn_rates),
            optimiser: self.optimiser.unwrap_or(settings.optimiser),
            outer_optimiser: self.outer_optimiser.unwrap_or(settings.outer_optimiser),
            outer_rate: self.outer_rate.unwrap_or(settings.outer_rate),
            outer_steps: self.outer_steps.unwrap_or(settings.outer_steps),
            batch: self.batch.unwrap_or(settings.batch),
            clip: clip.map_or(settings.clip, |Clip(norm)| norm),
            seed: self.seed.unwrap_or(settings.seed),
            rel_diff_every: self.rel_diff_every.unwrap_or(settings.rel_diff_every),
            checkpoint_every: self.checkpoint_every.unwrap_or(settings.checkpoint_every),
        }
    }
}

impl MamlArgs {
    fn run(&self) -> crate::maml::Result<Run> {
        if let Some(folder) = &self.resume {
            let source = if self.from_previous { Source::Previous } else { Source::Latest };
            return Run::resume(folder, source, |settings| {
                let task = self.task.unwrap_or(settings.task);
                self.changes.apply(Settings { task, ..settings })
            });
        }
        let settings = self.changes.apply(Settings::of(self.task.unwrap_or(TaskName::Sinusoid)));
        Run::new(settings, self.out.as_deref().unwrap_or_else(|| std::path::Path::new(".")))
    }
}

pub(super) fn run(args: &MamlArgs, mut console: Console) -> anyhow::Result<Outcome> {
    let run = args.run()?;
    let all = || std::thread::available_parallelism().map_or(1, usize::from);
    let threads = args.threads.map_or_else(all, usize::from);
    let extras = Extras { evaluate: args.evaluate as usize, plots: args.plots, threads };
    if !args.common.json {
        describe(&mut console, &run)?;
    }
    let steps = Steps::new(run.step(), run.settings().outer_steps);
    let mut watch = |record: &Record| steps.reached(record.step, &said(record));
    // A call of attention from outside of a pool would wake its thread, and wait.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.context("cannot start threads")?;
    let trained = pool.install(|| run.train(extras, &mut watch));
    drop(steps);
    let summary = trained?;
    if args.common.json {
        console.json(&summary.json())?;
    } else {
        print(&mut console, &summary)?;
    }
    Ok(Outcome::Done)
}

/// A step in brief, beside the bar.
fn said(record: &Record) -> String {
    let accuracy = record.accuracy.map_or(String::new(), |part| format!(", {:.1} % right", 100.0 * part));
    format!("loss {:.4}{accuracy}", record.after)
}

fn describe(console: &mut Console, run: &Run) -> std::io::Result<()> {
    let Settings { task, mode, dtype, inner_steps, inner_rate, .. } = run.settings();
    let Settings { batch, outer_rate, outer_optimiser, optimiser, seed, .. } = run.settings();
    let learned = if run.settings().learn_rates { ", learned" } else { "" };
    let backend = run.settings().attending();
    console.line(format_args!("task     {task}, seed {seed}, {mode} through {backend} in {dtype}"))?;
    console.line(format_args!("inner    {inner_steps} steps of {optimiser} at {inner_rate:?}{learned}"))?;
    console.line(format_args!("outer    {outer_optimiser} at {outer_rate:?}, {batch} tasks a step"))?;
    if run.step() > 0 {
        console.line(format_args!("resumed  after step {}", run.step()))?;
    }
    Ok(())
}

fn print(console: &mut Console, summary: &Summary) -> std::io::Result<()> {
    let Summary { steps, seconds, folder, evaluation, .. } = summary;
    console.line(format_args!("trained  {steps} steps, {seconds:.1} s in this run"))?;
    let Evaluation { tasks, diverged, before, loss, accuracy } = evaluation;
    let told = |spread: &Spread, scale: f64| {
        let [mean, error, median] = [spread.mean, spread.error, spread.median].map(|x| scale * x);
        format!("{mean:.4} ± {error:.4}, median {median:.4}")
    };
    console.line(format_args!("judged   by {tasks} tasks that nothing was learned from"))?;
    console.line(format_args!("before   loss {} on a task's own data", told(before, 1.0)))?;
    console.line(format_args!("after    loss {} on its query", told(loss, 1.0)))?;
    if let Some(accuracy) = accuracy {
        console.line(format_args!("right    {} percent", told(accuracy, 100.0)))?;
    }
    if *diverged > 0 {
        console.line(format_args!("diverged {diverged} tasks more, which are in no mean"))?;
    }
    for picture in &summary.pictures {
        console.line(format_args!("drawn    {}", picture.display()))?;
    }
    console.line(format_args!("written  {}", folder.display()))
}
