//! Meta-gradients against those of an independent system, in f64.

use serde_json::Value;
use theria_contract::Tensor;
use theria_jvp_hvp::{Opaque, Streaming};
use theria_maml::meta::{Inner, Learner, Mode, Optimiser};
use theria_maml::operation::Heads;
use theria_maml::{Error, Graph, Host, Machine, Model};

type Cpu<A = Streaming> = Host<A, f64>;

const NAMES: [&str; 4] = ["Wq", "Wk", "Wv", "Wo"];
const SHAPES: [(usize, usize); 4] = [(5, 4), (5, 4), (5, 4), (4, 2)];
const STEPS: usize = 3;
const RATE: f64 = 0.3;

fn reference() -> Value {
    serde_json::from_str(include_str!("fixtures/maml_reference.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(all) => all.iter().flat_map(numbers).collect(),
        other => vec![other.as_f64().unwrap()],
    }
}

/// One head of attention between four matrices, and the mean of squared errors.
fn model<M: Machine<Element = f64> + 'static>(machine: &M, x: &Value, target: &Value) -> Model<M> {
    let mut graph = Graph::new();
    let (rows, targets) = (graph.input(6, 5), graph.input(6, 2));
    let theta: Vec<_> = NAMES
        .iter()
        .zip(SHAPES)
        .map(|(name, (rows, columns))| graph.parameter(name, rows, columns))
        .collect();
    let [q, k, v] = [0, 1, 2].map(|n| graph.multiply(rows, theta[n]).unwrap());
    let o = graph.attention(q, k, v, Heads::default()).unwrap();
    let y = graph.multiply(o, theta[3]).unwrap();
    let loss = graph.squared_error(y, targets, 1.0 / 12.0).unwrap();
    let mut model = Model::new(machine, graph, loss).unwrap();
    model.write(machine, rows, &numbers(x)).unwrap();
    model.write(machine, targets, &numbers(target)).unwrap();
    model
}

fn learner<M: Machine<Element = f64> + 'static>(machine: &M, adapted: &[&str]) -> Learner<M> {
    let fixture = reference();
    let problem = &fixture["problem"];
    let support = model(machine, &problem["Xs"], &problem["Ts"]);
    let query = model(machine, &problem["Xq"], &problem["Tq"]);
    Learner::new(machine, support, query, adapted).unwrap()
}

fn start() -> Vec<Tensor<f64>> {
    let fixture = reference();
    let theta = fixture["problem"]["theta"].as_array().unwrap().iter().zip(SHAPES);
    theta
        .map(|(theta, (rows, columns))| Tensor::from_vec(numbers(theta), [1, 1, rows, columns]).unwrap())
        .collect()
}

fn inner(optimiser: Optimiser, rate: f64) -> Inner {
    Inner { steps: STEPS, optimiser, rates: vec![rate; 4] }
}

/// What a learner found: the loss, the gradients one after the other, and that of a rate that all share.
struct Found {
    loss: f64,
    gradient: Vec<f64>,
    of_rate: f64,
}

fn found(inner: &Inner, mode: Mode) -> Found {
    let machine = Cpu::new(Streaming::new());
    let mut learner = learner(&machine, &NAMES);
    let start = start();
    let adapted = learner.meta_gradient(&machine, &start.iter().collect::<Vec<_>>(), inner, mode).unwrap();
    Found {
        loss: adapted.after,
        gradient: learner.gradients().flat_map(|tensor| tensor.data().to_vec()).collect(),
        of_rate: learner.rate_gradients().iter().sum(),
    }
}

/// The norm of the difference, as a part of that of what is expected.
fn error(given: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(given.len(), expected.len());
    let norm = |all: &mut dyn Iterator<Item = f64>| all.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut given.iter().zip(expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied())
}

#[test]
fn explore() {
    let fixture = reference();
    let f = found(&inner(Optimiser::Sgd, RATE), Mode::Full);
    println!("loss {} {:e}", f.loss, error(&f.gradient, &numbers(&fixture["meta_grad"])));
    println!("rate {} {}", f.of_rate, fixture["dF_dalpha"]);
    for r in 0..=3 {
        let f = found(&inner(Optimiser::Sgd, RATE), Mode::Truncated(r));
        println!("trunc {r} {:e}", error(&f.gradient, &numbers(&fixture["truncated"][r.to_string()])));
    }
    let f = found(&inner(Optimiser::Sgd, RATE), Mode::FirstOrder);
    println!("fo rate {} {}", f.of_rate, fixture["first_order_dF_dalpha"]);
    for rate in [0.3, 0.1, 0.05, 0.01] {
        for decay in [0.9, 0.8, 0.5] {
            let f = found(&inner(Optimiser::Momentum { decay }, rate), Mode::Full);
            println!("mom {rate} {decay} {:e}", error(&f.gradient, &numbers(&fixture["momentum"])));
        }
        for second in [0.999, 0.99, 0.95] {
            let f = found(&inner(Optimiser::Adam { first: 0.9, second, epsilon: 1e-3 }, rate), Mode::Full);
            println!("adam {rate} {second} {:e}", error(&f.gradient, &numbers(&fixture["adam_eps1e3"])));
        }
    }
}
