//! Every operation of models: its value, its gradients and products of its Hessian on a machine against the host in f64.
//!
//! An operation is followed by the mean of squared errors against a parameter. The gradient of that parameter is the
//! operation's value, number by number, and its part of a product of the Hessian is the push-forward; the other
//! parameters have the pull-back and its tangent.

use theria_contract::Element;
use theria_maml::machine::TensorOf;
use theria_maml::operation::Heads;
use theria_maml::{Graph, Machine, Model, Plan, Result, ValueId};

use crate::phase10::machines::{Named, download, normal, of, off, oracle, same_bits, worst};
use theria_tests::device::short;
use theria_tests::evidence::Row;

/// An operation and its sizes.
#[derive(Clone, Copy, Debug)]
pub enum Operation {
    /// Two matrices.
    Sum(usize, usize),
    /// A matrix and a row.
    SumWithRow(usize, usize),
    /// A matrix and a row, twice: what is pulled back is added to what is there.
    SumWithRowTwice(usize, usize),
    /// A matrix and so many rows that take turns, twice.
    SumInTurns(usize, usize, usize),
    /// A matrix and itself, which is copied for it.
    Copy(usize, usize),
    /// Of so many rows each.
    Mean(usize, usize, usize),
    /// The unit.
    Gelu(usize, usize),
    /// The other unit.
    Relu(usize, usize),
    /// Of rows.
    Normalise(usize, usize),
    /// Rows, inner and columns.
    Product(usize, usize, usize),
    /// With a row.
    Linear(usize, usize, usize),
    /// With a matrix and a row.
    LinearOnto(usize, usize, usize),
    /// Rows and columns of a table, and picks.
    Lookup(usize, usize, usize),
    /// Of the parameters themselves.
    SquaredError(usize, usize),
    /// Of rows.
    CrossEntropy(usize, usize),
    /// Between projections: queries, keys, widths of a head of keys and of values, heads.
    Attention(usize, usize, usize, usize, Heads),
    /// Keys that are values, too.
    SelfAttention(usize, usize, Heads),
    /// Every operation on no rows, which keys come from that no query sees.
    NoRows,
}

use Operation as Op;

const CAUSAL: Heads = Heads { queries: 4, keys: 2, batch: 2, causal: true };
const BATCH: Heads = Heads { queries: 2, keys: 2, batch: 3, causal: false };
const PLAIN: Heads = Heads { queries: 1, keys: 1, batch: 1, causal: false };

/// Functions of rows, products and lookups.
///
/// Rows of one element and one row alone; widths beside multiples of a vector and beside those of a warp; rows that a warp
/// holds, several warps, or nobody; thousands of rows, which blocks share in chunks and whose sums the last one adds up, in
/// one stage or in two; thousands of rows in turns.
const OPERATIONS: [Operation; 73] = [
    Op::Gelu(37, 33),
    Op::Sum(1, 1),
    Op::Sum(37, 33),
    Op::Sum(3000, 1),
    Op::SumWithRow(1, 1),
    Op::SumWithRow(1, 300),
    Op::SumWithRow(3000, 1),
    Op::SumWithRow(37, 5),
    Op::SumWithRow(257, 130),
    Op::SumWithRow(9001, 3),
    Op::SumWithRowTwice(37, 33),
    Op::SumWithRowTwice(3000, 1),
    Op::SumWithRowTwice(8200, 7),
    Op::SumInTurns(12, 5, 3),
    Op::SumInTurns(12, 33, 12),
    Op::SumInTurns(9000, 3, 4),
    Op::SumInTurns(9000, 1, 4500),
    Op::SumInTurns(8400, 131, 7),
    Op::Copy(1, 1),
    Op::Copy(37, 129),
    Op::Copy(40, 64),
    Op::Sum(64, 512),
    Op::SumWithRow(2048, 64),
    Op::SumWithRow(70, 1028),
    Op::SumWithRowTwice(600, 256),
    Op::SumInTurns(96, 512, 24),
    Op::SumInTurns(12, 33, 1),
    Op::Mean(96, 64, 32),
    Op::Gelu(64, 256),
    Op::Mean(1, 1, 1),
    Op::Mean(12, 7, 4),
    Op::Mean(3000, 1, 3000),
    Op::Mean(3000, 1, 5),
    Op::Mean(9000, 131, 3000),
    Op::Gelu(1, 1),
    Op::Gelu(3000, 1),
    Op::Gelu(8200, 3),
    Op::Gelu(3, 1031),
    Op::Relu(1, 1),
    Op::Relu(37, 33),
    Op::Relu(8200, 1),
    Op::Normalise(1, 5),
    Op::Normalise(1, 300),
    Op::Normalise(40, 129),
    Op::Normalise(3000, 1),
    Op::Normalise(3000, 2),
    Op::Normalise(9001, 6),
    Op::Normalise(600, 64),
    Op::Normalise(300, 512),
    Op::Normalise(5, 2048),
    Op::Normalise(70, 2052),
    Op::Normalise(11, 1023),
    Op::Product(1, 1, 1),
    Op::Product(1, 33, 7),
    Op::Product(40, 130, 31),
    Op::Product(5, 0, 3),
    Op::Linear(1, 3, 1),
    Op::Linear(3000, 4, 1),
    Op::Linear(8200, 3, 33),
    Op::LinearOnto(1, 3, 5),
    Op::LinearOnto(37, 5, 130),
    Op::LinearOnto(9000, 2, 3),
    Op::Lookup(7, 4, 10),
    Op::Lookup(1, 1, 1),
    Op::Lookup(5, 33, 700),
    Op::Lookup(3000, 1, 90),
    Op::SquaredError(1, 1),
    Op::SquaredError(37, 1031),
    Op::SquaredError(8200, 3),
    Op::CrossEntropy(1, 2),
    Op::CrossEntropy(3000, 5),
    Op::CrossEntropy(37, 130),
    Op::CrossEntropy(9001, 3),
];

/// Attention, whole and grouped, causal and not, of several sequences, and of none.
const ATTENTION: [Operation; 7] = [
    Op::Attention(20, 33, 16, 16, PLAIN),
    Op::Attention(36, 36, 8, 8, CAUSAL),
    Op::Attention(39, 60, 16, 24, BATCH),
    Op::Attention(1, 3, 8, 8, PLAIN),
    Op::Attention(150, 150, 64, 64, Heads { batch: 1, ..CAUSAL }),
    Op::SelfAttention(24, 16, Heads { queries: 2, keys: 2, batch: 2, causal: true }),
    Op::NoRows,
];

/// Those that do not take a tool which makes everything slower too long.
fn few(all: &[Operation]) -> Vec<Operation> {
    let small = |at: &&Operation| match **at {
        Op::Sum(rows, _)
        | Op::SumWithRow(rows, _)
        | Op::SumInTurns(rows, ..)
        | Op::Copy(rows, _)
        | Op::Mean(rows, ..)
        | Op::Gelu(rows, _)
        | Op::Relu(rows, _)
        | Op::Normalise(rows, _)
        | Op::Product(rows, ..)
        | Op::Linear(rows, ..)
        | Op::LinearOnto(rows, ..)
        | Op::Lookup(rows, ..)
        | Op::SquaredError(rows, _)
        | Op::CrossEntropy(rows, _)
        | Op::Attention(rows, ..)
        | Op::SelfAttention(rows, ..) => rows < 100,
        // Chunks of warps, too.
        Op::SumWithRowTwice(..) | Op::NoRows => true,
    };
    all.iter().filter(|at| !short() || small(at)).copied().collect()
}

/// Every operation.
pub fn all() -> Vec<Operation> {
    [few(&OPERATIONS), few(&ATTENTION)].concat()
}

/// Those that attend.
pub fn attention() -> Vec<Operation> {
    few(&ATTENTION)
}

/// An operation under construction.
struct Building<M: Machine> {
    graph: Graph<M>,
    /// Parameters, and what their numbers are multiplied by.
    parameters: Vec<(ValueId, f64)>,
    data: Vec<(ValueId, Vec<f64>)>,
}

impl<M: Machine + 'static> Building<M> {
    fn parameter(&mut self, rows: usize, columns: usize) -> ValueId {
        self.sized(rows, columns, 1.0)
    }

    fn sized(&mut self, rows: usize, columns: usize, size: f64) -> ValueId {
        let value = self.graph.parameter(&format!("p{}", self.parameters.len()), rows, columns);
        self.parameters.push((value, size));
        value
    }

    /// A row that is added to a matrix, once or before a unit and after it.
    fn with_row(&mut self, rows: usize, columns: usize, twice: bool) -> Result<ValueId> {
        let (a, b) = (self.parameter(rows, columns), self.parameter(1, columns));
        let once = self.graph.sum(a, b)?;
        if !twice {
            return Ok(once);
        }
        let unit = self.graph.gelu(once);
        self.graph.sum(unit, b)
    }

    /// Rows that take turns, before a unit and after it.
    fn in_turns(&mut self, rows: usize, columns: usize, turns: usize) -> Result<ValueId> {
        let (a, b) = (self.parameter(rows, columns), self.parameter(turns, columns));
        let once = self.graph.sum(a, b)?;
        let unit = self.graph.gelu(once);
        self.graph.sum(unit, b)
    }

    fn unit(&mut self, rows: usize, columns: usize) -> ValueId {
        let a = self.parameter(rows, columns);
        self.graph.gelu(a)
    }

    /// Rows are picked again and again, in no order, and some never.
    fn lookup(&mut self, rows: usize, columns: usize, count: usize) -> Result<ValueId> {
        let (table, other) = (self.parameter(rows, columns), self.parameter(count, columns));
        let numbers = self.graph.input(count, 1);
        let picks = (0..count).map(|n| ((n * n + n / 3) % (rows / 2 + 1)) as f64).collect();
        self.data.push((numbers, picks));
        let picked = self.graph.lookup(table, numbers)?;
        let sum = self.graph.sum(picked, other)?;
        Ok(self.graph.gelu(sum))
    }

    fn cross_entropy(&mut self, rows: usize, columns: usize) -> Result<ValueId> {
        let (logits, classes) = (self.parameter(rows, columns), self.graph.input(rows, 1));
        self.data.push((classes, (0..rows).map(|n| ((n * n + 1) % columns) as f64).collect()));
        self.graph.cross_entropy(logits, classes, 1.0 / rows as f64)
    }

    fn attention(
        &mut self,
        (queries, keys): (usize, usize),
        (width, of_values): (usize, usize),
        heads: Heads,
    ) -> Result<ValueId> {
        let within = 10;
        let x = self.parameter(queries, within);
        let z = if queries == keys { x } else { self.parameter(keys, within) };
        let mut project = |from, columns| {
            let by = self.sized(within, columns, root(within));
            self.graph.multiply(from, by)
        };
        let (q, k) = (project(x, heads.queries * width)?, project(z, heads.keys * width)?);
        let v = project(z, heads.keys * of_values)?;
        self.graph.attention(q, k, v, heads)
    }

    fn no_rows(&mut self) -> Result<ValueId> {
        let (x, numbers) = (self.graph.input(0, 4), self.graph.input(0, 1));
        self.data.extend([(x, Vec::new()), (numbers, Vec::new())]);
        let (table, by, row) = (self.parameter(3, 6), self.parameter(4, 6), self.parameter(1, 6));
        let (gain, shift, q) = (self.parameter(1, 6), self.parameter(1, 6), self.parameter(5, 6));
        let graph = &mut self.graph;
        let made = graph.linear(x, by, row)?;
        let made = graph.linear_onto(made, x, by, row)?;
        let made = graph.sum(made, row)?;
        let made = graph.mean(made, 2)?;
        let made = graph.normalise(made, gain, shift, 0.1)?;
        let unit = graph.gelu(made);
        let keys = graph.relu(unit);
        let values = graph.lookup(table, numbers)?;
        let seen = graph.attention(q, keys, values, Heads::default())?;
        graph.sum(seen, q)
    }
}

impl Operation {
    /// How it is called in rows.
    pub fn name(self) -> String {
        format!("{self:?}").replace(['{', '}'], "").replace("Heads  ", "")
    }

    /// Whether cotangents of two users are added up in what lies between operations.
    pub fn adds(self) -> bool {
        matches!(self, Op::Copy(..))
    }

    /// What it makes.
    fn build<M: Machine + 'static>(self, at: &mut Building<M>) -> Result<ValueId> {
        match self {
            Op::Sum(rows, columns) => {
                let (a, b) = (at.parameter(rows, columns), at.parameter(rows, columns));
                at.graph.sum(a, b)
            }
            Op::SumWithRow(rows, columns) => at.with_row(rows, columns, false),
            Op::SumWithRowTwice(rows, columns) => at.with_row(rows, columns, true),
            Op::SumInTurns(rows, columns, turns) => at.in_turns(rows, columns, turns),
            Op::Copy(rows, columns) => {
                let unit = at.unit(rows, columns);
                at.graph.sum(unit, unit)
            }
            Op::Mean(rows, columns, length) => {
                let unit = at.unit(rows, columns);
                at.graph.mean(unit, length)
            }
            Op::Gelu(rows, columns) => Ok(at.unit(rows, columns)),
            Op::Relu(rows, columns) => {
                let a = at.parameter(rows, columns);
                Ok(at.graph.relu(a))
            }
            Op::Normalise(rows, columns) => {
                let a = at.parameter(rows, columns);
                let (gain, shift) = (at.parameter(1, columns), at.parameter(1, columns));
                at.graph.normalise(a, gain, shift, 0.1)
            }
            Op::Product(rows, inner, columns) => {
                let (a, b) = (at.parameter(rows, inner), at.sized(inner, columns, root(inner)));
                at.graph.multiply(a, b)
            }
            Op::Linear(rows, inner, columns) => {
                let (a, b) = (at.parameter(rows, inner), at.parameter(inner, columns));
                let row = at.parameter(1, columns);
                at.graph.linear(a, b, row)
            }
            Op::LinearOnto(rows, inner, columns) => {
                let (a, b) = (at.parameter(rows, inner), at.parameter(inner, columns));
                let (matrix, row) = (at.parameter(rows, columns), at.parameter(1, columns));
                at.graph.linear_onto(matrix, a, b, row)
            }
            Op::Lookup(rows, columns, count) => at.lookup(rows, columns, count),
            Op::SquaredError(rows, columns) => Ok(at.parameter(rows, columns)),
            Op::CrossEntropy(rows, columns) => at.cross_entropy(rows, columns),
            Op::Attention(queries, keys, width, of_values, heads) => {
                at.attention((queries, keys), (width, of_values), heads)
            }
            Op::SelfAttention(rows, width, heads) => {
                let x = at.parameter(rows, heads.queries * width);
                at.graph.attention(x, x, x, heads)
            }
            Op::NoRows => at.no_rows(),
        }
    }
}

fn root(width: usize) -> f64 {
    (width.max(1) as f64).sqrt().recip()
}

/// A model of an operation, and where it is looked at.
struct Subject<M: Machine> {
    model: Model<M>,
    plan: Plan,
    parameters: Vec<(ValueId, f64)>,
    /// What numbers are around, in their size. Sums of thousands of them do not cancel then, and rows of scores would
    /// have much in common, which no derivative has.
    offset: f64,
}

/// What a machine says of an operation.
#[derive(Clone, Debug)]
pub struct Found {
    loss: f64,
    gradient: Vec<Vec<f64>>,
    product: Vec<Vec<f64>>,
}

impl Found {
    fn numbers(&self) -> Vec<f64> {
        [&[self.loss][..], &self.gradient.concat(), &self.product.concat()].concat()
    }
}

impl<M: Machine + 'static> Subject<M> {
    fn new(machine: &M, operation: Operation) -> Result<Self> {
        let mut at = Building { graph: Graph::new(), parameters: Vec::new(), data: Vec::new() };
        let made = operation.build(&mut at)?;
        let Building { mut graph, mut parameters, data } = at;
        let loss = if matches!(operation, Op::CrossEntropy(..)) {
            made
        } else {
            let (rows, columns) = graph.shape(made);
            let target = graph.parameter("target", rows, columns);
            parameters.push((target, 1.0));
            graph.squared_error(made, target, 1.0 / (rows * columns) as f64)?
        };
        let mut model = Model::new(machine, graph, loss)?;
        for (value, numbers) in data {
            model.write(machine, value, &of(&numbers))?;
        }
        let ids: Vec<ValueId> = parameters.iter().map(|(value, _)| *value).collect();
        let plan = model.plan(&ids, &ids);
        let attends = matches!(operation, Op::Attention(..) | Op::SelfAttention(..));
        Ok(Self { model, plan, parameters, offset: if attends { 0.0 } else { 0.3 } })
    }

    /// Numbers of parameters and directions; all of them NaN where `poison` is.
    fn write(&mut self, machine: &M, poison: bool) -> Result<()> {
        for (n, (value, size)) in self.parameters.iter().enumerate() {
            let (rows, columns) = self.model.shape(*value);
            let numbers = |tag: u32| -> Vec<M::Element> {
                if poison {
                    vec![M::Element::from_f64(f64::NAN); rows * columns]
                } else {
                    of(&normal(tag + n as u32, rows * columns, *size, self.offset * size))
                }
            };
            self.model.write(machine, *value, &numbers(0))?;
            self.model.write_direction(machine, &self.plan, *value, &numbers(50))?;
        }
        Ok(())
    }

    fn find(&mut self, machine: &M) -> Result<Found> {
        self.model.loss_and_gradient(machine, &self.plan)?;
        let loss = self.model.loss(machine)?;
        let gradient = self.numbers(machine, Model::gradient_of)?;
        self.model.gradient_tangent(machine, &self.plan)?;
        Ok(Found { loss, gradient, product: self.numbers(machine, Model::gradient_tangent_of)? })
    }

    fn numbers(
        &self,
        machine: &M,
        of: fn(&Model<M>, ValueId) -> Option<&TensorOf<M>>,
    ) -> Result<Vec<Vec<f64>>> {
        let all = self.parameters.iter().filter_map(|(value, _)| of(&self.model, *value));
        all.map(|tensor| download(machine, tensor)).collect()
    }
}

/// What an operation is, by the host in f64.
pub fn expected(operation: Operation) -> Result<Found> {
    let machine = oracle();
    let mut subject = Subject::new(&machine, operation)?;
    subject.write(&machine, false)?;
    subject.find(&machine)
}

/// What a machine made of an operation: at once, and when it had made NaN everywhere before.
struct Made {
    first: Found,
    again: Found,
    poisoned: bool,
}

fn make<M: Machine + 'static>(machine: &M, operation: Operation) -> Result<Made> {
    let mut subject = Subject::new(machine, operation)?;
    subject.write(machine, false)?;
    let first = subject.find(machine)?;
    subject.write(machine, true)?;
    let poisoned = subject.find(machine)?.numbers().iter().any(|x| x.is_nan());
    subject.write(machine, false)?;
    Ok(Made { first, again: subject.find(machine)?, poisoned })
}

fn errors(given: &Found, expected: &Found) -> [(&'static str, f64); 3] {
    let of_all = |given: &[Vec<f64>], expected: &[Vec<f64>]| {
        if given.len() != expected.len() {
            return f64::NAN;
        }
        worst(given.iter().zip(expected).map(|(given, expected)| off(given, expected)))
    };
    [
        ("forward", off(&[given.loss], &[expected.loss])),
        ("backward", of_all(&given.gradient, &expected.gradient)),
        ("second-order", of_all(&given.product, &expected.product)),
    ]
}

/// A machine through operations, judged by what they are.
pub fn judge<M: Machine + 'static>(
    named: &Named,
    machine: &M,
    operations: &[(Operation, Found)],
) -> Vec<Row> {
    let mut rows = Vec::new();
    for (operation, expected) in operations {
        let name = operation.name();
        let found = make(machine, *operation).map(|made| {
            let each = errors(&made.first, expected).into_iter();
            let mut rows: Vec<Row> =
                each.map(|(rule, error)| named.measured(&name, rule, error, named.bound)).collect();
            let same = made.poisoned && same_bits(&made.first.numbers(), &made.again.numbers());
            let say = format!("{name}: recorded after NaN everywhere, the same bits");
            rows.push(named.statement(say, same, if made.poisoned { "" } else { "there was no NaN" }));
            rows
        });
        rows.extend(named.rows(&name, found));
    }
    rows
}

/// The operations with what they are, or the row of an error.
pub fn with_expected(operations: Vec<Operation>) -> Result<Vec<(Operation, Found)>> {
    operations.into_iter().map(|operation| Ok((operation, expected(operation)?))).collect()
}

/// A machine through operations. Its worst error is above `finest`, so that it is held against the bound of its type and
/// not of a wider one.
pub fn conform<M: Machine + 'static>(
    named: &Named,
    machine: Result<M>,
    operations: Vec<Operation>,
    finest: f64,
) -> Vec<Row> {
    let judged = machine.and_then(|machine| Ok(judge(named, &machine, &with_expected(operations)?)));
    let mut rows = named.rows("operations", judged);
    let errors = rows.iter().filter(|row| row.bound > 0.0).map(|row| row.error);
    let most = worst(errors);
    let say = format!("numbers of this type are off by more than {finest:.0e}");
    rows.push(named.statement(say, most > finest, format!("by {most:.1e}")));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::marker::PhantomData;

    use half::{bf16, f16};
    use theria_jvp_hvp::{Dense, Streaming};
    use theria_maml::Host;

    use crate::phase10::in_16_bits::{InBf16, Rounded};

    fn passed(named: &Named, rows: &[Row]) {
        let failed = theria_tests::evidence::failures(rows);
        assert!(failed.is_empty(), "{named:?}:\n{}", failed.join("\n"));
    }

    #[test]
    fn f32_on_the_host_is_within_its_bound_and_not_within_that_of_f64() {
        let machine: Host<Dense, f32> = Host::new(Dense::new());
        let named = Named { backend: "dense", ..Named::F32 };
        passed(&named, &conform(&named, Ok(machine), all(), 1e-9));
        let strict = Named { bound: Named::F64.bound, ..named };
        let machine: Host<Dense, f32> = Host::new(Dense::new());
        let rows = conform(&strict, Ok(machine), attention(), 1e-9);
        assert!(rows.iter().any(|row| row.verdict == "failed"));
    }

    #[test]
    fn sixteen_bits_of_the_host_are_within_their_bound() {
        let bf16: Host<_, f32> = Host::new(Rounded::<_, bf16>(Dense::new(), PhantomData));
        let named = Named { backend: "dense", ..Named::BF16 };
        passed(&named, &conform(&named, Ok(bf16), attention(), 2e-5));
        let f16: Host<_, f32> = Host::new(Rounded::<_, f16>(Dense::new(), PhantomData));
        let named = Named { backend: "dense", ..Named::F16 };
        passed(&named, &conform(&named, Ok(f16), attention(), 2e-5));
    }

    #[test]
    fn a_host_in_bf16_between_operations_is_within_its_bound() {
        let named = Named { backend: "dense", ..Named::BF16 };
        passed(&named, &conform(&named, Ok(InBf16::new()), all(), 1e-3));
    }

    #[test]
    fn two_backends_of_the_host_agree_in_f64() {
        let machine: Host<Dense, f64> = Host::new(Dense::new());
        let named = Named { backend: "dense", ..Named::F64 };
        passed(&named, &conform(&named, Ok(machine), attention(), 0.0));
    }

    #[test]
    fn every_parameter_has_a_gradient_that_says_something() {
        let machine: Host<Streaming, f64> = oracle();
        for operation in all() {
            let mut subject = Subject::new(&machine, operation).unwrap();
            subject.write(&machine, false).unwrap();
            let found = subject.find(&machine).unwrap();
            let silent = |all: &[Vec<f64>]| all.iter().filter(|x| x.iter().all(|x| *x == 0.0)).count();
            let said = (silent(&found.gradient), silent(&found.product));
            let zero = match operation {
                // Of one element nothing is left, of no rows nothing is made.
                Op::Normalise(_, 1) | Op::Product(_, 0, _) => 2,
                Op::NoRows => 5,
                _ => 0,
            };
            assert!(said.0 <= zero && said.1 <= zero, "{operation:?}: {said:?}");
        }
    }
}
