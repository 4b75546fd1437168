//! The direction of Reptile against a loop that is written out.

mod head;

use theria_contract::Tensor;
use theria_jvp_hvp::{Opaque, Streaming};
use theria_maml::meta::{Inner, Learner, Mode, Optimiser, Outer, Trainer};
use theria_maml::{Graph, Host, Machine, Model, ValueId};

use head::{ADAM, Cpu, MOMENTUM, NAMES, learner, model, reference, start};

const STEPS: usize = 4;
const ALL: [(Optimiser, f64); 3] = [(Optimiser::Sgd, 0.3), (MOMENTUM, 0.2), (ADAM, 0.05)];

/// What is given back for a learner that adapts these: directions in its order, and the query's loss.
fn direction<M>(machine: &M, adapted: &[&str], inner: &Inner) -> (Vec<Vec<f64>>, f64)
where
    M: Machine<Element = f64, Storage = theria_contract::Host> + 'static,
{
    let mut learner = learner(machine, adapted);
    let start = start();
    let begin: Vec<&Tensor<f64>> =
        learner.names().map(|name| &start[NAMES.iter().position(|other| *other == name).unwrap()]).collect();
    let seen = learner.meta_gradient(machine, &begin, inner, Mode::Reptile).unwrap();
    assert!(learner.rate_gradients().iter().all(|gradient| *gradient == 0.0));
    assert_eq!(learner.kept_states(), 0);
    (learner.gradients().map(|tensor| tensor.data().to_vec()).collect(), seen.after)
}

/// A step of one number: θ and two memories.
fn step((optimiser, rate): (Optimiser, f64), k: usize, state: &mut [f64; 3], g: f64) {
    let [theta, first, second] = state;
    *theta -= match optimiser {
        Optimiser::Sgd => rate * g,
        Optimiser::Momentum { decay } => {
            *first = decay * *first + g;
            rate * *first
        }
        Optimiser::Adam { first: of_mean, second: of_square, epsilon } => {
            let count = k as i32 + 1;
            *first = of_mean * *first + (1.0 - of_mean) * g;
            *second = of_square * *second + (1.0 - of_square) * g * g;
            let (mean, square) =
                (*first / (1.0 - of_mean.powi(count)), *second / (1.0 - of_square.powi(count)));
            rate * mean / (square.sqrt() + epsilon)
        }
    };
}

/// `θ_0 - θ_K` of all four matrices, and the loss of the query there, by a loop that is written out.
fn by_hand(how: (Optimiser, f64)) -> (Vec<Vec<f64>>, f64) {
    let machine = Cpu::new(Streaming::new());
    let problem = &reference()["problem"];
    let mut support = model(&machine, &problem["Xs"], &problem["Ts"]);
    let mut query = model(&machine, &problem["Xq"], &problem["Tq"]);
    let ids = |model: &Model<Cpu>| -> Vec<ValueId> {
        NAMES.map(|name| model.parameters().find(|(other, _)| *other == name).unwrap().1).to_vec()
    };
    let (ids, of_query) = (ids(&support), ids(&query));
    let begin: Vec<Vec<f64>> = start().iter().map(|tensor| tensor.data().to_vec()).collect();
    let mut states: Vec<Vec<[f64; 3]>> =
        begin.iter().map(|all| all.iter().map(|theta| [*theta, 0.0, 0.0]).collect()).collect();
    let plan = support.plan(&ids, &[]);
    let thetas = |states: &[[f64; 3]]| states.iter().map(|state| state[0]).collect::<Vec<_>>();
    for k in 0..STEPS {
        for (id, states) in ids.iter().zip(&states) {
            support.write(&machine, *id, &thetas(states)).unwrap();
        }
        support.gradient(&machine, &plan).unwrap();
        for (id, states) in ids.iter().zip(&mut states) {
            for (state, g) in states.iter_mut().zip(support.gradient_of(*id).unwrap().data()) {
                step(how, k, state, *g);
            }
        }
    }
    for (id, states) in of_query.iter().zip(&states) {
        query.write(&machine, *id, &thetas(states)).unwrap();
    }
    query.evaluate(&machine).unwrap();
    let back = |(begin, states): (&Vec<f64>, &Vec<[f64; 3]>)| -> Vec<f64> {
        begin.iter().zip(states).map(|(from, state)| from - state[0]).collect()
    };
    (begin.iter().zip(&states).map(back).collect(), query.loss(&machine).unwrap())
}

#[test]
fn the_direction_is_the_way_back_bit_by_bit() {
    let machine = Cpu::new(Streaming::new());
    for (optimiser, rate) in ALL {
        let inner = Inner::new(STEPS, optimiser, rate, NAMES.len()).learning_rates();
        let expected = by_hand((optimiser, rate));
        assert_eq!(direction(&machine, &NAMES, &inner), expected, "{optimiser:?}");
        let shorter = Inner { steps: STEPS - 1, ..inner };
        assert_ne!(direction(&machine, &NAMES, &shorter), expected, "{optimiser:?}: a step less is seen");
    }
}

#[test]
fn it_is_zero_for_no_steps_and_for_what_is_not_adapted() {
    let machine = Cpu::new(Streaming::new());
    let inner = Inner::new(STEPS, Optimiser::Sgd, 0.3, 1);
    let (made, _) = direction(&machine, &["Wo"], &inner);
    assert!(made[0].iter().all(|x| *x != 0.0), "{:?}", made[0]);
    assert!(made[1..].concat().iter().all(|x| *x == 0.0), "{made:?}");
    let (none, _) = direction(&machine, &["Wo"], &Inner { steps: 0, ..inner });
    assert!(none.concat().iter().all(|x| *x == 0.0), "{none:?}");
}

/// It asks for no rule beyond the backward.
#[test]
fn a_handle_without_higher_rules_gives_the_same_bits() {
    let opaque: Cpu<Opaque<Streaming>> = Host::new(Opaque::new(Streaming::new()));
    for (optimiser, rate) in ALL {
        let inner = Inner::new(STEPS, optimiser, rate, NAMES.len());
        let whole = direction(&Cpu::new(Streaming::new()), &NAMES, &inner);
        assert_eq!(direction(&opaque, &NAMES, &inner), whole, "{optimiser:?}");
    }
}

/// `φ ← φ + ε (θ_K - φ)`: an outer rate is ε, and with ε = ½ the start goes half of the way.
#[test]
fn an_outer_step_goes_a_part_of_the_way() {
    let machine = Cpu::new(Streaming::new());
    let mut learner = learner(&machine, &NAMES);
    let mut inner = Inner::new(STEPS, Optimiser::Sgd, 0.3, NAMES.len());
    let (back, loss) = by_hand((Optimiser::Sgd, 0.3));
    let outer = Outer { optimiser: Optimiser::Sgd, rate: 0.5, clip: None };
    let mut trainer = Trainer::new(&machine, start(), outer).unwrap();
    let seen = trainer.step(&machine, &mut learner, &mut inner, Mode::Reptile, 1, |_, _| Ok(())).unwrap();
    assert_eq!(seen.losses.after, loss);
    for ((before, after), back) in start().iter().zip(trainer.parameters()).zip(&back) {
        for ((before, after), back) in before.data().iter().zip(after.data()).zip(back) {
            assert_eq!(*after, before - 0.5 * back);
        }
    }
}

/// Of (w - t)², whose loop is a line of arithmetic: tasks that pull in two directions, and what lies between them.
#[test]
fn the_directions_of_tasks_have_their_mean() {
    let machine = Cpu::new(Streaming::new());
    let square = || {
        let mut graph = Graph::new();
        let (w, target) = (graph.parameter("w", 1, 1), graph.input(1, 1));
        let loss = graph.squared_error(w, target, 1.0).unwrap();
        (Model::new(&machine, graph, loss).unwrap(), target)
    };
    let ((support, target), (query, _)) = (square(), square());
    let mut learner = Learner::new(&machine, support, query, &["w"]).unwrap();
    let mut inner = Inner::new(3, Optimiser::Sgd, 0.1, 1);
    let back = |target: f64| {
        let w = (0..3).fold(0.7, |w, _| w - 0.1 * (2.0 * (w - target)));
        0.7 - w
    };
    let tasks = [1.0, -3.5];
    let mut to = |outer: Outer, tasks: &[f64]| {
        let begin = Tensor::from_vec(vec![0.7], [1, 1, 1, 1]).unwrap();
        let mut trainer = Trainer::new(&machine, vec![begin], outer).unwrap();
        let load = |learner: &mut Learner<Cpu>, task: usize| {
            learner.support_mut().write(&machine, target, &[tasks[task]])
        };
        let count = tasks.len();
        trainer.step(&machine, &mut learner, &mut inner, Mode::Reptile, count, load).unwrap();
        trainer.parameters()[0].data()[0]
    };
    let outer = Outer { optimiser: Optimiser::Sgd, rate: 0.5, clip: None };
    let mean = f64::midpoint(back(tasks[0]), back(tasks[1]));
    assert_eq!(to(outer, &tasks), 0.7 - 0.5 * mean);
    assert_eq!(to(outer, &tasks[..1]), 0.7 - 0.5 * back(tasks[0]));
    assert_ne!(to(outer, &tasks), to(outer, &tasks[..1]));
}
