//! `theria tune`: measures kernels on the device at hand and keeps what is faster than what is shipped.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use clap::builder::PossibleValuesParser;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use theria_contract::{Attention, DType, Element, Problem, Rule};
use theria_gpu_bwd::{CudaFused, SweepOccasion};
use theria_gpu_fwd::forward::{Occasion, Situation, Table, Tuned};
use theria_gpu_fwd::{Cuda, Device};

use super::console::Console;
use super::{Common, Outcome};
use crate::backend::with_element;
use crate::bench::{Preset, Shape};
use crate::cuda;

const EXAMPLES: &str = "Examples:
  theria tune
  theria tune --preset kernels --dtype bf16 --dtype f16 --rules backward
  theria tune --shape 8,16,2048,96,causal --bias

Each part of a rule has a choice of its own: the forward is one, the JVP is one, backward and second order have a
sweep over queries, one over keys, and with --bias one over the bias. They are tuned one after the other by the time
of the whole rule, each with the best found so far for the others.

What is found lies beside the compiled kernels (theria doctor says where), for this device alone, and every
later run uses it. The first time takes long: some hundred kernels are compiled for every occasion of the forward and
some dozens for every other part, an occasion being an element type, a head dimension, a kind of mask and an amount of
work. THERIA_CACHE_DIR chooses another folder; delete the files to return to what is shipped.";

/// Measure kernels on this device and keep what is faster than what is shipped
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct TuneArgs {
    /// A list of shapes [default: kernels, unless --shape is given]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Preset::ALL.iter().map(|preset| preset.name)))]
    preset: Option<String>,
    /// A shape; may be repeated
    #[arg(long, value_name = "B,H,T,D[,causal]")]
    shape: Vec<Shape>,
    /// Element types: f32, f16 or bf16; may be repeated [default: bf16]
    #[arg(long, value_name = "TYPE")]
    dtype: Vec<DType>,
    /// Rules, by name: forward, backward, jvp, second-order [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    rules: Vec<Rule>,
    /// With a bias for every score, as problems that look at every score have
    #[arg(long)]
    bias: bool,
    /// Measure, and keep nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    common: Common,
}

pub(super) fn run(args: &TuneArgs, mut console: Console) -> anyhow::Result<Outcome> {
    let device = cuda::device().map_err(|error| anyhow::anyhow!("{error}"))?;
    let mut tuning = Tuning {
        args,
        device,
        backend: CudaFused::new(Cuda::new(device.clone())),
        forwards: BTreeSet::new(),
        sweeps: BTreeSet::new(),
        rows: Vec::new(),
        kept: BTreeSet::new(),
    };
    for (shape, dtype) in tasks(args) {
        let task = || format!("{shape} {dtype}");
        let problem = problem(args, shape, dtype).with_context(task)?;
        with_element!(dtype, E => tuning.all_rules::<E>(&mut console, &shape, &problem))
            .with_context(task)?;
    }
    let kept: Vec<_> = tuning.kept.iter().map(|path| path.display().to_string()).collect();
    if args.common.json {
        console.json(&json!({ "device": device.name(), "kept": kept, "rows": tuning.rows }))?;
    } else {
        for path in kept {
            console.line(format!("kept in {path}"))?;
        }
    }
    Ok(Outcome::Done)
}

/// What was done so far.
struct Tuning<'a> {
    args: &'a TuneArgs,
    device: &'a Device,
    backend: CudaFused,
    /// Occasions that were tuned: the first shape of one speaks for it.
    forwards: BTreeSet<Occasion>,
    sweeps: BTreeSet<SweepOccasion>,
    rows: Vec<Value>,
    kept: BTreeSet<PathBuf>,
}

/// A part of a rule of a problem.
struct Task<'a> {
    shape: &'a Shape,
    dtype: DType,
    rule: Rule,
    part: &'static str,
}

impl Tuning<'_> {
    fn all_rules<E: Element>(
        &mut self,
        console: &mut Console,
        shape: &Shape,
        problem: &Problem,
    ) -> anyhow::Result<()> {
        let asked = |rule: &Rule| self.args.rules.is_empty() || self.args.rules.contains(rule);
        let (mut staged, rules) = (None, Rule::ALL.into_iter().filter(asked).collect::<Vec<_>>());
        for rule in rules {
            let task = |part| Task { shape, dtype: E::DTYPE, rule, part };
            if rule == Rule::Forward {
                self.forward::<E>(console, &task("forward"), problem)?;
                continue;
            }
            for occasion in self.backend.sweeps_of::<E>(problem, rule)? {
                if !self.sweeps.insert(occasion) {
                    continue;
                }
                let staged = match &mut staged {
                    Some(staged) => staged,
                    none => none.insert(self.backend.stage::<E>(problem)?),
                };
                let task = task(occasion.part.name());
                let tuned = watched(&task, |progress| self.backend.tune_sweep(staged, occasion, progress))?;
                self.take(console, &task, &tuned, |backend| backend.sweep_table())?;
            }
        }
        Ok(())
    }

    fn forward<E: Element>(
        &mut self,
        console: &mut Console,
        task: &Task<'_>,
        problem: &Problem,
    ) -> anyhow::Result<()> {
        Attention::<E>::require(&self.backend, problem, Rule::Forward)?;
        let forward = self.backend.forward_backend_mut();
        if forward.packed_occasion(problem).is_some_and(|occasion| self.forwards.insert(occasion)) {
            let tuned = watched(task, |progress| forward.tune::<E>(problem, progress))?;
            self.take(console, task, &tuned, |backend| backend.forward_backend().table())?;
        }
        Ok(())
    }

    /// Each choice is kept when it is found: who stops here has what was done.
    fn take<S: Situation>(
        &mut self,
        console: &mut Console,
        task: &Task<'_>,
        tuned: &Tuned<S>,
        table: impl FnOnce(&CudaFused) -> &Table<S>,
    ) -> anyhow::Result<()> {
        if !self.args.dry_run {
            self.kept.insert(table(&self.backend).save(self.device.name())?);
        }
        if !self.args.common.json {
            console.line(sentence(task, tuned))?;
        }
        self.rows.push(row(task, tuned));
        Ok(())
    }
}

/// Tunes under a bar on standard error, if that is a terminal.
fn watched<T>(
    task: &Task<'_>,
    tune: impl FnOnce(&mut dyn FnMut(usize, usize)) -> theria_contract::Result<T>,
) -> anyhow::Result<T> {
    let bar = ProgressBar::no_length().with_message(task.to_string());
    bar.set_style(ProgressStyle::with_template("{msg}: kernel {pos} of {len} {wide_bar}")?);
    let tuned = tune(&mut |tried, all| {
        bar.set_length(all as u64);
        bar.set_position(tried as u64);
    });
    bar.finish_and_clear();
    tuned.with_context(|| format!("{}, {}", task.rule, task.part))
}

fn tasks(args: &TuneArgs) -> Vec<(Shape, DType)> {
    let preset = args.preset.as_deref().or(args.shape.is_empty().then_some("kernels"));
    let listed = Preset::ALL.iter().filter(|list| Some(list.name) == preset).flat_map(|list| list.shapes);
    let shapes: Vec<Shape> = listed.copied().chain(args.shape.iter().copied()).collect();
    let types = if args.dtype.is_empty() { vec![DType::Bf16] } else { args.dtype.clone() };
    types.into_iter().flat_map(|dtype| shapes.iter().map(move |shape| (*shape, dtype))).collect()
}

fn problem(args: &TuneArgs, shape: Shape, dtype: DType) -> theria_contract::Result<Problem> {
    let problem = shape.problem(dtype)?;
    let builder = problem.to_builder();
    let scores = problem.shape();
    let builder = if args.bias { builder.bias([1, 1, scores.t, scores.m]) } else { builder };
    builder.build()
}

fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn row<S: Situation>(task: &Task<'_>, tuned: &Tuned<S>) -> Value {
    json!({
        "shape": task.shape.to_string(),
        "dtype": task.dtype.name(),
        "rule": task.rule.name(),
        "part": task.part,
        "occasion": tuned.situation,
        "shipped": { "choice": tuned.shipped.0, "microseconds": microseconds(tuned.shipped.1) },
        "best": { "choice": tuned.best.0, "microseconds": microseconds(tuned.best.1) },
        "measured": tuned.measured,
        "unfit": tuned.unfit,
        "wrong": tuned.wrong,
    })
}

fn sentence<S: Situation>(task: &Task<'_>, tuned: &Tuned<S>) -> String {
    let (shipped, best) = (microseconds(tuned.shipped.1), microseconds(tuned.best.1));
    let kernels = tuned.situation.kernels(tuned.best.0).into_iter().map(|kernel| kernel.name);
    let kernels = kernels.collect::<Vec<_>>().join(" and ");
    let verdict = if tuned.best.0 == tuned.shipped.0 { "the shipped one stays" } else { "faster" };
    format!(
        "{task}: {shipped:.1} µs as shipped, {best:.1} µs by {kernels} in sections of {} ({verdict}); {} measured, {} unfit, {} wrong",
        tuned.best.0.section, tuned.measured, tuned.unfit, tuned.wrong
    )
}

impl fmt::Display for Task<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shape, dtype, rule, part } = self;
        write!(f, "{shape} {dtype} {rule}")?;
        if *part == rule.name() { Ok(()) } else { write!(f, ", {part}") }
    }
}

#[cfg(test)]
mod tests {
    use theria_gpu_bwd::{Order, Part};
    use theria_gpu_fwd::Architecture;
    use theria_gpu_fwd::forward::{Load, Masking, Products};

    use super::*;

    #[test]
    fn what_is_found_names_rule_and_part() {
        let (products, room, masking, load) = (Products::Bf16, 192, Masking::Everything, Load::Long);
        let part = Part::Keys(Order::Second);
        let situation = SweepOccasion::of(part, Occasion { products, room, masking, load });
        let time = (situation.shipped(Architecture::SM_90A), Duration::from_micros(1500));
        let tuned = Tuned { situation, shipped: time, best: time, measured: 3, unfit: 2, wrong: 1 };
        let shape = Shape::plain([1, 2, 64, 192]);
        let (dtype, rule) = (DType::Bf16, Rule::SecondOrder);
        let task = Task { shape: &shape, dtype, rule, part: part.name() };
        let found = row(&task, &tuned);
        assert_eq!((&found["rule"], &found["part"]), (&"second-order".into(), &"keys".into()));
        let occasion = &found["occasion"];
        assert_eq!((&occasion["part"], &occasion["order"]), (&"keys".into(), &"second".into()), "{found}");
        let words = sentence(&task, &tuned);
        for words_of_it in
            ["second-order, keys: 1500.0 µs", "keys-2-m1", "keys-2-m2", "the shipped one stays"]
        {
            assert!(words.contains(words_of_it), "no '{words_of_it}' in {words}");
        }
        let forward = Task { rule: Rule::Forward, part: "forward", ..task };
        assert_eq!(forward.to_string(), format!("{shape} bf16 forward"));
    }
}
