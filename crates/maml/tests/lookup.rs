//! Rows of tables: which are picked, what falls to them and in which order, and numbers that name none.

use theria_contract::Tensor;
use theria_jvp_hvp::Streaming;
use theria_maml::machine::{Picks, Place};
use theria_maml::{Graph, Host, Machine, Model, ValueId};

type Cpu = Host<Streaming, f64>;

const PICKS: Picks = Picks { rows: 3, columns: 2, count: 5 };

fn tensor<R: theria_contract::Scalar>(numbers: &[R], rows: usize, columns: usize) -> Tensor<R> {
    Tensor::from_vec(numbers.to_vec(), [1, 1, rows, columns]).unwrap()
}

/// `Σ (t_{n(i)} - target_i)²` of a table that is a parameter, and the two.
fn model(machine: Cpu, numbers: &[f64]) -> (Model<Cpu>, ValueId, ValueId) {
    let mut graph = Graph::new();
    let (table, indices) = (graph.parameter("table", 3, 2), graph.input(numbers.len(), 1));
    let picked = graph.lookup(table, indices).unwrap();
    let target = graph.input(numbers.len(), 2);
    let loss = graph.squared_error(picked, target, 1.0).unwrap();
    graph.keep(picked);
    let mut model = Model::new(&machine, graph, loss).unwrap();
    model.write(&machine, table, &[10.0, 11.0, 20.0, 21.0, 30.0, 31.0]).unwrap();
    model.write(&machine, indices, numbers).unwrap();
    (model, table, picked)
}

#[test]
fn rows_are_those_that_the_numbers_name() {
    let machine = Cpu::new(Streaming::new());
    let (mut model, table, picked) = model(machine, &[2.0, 0.0, 2.0, -0.0, 1.0]);
    model.evaluate(&machine).unwrap();
    let expected = [30.0, 31.0, 10.0, 11.0, 30.0, 31.0, 10.0, 11.0, 20.0, 21.0];
    assert_eq!(model.tensor(picked).unwrap().data(), expected);
    assert_eq!(model.loss(&machine).unwrap(), expected.iter().map(|x| x * x).sum::<f64>());
    // Each pick adds 2 t to its row.
    let plan = model.plan(&[table], &[]);
    model.gradient(&machine, &plan).unwrap();
    assert_eq!(model.gradient_of(table).unwrap().data(), [40.0, 44.0, 40.0, 42.0, 120.0, 124.0]);
}

#[test]
fn a_number_that_names_no_row_gives_no_loss_and_no_error() {
    let machine = Cpu::new(Streaming::new());
    for wrong in [3.0, -1.0, 0.5, f64::NAN, f64::INFINITY] {
        let (mut model, table, picked) = model(machine, &[2.0, wrong, 0.0, 2.0, 1.0]);
        model.evaluate(&machine).unwrap();
        assert!(model.loss(&machine).unwrap().is_nan(), "{wrong}");
        let rows = model.tensor(picked).unwrap().data();
        assert!(rows[2..4].iter().all(|x| x.is_nan()) && rows[4..6] == [10.0, 11.0], "{wrong}: {rows:?}");
        let plan = model.plan(&[table], &[]);
        model.gradient(&machine, &plan).unwrap();
        let gradient = model.gradient_of(table).unwrap().data();
        assert_eq!(gradient, [20.0, 22.0, 40.0, 42.0, 120.0, 124.0], "{wrong}: its row goes nowhere");
    }
}

/// Sums of numbers so far apart that another order gives another sum.
#[test]
fn what_falls_to_a_row_is_added_in_the_order_of_the_numbers() {
    let machine = Cpu::new(Streaming::new());
    let indices = tensor(&[1.0, 0.0, 1.0, 1.0, 0.0], 5, 1);
    let added = |rows: &[f64; 10], before: Option<[f64; 6]>| {
        let mut table = tensor(&before.unwrap_or([f64::NAN; 6]), 3, 2);
        let mut place = Place { to: &mut table, add: before.is_some() };
        machine.scatter_add(PICKS, &tensor(rows, 5, 2), &indices, &mut place).unwrap();
        assert!(place.add, "what was written is said");
        table.data().to_vec()
    };
    let rows = [1e16, 1.0, 5.0, 6.0, 1.0, 2.0, -1e16, 3.0, 7.0, 8.0];
    let sums = [12.0, 14.0, (1e16 + 1.0) - 1e16, 6.0, 0.0, 0.0];
    assert_eq!(added(&rows, None), sums);
    assert_eq!(sums[2], 0.0);
    let turned = [1e16, 1.0, 5.0, 6.0, -1e16, 3.0, 1.0, 2.0, 7.0, 8.0];
    assert_eq!(added(&turned, None)[2], 1.0, "the order matters");
    // Onto what is there: after it, one by one.
    let before = [0.5, 0.5, -1e16, 0.5, 0.25, 0.75];
    assert_eq!(added(&rows, Some(before)), [12.5, 14.5, ((-1e16 + 1e16) + 1.0) - 1e16, 6.5, 0.25, 0.75]);
}

#[test]
fn numbers_in_f32_name_rows_too() {
    let machine: Host<Streaming, f32> = Host::new(Streaming::new());
    let (table, indices) = (tensor(&[1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0], 3, 2), [2.0_f32, 1.0, 0.0, 1.0, 2.0]);
    let mut out = tensor(&[0.0_f32; 10], 5, 2);
    machine.gather(PICKS, &table, &tensor(&indices, 5, 1), &mut out).unwrap();
    assert_eq!(out.data(), [5.0, 6.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let few = machine.gather(PICKS, &table, &tensor(&indices[1..], 4, 1), &mut out);
    assert!(matches!(few, Err(theria_maml::Error::Elements { given: 4, expected: 5, .. })), "{few:?}");
}

#[test]
fn numbers_that_are_made_have_a_derivative_of_zero() {
    let machine = Cpu::new(Streaming::new());
    let mut graph = Graph::new();
    let (table, made_of) = (graph.parameter("table", 3, 2), graph.parameter("made of", 5, 1));
    let numbers = graph.relu(made_of);
    let picked = graph.lookup(table, numbers).unwrap();
    let target = graph.input(5, 2);
    let loss = graph.squared_error(picked, target, 1.0).unwrap();
    graph.keep(picked);
    let mut model = Model::new(&machine, graph, loss).unwrap();
    model.write(&machine, table, &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
    model.write(&machine, made_of, &[2.0, 1.0, 0.0, 1.0, 2.0]).unwrap();
    for of in [vec![table, made_of], vec![made_of]] {
        for along in [vec![table, made_of], vec![made_of]] {
            let plan = model.plan(&of, &along);
            // Directions are left behind, and what is made of them.
            theria_maml::meta::hessian_symmetry(&machine, &mut model, &along, 1, 1).unwrap();
            model.gradient(&machine, &plan).unwrap();
            model.gradient_tangent(&machine, &plan).unwrap();
            assert_eq!(model.gradient_of(made_of).unwrap().data(), [0.0; 5]);
            assert_eq!(model.gradient_tangent_of(made_of).unwrap().data(), [0.0; 5]);
            if of.len() == 2 {
                let curved = model.gradient_tangent_of(table).unwrap().data();
                assert_eq!(curved.iter().all(|x| *x == 0.0), along.len() == 1, "{curved:?}");
            }
        }
    }
}
