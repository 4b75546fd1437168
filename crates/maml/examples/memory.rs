//! A memory written by gradient steps and read by attention: what the first order leaves out, it pays for here.
//!
//! `cargo run --release -p theria-maml --example memory -- [full|first-order] [seed] [outer steps] [outer rate]`

use theria_contract::Tensor;
use theria_jvp_hvp::Streaming;
use theria_maml::meta::{Inner, Learner, Mode, Optimiser, Outer, Trainer};
use theria_maml::operation::Heads;
use theria_maml::tasks::{KeyValue, Samples, Stream, Target, TaskSource as _};
use theria_maml::{Graph, Host, Model, Result, ValueId};

type Cpu = Host<Streaming, f64>;

/// Slots of the memory and their width.
const SLOTS: usize = 8;
const WIDTH: usize = 32;
const BATCH: usize = 64;

/// A model and where its data go.
struct Reader {
    model: Model<Cpu>,
    keys: ValueId,
    labels: ValueId,
    logits: ValueId,
}

/// Keys read the memory through one head.
fn reader(machine: Cpu, source: &KeyValue, weight: f64) -> Result<Reader> {
    let classes = source.shape().target.outputs();
    let mut graph = Graph::new();
    let (keys, labels) = (graph.input(source.pairs, source.width), graph.input(source.pairs, 1));
    let memory = graph.parameter("memory", SLOTS, WIDTH);
    let (wq, wk) = (graph.parameter("wq", source.width, WIDTH), graph.parameter("wk", WIDTH, WIDTH));
    let (wv, wo) = (graph.parameter("wv", WIDTH, WIDTH), graph.parameter("wo", WIDTH, classes));
    let (q, k, v) = (graph.multiply(keys, wq)?, graph.multiply(memory, wk)?, graph.multiply(memory, wv)?);
    let o = graph.attention(q, k, v, Heads::default())?;
    let logits = graph.multiply(o, wo)?;
    let loss = graph.cross_entropy(logits, labels, weight)?;
    Ok(Reader { model: Model::new(&machine, graph, loss)?, keys, labels, logits })
}

/// Learns, and says how many labels of a thousand new tasks are read rightly, in percent.
fn accuracy(mode: Mode, seed: u64, steps: usize, rate: f64) -> Result<f64> {
    let (machine, source) = (Cpu::new(Streaming::new()), KeyValue::default());
    let (write, read) =
        (reader(machine, &source, 1.0)?, reader(machine, &source, 1.0 / source.pairs as f64)?);
    let (at_write, at_read, logits) = ((write.keys, write.labels), (read.keys, read.labels), read.logits);
    let mut learner = Learner::new(&machine, write.model, read.model, &["memory"])?;
    let Target::Class(classes) = source.shape().target else { unreachable!("labels are classes") };
    let shapes = [(SLOTS, WIDTH), (source.width, WIDTH), (WIDTH, WIDTH), (WIDTH, WIDTH), (WIDTH, classes)];
    let start = shapes.iter().enumerate().map(|(n, (rows, columns))| {
        let mut stream = Stream::new(seed, 0, n as u32);
        let size = (*rows as f64).sqrt().recip();
        Tensor::from_fn([1, 1, *rows, *columns], |_| size * stream.normal())
    });
    let start: Vec<Tensor<f64>> = start.collect::<Result<_, _>>()?;
    let outer = Outer { optimiser: Optimiser::ADAM, rate, clip: Some(1.0) };
    let mut trainer = Trainer::new(&machine, start, outer)?;
    let mut inner = Inner::new(2, Optimiser::Sgd, 0.1, 1).learning_rates();

    let write_to = |learner: &mut Learner<Cpu>, (support, query): (&Samples, &Samples)| -> Result<()> {
        let model = learner.support_mut();
        model.write(&machine, at_write.0, &support.inputs)?;
        model.write(&machine, at_write.1, &support.targets)?;
        let model = learner.query_mut();
        model.write(&machine, at_read.0, &query.inputs)?;
        model.write(&machine, at_read.1, &query.targets)
    };
    for step in 0..steps {
        let seen = trainer.step(&machine, &mut learner, &mut inner, mode, BATCH, |learner, task| {
            let task = source.task(seed, (step * BATCH + task) as u64)?;
            write_to(learner, (&task.support, &task.query))
        })?;
        if step % 200 == 0 {
            println!("{step}: {:.4}, norm {:.3}, rate {:.4}", seen.losses.after, seen.norm, inner.rates[0]);
        }
    }
    let (mut right, mut all) = (0_u32, 0_u32);
    for task in 0..1000 {
        let task = source.task(seed ^ 0xFFFF_0000, task)?;
        write_to(&mut learner, (&task.support, &task.query))?;
        let begin: Vec<_> = trainer.parameters().iter().collect();
        learner.meta_gradient(&machine, &begin, &inner, Mode::FirstOrder)?;
        let made = learner.query_mut().tensor(logits).data();
        for (row, label) in made.chunks(classes).zip(&task.query.targets) {
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1)).map_or(0, |(n, _)| n);
            right += u32::from(best as f64 == *label);
            all += 1;
        }
    }
    Ok(100.0 * f64::from(right) / f64::from(all))
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let word = |n: usize, default: &str| words.get(n).map_or(default, String::as_str).to_owned();
    let mode = if word(0, "full") == "full" { Mode::Full } else { Mode::FirstOrder };
    let (seed, steps): (u64, usize) = (word(1, "0").parse()?, word(2, "2000").parse()?);
    let rate: f64 = word(3, "3e-3").parse()?;
    // A call from outside of a pool would wake its thread, and wait.
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build()?;
    let accuracy = pool.install(|| accuracy(mode, seed, steps, rate))?;
    println!("{mode:?}, seed {seed}, {steps} steps at {rate}: {accuracy:.2} %");
    Ok(())
}
