//! What is kept of a loop: fewer states, the same numbers bit by bit.

mod head;

use theria_contract::Tensor;
use theria_jvp_hvp::Streaming;
use theria_maml::meta::{Adapted, Inner, Keep, Learner, Mode, Optimiser};

use head::{ADAM, Cpu, MOMENTUM, NAMES, learner, start};

const ADAPTED: [&str; 2] = ["Wk", "Wo"];
const STEPS: usize = 7;

/// Everything that a learner says of a loop.
#[derive(Debug, PartialEq)]
struct Said {
    adapted: Adapted,
    gradients: Vec<f64>,
    of_rates: Vec<f64>,
}

fn say(learner: &mut Learner<Cpu>, machine: Cpu, inner: &Inner, mode: Mode) -> Said {
    let start = start();
    let begin: Vec<&Tensor<f64>> =
        learner.names().map(|name| &start[NAMES.iter().position(|other| *other == name).unwrap()]).collect();
    let adapted = learner.meta_gradient(&machine, &begin, inner, mode).unwrap();
    let gradients = learner.gradients().flat_map(|tensor| tensor.data().to_vec()).collect();
    Said { adapted, gradients, of_rates: learner.rate_gradients().to_vec() }
}

/// Loops with everything that a state may have to be made again from.
fn loops() -> Vec<Inner> {
    let mut loops = Vec::new();
    for (optimiser, rate) in [(Optimiser::Sgd, 0.3), (MOMENTUM, 0.2), (ADAM, 0.05)] {
        let plain = Inner::new(STEPS, optimiser, rate, ADAPTED.len());
        for (clip, decay, proximal) in [(None, 0.0, 0.0), (Some(0.1), 0.0, 0.0), (Some(0.1), 0.3, 0.7)] {
            let inner = Inner { clip, decay, proximal, ..plain.clone() };
            loops.extend([inner.clone().learning_rates(), inner]);
        }
    }
    loops
}

#[test]
fn steps_that_are_made_again_give_the_same_bits() {
    let machine = Cpu::new(Streaming::new());
    // One learner for all, so that what an earlier loop kept lies about.
    let mut learner = learner(&machine, &ADAPTED);
    let mut compared = 0;
    for inner in loops() {
        for mode in [Mode::Full, Mode::Truncated(4), Mode::Truncated(1), Mode::FirstOrder] {
            let all = say(&mut learner, machine, &inner, mode);
            for keep in [Keep::Stretches(1), Keep::Stretches(2), Keep::Stretches(5), Keep::Roots] {
                let made = say(&mut learner, machine, &inner.clone().keeping(keep), mode);
                assert_eq!(made, all, "{inner:?} {mode:?} {keep:?}");
                compared += 1;
            }
        }
        // Steps that are made again a little differently would be seen.
        let other =
            Inner { rates: inner.rates.iter().map(|rate| rate * 1.000_001).collect(), ..inner.clone() };
        let [one, other] = [inner, other].map(|inner| say(&mut learner, machine, &inner, Mode::Full));
        assert_ne!(one.gradients, other.gradients);
    }
    assert_eq!(compared, 18 * 16);
}

#[test]
fn states_that_are_kept_are_about_twice_the_root_of_the_steps() {
    let machine = Cpu::new(Streaming::new());
    let mut learner = learner(&machine, &ADAPTED);
    let mut kept = |steps, keep, mode| {
        let inner = Inner { steps, ..Inner::new(0, Optimiser::Sgd, 0.05, ADAPTED.len()) }.keeping(keep);
        say(&mut learner, machine, &inner, mode);
        learner.kept_states()
    };
    assert_eq!(kept(100, Keep::All, Mode::Full), 100);
    assert_eq!(kept(100, Keep::Roots, Mode::Full), 10 + 9);
    assert_eq!(kept(100, Keep::Stretches(25), Mode::Full), 25 + 3);
    // Steps that nobody pulls back are not kept.
    assert_eq!(kept(100, Keep::All, Mode::Truncated(16)), 16);
    assert_eq!(kept(100, Keep::Roots, Mode::Truncated(16)), 4 + 3);
}
