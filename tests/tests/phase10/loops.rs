//! Meta-gradients on a machine: against an independent system, and against the host in f64.

use theria_jvp_hvp::Dense;
use theria_maml::meta::{Inner, Mode, Optimiser};
use theria_maml::{Host, Machine, Result};

use crate::phase10::machines::{Named, off, oracle, worst};
use crate::phase10::tasks::{ADAM, Loop, MOMENTUM, Said, Task, numbers, reference};
use theria_tests::device::short;
use theria_tests::evidence::Row;

/// How far meta-gradients of loops may be off.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Gradient descent, with a velocity or without.
    pub plain: f64,
    /// Adam, which divides by gradients that may be small, at a rate that goes a little way. None where it is not judged.
    pub adam: Option<f64>,
    /// Adam as the independent system had it, whose steps are as large as the parameters.
    pub far: Option<f64>,
    /// |FULL - FO| / |FULL| after as many as twenty steps.
    pub path: f64,
}

impl Bounds {
    /// In f64.
    pub const F64: Self = Self { plain: 1e-13, adam: Some(1e-12), far: Some(1e-12), path: 1e-10 };
    /// In f32, as an operation.
    pub const F32: Self = Self { plain: 2e-5, adam: Some(2e-4), far: Some(2e-4), path: 2e-5 };
    /// Attention in 16 bits. Steps of Adam that are as large as the parameters do not survive that.
    pub const HALF: Self = Self { plain: 3e-2, adam: Some(4e-2), far: None, path: 5e-2 };
    /// And all products.
    pub const PRODUCTS: Self = Self { plain: 4.5e-2, adam: None, ..Self::HALF };

    fn of(&self, optimiser: Optimiser) -> Option<f64> {
        if matches!(optimiser, Optimiser::Adam { .. }) { self.adam } else { Some(self.plain) }
    }
}

const STEPS: usize = 3;
const RATE: f64 = 0.3;
/// Of the transformer: large enough that the first order leaves much out.
const TRANSFORMER_RATE: f64 = 0.2;

/// The loops of an independent system.
pub fn against_the_fixture<M: Machine + 'static>(
    named: &Named,
    machine: Result<M>,
    bounds: Bounds,
) -> Vec<Row> {
    let found = machine.and_then(|machine| fixture_rows(named, &machine, bounds));
    named.rows("loops of an independent system", found)
}

fn fixture_rows<M: Machine + 'static>(named: &Named, machine: &M, bounds: Bounds) -> Result<Vec<Row>> {
    let fixture = reference();
    let mut rows = Vec::new();
    let mut task = Loop::new(machine, Task::Head)?;
    let mut say = |optimiser, mode| {
        let inner = task.inner(STEPS, optimiser, RATE);
        task.say(machine, &inner, mode)
    };
    let mut row = |what: String, error, bound| {
        rows.push(named.measured(format!("an independent system: {what}"), "meta-gradient", error, bound));
    };
    let one = |name: &str| fixture[name].as_f64().unwrap_or(f64::NAN);
    for (name, optimiser, mode, bound) in [
        ("meta_grad", Optimiser::Sgd, Mode::Full, Some(bounds.plain)),
        ("first_order_grad", Optimiser::Sgd, Mode::FirstOrder, Some(bounds.plain)),
        ("momentum", MOMENTUM, Mode::Full, Some(bounds.plain)),
        ("adam_eps1e3", ADAM, Mode::Full, bounds.far),
    ] {
        let Some(bound) = bound else { continue };
        let Said { gradients, .. } = say(optimiser, mode)?;
        row(name.to_owned(), off(&gradients, &numbers(&fixture[name])), bound);
    }
    for last in 0..=STEPS {
        let Said { gradients, .. } = say(Optimiser::Sgd, Mode::Truncated(last))?;
        let expected = numbers(&fixture["truncated"][last.to_string()]);
        row(format!("the last {last} steps"), off(&gradients, &expected), bounds.plain);
    }
    for (mode, name) in [(Mode::Full, "dF_dalpha"), (Mode::FirstOrder, "first_order_dF_dalpha")] {
        let said = say(Optimiser::Sgd, mode)?;
        let sum: f64 = said.rates.iter().sum();
        row(name.to_owned(), off(&[sum], &[one(name)]), bounds.plain);
        row(format!("the loss, {mode:?}"), off(&[said.losses[1]], &[one("outer_loss")]), bounds.plain);
    }
    // What is left out by the first order is far more than the bound, and as much as the other system says.
    let first = off(&say(Optimiser::Sgd, Mode::FirstOrder)?.gradients, &numbers(&fixture["meta_grad"]));
    let expected = one("rel_diff_full_vs_fo");
    row("what the first order leaves out".into(), (first - expected).abs(), bounds.plain);
    let far = first > 5.0 * bounds.plain;
    rows.push(named.statement("the first order does not pass for the whole", far, format!("{first:.3}")));
    Ok(rows)
}

/// Loops with everything that a step may have.
fn loops(task: &Loop<impl Machine + 'static>) -> Vec<Inner> {
    let mut all = Vec::new();
    for (optimiser, rate) in [(Optimiser::Sgd, 0.3), (MOMENTUM, 0.2), (ADAM, 0.05)] {
        for (clip, decay, proximal) in [
            (None, 0.0, 0.0),
            (Some(0.1), 0.0, 0.0),
            (None, 0.3, 0.0),
            (None, 0.0, 0.7),
            (Some(0.1), 0.3, 0.7),
        ] {
            all.push(Inner { clip, decay, proximal, ..task.inner(STEPS, optimiser, rate) });
        }
    }
    all
}

/// Parameters that are adapted and others, rates of parameters and of elements, gradients that are cut, decay, the pull
/// to the start.
pub fn against_the_host<M: Machine + 'static>(named: &Named, machine: Result<M>, bounds: Bounds) -> Vec<Row> {
    let found = machine.and_then(|machine| host_rows(named, &machine, bounds));
    named.rows("loops of the host", found)
}

fn host_rows<M: Machine + 'static>(named: &Named, machine: &M, bounds: Bounds) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let host = oracle();
    let mut of_each_element = Loop::of_each_element(&host, Task::Head, &Task::SOME)?;
    for of_elements in [false, true] {
        let mut expected = Loop::adapting(&host, Task::Head, &Task::SOME, of_elements)?;
        let mut given = Loop::adapting(machine, Task::Head, &Task::SOME, of_elements)?;
        for inner in loops(&expected) {
            let Some(bound) = bounds.of(inner.optimiser) else { continue };
            let right = expected.say(&host, &inner, Mode::Full)?;
            let first = expected.say(&host, &inner, Mode::FirstOrder)?;
            let said = given.say(machine, &inner, Mode::Full)?;
            let Inner { optimiser, clip, decay, proximal, .. } = inner;
            let rates = if of_elements { ", rates of elements" } else { "" };
            let name = format!("{optimiser:?}, cut to {clip:?}, decay {decay}, pull {proximal}{rates}");
            let error = off(&said.gradients, &right.gradients);
            rows.push(named.measured(&name, "meta-gradient", error, bound));
            // The gradient of a rate is a sum whose terms cancel, and as good as its terms are: it is held against these.
            let by_terms = if of_elements { &mut expected } else { &mut of_each_element };
            let terms = by_terms.terms_of_rates(&host, &inner)?;
            let each = said.rates.iter().zip(&right.rates).zip(&terms);
            let of_rates = worst(each.map(|((given, right), terms)| (given - right).abs() / terms));
            rows.push(named.measured(format!("{name}: rates"), "meta-gradient", of_rates, bound));
            let agree =
                right.rates.iter().zip(&terms).all(|(rate, terms)| rate.abs() <= terms * (1.0 + 1e-12));
            let say = format!("{name}: a rate has no more than its terms");
            rows.push(named.statement(say, agree, format!("{:?} of {terms:?}", right.rates)));
            let left_out = off(&first.gradients, &right.gradients);
            let say = format!("{name}: the first order does not pass");
            rows.push(named.statement(say, left_out > bound, format!("{left_out:.1e}")));
        }
    }
    Ok(rows)
}

/// |FULL - FO| / |FULL| of a classifier by K against dense attention of the host in f64.
pub fn path_by_steps<M: Machine + 'static>(named: &Named, machine: Result<M>, bounds: Bounds) -> Vec<Row> {
    let found = machine.and_then(|machine| path_rows(named, &machine, bounds));
    named.rows("what the second order adds", found)
}

fn path_rows<M: Machine + 'static>(named: &Named, machine: &M, bounds: Bounds) -> Result<Vec<Row>> {
    let host: Host<Dense, f64> = Host::new(Dense::new());
    let (mut expected, mut given) =
        (Loop::new(&host, Task::Classifier)?, Loop::new(machine, Task::Classifier)?);
    let (mut rows, mut before) = (Vec::new(), None);
    for steps in if short() { &[1][..] } else { &[1, 5, 10, 20] } {
        let inner = expected.inner(*steps, Optimiser::Sgd, 0.4);
        let right = expected.path(&host, &inner)?;
        let error = (given.path(machine, &inner)? - right).abs();
        let name = format!("|FULL - FO| / |FULL| of {steps} steps, which is {right:.6}");
        rows.push(named.measured(&name, "meta-gradient", error, bounds.path));
        // Another number of steps would be noticed.
        let other = before.replace(right).map_or(right, |before: f64| (right - before).abs());
        rows.push(named.statement(
            format!("{name}: not as before"),
            other > bounds.path,
            format!("{other:.1e}"),
        ));
    }
    Ok(rows)
}

/// The whole meta-gradient of a transformer, and that of the first order, by the host.
pub fn of_a_transformer() -> Result<(Task, Said, Said)> {
    let task = if short() {
        Task::Transformer { tokens: 40, width: 32 }
    } else {
        Task::Transformer { tokens: 300, width: 128 }
    };
    let host = oracle();
    let mut expected = Loop::new(&host, task)?;
    let inner = expected.inner(STEPS, Optimiser::Sgd, TRANSFORMER_RATE);
    let full = expected.say(&host, &inner, Mode::Full)?;
    Ok((task, full, expected.say(&host, &inner, Mode::FirstOrder)?))
}

/// A transformer on a machine, against these.
pub fn transformer<M: Machine + 'static>(
    named: &Named,
    machine: Result<M>,
    (task, full, first): &(Task, Said, Said),
    bound: f64,
) -> Vec<Row> {
    let found = machine.and_then(|machine| {
        let mut given = Loop::new(&machine, *task)?;
        let inner = given.inner(STEPS, Optimiser::Sgd, TRANSFORMER_RATE);
        // The second time it is replayed.
        given.say(&machine, &inner, Mode::Full)?;
        let said = given.say(&machine, &inner, Mode::Full)?;
        let name = format!("{task:?}, {STEPS} steps");
        let error = off(&said.gradients, &full.gradients);
        let left_out = off(&first.gradients, &full.gradients);
        let say = format!("{name}: the first order does not pass");
        Ok(vec![
            named.measured(&name, "meta-gradient", error, bound),
            named.measured(
                format!("{name}: losses"),
                "meta-gradient",
                off(&said.losses, &full.losses),
                bound,
            ),
            named.statement(say, left_out > 2.0 * bound, format!("{left_out:.1e}")),
        ])
    });
    named.rows("a transformer", found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::marker::PhantomData;

    use half::bf16;
    use theria_jvp_hvp::variant::{Variant, Varied};

    use crate::phase10::in_16_bits::{InBf16, Rounded};

    fn passed(rows: &[Row]) {
        let failed = theria_tests::evidence::failures(rows);
        assert!(failed.is_empty(), "\n{}", failed.join("\n"));
    }

    fn host<R: theria_maml::number::Number + theria_reference::Real>() -> Host<Dense, R> {
        Host::new(Dense::new())
    }

    #[test]
    fn the_host_passes_in_f64() {
        let named = Named { backend: "dense", ..Named::F64 };
        passed(&against_the_fixture(&named, Ok(host::<f64>()), Bounds::F64));
        passed(&against_the_host(&named, Ok(host::<f64>()), Bounds::F64));
        passed(&path_by_steps(&named, Ok(oracle()), Bounds::F64));
    }

    #[test]
    fn the_host_passes_in_f32_by_the_bounds_of_f32_alone() {
        let named = Named { backend: "dense", ..Named::F32 };
        for (bounds, passes) in [(Bounds::F32, true), (Bounds::F64, false)] {
            let all = [
                against_the_fixture(&named, Ok(host::<f32>()), bounds),
                against_the_host(&named, Ok(host::<f32>()), bounds),
                path_by_steps(&named, Ok(host::<f32>()), bounds),
            ];
            for rows in all {
                let failed = theria_tests::evidence::failures(&rows);
                assert_eq!(failed.is_empty(), passes, "\n{}", failed.join("\n"));
            }
        }
    }

    #[test]
    fn the_host_passes_in_bf16() {
        let named = Named { backend: "dense", ..Named::BF16 };
        let host = || Ok(Host::<_, f32>::new(Rounded::<_, bf16>(Dense::new(), PhantomData)));
        for bounds in [Bounds::HALF, Bounds::PRODUCTS] {
            passed(&against_the_fixture(&named, host(), bounds));
            passed(&against_the_host(&named, host(), bounds));
        }
        passed(&path_by_steps(&named, host(), Bounds::HALF));
    }

    #[test]
    fn a_host_in_bf16_between_operations_passes() {
        let named = Named { backend: "dense", ..Named::BF16 };
        passed(&against_the_fixture(&named, Ok(InBf16::new()), Bounds::PRODUCTS));
        passed(&against_the_host(&named, Ok(InBf16::new()), Bounds::PRODUCTS));
        passed(&path_by_steps(&named, Ok(InBf16::new()), Bounds::PRODUCTS));
    }

    #[test]
    fn a_transformer_passes_in_f32_and_in_bf16() {
        let named = Named { backend: "dense", ..Named::F32 };
        let host_said = {
            let task = Task::Transformer { tokens: 40, width: 32 };
            let machine = oracle();
            let mut expected = Loop::new(&machine, task).unwrap();
            let inner = expected.inner(STEPS, Optimiser::Sgd, TRANSFORMER_RATE);
            let full = expected.say(&machine, &inner, Mode::Full).unwrap();
            (task, full, expected.say(&machine, &inner, Mode::FirstOrder).unwrap())
        };
        let rows = transformer(&named, Ok(host::<f32>()), &host_said, Bounds::F32.plain);
        passed(&rows);
        let named = Named { backend: "dense", ..Named::BF16 };
        let half = Ok(Host::<_, f32>::new(Rounded::<_, bf16>(Dense::new(), PhantomData)));
        passed(&transformer(&named, half, &host_said, Bounds::HALF.plain));
        passed(&transformer(&named, Ok(InBf16::new()), &host_said, Bounds::HALF.plain));
    }

    /// Attention whose statistics are frozen in the backward is wrong in the second order alone.
    #[test]
    fn a_backend_that_is_wrong_in_the_second_order_fails() {
        let named = Named { backend: "frozen", ..Named::F64 };
        let wrong = || Ok(Host::<_, f64>::new(Varied::new(Variant::FrozenLse)));
        for bounds in [Bounds::F64, Bounds::F32, Bounds::HALF, Bounds::PRODUCTS] {
            let failed = |rows: &[Row]| rows.iter().any(|row| row.verdict == "failed");
            assert!(failed(&against_the_fixture(&named, wrong(), bounds)));
            assert!(failed(&against_the_host(&named, wrong(), bounds)));
        }
    }
}
