//! What is measured by what: shapes, rules and a backend out of the arguments.

use anyhow::bail;
use theria_contract::{DType, Problem, Rule};

use super::BenchArgs;
use crate::backend::Backend;
use crate::bench::{Preset, Shape, Task};

/// A row for each shape and rule.
pub(super) fn tasks(args: &BenchArgs) -> anyhow::Result<Vec<(Shape, Task)>> {
    let named = args.backend();
    if let Some((backend, Err(reason))) = named.map(|backend| (backend, backend.availability())) {
        bail!("{backend} is {reason}; `--backend auto` takes the best one that is here");
    }
    let dtype = args.dtype.unwrap_or_else(|| usual_type(named));
    let mut tasks = Vec::new();
    for shape in shapes(args) {
        let problem = shape.problem(dtype)?;
        let backend = named.unwrap_or_else(|| best(&problem, &args.rules));
        for rule in rules(backend, &problem, &args.rules) {
            let task = Task { backend, problem: problem.clone(), rule, plan: args.plan(), seed: args.seed };
            tasks.push((shape, task));
        }
    }
    Ok(tasks)
}

fn shapes(args: &BenchArgs) -> Vec<Shape> {
    let preset = match (&args.preset, args.shape.is_empty()) {
        (Some(name), _) => Preset::named(name),
        (None, true) => Preset::named("small"),
        (None, false) => None,
    };
    preset.map_or(&[][..], |preset| preset.shapes).iter().chain(&args.shape).copied().collect()
}

/// What devices are used with, and what processors are.
fn usual_type(named: Option<Backend>) -> DType {
    let on_device = match named {
        Some(backend) => backend.is_cuda(),
        None => Backend::present().any(Backend::is_cuda),
    };
    if on_device { DType::Bf16 } else { DType::F32 }
}

/// Without rules: the best one of the forward rule, which every backend has. A device is then measured
/// for what it has rather than passed over for what it has not.
fn best(problem: &Problem, rules: &[Rule]) -> Backend {
    Backend::best(problem, if rules.is_empty() { &[Rule::Forward] } else { rules })
}

/// Rules asked for, in their order, or all that the backend computes.
fn rules(backend: Backend, problem: &Problem, asked: &[Rule]) -> Vec<Rule> {
    let wanted = |rule: &Rule| {
        if asked.is_empty() { backend.support(problem, *rule).is_exact() } else { asked.contains(rule) }
    };
    Rule::ALL.into_iter().filter(wanted).collect()
}
