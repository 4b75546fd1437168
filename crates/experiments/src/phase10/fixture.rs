//! The problem whose meta-gradients an independent system has computed: one head of attention between four matrices.

use serde_json::Value;
use theria_contract::Element;
use theria_maml::meta::Learner;
use theria_maml::operation::Heads;
use theria_maml::{Graph, Machine, Model, Result};

use super::workload::{Begin, Workload};
use super::{Phase10Error, Row};

const TEXT: &str = include_str!("../../../maml/tests/fixtures/maml_reference.json");

const NAMES: [&str; 4] = ["Wq", "Wk", "Wv", "Wo"];
const SHAPES: [(usize, usize); 4] = [(5, 4), (5, 4), (5, 4), (4, 2)];
const ROWS: usize = 6;

/// Steps of its loop.
pub(super) const STEPS: usize = 3;
/// Their rate.
pub(super) const RATE: f64 = 0.3;

/// The problem and its solutions.
pub(super) struct Fixture(Value);

impl Fixture {
    /// As it was built into the program.
    pub(super) fn open() -> super::Result<Self> {
        serde_json::from_str(TEXT).map(Self).map_err(|error| Phase10Error::Line {
            path: "maml_reference.json".into(),
            line: error.line(),
            reason: error.to_string(),
        })
    }

    /// The numbers of a solution, in the order of the parameters.
    pub(super) fn gradient(&self, key: &str) -> Vec<f64> {
        numbers(&self.0[key])
    }

    /// Those of the last steps alone.
    pub(super) fn truncated(&self, last: usize) -> Vec<f64> {
        numbers(&self.0["truncated"][last.to_string()])
    }

    /// The learner, and where it begins.
    pub(super) fn workload<M: Machine + 'static>(&self, machine: &M) -> Result<Workload<M>> {
        self.workload_near(machine, &mut |x| x)
    }

    /// The same, but that it begins with other numbers.
    pub(super) fn workload_near<M: Machine + 'static>(
        &self,
        machine: &M,
        near: &mut impl FnMut(f64) -> f64,
    ) -> Result<Workload<M>> {
        let problem = &self.0["problem"];
        let support = model(machine, &problem["Xs"], &problem["Ts"])?;
        let query = model(machine, &problem["Xq"], &problem["Tq"])?;
        let learner = Learner::new(machine, support, query, &NAMES)?;
        let begin = (0..NAMES.len()).map(|n| Begin {
            name: NAMES[n],
            shape: SHAPES[n],
            numbers: numbers(&problem["theta"][n]).into_iter().map(&mut *near).collect(),
        });
        Workload::new(machine, learner, &begin.collect::<Vec<_>>())
    }

    /// What a row says of it.
    pub(super) fn described(row: Row) -> Row {
        let shape = format!("T = {ROWS}, d = {}", SHAPES[0].1);
        row.with("shape", shape).with("steps", STEPS).with("inner_rate", RATE)
    }
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(all) => all.iter().flat_map(numbers).collect(),
        other => other.as_f64().into_iter().collect(),
    }
}

/// One head between four matrices, and the mean of squared errors.
fn model<M: Machine + 'static>(machine: &M, x: &Value, target: &Value) -> Result<Model<M>> {
    let mut graph = Graph::new();
    let (rows, targets) = (graph.input(ROWS, SHAPES[0].0), graph.input(ROWS, SHAPES[3].1));
    let mut theta = Vec::with_capacity(NAMES.len());
    for (name, (rows, columns)) in NAMES.into_iter().zip(SHAPES) {
        theta.push(graph.parameter(name, rows, columns));
    }
    let (q, k) = (graph.multiply(rows, theta[0])?, graph.multiply(rows, theta[1])?);
    let v = graph.multiply(rows, theta[2])?;
    let o = graph.attention(q, k, v, Heads::default())?;
    let y = graph.multiply(o, theta[3])?;
    let loss = graph.squared_error(y, targets, 1.0 / (ROWS * SHAPES[3].1) as f64)?;
    let mut model = Model::new(machine, graph, loss)?;
    for (place, value) in [(rows, x), (targets, target)] {
        let given: Vec<M::Element> = numbers(value).into_iter().map(M::Element::from_f64).collect();
        model.write(machine, place, &given)?;
    }
    Ok(model)
}
