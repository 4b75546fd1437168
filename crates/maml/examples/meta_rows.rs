//! The time and the memory of an exact meta-gradient through one head of attention, on one thread, in f64.
//!
//! `cargo run --release -p theria-maml --example meta_rows`; `benches/peers/cpu_maml.py` has the same rows by JAX.

use std::alloc::System;
use std::time::Instant;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use theria_contract::Tensor;
use theria_jvp_hvp::Streaming;
use theria_maml::meta::{Inner, Learner, Mode, Optimiser};
use theria_maml::operation::Heads;
use theria_maml::{Graph, Host, Model, Result};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

type Cpu = Host<Streaming, f64>;

/// Matrices of the model, as wide as its rows.
const NAMES: [&str; 4] = ["Wq", "Wk", "Wv", "Wo"];
/// Timed meta-gradients of a row.
const RUNS: usize = 15;

fn numbers(count: usize, seed: f64, size: f64) -> Vec<f64> {
    (0..count).map(|n| ((n as f64 + 1.0) * (1.37 + seed)).sin() * size).collect()
}

/// One head between four matrices, and the mean of squared errors.
fn model(machine: Cpu, (t, d): (usize, usize), seed: f64) -> Result<Model<Cpu>> {
    let mut graph = Graph::new();
    let (x, target) = (graph.input(t, d), graph.input(t, d));
    let [wq, wk, wv, wo] = NAMES.map(|name| graph.parameter(name, d, d));
    let (q, k, v) = (graph.multiply(x, wq)?, graph.multiply(x, wk)?, graph.multiply(x, wv)?);
    let o = graph.attention(q, k, v, Heads::default())?;
    let y = graph.multiply(o, wo)?;
    let loss = graph.squared_error(y, target, 1.0 / (t * d) as f64)?;
    let mut model = Model::new(&machine, graph, loss)?;
    model.write(&machine, x, &numbers(t * d, seed, 1.0))?;
    model.write(&machine, target, &numbers(t * d, seed + 0.5, 1.0))?;
    Ok(model)
}

/// Milliseconds of a meta-gradient, the median and the fastest; and MiB beyond its data, the start and the gradient.
fn time(machine: Cpu, (t, d): (usize, usize), steps: usize) -> Result<(f64, f64, f64)> {
    let region = Region::new(ALLOCATOR);
    let mut learner =
        Learner::new(&machine, model(machine, (t, d), 0.1)?, model(machine, (t, d), 0.7)?, &NAMES)?;
    let size = (d as f64).sqrt().recip();
    let start: Vec<Tensor<f64>> = (0..NAMES.len())
        .map(|n| Tensor::from_vec(numbers(d * d, 5.0 + n as f64, size), [1, 1, d, d]))
        .collect::<Result<_, _>>()?;
    let start: Vec<_> = start.iter().collect();
    let inner = Inner::new(steps, Optimiser::Sgd, 0.1, NAMES.len());
    let mut times = Vec::with_capacity(RUNS);
    learner.meta_gradient(&machine, &start, &inner, Mode::Full)?;
    let held = region.change();
    let known = size_of::<f64>() * (4 * t * d + 2 * NAMES.len() * d * d);
    let bytes = held.bytes_allocated.wrapping_sub(held.bytes_deallocated).wrapping_sub(known);
    let mib = bytes as f64 / f64::from(1 << 20);
    for _ in 0..RUNS {
        let now = Instant::now();
        learner.meta_gradient(&machine, &start, &inner, Mode::Full)?;
        times.push(now.elapsed().as_secs_f64() * 1e3);
    }
    times.sort_by(f64::total_cmp);
    Ok((times[RUNS / 2], times[0], mib))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let machine = Cpu::new(Streaming::new());
    // A call from outside of a pool would wake its thread, and wait.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    // Memory that products keep for every thread is there from the first call on.
    pool.install(|| time(machine, (64, 32), 1))?;
    for (t, d) in [(64, 32), (256, 64)] {
        for steps in [5, 20] {
            let (median, fastest, mib) = pool.install(|| time(machine, (t, d), steps))?;
            println!("T = {t}, d = {d}, K = {steps}: {median:.2} ms, the fastest {fastest:.2}; {mib:.1} MiB");
        }
    }
    Ok(())
}
