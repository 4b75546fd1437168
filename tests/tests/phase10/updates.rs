//! Changes of elements, sums, copies: every optimiser on lists of tensors, and what the host reads.

use theria_maml::machine::TensorOf;
use theria_maml::meta::{Inner, Learner, Mode, Optimiser};
use theria_maml::{Graph, Machine, Model, Result};

use crate::phase10::machines::{Named, download, normal, of, off, oracle, same_bits, upload, worst};
use crate::phase10::tasks::{ADAM, MOMENTUM};
use theria_tests::device::short;
use theria_tests::evidence::Row;

/// How far gradients of one tensor may be off in f64. Those of one element cancel with what they began from, by a factor
/// of a hundred here and there; Adam divides by gradients that may be small.
pub const IN_F64: f64 = 1e-11;
/// The same in f32.
pub const IN_F32: f64 = 1e-3;

/// One element, a part of a warp, some blocks, many blocks; and none.
const SIZES: [usize; 5] = [1, 31, 1000, 100_003, 0];
/// More than a launch takes.
const TENSORS: usize = 30;

/// The size of a tensor of a list: large ones first and last, small ones between.
fn size_of(n: usize) -> usize {
    match n {
        0 | 29 if short() => 4099,
        0 | 29 => 100_003,
        _ => [1, 31, 1000][n % 3],
    }
}

fn line(n: usize) -> (usize, usize) {
    (1, n)
}

/// Sums, inner products, fills and copies.
pub fn primitives<M: Machine + 'static>(named: &Named, machine: Result<M>, bound: f64) -> Vec<Row> {
    named.rows("primitives", machine.and_then(|machine| primitive_rows(named, &machine, bound)))
}

fn primitive_rows<M: Machine + 'static>(named: &Named, machine: &M, bound: f64) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for size in SIZES {
        let (x, y) = (normal(1, size, 1.0, 0.3), normal(2, size, 1.0, -0.2));
        let (x, y) = (upload(machine, &x, line(size))?, upload(machine, &y, line(size))?);
        // As they were rounded: both sums are in f64.
        let (at_x, at_y) = (download(machine, &x)?, download(machine, &y)?);
        let products: Vec<f64> = at_x.iter().zip(&at_y).map(|(x, y)| x * y).collect();
        let relative = |given: f64, all: &[f64]| {
            let whole: f64 = all.iter().map(|x| x.abs()).sum();
            let difference = (given - all.iter().sum::<f64>()).abs();
            if whole == 0.0 { difference } else { difference / whole }
        };
        let (sum, dot) = (relative(machine.sum(&x)?, &at_x), relative(machine.dot(&x, &y)?, &products));
        rows.push(named.measured(format!("sum of {size}"), "meta-gradient", sum, bound));
        rows.push(named.measured(format!("inner product of {size}"), "meta-gradient", dot, bound));
        let mut made = upload(machine, &vec![f64::NAN; size], line(size))?;
        machine.copy(&x, &mut made)?;
        let copied = same_bits(&download(machine, &made)?, &at_x);
        machine.fill(&mut made, 0.375)?;
        let filled = same_bits(&download(machine, &made)?, &vec![0.375; size]);
        rows.push(named.statement(format!("copies of {size} have the same bits"), copied, ""));
        rows.push(named.statement(format!("fills of {size}"), filled, ""));
        if size > 0 {
            // The last number counts, in a sum and in a copy.
            let mut fewer = at_x.clone();
            fewer[size - 1] = 0.0;
            let seen = relative(machine.sum(&x)?, &fewer) > bound && !same_bits(&fewer, &at_x);
            rows.push(named.statement(format!("a last number of {size} is missed"), seen, ""));
        }
    }
    let all: Vec<Vec<f64>> = (0..TENSORS).map(|n| normal(n as u32, size_of(n), 1.0, 0.0)).collect();
    let from = all.iter().map(|x| upload(machine, x, line(x.len()))).collect::<Result<Vec<_>>>()?;
    let nan = |x: &Vec<f64>| upload(machine, &vec![f64::NAN; x.len()], line(x.len()));
    let mut to = all.iter().map(nan).collect::<Result<Vec<TensorOf<M>>>>()?;
    machine.copy_all(from.iter().zip(&mut to))?;
    let mut holds = true;
    for (from, to) in from.iter().zip(&to) {
        holds &= same_bits(&download(machine, to)?, &download(machine, from)?);
    }
    rows.push(named.statement(format!("{TENSORS} copies at once"), holds, ""));
    Ok(rows)
}

/// Parameters of these sizes, each through a unit and to a target of its own: every element goes its own way.
fn model<M: Machine + 'static>(machine: &M, tag: u32) -> Result<Model<M>> {
    let mut graph = Graph::new();
    let mut targets = Vec::new();
    let mut loss = None;
    for n in 0..TENSORS {
        let (x, target) = (graph.parameter(&format!("p{n}"), 1, size_of(n)), graph.input(1, size_of(n)));
        let made = graph.gelu(x);
        let part = graph.squared_error(made, target, 0.5)?;
        loss = Some(match loss {
            Some(sum) => graph.sum(sum, part)?,
            None => part,
        });
        targets.push(target);
    }
    let loss = loss.unwrap_or(targets[0]);
    let mut model = Model::new(machine, graph, loss)?;
    for (n, target) in targets.into_iter().enumerate() {
        model.write(machine, target, &of(&normal(tag + n as u32, size_of(n), 1.0, 0.5)))?;
    }
    Ok(model)
}

/// Loops that come to every change of elements there is.
fn loops() -> Vec<Inner> {
    let mut all = Vec::new();
    for (optimiser, rate) in [(Optimiser::Sgd, 0.3), (MOMENTUM, 0.2), (ADAM, 0.05)] {
        let plain = Inner::new(3, optimiser, rate, TENSORS).learning_rates();
        all.push(Inner { clip: Some(2.0), decay: 0.1, proximal: 0.2, ..plain.clone() });
        all.push(plain);
    }
    all
}

/// What the host says of these loops: gradients of every parameter, and of the rates.
pub type Expected = Vec<(bool, Inner, Vec<Vec<f64>>)>;

fn say<M: Machine + 'static>(machine: &M) -> Result<Expected> {
    let mut all = Vec::new();
    for of_elements in [false, true] {
        let names: Vec<String> = (0..TENSORS).map(|n| format!("p{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let learner = Learner::new(machine, model(machine, 1000)?, model(machine, 1100)?, &names)?;
        let mut learner = if of_elements { learner.with_element_rates(machine)? } else { learner };
        let mut start = Vec::new();
        for n in 0..learner.names().count() {
            let (size, factor) = (size_of(n % TENSORS), if n < TENSORS { 0.5 } else { 0.1 });
            let offset = if n < TENSORS { 0.2 } else { 1.0 };
            start.push(upload(machine, &normal(1200 + n as u32, size, factor, offset), line(size))?);
        }
        let start: Vec<_> = start.iter().collect();
        for inner in loops() {
            // Twice, so that memories of an earlier loop lie about.
            learner.meta_gradient(machine, &start, &inner, Mode::Full)?;
            learner.meta_gradient(machine, &start, &inner, Mode::Full)?;
            let mut found =
                learner.gradients().map(|tensor| download(machine, tensor)).collect::<Result<Vec<_>>>()?;
            found.push(learner.rate_gradients().to_vec());
            all.push((of_elements, inner, found));
        }
    }
    Ok(all)
}

/// What these loops come to, by the host in f64.
pub fn expected() -> Result<Expected> {
    say(&oracle())
}

/// Every optimiser on lists of tensors of many sizes, by parameter.
pub fn optimisers<M: Machine + 'static>(
    named: &Named,
    machine: Result<M>,
    expected: &Expected,
    bound: f64,
) -> Vec<Row> {
    let found = machine.and_then(|machine| {
        let given = say(&machine)?;
        let mut rows = Vec::new();
        for ((of_elements, inner, right), (_, _, said)) in expected.iter().zip(&given) {
            let rates = if *of_elements { ", rates of elements" } else { "" };
            let cut = inner.clip.map_or("", |_| ", cut, decaying and pulled");
            let name = format!("{:?} of {TENSORS} tensors{cut}{rates}", inner.optimiser);
            let error = if said.len() == right.len() {
                worst(said.iter().zip(right).map(|(said, right)| off(said, right)))
            } else {
                f64::NAN
            };
            rows.push(named.measured(name, "meta-gradient", error, bound));
        }
        // Two tensors of one size are not taken for each other.
        let (one, other) = (&given[0].2[1], &given[0].2[4]);
        let apart = off(one, other) > bound;
        rows.push(named.statement("tensors of one size have gradients of their own", apart, ""));
        Ok(rows)
    });
    named.rows("optimisers", found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use theria_jvp_hvp::Streaming;
    use theria_maml::Host;

    #[test]
    fn f32_on_the_host_is_within_its_bound_and_not_within_that_of_f64() {
        let machine = || Ok(Host::<_, f32>::new(Streaming::new()));
        let named = Named { backend: "streaming", ..Named::F32 };
        let expected = expected().unwrap();
        let rows = optimisers(&named, machine(), &expected, IN_F32);
        let failed = theria_tests::evidence::failures(&rows);
        assert!(failed.is_empty(), "\n{}", failed.join("\n"));
        let strict = optimisers(&named, machine(), &expected, IN_F64);
        assert!(strict.iter().filter(|row| row.verdict == "failed").count() == 12);
        let rows = primitives(&named, machine(), 1e-13);
        let failed = theria_tests::evidence::failures(&rows);
        assert!(failed.is_empty(), "\n{}", failed.join("\n"));
    }
}
