//! Meta-gradients against those of an independent system, in f64.

mod head;

use theria_contract::Tensor;
use theria_jvp_hvp::{Opaque, Streaming};
use theria_maml::meta::{Inner, Learner, Mode, Optimiser, Solved, Solver};
use theria_maml::{Error, Host};

use head::{ADAM, Cpu, MOMENTUM, NAMES, error, learner, model, numbers, reference, start};

const STEPS: usize = 3;
const RATE: f64 = 0.3;

fn inner(optimiser: Optimiser, rate: f64) -> Inner {
    Inner::new(STEPS, optimiser, rate, NAMES.len()).learning_rates()
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

#[test]
fn meta_gradients_are_those_of_an_independent_system() {
    let fixture = reference();
    let cases = [
        ("meta_grad", Optimiser::Sgd, Mode::Full, 1e-13),
        ("first_order_grad", Optimiser::Sgd, Mode::FirstOrder, 1e-13),
        ("momentum", MOMENTUM, Mode::Full, 1e-13),
        ("adam_eps1e3", ADAM, Mode::Full, 1e-12),
    ];
    for (name, optimiser, mode, bound) in cases {
        let given = found(&inner(optimiser, RATE), mode).gradient;
        let error = error(&given, &numbers(&fixture[name]));
        assert!(error <= bound, "{name}: {error:e}");
    }
    // A bound that the first order passes, too, would say nothing.
    let first = found(&inner(Optimiser::Sgd, RATE), Mode::FirstOrder).gradient;
    let difference = error(&first, &numbers(&fixture["meta_grad"]));
    assert!((difference - fixture["rel_diff_full_vs_fo"].as_f64().unwrap()).abs() < 1e-12, "{difference}");
}

#[test]
fn truncated_recursions_are_those_of_an_independent_system() {
    let fixture = reference();
    for last in 0..=STEPS {
        let given = found(&inner(Optimiser::Sgd, RATE), Mode::Truncated(last)).gradient;
        let error = error(&given, &numbers(&fixture["truncated"][last.to_string()]));
        assert!(error <= 1e-13, "{last}: {error:e}");
    }
}

#[test]
fn the_loss_and_the_gradients_of_the_rate_are_those_of_an_independent_system() {
    let fixture = reference();
    for (mode, name) in [(Mode::Full, "dF_dalpha"), (Mode::FirstOrder, "first_order_dF_dalpha")] {
        let found = found(&inner(Optimiser::Sgd, RATE), mode);
        let (expected, loss) = (fixture[name].as_f64().unwrap(), fixture["outer_loss"].as_f64().unwrap());
        assert!((found.of_rate - expected).abs() <= 1e-13 * expected.abs(), "{name}: {}", found.of_rate);
        assert!((found.loss - loss).abs() <= 1e-15, "{}", found.loss);
    }
}

/// Rates have gradients whatever the optimiser, and what they are made of changes nothing else.
#[test]
fn gradients_of_rates_are_slopes_of_the_loss() {
    for (optimiser, rate) in [(Optimiser::Sgd, 0.3), (MOMENTUM, 0.2), (ADAM, 0.05)] {
        let inner = inner(optimiser, rate);
        let loss = |rate: f64| {
            found(&Inner { rates: vec![rate; NAMES.len()], ..inner.clone() }, Mode::FirstOrder).loss
        };
        let h = 1e-4 * rate;
        let slope = |h: f64| (loss(rate + h) - loss(rate - h)) / (2.0 * h);
        let expected = (4.0 * slope(h) - slope(2.0 * h)) / 3.0;
        let given = found(&inner, Mode::Full);
        assert!((given.of_rate - expected).abs() < 1e-7 * expected.abs(), "{optimiser:?}: {}", given.of_rate);
        let without = found(&Inner { learns_rates: false, ..inner }, Mode::Full);
        assert_eq!((without.of_rate, without.gradient), (0.0, given.gradient), "{optimiser:?}");
    }
}

#[test]
fn no_step_is_the_first_order_and_every_step_is_the_whole_bit_by_bit() {
    for optimiser in [Optimiser::Sgd, MOMENTUM, ADAM] {
        let inner = inner(optimiser, RATE);
        let all = |mode| found(&inner, mode).gradient;
        assert_eq!(all(Mode::Truncated(0)), all(Mode::FirstOrder), "{optimiser:?}");
        assert_eq!(all(Mode::Truncated(STEPS)), all(Mode::Full), "{optimiser:?}");
        assert_eq!(all(Mode::Truncated(STEPS + 5)), all(Mode::Full), "{optimiser:?}");
        assert_ne!(all(Mode::Truncated(1)), all(Mode::Full), "{optimiser:?}");
    }
}

#[test]
fn no_steps_give_the_gradient_where_the_loop_begins() {
    let none = Inner { steps: 0, ..inner(ADAM, RATE) };
    let machine = Cpu::new(Streaming::new());
    let problem = &reference()["problem"];
    let mut query = model(&machine, &problem["Xq"], &problem["Tq"]);
    let ids: Vec<_> = NAMES
        .map(|name| query.parameters().find(|(other, _)| *other == name).unwrap().1)
        .into_iter()
        .zip(start())
        .map(|(id, tensor)| {
            query.write(&machine, id, tensor.data()).unwrap();
            id
        })
        .collect();
    let plan = query.plan(&ids, &[]);
    query.gradient(&machine, &plan).unwrap();
    let expected: Vec<f64> =
        ids.iter().flat_map(|id| query.gradient_of(*id).unwrap().data().to_vec()).collect();
    for mode in [Mode::Full, Mode::FirstOrder, Mode::Truncated(4)] {
        assert_eq!(found(&none, mode).gradient, expected, "{mode:?}");
    }
}

/// The first order asks for no rule beyond the backward, so a handle that has none beyond gives the same bits; asked for
/// the whole, it refuses before it returns a number.
#[test]
fn a_handle_without_higher_rules_gives_the_first_order_and_refuses_the_rest() {
    let machine: Cpu<Opaque<Streaming>> = Host::new(Opaque::new(Streaming::new()));
    let mut learner = learner(&machine, &NAMES);
    let (start, inner) = (start(), inner(Optimiser::Sgd, RATE));
    let start: Vec<_> = start.iter().collect();
    learner.meta_gradient(&machine, &start, &inner, Mode::FirstOrder).unwrap();
    let strict: Vec<f64> = learner.gradients().flat_map(|tensor| tensor.data().to_vec()).collect();
    assert_eq!(strict, found(&inner, Mode::FirstOrder).gradient);
    for mode in [Mode::Full, Mode::Truncated(1)] {
        let refused = learner.meta_gradient(&machine, &start, &inner, mode);
        let opaque = theria_contract::Refusal::Opaque;
        assert!(
            matches!(&refused, Err(Error::Attention(theria_contract::Error::Refused { reason, .. })) if *reason == opaque),
            "{refused:?}"
        );
    }
}

/// F by the place of every number that the loop begins from, by central differences: parameters that are adapted, and
/// those that are not, whose gradient has the mixed second derivatives.
#[test]
fn parameters_that_are_not_adapted_have_the_gradient_of_the_whole_loop() {
    let machine = Cpu::new(Streaming::new());
    let plain = [(Optimiser::Sgd, 0.3), (MOMENTUM, 0.2), (ADAM, 0.05)].map(|(optimiser, rate)| {
        [(optimiser, rate, None, 0.0), (optimiser, rate, Some(0.05), 0.0), (optimiser, rate, Some(0.07), 0.3)]
    });
    for (optimiser, rate, clip, decay) in plain.into_iter().flatten() {
        for adapted in [&["Wo"][..], &["Wq", "Wv"]] {
            let mut learner = learner(&machine, adapted);
            let places: Vec<usize> =
                learner.names().map(|name| NAMES.iter().position(|other| *other == name).unwrap()).collect();
            let start = start();
            let begin: Vec<Tensor<f64>> = places.iter().map(|n| start[*n].clone()).collect();
            let inner = Inner { clip, decay, ..Inner::new(STEPS, optimiser, rate, adapted.len()) };
            let mut loss = |begin: &[Tensor<f64>], mode| {
                learner.meta_gradient(&machine, &begin.iter().collect::<Vec<_>>(), &inner, mode).unwrap();
                let loss = learner.query_mut().loss(&machine).unwrap();
                (loss, learner.gradients().map(|tensor| tensor.data().to_vec()).collect::<Vec<_>>())
            };
            let (_, full) = loss(&begin, Mode::Full);
            let (_, first) = loss(&begin, Mode::FirstOrder);
            let (mut worst, mut worst_first) = (0.0_f64, 0.0_f64);
            for (n, tensor) in begin.iter().enumerate() {
                for i in (0..tensor.data().len()).step_by(3) {
                    let mut at = |h: f64| {
                        let mut moved = begin.clone();
                        moved[n].data_mut()[i] += h;
                        loss(&moved, Mode::FirstOrder).0
                    };
                    let h = 1e-4;
                    let (near, far) =
                        ((at(h) - at(-h)) / (2.0 * h), (at(2.0 * h) - at(-2.0 * h)) / (4.0 * h));
                    let difference = (4.0 * near - far) / 3.0;
                    worst = worst.max((full[n][i] - difference).abs());
                    worst_first = worst_first.max((first[n][i] - difference).abs());
                }
            }
            assert!(worst < 1e-8, "{inner:?} {adapted:?}: {worst:e}");
            assert!(
                worst_first > 1e-3,
                "{optimiser:?} {adapted:?}: the first order is off by {worst_first:e} only"
            );
        }
    }
}

#[test]
fn a_limit_that_no_gradient_reaches_changes_nothing_and_one_that_it_reaches_does() {
    for optimiser in [Optimiser::Sgd, MOMENTUM, ADAM] {
        let with = |clip| found(&Inner { clip, ..inner(optimiser, RATE) }, Mode::Full);
        assert_eq!(with(Some(1e3)).gradient, with(None).gradient, "{optimiser:?}");
        assert_ne!(with(Some(1e-2)).gradient, with(None).gradient, "{optimiser:?}");
        // The gradient of the rate is the slope of the loss there, too.
        let at = |rate: f64| {
            let inner = Inner { clip: Some(0.05), decay: 0.2, ..inner(optimiser, rate) };
            found(&inner, Mode::Full)
        };
        let h = 1e-4 * RATE;
        let slope = |h: f64| (at(RATE + h).loss - at(RATE - h).loss) / (2.0 * h);
        let expected = (4.0 * slope(h) - slope(2.0 * h)) / 3.0;
        assert!((at(RATE).of_rate - expected).abs() < 1e-6 * expected.abs(), "{optimiser:?}: {expected}");
    }
}

/// A loop that a pull to the start holds, and what of its parameters is adapted.
fn held(steps: usize) -> Inner {
    Inner { proximal: 2.0, ..Inner::new(steps, Optimiser::Sgd, 0.2, 2) }
}

/// The gradients of a held loop that adapts two of four matrices.
fn gradients_of(
    inner: &Inner,
    make: impl Fn(&mut Learner<Cpu>, &Cpu, &[&Tensor<f64>]) -> Result<Option<Solved>, Error>,
) -> Result<(Vec<f64>, Option<Solved>), Error> {
    let machine = Cpu::new(Streaming::new());
    let mut learner = learner(&machine, &["Wk", "Wo"]);
    let start = start();
    let begin: Vec<_> =
        learner.names().map(|name| &start[NAMES.iter().position(|other| *other == name).unwrap()]).collect();
    assert_eq!(inner.rates.len(), 2);
    let solved = make(&mut learner, &machine, &begin)?;
    Ok((learner.gradients().flat_map(|tensor| tensor.data().to_vec()).collect(), solved))
}

fn unrolled(inner: &Inner, mode: Mode) -> Vec<f64> {
    let make = |learner: &mut Learner<Cpu>, machine: &Cpu, begin: &[&Tensor<f64>]| {
        learner.meta_gradient(machine, begin, inner, mode).map(|_| None)
    };
    gradients_of(inner, make).unwrap().0
}

fn implicit(inner: &Inner, solver: Solver) -> Result<(Vec<f64>, Solved), Error> {
    let make = |learner: &mut Learner<Cpu>, machine: &Cpu, begin: &[&Tensor<f64>]| {
        learner.implicit_gradient(machine, begin, inner, solver).map(|(_, solved)| Some(solved))
    };
    gradients_of(inner, make).map(|(all, solved)| (all, solved.unwrap()))
}

const CONJUGATE: Solver = Solver::ConjugateGradients { most: 60, enough: 1e-15 };

#[test]
fn a_loop_at_rest_has_the_implicit_gradient() {
    let rest = held(400);
    let (expected, solved) = implicit(&rest, CONJUGATE).unwrap();
    assert!(solved.residual < 1e-14 && solved.products < 40, "{solved:?}");
    let far = |inner: &Inner, mode| error(&unrolled(inner, mode), &expected);
    assert!(far(&rest, Mode::Full) < 1e-12, "{:e}", far(&rest, Mode::Full));
    let (series, solved) = implicit(&rest, Solver::Neumann { terms: 200, rate: 0.2 }).unwrap();
    assert!(error(&series, &expected) < 1e-12 && solved.residual < 1e-12, "{solved:?}");
    // Neither a loop on its way, nor the first order, nor a loop that forgets what pulls it.
    assert!(far(&held(3), Mode::Full) > 1e-3 && far(&rest, Mode::FirstOrder) > 1e-2);
    assert!(far(&Inner { proximal: 0.0, ..held(3) }, Mode::Full) > 1e-2);
}

/// At rest the last R steps know of R terms, in what is adapted and in what is not.
#[test]
fn a_truncated_loop_at_rest_is_the_series_of_as_many_terms() {
    let rest = held(400);
    for terms in [1, 2, 5] {
        let (series, _) = implicit(&rest, Solver::Neumann { terms, rate: 0.2 }).unwrap();
        let truncated = unrolled(&rest, Mode::Truncated(terms));
        // λ of the last steps has what the series has not summed yet, which is the residual at the start.
        let still = |all: &[f64]| all[all.len() - 40..].to_vec();
        assert!(error(&still(&truncated), &still(&series)) < 1e-11, "{terms}");
        assert!(error(&truncated, &series) > 1e-6, "{terms}: what is left over is part of λ");
    }
}

#[test]
fn a_held_loop_has_the_gradient_of_differences() {
    let inner = held(3);
    let given = unrolled(&inner, Mode::Full);
    let machine = Cpu::new(Streaming::new());
    let mut learner = learner(&machine, &["Wk", "Wo"]);
    let start = start();
    let order = [1, 3, 0, 2]; // Wk and Wo, then the others
    let begin: Vec<Tensor<f64>> = order.iter().map(|n| start[*n].clone()).collect();
    let mut at = 0;
    for n in 0..begin.len() {
        for i in 0..begin[n].data().len() {
            let mut loss = |h: f64| {
                let mut moved = begin.clone();
                moved[n].data_mut()[i] += h;
                let moved: Vec<_> = moved.iter().collect();
                learner.meta_gradient(&machine, &moved, &inner, Mode::FirstOrder).unwrap().after
            };
            let mut slope = |h: f64| (loss(h) - loss(-h)) / (2.0 * h);
            let expected = (4.0 * slope(1e-4) - slope(2e-4)) / 3.0;
            assert!((given[at] - expected).abs() < 1e-9, "{n} {i}: {} {expected}", given[at]);
            at += 1;
        }
    }
}

#[test]
fn systems_that_cannot_be_solved_are_said() {
    let loose = implicit(&Inner { proximal: 0.0, ..held(5) }, CONJUGATE);
    assert!(matches!(loose, Err(Error::NoPull { .. })), "{loose:?}");
    let weak = implicit(&Inner { proximal: 1e-6, ..held(5) }, CONJUGATE);
    assert!(matches!(weak, Err(Error::NotPositive { .. })), "{weak:?}");
    let wild = implicit(&held(5), Solver::Neumann { terms: 3000, rate: 5.0 });
    assert!(matches!(wild, Err(Error::Diverged { .. })), "{wild:?}");
}

#[test]
fn what_does_not_fit_is_said() {
    let machine = Cpu::new(Streaming::new());
    let problem = &reference()["problem"];
    let model = || model(&machine, &problem["Xs"], &problem["Ts"]);
    let unknown = Learner::new(&machine, model(), model(), &["Wx"]).map(|_| ());
    assert!(matches!(&unknown, Err(Error::Unpaired { name, .. }) if name == "Wx"), "{unknown:?}");

    let mut learner = learner(&machine, &NAMES);
    let start = start();
    let start: Vec<_> = start.iter().collect();
    let few = learner.meta_gradient(&machine, &start[1..], &inner(ADAM, RATE), Mode::Full);
    assert!(matches!(few, Err(Error::Elements { given: 3, expected: 4, .. })), "{few:?}");
    let rates = Inner { rates: vec![RATE], ..inner(ADAM, RATE) };
    let few = learner.meta_gradient(&machine, &start, &rates, Mode::Full);
    assert!(matches!(few, Err(Error::Elements { given: 1, expected: 4, .. })), "{few:?}");
    let far = learner.meta_gradient(&machine, &start, &inner(Optimiser::Sgd, 1e200), Mode::Full);
    assert!(matches!(far, Err(Error::Diverged { steps: STEPS, .. })), "{far:?}");
    // A loop that went astray leaves nothing behind.
    learner.meta_gradient(&machine, &start, &inner(ADAM, RATE), Mode::Full).unwrap();
    let given: Vec<f64> = learner.gradients().flat_map(|tensor| tensor.data().to_vec()).collect();
    assert_eq!(given, found(&inner(ADAM, RATE), Mode::Full).gradient);
}
