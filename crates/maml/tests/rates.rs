//! Rates of elements: those of parameters where all are the same, and gradients against differences of the whole loop.

mod head;

use theria_contract::Tensor;
use theria_jvp_hvp::Streaming;
use theria_maml::Error;
use theria_maml::meta::{Adapted, Inner, Keep, Learner, Mode, Optimiser, Outer, Solver, Trainer};

use head::{ADAM, Cpu, MOMENTUM, NAMES, error, learner, start};

const ADAPTED: [&str; 2] = ["Wk", "Wo"];
const STEPS: usize = 3;
const MODES: [Mode; 3] = [Mode::Full, Mode::Truncated(2), Mode::FirstOrder];

fn plain() -> Learner<Cpu> {
    learner(&Cpu::new(Streaming::new()), &ADAPTED)
}

fn with_elements() -> Learner<Cpu> {
    plain().with_element_rates(&Cpu::new(Streaming::new())).unwrap()
}

/// Where a loop begins: the parameters, and factors of rates by their place.
fn begin(learner: &Learner<Cpu>, factor: impl Fn(usize) -> f64) -> Vec<Tensor<f64>> {
    let start = start();
    let place = |name: &str| NAMES.iter().position(|other| *other == name);
    let mut made = 0;
    let mut tensor = |name: &str| match name.strip_prefix("rate of ") {
        None => start[place(name).unwrap()].clone(),
        Some(of) => {
            let like = &start[place(of).unwrap()];
            let numbers = (made..made + like.data().len()).map(&factor).collect();
            made += like.data().len();
            Tensor::from_vec(numbers, like.shape()).unwrap()
        }
    };
    learner.names().map(&mut tensor).collect()
}

fn run(learner: &mut Learner<Cpu>, begin: &[Tensor<f64>], inner: &Inner, mode: Mode) -> Adapted {
    let begin: Vec<_> = begin.iter().collect();
    learner.meta_gradient(&Cpu::new(Streaming::new()), &begin, inner, mode).unwrap()
}

fn gradients(learner: &Learner<Cpu>) -> Vec<Vec<f64>> {
    learner.gradients().map(|tensor| tensor.data().to_vec()).collect()
}

fn loops() -> Vec<Inner> {
    let mut loops = Vec::new();
    for (optimiser, rate) in [(Optimiser::Sgd, 0.3), (MOMENTUM, 0.2), (ADAM, 0.05)] {
        let plain = Inner::new(STEPS, optimiser, rate, ADAPTED.len()).learning_rates();
        for (clip, decay, proximal) in [(None, 0.0, 0.0), (Some(0.1), 0.3, 0.7)] {
            loops.push(Inner { clip, decay, proximal, ..plain.clone() });
        }
    }
    loops
}

#[test]
fn factors_of_one_change_no_bit() {
    let (mut plain, mut with) = (plain(), with_elements());
    let names: Vec<String> = with.names().map(str::to_owned).collect();
    assert_eq!(names, ["Wk", "Wo", "Wq", "Wv", "rate of Wk", "rate of Wo"]);
    let (from, from_ones) = (begin(&plain, |_| 1.0), begin(&with, |_| 1.0));
    for inner in loops() {
        for mode in MODES {
            let without = run(&mut plain, &from, &inner, mode);
            assert_eq!(run(&mut with, &from_ones, &inner, mode), without, "{inner:?} {mode:?}");
            assert_eq!(gradients(&with)[..4], gradients(&plain), "{inner:?} {mode:?}");
            assert_eq!(with.rate_gradients(), plain.rate_gradients(), "{inner:?} {mode:?}");
            // The gradient of a rate is that of all its factors together, which are multiplied by it.
            for (of_factors, (of_rate, rate)) in
                gradients(&with)[4..].iter().zip(with.rate_gradients().iter().zip(&inner.rates))
            {
                let sum = of_factors.iter().sum::<f64>() / rate;
                assert!((sum - of_rate).abs() < 1e-13 * of_rate.abs().max(1e-3), "{sum} {of_rate}");
            }
        }
        let other = begin(&with, |n| if n == 5 { 1.000_001 } else { 1.0 });
        run(&mut with, &other, &inner, Mode::Full);
        run(&mut plain, &from, &inner, Mode::Full);
        assert_ne!(gradients(&with)[..4], gradients(&plain), "one element that goes another way is seen");
    }
}

/// A rate of 1 and factors that are all the rate, as Meta-SGD has them.
#[test]
fn factors_that_are_the_rate_are_the_rate() {
    let (mut plain, mut with) = (plain(), with_elements());
    for inner in loops() {
        let rate = inner.rates[0];
        let (from, from_rates) = (begin(&plain, |_| 1.0), begin(&with, |_| rate));
        let ones = Inner { rates: vec![1.0; ADAPTED.len()], ..inner.clone() };
        for mode in MODES {
            run(&mut plain, &from, &inner, mode);
            run(&mut with, &from_rates, &ones, mode);
            let (given, expected) = (gradients(&with)[..4].concat(), gradients(&plain).concat());
            if inner.optimiser == ADAM {
                // A product and a quotient are taken in another order.
                assert!(error(&given, &expected) < 1e-13, "{inner:?} {mode:?}");
            } else {
                assert_eq!(given, expected, "{inner:?} {mode:?}");
            }
        }
    }
}

/// Factors that differ, so that no element goes as another one does.
fn uneven(n: usize) -> f64 {
    1.0 + 0.6 * (1.3 * n as f64).sin()
}

#[test]
fn rates_of_elements_have_the_gradient_of_the_whole_loop() {
    let mut with = with_elements();
    let from = begin(&with, uneven);
    for inner in loops() {
        let mut all = |mode| {
            run(&mut with, &from, &inner, mode);
            (gradients(&with), with.rate_gradients().to_vec())
        };
        let (full, of_rates) = all(Mode::Full);
        let (first, _) = all(Mode::FirstOrder);
        let (mut worst, mut worst_first) = ([0.0_f64; 2], [0.0_f64; 2]);
        for (n, tensor) in from.iter().enumerate() {
            for i in 0..tensor.data().len() {
                let mut loss = |h: f64| {
                    let mut moved = from.clone();
                    moved[n].data_mut()[i] += h;
                    run(&mut with, &moved, &inner, Mode::FirstOrder).after
                };
                let expected = slope(&mut loss, 3e-4);
                let kind = usize::from(n >= 4);
                worst[kind] = worst[kind].max((full[n][i] - expected).abs());
                worst_first[kind] = worst_first[kind].max((first[n][i] - expected).abs());
            }
        }
        let [[start, rates], [start_first, rates_first]] = [worst, worst_first];
        println!("{:?}, cut to {:?}: {start:.1e}, rates {rates:.1e}", inner.optimiser, inner.clip);
        println!("  of the first order {start_first:.1e}, rates {rates_first:.1e}");
        assert!(worst.iter().all(|worst| *worst < 1e-8), "{inner:?}: {worst:?}");
        assert!(worst_first.iter().all(|worst| *worst > 1e-5), "{inner:?}: {worst_first:?}");
        // The rates that the factors multiply have theirs, too.
        for (n, of_rate) in of_rates.iter().enumerate() {
            let mut loss = |h: f64| {
                let mut inner = inner.clone();
                inner.rates[n] += h;
                run(&mut with, &from, &inner, Mode::FirstOrder).after
            };
            let expected = slope(&mut loss, 1e-3 * inner.rates[n]);
            assert!((of_rate - expected).abs() < 1e-8, "{inner:?}: {of_rate} {expected}");
        }
    }
}

/// A derivative by differences of the fourth order.
fn slope(at: &mut impl FnMut(f64) -> f64, h: f64) -> f64 {
    let mut over = |h: f64| (at(h) - at(-h)) / (2.0 * h);
    (4.0 * over(h) - over(2.0 * h)) / 3.0
}

#[test]
fn steps_that_are_made_again_have_their_rates() {
    let mut with = with_elements();
    let from = begin(&with, uneven);
    for inner in loops() {
        let inner = Inner { steps: 7, ..inner };
        for mode in MODES {
            run(&mut with, &from, &inner, mode);
            let all = gradients(&with);
            for keep in [Keep::Roots, Keep::Stretches(1), Keep::Stretches(2)] {
                run(&mut with, &from, &inner.clone().keeping(keep), mode);
                assert_eq!(gradients(&with), all, "{inner:?} {mode:?} {keep:?}");
            }
        }
    }
}

/// The outer loop learns them as it learns the start: they are parameters.
#[test]
fn a_trainer_learns_the_rates_of_elements() {
    let machine = Cpu::new(Streaming::new());
    let mut with = with_elements();
    let from = begin(&with, uneven);
    let mut inner = Inner::new(STEPS, Optimiser::Sgd, 0.3, ADAPTED.len());
    run(&mut with, &from, &inner, Mode::Full);
    let expected = gradients(&with);
    let outer = Outer { optimiser: Optimiser::Sgd, rate: 0.5, clip: None };
    let mut trainer = Trainer::new(&machine, from.clone(), outer).unwrap();
    trainer.step(&machine, &mut with, &mut inner, Mode::Full, 1, |_, _| Ok(())).unwrap();
    for ((before, after), gradient) in from.iter().zip(trainer.parameters()).zip(&expected) {
        for ((before, after), gradient) in before.data().iter().zip(after.data()).zip(gradient) {
            assert_eq!(*after, before - 0.5 * gradient);
        }
    }
    assert_ne!(trainer.parameters()[5].data(), from[5].data());
    assert_eq!(inner.rates, [0.3; 2], "those of parameters stay");
}

#[test]
fn a_loop_at_rest_has_no_gradient_of_its_rates_and_one_without_them_does_not_begin() {
    let machine = Cpu::new(Streaming::new());
    let mut with = with_elements();
    let from = begin(&with, uneven);
    let held = Inner { proximal: 2.0, ..Inner::new(400, Optimiser::Sgd, 0.1, ADAPTED.len()) };
    run(&mut with, &from, &held, Mode::Full);
    let unrolled = gradients(&with);
    assert!(unrolled[4..].concat().iter().all(|gradient| gradient.abs() < 1e-12), "{:?}", &unrolled[4..]);
    let solver = Solver::ConjugateGradients { most: 60, enough: 1e-15 };
    let all: Vec<_> = from.iter().collect();
    with.implicit_gradient(&machine, &all, &held, solver).unwrap();
    assert!(gradients(&with)[4..].concat().iter().all(|gradient| *gradient == 0.0));
    assert!(error(&gradients(&with)[..4].concat(), &unrolled[..4].concat()) < 1e-12);

    let few = with.meta_gradient(&machine, &all[..4], &held, Mode::Full);
    assert!(matches!(few, Err(Error::Elements { given: 4, expected: 6, .. })), "{few:?}");
}
