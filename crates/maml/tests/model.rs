//! Models against finite differences and an independent system.

use serde_json::Value;
use theria_jvp_hvp::Streaming;
use theria_maml::operation::Heads;
use theria_maml::{Graph, Host, Machine as _, Model, ValueId};

type Cpu = Host<Streaming, f64>;

fn reference() -> Value {
    serde_json::from_str(include_str!("fixtures/maml_reference.json")).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(all) => all.iter().flat_map(numbers).collect(),
        other => vec![other.as_f64().unwrap()],
    }
}

#[test]
fn the_loss_of_the_reference() {
    let fixture = reference();
    println!("{:?}", fixture["problem"].as_object().unwrap().keys().collect::<Vec<_>>());
    let problem = &fixture["problem"];
    let machine = Cpu::new(Streaming::default());
    let mut graph = Graph::new();
    let x = graph.input(6, 5);
    let target = graph.input(6, 2);
    let theta: Vec<ValueId> = [("Wq", 5, 4), ("Wk", 5, 4), ("Wv", 5, 4), ("Wo", 4, 2)]
        .map(|(n, r, c)| graph.parameter(n, r, c))
        .into();
    let [q, k, v] = [0, 1, 2].map(|n| graph.multiply(x, theta[n]).unwrap());
    let o = graph.attention(q, k, v, Heads::default()).unwrap();
    let y = graph.multiply(o, theta[3]).unwrap();
    let loss = graph.squared_error(y, target, 1.0).unwrap();
    let mut model = Model::new(&machine, graph, loss).unwrap();
    let point = fixture["theta_K"].as_array().unwrap();
    for (id, value) in theta.iter().zip(point) {
        model.write(&machine, *id, &numbers(value)).unwrap();
    }
    model.write(&machine, x, &numbers(&problem["Xq"])).unwrap();
    model.write(&machine, target, &numbers(&problem["Tq"])).unwrap();
    let plan = model.plan(&theta, &theta);
    model.gradient(&machine, &plan).unwrap();
    let expected = fixture["outer_loss"].as_f64().unwrap();
    println!("{} {}", model.loss(&machine).unwrap(), model.loss(&machine).unwrap() / expected);
}
