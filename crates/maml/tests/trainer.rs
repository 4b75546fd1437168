//! The outer loop, on sinusoids that a small network of two layers adapts to.

use theria_contract::Tensor;
use theria_jvp_hvp::Streaming;
use theria_maml::meta::{Inner, Learner, Mode, Optimiser, Outer, Seen, State, Trainer};
use theria_maml::tasks::{Samples, Sinusoid, Stream, TaskSource as _};
use theria_maml::{Error, Graph, Host, Model, Result, ValueId};

type Cpu = Host<Streaming, f64>;

const NAMES: [&str; 4] = ["w1", "b1", "w2", "b2"];
const SHAPES: [(usize, usize); 4] = [(1, 16), (1, 16), (16, 1), (1, 1)];
const SOURCE: Sinusoid = Sinusoid { shots: 8, queries: 6 };

/// The network, and where points and values go.
fn network(machine: Cpu, points: usize) -> Result<(Model<Cpu>, [ValueId; 2])> {
    let mut graph = Graph::new();
    let (x, target) = (graph.input(points, 1), graph.input(points, 1));
    let mut parameters = Vec::new();
    for (name, (rows, columns)) in NAMES.iter().zip(SHAPES) {
        parameters.push(graph.parameter(name, rows, columns));
    }
    let [w1, b1, w2, b2] = parameters[..] else { unreachable!("there are four") };
    let hidden = graph.multiply(x, w1)?;
    let hidden = graph.sum(hidden, b1)?;
    let hidden = graph.gelu(hidden);
    let y = graph.multiply(hidden, w2)?;
    let y = graph.sum(y, b2)?;
    let loss = graph.squared_error(y, target, 1.0 / points as f64)?;
    Ok((Model::new(&machine, graph, loss)?, [x, target]))
}

struct Loop {
    machine: Cpu,
    learner: Learner<Cpu>,
    support: [ValueId; 2],
    query: [ValueId; 2],
}

impl Loop {
    fn new() -> Self {
        let machine = Cpu::new(Streaming::new());
        let (support_model, support) = network(machine, SOURCE.shots).unwrap();
        let (query_model, query) = network(machine, SOURCE.queries).unwrap();
        let learner = Learner::new(&machine, support_model, query_model, &NAMES).unwrap();
        Self { machine, learner, support, query }
    }

    fn trainer(&self, outer: Outer) -> Trainer<Cpu> {
        let draw = |(n, (rows, columns)): (usize, &(usize, usize))| {
            let mut stream = Stream::new(3, 0, n as u32);
            Tensor::from_fn([1, 1, *rows, *columns], |_| 0.5 * stream.normal()).unwrap()
        };
        Trainer::new(&self.machine, SHAPES.iter().enumerate().map(draw).collect(), outer).unwrap()
    }

    /// A step over tasks from `first` on.
    fn step(
        &mut self,
        trainer: &mut Trainer<Cpu>,
        inner: &mut Inner,
        tasks: usize,
        first: usize,
    ) -> Result<Seen> {
        let Self { machine, learner, support, query } = self;
        trainer.step(machine, learner, inner, Mode::Full, tasks, |learner, task| {
            let task = SOURCE.task(5, (first + task) as u64)?;
            let write = |model: &mut Model<Cpu>, at: [ValueId; 2], samples: &Samples| {
                model.write(machine, at[0], &samples.inputs)?;
                model.write(machine, at[1], &samples.targets)
            };
            write(learner.support_mut(), *support, &task.support)?;
            write(learner.query_mut(), *query, &task.query)
        })
    }
}

fn inner() -> Inner {
    Inner::new(3, Optimiser::Sgd, 0.02, NAMES.len())
}

fn all(tensors: &[Tensor<f64>]) -> Vec<f64> {
    tensors.iter().flat_map(|tensor| tensor.data().to_vec()).collect()
}

const PLAIN: Outer = Outer { optimiser: Optimiser::Sgd, rate: 0.1, clip: None };

#[test]
fn a_step_goes_against_the_mean_of_meta_gradients() {
    let mut loops = Loop::new();
    let single: Vec<Vec<f64>> = (0..2)
        .map(|task| {
            let mut trainer = loops.trainer(PLAIN);
            let before = all(trainer.parameters());
            loops.step(&mut trainer, &mut inner(), 1, task).unwrap();
            before.iter().zip(all(trainer.parameters())).map(|(before, after)| after - before).collect()
        })
        .collect();
    let mut trainer = loops.trainer(PLAIN);
    let before = all(trainer.parameters());
    loops.step(&mut trainer, &mut inner(), 2, 0).unwrap();
    assert_eq!(trainer.steps(), 1);
    for (n, (before, after)) in before.iter().zip(all(trainer.parameters())).enumerate() {
        let expected = f64::midpoint(single[0][n], single[1][n]);
        assert!((after - before - expected).abs() < 1e-14, "{n}");
    }
    assert_ne!(single[0], single[1], "two tasks pull in two directions");
}

#[test]
fn a_long_gradient_is_cut_to_the_length_that_is_allowed() {
    let mut loops = Loop::new();
    let mut length = |clip| {
        let mut trainer = loops.trainer(Outer { clip, ..PLAIN });
        let before = all(trainer.parameters());
        let seen = loops.step(&mut trainer, &mut inner(), 2, 0).unwrap();
        let square = |(a, b): (f64, f64)| (a - b) * (a - b);
        let moved = before.into_iter().zip(all(trainer.parameters())).map(square).sum::<f64>().sqrt();
        (seen.norm, moved / PLAIN.rate)
    };
    let (norm, moved) = length(None);
    assert!((norm - moved).abs() < 1e-12 * norm && norm > 0.1, "{norm} {moved}");
    let (same, cut) = length(Some(norm / 3.0));
    assert_eq!(same, norm);
    assert!((cut - norm / 3.0).abs() < 1e-12 * norm, "{cut}");
    assert_eq!(length(Some(norm * 3.0)), (norm, moved));
}

/// A step of no length, over tasks that no step learns from, says where a trainer stands.
fn loss_after_adaptation(loops: &mut Loop, at: &Trainer<Cpu>, inner: &Inner) -> f64 {
    let start = at.parameters().to_vec();
    let mut still = Trainer::new(&loops.machine, start, Outer { rate: 0.0, ..PLAIN }).unwrap();
    loops.step(&mut still, &mut inner.clone(), 100, 1_000_000).unwrap().losses.after
}

#[test]
fn training_lowers_the_loss_after_adaptation_and_is_the_same_every_time() {
    let run = |mut inner: Inner| {
        let mut loops = Loop::new();
        let mut trainer = loops.trainer(Outer { optimiser: Optimiser::ADAM, rate: 1e-2, clip: Some(10.0) });
        let before = loss_after_adaptation(&mut loops, &trainer, &inner);
        for step in 0..300 {
            loops.step(&mut trainer, &mut inner, 4, 4 * step).unwrap();
        }
        (before, loss_after_adaptation(&mut loops, &trainer, &inner), all(trainer.parameters()), inner.rates)
    };
    let (before, after, parameters, rates) = run(inner());
    assert!(after < 0.7 * before, "{before} {after}");
    assert_eq!(rates, inner().rates, "rates that are not learned stay");
    assert_eq!(run(inner()), (before, after, parameters.clone(), rates));
    let learned = run(inner().learning_rates());
    assert_ne!(learned.3, inner().rates);
    assert_ne!(learned.2, parameters);
}

#[test]
fn no_tasks_and_a_loop_that_diverges_are_said_and_change_nothing() {
    let mut loops = Loop::new();
    let mut trainer = loops.trainer(PLAIN);
    let before = all(trainer.parameters());
    assert!(matches!(loops.step(&mut trainer, &mut inner(), 0, 0), Err(Error::NoTasks)));
    let mut wild = Inner::new(3, Optimiser::Sgd, 1e100, NAMES.len());
    let diverged = loops.step(&mut trainer, &mut wild, 2, 0);
    assert!(matches!(diverged, Err(Error::Diverged { .. })), "{diverged:?}");
    assert_eq!((all(trainer.parameters()), trainer.steps()), (before, 0));
}

#[test]
fn a_trainer_goes_on_from_its_state_with_the_same_bits() {
    for optimiser in [Optimiser::Sgd, Optimiser::Momentum { decay: 0.9 }, Optimiser::ADAM] {
        let outer = Outer { optimiser, rate: 1e-2, clip: Some(10.0) };
        let go = |loops: &mut Loop,
                  trainer: &mut Trainer<Cpu>,
                  inner: &mut Inner,
                  steps: std::ops::Range<usize>| {
            for step in steps {
                loops.step(trainer, inner, 3, 3 * step).unwrap();
            }
        };
        let mut loops = Loop::new();
        let (mut whole, mut inner_of_whole) = (loops.trainer(outer), inner().learning_rates());
        go(&mut loops, &mut whole, &mut inner_of_whole, 0..4);
        let (state, rates) = (whole.state(&loops.machine).unwrap(), inner_of_whole.rates.clone());
        go(&mut loops, &mut whole, &mut inner_of_whole, 4..8);

        let forgetful = State { steps: 0, ..state.clone() };
        let resumed = |state: State<f64>| {
            let mut loops = Loop::new();
            let mut trainer = Trainer::resume(&loops.machine, state, outer).unwrap();
            let mut inner = Inner { rates: rates.clone(), ..inner().learning_rates() };
            go(&mut loops, &mut trainer, &mut inner, 4..8);
            (trainer.steps(), all(trainer.parameters()), inner.rates)
        };
        assert_eq!(resumed(state), (8, all(whole.parameters()), inner_of_whole.rates));
        // The number of the step is part of what Adam goes on from, and of no other.
        let same = resumed(forgetful).1 == all(whole.parameters());
        assert_eq!(same, optimiser != Optimiser::ADAM, "{optimiser:?}");
    }
}

#[test]
fn a_state_that_does_not_fit_the_optimiser_is_refused() {
    let loops = Loop::new();
    let adam = Outer { optimiser: Optimiser::ADAM, ..PLAIN };
    let state = || loops.trainer(adam).state(&loops.machine).unwrap();
    assert!(Trainer::resume(&loops.machine, state(), adam).is_ok());
    let mut few = state();
    few.memories.pop();
    let mut short = state();
    short.memories[0][1] = Tensor::zeros([1, 1, 1, 3]).unwrap();
    for (state, outer) in [(state(), PLAIN), (few, adam), (short, adam)] {
        let refused = Trainer::resume(&loops.machine, state, outer).map(|_| ());
        assert!(matches!(refused, Err(Error::Elements { .. })), "{refused:?}");
    }
}
