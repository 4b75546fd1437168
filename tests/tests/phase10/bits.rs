//! What a machine says bit by bit: the same in every call, recorded or not, and in all ways that are one.

use theria_contract::{Error as Refused, Refusal};
use theria_maml::meta::{Inner, Keep, Mode, Optimiser};
use theria_maml::{Error, Machine, Result, ValueId};

use crate::phase10::machines::{Named, download, of, same_bits};
use crate::phase10::tasks::{ADAM, Loop, MOMENTUM, Said, Task};
use theria_tests::evidence::Row;

const STEPS: usize = 3;
const RATE: f64 = 0.3;

/// Every statement about the bits of a machine, and about one like it whose attention ends at the backward.
pub fn statements<M, O>(named: &Named, machine: Result<M>, opaque: Result<O>) -> Vec<Row>
where
    M: Machine + 'static,
    O: Machine + 'static,
{
    let found = machine.and_then(|machine| {
        let mut rows = calls(named, &machine)?;
        rows.extend(modes(named, &machine)?);
        rows.extend(strict(named, &machine, &opaque?)?);
        Ok(rows)
    });
    named.rows("bits", found)
}

fn same(a: &Said, b: &Said) -> bool {
    same_bits(&a.numbers(), &b.numbers())
}

/// The first call makes memory, the second is recorded, the third is a replay.
fn calls<M: Machine + 'static>(named: &Named, machine: &M) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for optimiser in [Optimiser::Sgd, MOMENTUM, ADAM] {
        // One step uses the plan of a gradient once, three use it three times.
        for steps in [1, STEPS] {
            let mut task = Loop::new(machine, Task::Head)?;
            let inner = task.inner(steps, optimiser, RATE);
            let said: Vec<Said> =
                (0..4).map(|_| task.say(machine, &inner, Mode::Full)).collect::<Result<_>>()?;
            let holds = said.iter().all(|other| same(other, &said[0]));
            let name = format!("{optimiser:?}, {steps} steps");
            rows.push(named.statement(
                format!("{name}: at once, recorded and replayed, the same bits"),
                holds,
                "",
            ));
            let mut fresh = Loop::new(machine, Task::Head)?;
            let other = fresh.say(machine, &inner, Mode::Full)?;
            rows.push(named.statement(
                format!("{name}: another learner, the same bits"),
                same(&other, &said[0]),
                "",
            ));
            let faster = Inner { rates: inner.rates.iter().map(|rate| rate * 1.01).collect(), ..inner };
            let other = task.say(machine, &faster, Mode::Full)?;
            rows.push(named.statement(
                format!("{name}: another rate, other bits"),
                !same(&other, &said[0]),
                "",
            ));
        }
    }
    Ok(rows)
}

/// Modes that are one.
fn modes<M: Machine + 'static>(named: &Named, machine: &M) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for optimiser in [Optimiser::Sgd, MOMENTUM, ADAM] {
        let mut task = Loop::adapting(machine, Task::Head, &Task::SOME, false)?;
        let inner = task.inner(7, optimiser, 0.1);
        let inner = Inner { clip: Some(0.1), decay: 0.3, proximal: 0.2, ..inner };
        let mut say = |mode, inner: &Inner| task.say(machine, inner, mode);
        let (full, first) = (say(Mode::Full, &inner)?, say(Mode::FirstOrder, &inner)?);
        let mut row = |what: &str, holds| {
            rows.push(named.statement(format!("{optimiser:?}: {what}"), holds, ""));
        };
        row("no step differentiated is the first order", same(&say(Mode::Truncated(0), &inner)?, &first));
        row("every step differentiated is the whole", same(&say(Mode::Truncated(7), &inner)?, &full));
        row("the first order is not the whole", !same(&first, &full));
        row("nor are the last steps", !same(&say(Mode::Truncated(3), &inner)?, &full));
        for keep in [Keep::Roots, Keep::Stretches(2)] {
            let again = say(Mode::Full, &inner.clone().keeping(keep))?;
            row(&format!("steps that are made again, {keep:?}"), same(&again, &full));
        }
        let none = Inner { steps: 0, ..inner };
        let of_query = of_query(machine, &Task::SOME)?;
        for mode in [Mode::Full, Mode::FirstOrder, Mode::Truncated(4)] {
            let said = say(mode, &none)?;
            row(
                &format!("no steps have the query's gradient, {mode:?}"),
                same_bits(&said.gradients, &of_query),
            );
        }
        row("and some have another", !same_bits(&full.gradients, &of_query));
    }
    Ok(rows)
}

/// The gradient of the query's loss where loops begin, in the order of a learner's names.
fn of_query<M: Machine + 'static>(machine: &M, adapted: &[&str]) -> Result<Vec<f64>> {
    let mut model = Task::Head.model(machine, true)?;
    let mut values: Vec<(String, ValueId)> =
        model.parameters().map(|(name, value)| (name.to_owned(), value)).collect();
    values.sort_by_key(|(name, _)| !adapted.contains(&name.as_str()));
    for (name, value) in &values {
        model.write(machine, *value, &of(&Task::Head.numbers(name).0))?;
    }
    let ids: Vec<ValueId> = values.iter().map(|(_, value)| *value).collect();
    let plan = model.plan(&ids, &[]);
    model.gradient(machine, &plan)?;
    let mut all = Vec::new();
    for gradient in ids.iter().filter_map(|value| model.gradient_of(*value)) {
        all.extend(download(machine, gradient)?);
    }
    Ok(all)
}

/// The first order asks for no rule beyond the backward; the whole is refused, by type, as often as it is asked for.
fn strict<M, O>(named: &Named, machine: &M, opaque: &O) -> Result<Vec<Row>>
where
    M: Machine + 'static,
    O: Machine + 'static,
{
    let (mut plain, mut strict) = (Loop::new(machine, Task::Head)?, Loop::new(opaque, Task::Head)?);
    let inner = plain.inner(STEPS, Optimiser::Sgd, RATE);
    let first = plain.say(machine, &inner, Mode::FirstOrder)?;
    let full = plain.say(machine, &inner, Mode::Full)?;
    let before = strict.say(opaque, &inner, Mode::FirstOrder)?;
    let mut rows = vec![
        named.statement("the first order asks for nothing beyond the backward", same(&before, &first), ""),
        named.statement("and the whole is another", !same(&before, &full), ""),
    ];
    for (time, mode) in [Mode::Full, Mode::Full, Mode::Truncated(1)].into_iter().enumerate() {
        let refused = strict.say(opaque, &inner, mode);
        let by_type = matches!(
            &refused,
            Err(Error::Attention(Refused::Refused { reason, .. })) if *reason == Refusal::Opaque
        );
        let found = refused.map_or_else(|error| error.to_string(), |_| "a number was returned".into());
        rows.push(named.statement(format!("{mode:?} is refused, time {time}"), by_type, found));
        let after = strict.say(opaque, &inner, Mode::FirstOrder)?;
        rows.push(named.statement(
            format!("after that the first order is as before, time {time}"),
            same(&after, &first),
            "",
        ));
    }
    Ok(rows)
}

/// A machine that looks at every value says the same, and records nothing.
pub fn checked<M: Machine + 'static>(named: &Named, machine: Result<M>, checked: Result<M>) -> Vec<Row> {
    let found = machine.and_then(|machine| {
        let checked = checked?;
        let (mut plain, mut looking) = (Loop::new(&machine, Task::Head)?, Loop::new(&checked, Task::Head)?);
        let inner = plain.inner(STEPS, ADAM, 0.05);
        let mut holds = true;
        for _ in 0..3 {
            let (a, b) =
                (plain.say(&machine, &inner, Mode::Full)?, looking.say(&checked, &inner, Mode::Full)?);
            holds &= same(&a, &b);
        }
        let nothing = || Ok(());
        let (records, does_not) = (machine.record(nothing)?, checked.record(nothing)?);
        Ok(vec![
            named.statement("checks change no bit", holds, ""),
            named.statement("a machine with checks records nothing", does_not.is_none(), ""),
            named.statement("and one without them does", records.is_some(), ""),
        ])
    });
    named.rows("checks", found)
}

/// A machine whose products are others does not replay what it recorded before.
pub fn other_products<M: Machine + 'static>(
    named: &Named,
    machine: Result<M>,
    other: impl FnOnce(M) -> M,
    back: impl FnOnce(M) -> M,
) -> Vec<Row> {
    let found = machine.and_then(|machine| {
        let mut task = Loop::new(&machine, Task::Head)?;
        let inner = task.inner(STEPS, Optimiser::Sgd, RATE);
        let mut thrice = |machine: &M| -> Result<Said> {
            task.say(machine, &inner, Mode::Full)?;
            task.say(machine, &inner, Mode::Full)?;
            task.say(machine, &inner, Mode::Full)
        };
        let exact = thrice(&machine)?;
        let machine = other(machine);
        let rounded = thrice(&machine)?;
        let fresh = Loop::new(&machine, Task::Head)?.say(&machine, &inner, Mode::Full)?;
        let machine = back(machine);
        let again = thrice(&machine)?;
        let apart = crate::phase10::machines::off(&rounded.gradients, &exact.gradients);
        Ok(vec![
            named.statement("with other products, what a fresh model says", same(&rounded, &fresh), ""),
            named.statement(
                "which is off by what these products round",
                apart > named.bound && apart < 0.1,
                format!("{apart:.1e}"),
            ),
            named.statement("and with the first ones as before", same(&again, &exact), ""),
        ])
    });
    named.rows("other products", found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::phase10::machines::{Oracle, oracle};
    use theria_jvp_hvp::{Opaque, Streaming};
    use theria_maml::Host;

    #[test]
    fn the_host_says_the_same_bits() {
        let opaque: Host<Opaque<Streaming>, f64> = Host::new(Opaque::new(Streaming::new()));
        let named = Named { backend: "streaming", ..Named::F64 };
        let rows = statements::<Oracle, _>(&named, Ok(oracle()), Ok(opaque));
        let failed = theria_tests::evidence::failures(&rows);
        assert!(failed.is_empty() && rows.len() > 40, "\n{}", failed.join("\n"));
    }

    #[test]
    fn a_handle_that_refuses_nothing_is_noticed() {
        let named = Named { backend: "streaming", ..Named::F64 };
        let rows = statements::<Oracle, _>(&named, Ok(oracle()), Ok(oracle()));
        assert_eq!(rows.iter().filter(|row| row.verdict == "failed").count(), 3);
    }
}
