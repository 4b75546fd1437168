//! `theria tune`: measures kernels on the device at hand and keeps what is faster than what is shipped.

use anyhow::Context as _;
use clap::Args;
use clap::builder::PossibleValuesParser;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use theria_contract::{DType, Problem};
use theria_gpu_fwd::Cuda;
use theria_gpu_fwd::forward::{CudaFused, Tuned};

use super::console::Console;
use super::{Common, Outcome};
use crate::backend::with_element;
use crate::bench::{Preset, Shape};
use crate::cuda;

const EXAMPLES: &str = "Examples:
  theria tune
  theria tune --preset kernels --dtype bf16 --dtype f16
  theria tune --shape 8,16,2048,96,causal --bias

What is found lies beside the compiled kernels (theria doctor says where), for this device alone, and every
later run uses it. The first time takes minutes: some hundred kernels are compiled for every occasion, an occasion
being an element type, a head dimension, a kind of mask and an amount of work. THERIA_CACHE_DIR chooses another
folder; delete the file to return to what is shipped.";

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
    let mut backend = CudaFused::new(Cuda::new(device.clone()));
    let (mut found, mut kept): (Vec<(Shape, DType, Tuned)>, _) = (Vec::new(), None);
    for (shape, dtype) in tasks(args) {
        let problem = problem(args, shape, dtype).with_context(|| format!("{shape} {dtype}"))?;
        // The first shape of an occasion speaks for it.
        let occasion = backend.occasion(&problem, true);
        if found.iter().any(|(_, _, tuned)| Some(tuned.occasion) == occasion) {
            continue;
        }
        // Draws on standard error, if that is a terminal.
        let bar = ProgressBar::no_length().with_message(format!("{shape} {dtype}"));
        bar.set_style(ProgressStyle::with_template("{msg}: kernel {pos} of {len} {wide_bar}")?);
        let tuned = with_element!(dtype, E => backend.tune::<E>(&problem, |tried, all| {
            bar.set_length(all as u64);
            bar.set_position(tried as u64);
        }));
        bar.finish_and_clear();
        let tuned = tuned.with_context(|| format!("{shape} {dtype}"))?;
        // Each is kept when it is found: who stops here has what was done.
        if !args.dry_run {
            kept = Some(backend.table().save(device.name())?);
        }
        if !args.common.json {
            console.line(sentence(&shape, dtype, &tuned))?;
        }
        found.push((shape, dtype, tuned));
    }
    if args.common.json {
        let rows: Vec<_> = found.iter().map(|(shape, dtype, tuned)| row(shape, *dtype, tuned)).collect();
        console.json(&json!({ "device": device.name(), "kept": kept, "rows": rows }))?;
    } else if let Some(path) = kept {
        console.line(format!("kept in {}", path.display()))?;
    }
    Ok(Outcome::Done)
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

fn row(shape: &Shape, dtype: DType, tuned: &Tuned) -> serde_json::Value {
    json!({
        "shape": shape.to_string(),
        "dtype": dtype.name(),
        "occasion": tuned.occasion,
        "shipped": { "choice": tuned.shipped.0, "microseconds": tuned.shipped.1.as_secs_f64() * 1e6 },
        "best": { "choice": tuned.best.0, "microseconds": tuned.best.1.as_secs_f64() * 1e6 },
        "measured": tuned.measured,
        "unfit": tuned.unfit,
        "wrong": tuned.wrong,
    })
}

fn sentence(shape: &Shape, dtype: DType, tuned: &Tuned) -> String {
    let microseconds = |time: std::time::Duration| time.as_secs_f64() * 1e6;
    let (shipped, best) = (microseconds(tuned.shipped.1), microseconds(tuned.best.1));
    let kernel = tuned.best.0.instance(tuned.occasion);
    let name = theria_gpu_fwd::Spec::kernel(&kernel).name;
    let verdict = if tuned.best.0 == tuned.shipped.0 { "the shipped one stays" } else { "faster" };
    format!(
        "{shape} {dtype}: {shipped:.1} µs as shipped, {best:.1} µs by {name} in sections of {} ({verdict}); {} measured, {} unfit, {} wrong",
        tuned.best.0.section, tuned.measured, tuned.unfit, tuned.wrong
    )
}
