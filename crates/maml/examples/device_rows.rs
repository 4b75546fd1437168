//! The time and the memory of an exact meta-gradient through a transformer on a CUDA device, beside its error.
//!
//! `cargo run --release -p theria-maml --example device_rows -- [tokens] [inner steps] [layers] [width] [heads]`;
//! `benches/peers/gpu_maml.py` has the same by `PyTorch`. Every line is a JSON object.

use std::time::Instant;

use half::bf16;
use theria_contract::{Attention, Element, Storage, Tensor};
use theria_gpu_bwd::{CudaFused, CudaRef};
use theria_gpu_fwd::{Cuda, Device};
use theria_jvp_hvp::Streaming;
use theria_maml::machine::{Attended, Precision, TensorOf};
use theria_maml::meta::{Inner, Learner, Mode, Optimiser};
use theria_maml::models::Transformer;
use theria_maml::operation::Heads;
use theria_maml::tasks::Stream;
use theria_maml::{Gpu, Graph, Host, Machine, Model, Result};

/// Timed meta-gradients of a row.
const RUNS: usize = 7;

/// What is measured.
#[derive(Clone, Copy, Debug)]
struct Shape {
    tokens: usize,
    steps: usize,
    layers: usize,
    width: usize,
    heads: usize,
}

impl Shape {
    fn transformer(self) -> Transformer {
        let heads = Heads { queries: self.heads, keys: self.heads, ..Heads::default() };
        Transformer::new(self.layers, self.width, heads)
    }
}

/// Numbers of the device's type, the same in every type up to its rounding.
fn normal<R: Element>(seed: u32, count: usize, size: f64, offset: f64) -> Vec<R> {
    let mut stream = Stream::new(7, 0, seed);
    (0..count).map(|_| R::from_f64(offset + size * stream.normal())).collect()
}

/// The transformer and the mean of its squared errors.
fn model<M: Machine + 'static>(machine: &M, shape: Shape, seed: u32) -> Result<Model<M>> {
    let (tokens, width) = (shape.tokens, shape.width);
    let mut graph = Graph::new();
    let (x, target) = (graph.input(tokens, width), graph.input(tokens, width));
    let y = shape.transformer().on(&mut graph, x)?;
    let loss = graph.squared_error(y, target, 1.0 / (tokens * width) as f64)?;
    let mut model = Model::new(machine, graph, loss)?;
    model.write(machine, x, &normal(seed, tokens * width, 1.0, 0.0))?;
    model.write(machine, target, &normal(seed + 1, tokens * width, 1.0, 0.0))?;
    Ok(model)
}

/// What was found of a meta-gradient.
struct Found {
    gradient: Vec<f64>,
    median: f64,
    fastest: f64,
    mib: f64,
    same_bits: bool,
}

fn measure<M: Machine + 'static>(
    machine: &M,
    shape: Shape,
    mode: Mode,
    runs: usize,
    free: impl Fn() -> usize,
) -> Result<Found> {
    let before = free();
    let begin = shape.transformer().begin();
    let names: Vec<&str> = begin.iter().map(|begin| begin.name.as_str()).collect();
    let (support, query) = (model(machine, shape, 1)?, model(machine, shape, 3)?);
    let mut learner = Learner::new(machine, support, query, &names)?;
    let order: Vec<String> = learner.names().map(str::to_owned).collect();
    let start = order.iter().map(|name| -> Result<TensorOf<M>> {
        let at = begin
            .iter()
            .position(|begin| begin.name == *name)
            .unwrap_or_else(|| unreachable!("it is the model's"));
        let (rows, columns) = begin[at].shape;
        let numbers = normal(100 + at as u32, rows * columns, begin[at].size, begin[at].offset);
        Ok(machine.storage().upload(&Tensor::from_vec(numbers, [1, 1, rows, columns])?)?)
    });
    let start: Vec<_> = start.collect::<Result<_>>()?;
    let start: Vec<_> = start.iter().collect();
    let inner = Inner::new(shape.steps, Optimiser::Sgd, 0.05, names.len());
    let numbers = |learner: &Learner<M>| -> Result<Vec<f64>> {
        let mut all = Vec::new();
        for tensor in learner.gradients() {
            let tensor = machine.storage().download(M::Storage::view(tensor))?;
            all.extend(tensor.data().iter().map(|x| x.to_f64()));
        }
        Ok(all)
    };
    // Once as it is, once to be recorded.
    learner.meta_gradient(machine, &start, &inner, mode)?;
    let first = numbers(&learner)?;
    learner.meta_gradient(machine, &start, &inner, mode)?;
    let gradient = numbers(&learner)?;
    let mib = (before - free()) as f64 / f64::from(1 << 20);
    let mut times = Vec::new();
    for _ in 0..runs {
        let now = Instant::now();
        learner.meta_gradient(machine, &start, &inner, mode)?;
        // The loss was waited for; the gradients are waited for here.
        let last = learner.gradients().next().map(|tensor| machine.sum(tensor)).transpose()?;
        times.push(now.elapsed().as_secs_f64() * 1e3);
        assert!(last.is_some_and(f64::is_finite), "a gradient that is no number");
    }
    times.sort_by(f64::total_cmp);
    let same_bits = first.iter().zip(&gradient).all(|(a, b)| a.to_bits() == b.to_bits());
    let at = |n: usize| times.get(n).copied().unwrap_or(f64::NAN);
    Ok(Found { gradient, median: at(runs / 2), fastest: at(0), mib, same_bits })
}

fn error(given: &[f64], expected: &[f64]) -> f64 {
    let norm = |all: &mut dyn Iterator<Item = f64>| all.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut given.iter().zip(expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied())
}

/// A line for a machine on the device.
fn line<A, R, E>(
    name: &str,
    gpu: &Gpu<A, R, E>,
    shape: Shape,
    oracle: Option<&[f64]>,
    runs: usize,
) -> Result<Vec<f64>>
where
    Gpu<A, R, E>: Machine<Element = R, Storage = Cuda> + 'static,
    A: Attention<E, Storage = Cuda> + Sync,
    R: Element,
    E: Attended<R>,
{
    let device = gpu.storage().device().clone();
    let free = || device.memory().map_or(0, |(free, _)| free);
    let found = measure(gpu, shape, Mode::Full, runs, free)?;
    let error = oracle.map_or("null".into(), |oracle| format!("{:e}", error(&found.gradient, oracle)));
    println!(
        "{{\"machine\": \"{name}\", \"shape\": \"{shape:?}\", \"median_ms\": {:.3}, \"fastest_ms\": {:.3}, \"mib\": {:.1}, \"same_bits\": {}, \"error\": {error}}}",
        found.median, found.fastest, found.mib, found.same_bits
    );
    Ok(found.gradient)
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let number = |n: usize, default: usize| words.get(n).map_or(Ok(default), |word| word.parse::<usize>());
    let shape = Shape {
        tokens: number(0, 2048)?,
        steps: number(1, 5)?,
        layers: number(2, 4)?,
        width: number(3, 512)?,
        heads: number(4, 8)?,
    };
    let cuda = Cuda::new(Device::open(0)?);
    let small = Shape { tokens: 48, steps: 3, layers: 2, width: 64, heads: 2 };
    let host = Host::<Streaming, f64>::new(Streaming::new());
    let oracle = measure(&host, small, Mode::Full, 0, || 0)?.gradient;
    let first_order = measure(&host, small, Mode::FirstOrder, 0, || 0)?.gradient;
    println!("{{\"first_order_is_off_by\": {:e}}}", error(&first_order, &oracle));
    let reference = || CudaRef::new(cuda.clone());
    let fused = || CudaFused::new(cuda.clone());
    line("cuda-ref f64", &Gpu::<_, f64>::new(reference())?, small, Some(&oracle), 1)?;
    line("cuda-ref f32", &Gpu::<_, f32>::new(reference())?, small, Some(&oracle), 1)?;
    line("cuda-fused f32", &Gpu::<_, f32>::new(fused())?, small, Some(&oracle), 1)?;
    let mixed = |precision| -> Result<_> { Ok(Gpu::<_, f32, bf16>::new(fused())?.with_products(precision)) };
    for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
        line(
            &format!("cuda-fused bf16, products {precision:?}"),
            &mixed(precision)?,
            small,
            Some(&oracle),
            1,
        )?;
    }
    let exact = if shape.tokens <= 4096 {
        Some(line("cuda-fused f32", &Gpu::<_, f32>::new(fused())?, shape, None, RUNS)?)
    } else {
        None
    };
    for precision in [Precision::Tf32, Precision::Bf16] {
        line(
            &format!("cuda-fused bf16, products {precision:?}"),
            &mixed(precision)?,
            shape,
            exact.as_deref(),
            RUNS,
        )?;
    }
    Ok(())
}
