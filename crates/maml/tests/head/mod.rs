//! The subject of tests of loops: one head of attention between four matrices, with the numbers of an independent system.

#![allow(dead_code)] // each test has a use for some of it

use serde_json::Value;
use theria_contract::Tensor;
use theria_jvp_hvp::Streaming;
use theria_maml::meta::{Learner, Optimiser};
use theria_maml::operation::Heads;
use theria_maml::{Graph, Host, Machine, Model};

pub(crate) type Cpu<A = Streaming> = Host<A, f64>;

pub(crate) const NAMES: [&str; 4] = ["Wq", "Wk", "Wv", "Wo"];
pub(crate) const SHAPES: [(usize, usize); 4] = [(5, 4), (5, 4), (5, 4), (4, 2)];

pub(crate) fn reference() -> Value {
    serde_json::from_str(include_str!("../fixtures/maml_reference.json")).unwrap()
}

pub(crate) fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(all) => all.iter().flat_map(numbers).collect(),
        other => vec![other.as_f64().unwrap()],
    }
}

/// One head of attention between four matrices, and the mean of squared errors.
pub(crate) fn model<M: Machine<Element = f64> + 'static>(machine: &M, x: &Value, target: &Value) -> Model<M> {
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

pub(crate) fn learner<M: Machine<Element = f64> + 'static>(machine: &M, adapted: &[&str]) -> Learner<M> {
    let fixture = reference();
    let problem = &fixture["problem"];
    let support = model(machine, &problem["Xs"], &problem["Ts"]);
    let query = model(machine, &problem["Xq"], &problem["Tq"]);
    Learner::new(machine, support, query, adapted).unwrap()
}

pub(crate) fn start() -> Vec<Tensor<f64>> {
    let fixture = reference();
    let theta = fixture["problem"]["theta"].as_array().unwrap().iter().zip(SHAPES);
    theta
        .map(|(theta, (rows, columns))| Tensor::from_vec(numbers(theta), [1, 1, rows, columns]).unwrap())
        .collect()
}

pub(crate) const MOMENTUM: Optimiser = Optimiser::Momentum { decay: 0.9 };
pub(crate) const ADAM: Optimiser = Optimiser::Adam { first: 0.9, second: 0.999, epsilon: 1e-3 };

/// The norm of the difference, as a part of that of what is expected.
pub(crate) fn error(given: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(given.len(), expected.len());
    let norm = |all: &mut dyn Iterator<Item = f64>| all.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut given.iter().zip(expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied())
}
