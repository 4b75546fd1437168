//! Sinusoid regression as MAML was introduced with it: a network that adapts to a wave from ten points, in five steps.
//!
//! `cargo run --release -p theria-maml --example sinusoid -- [full|first-order] [seed] [outer steps]`

use theria_contract::Tensor;
use theria_jvp_hvp::Streaming;
use theria_maml::meta::{Inner, Learner, Mode, Optimiser, Outer, Trainer};
use theria_maml::tasks::{Samples, Sinusoid, Stream, TaskSource as _};
use theria_maml::{Graph, Host, Model, Result, ValueId};

type Cpu = Host<Streaming, f64>;

const WIDTH: usize = 40;
const NAMES: [&str; 6] = ["w1", "b1", "w2", "b2", "w3", "b3"];
const SHAPES: [(usize, usize); 6] = [(1, WIDTH), (1, WIDTH), (WIDTH, WIDTH), (1, WIDTH), (WIDTH, 1), (1, 1)];
/// Tasks of an outer step.
const BATCH: usize = 25;
/// Inner steps, and their rate.
const STEPS: usize = 5;
const RATE: f64 = 0.01;
/// Tasks that nothing is learned from, and the points at which they are judged.
const JUDGED: usize = 600;
const POINTS: usize = 100;

/// The network, and where points and values go.
fn network(machine: Cpu, points: usize) -> Result<(Model<Cpu>, [ValueId; 2])> {
    let mut graph = Graph::new();
    let (x, target) = (graph.input(points, 1), graph.input(points, 1));
    let mut y = x;
    for (layer, names) in NAMES.chunks(2).enumerate() {
        let (weights, bias) = (SHAPES[2 * layer], SHAPES[2 * layer + 1]);
        let weights = graph.parameter(names[0], weights.0, weights.1);
        let bias = graph.parameter(names[1], bias.0, bias.1);
        y = graph.multiply(y, weights)?;
        y = graph.sum(y, bias)?;
        if layer < 2 {
            y = graph.relu(y);
        }
    }
    let loss = graph.squared_error(y, target, 1.0 / points as f64)?;
    Ok((Model::new(&machine, graph, loss)?, [x, target]))
}

fn write(machine: Cpu, model: &mut Model<Cpu>, at: [ValueId; 2], samples: &Samples) -> Result<()> {
    model.write(&machine, at[0], &samples.inputs)?;
    model.write(&machine, at[1], &samples.targets)
}

/// Learns, and gives the squared errors of tasks that were kept apart, sorted.
fn errors(mode: Mode, seed: u64, steps: usize) -> Result<Vec<f64>> {
    let machine = Cpu::new(Streaming::new());
    let source = Sinusoid::default();
    let (support_model, support) = network(machine, source.shots)?;
    let (query_model, query) = network(machine, source.queries)?;
    let mut learner = Learner::new(&machine, support_model, query_model, &NAMES)?;
    let start = SHAPES.iter().enumerate().map(|(n, (rows, columns))| {
        let mut stream = Stream::new(seed, 0, n as u32);
        // Weights of standard deviation 0.01, as the protocol has them; biases are zero.
        let size = if n % 2 == 0 { 0.01 } else { 0.0 };
        Tensor::from_fn([1, 1, *rows, *columns], |_| size * stream.normal())
    });
    let start: Vec<Tensor<f64>> = start.collect::<Result<_, _>>()?;
    let outer = Outer { optimiser: Optimiser::ADAM, rate: 1e-3, clip: None };
    let mut trainer = Trainer::new(&machine, start, outer)?;
    let mut inner = Inner::new(STEPS, Optimiser::Sgd, RATE, NAMES.len());
    for step in 0..steps {
        let seen = trainer.step(&machine, &mut learner, &mut inner, mode, BATCH, |learner, task| {
            let task = source.task(seed, (step * BATCH + task) as u64)?;
            write(machine, learner.support_mut(), support, &task.support)?;
            write(machine, learner.query_mut(), query, &task.query)
        })?;
        if step % 10_000 == 0 {
            eprintln!("{step}: {:.4} after adaptation, {:.4} before", seen.losses.after, seen.losses.before);
        }
    }

    let judged = Sinusoid { queries: POINTS, ..source };
    let (support_model, support) = network(machine, judged.shots)?;
    let (query_model, query) = network(machine, judged.queries)?;
    let mut learner = Learner::new(&machine, support_model, query_model, &NAMES)?;
    let begin: Vec<_> = trainer.parameters().iter().collect();
    let mut errors = Vec::with_capacity(JUDGED);
    for task in 0..JUDGED {
        let task = judged.task(u64::MAX, task as u64)?;
        write(machine, learner.support_mut(), support, &task.support)?;
        write(machine, learner.query_mut(), query, &task.query)?;
        errors.push(learner.meta_gradient(&machine, &begin, &inner, Mode::FirstOrder)?.after);
    }
    errors.sort_by(f64::total_cmp);
    Ok(errors)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let word = |n: usize, default: &str| words.get(n).map_or(default, String::as_str).to_owned();
    let mode = if word(0, "full") == "full" { Mode::Full } else { Mode::FirstOrder };
    let (seed, steps): (u64, usize) = (word(1, "0").parse()?, word(2, "70000").parse()?);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let errors = pool.install(|| errors(mode, seed, steps))?;
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    println!("{mode:?}, seed {seed}, {steps} steps: mean {mean:.4}, median {:.4}", errors[errors.len() / 2]);
    Ok(())
}
