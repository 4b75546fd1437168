//! What a loop is like and where it goes astray, on learners that are right and on learners that are wrong on purpose.

mod head;

use theria_contract::{Attention, Tensor};
use theria_jvp_hvp::Streaming;
use theria_jvp_hvp::variant::{Variant, Varied};
use theria_maml::graph::Quantity;
use theria_maml::meta::{
    Astray, Inner, Learner, Mode, Moment, Optimiser, SecondOrderPath, Symmetry, hessian_symmetry,
};
use theria_maml::{Error, Graph, Host, Model, ValueId};

use head::{ADAM, Cpu, MOMENTUM, NAMES, SHAPES, error, learner, numbers, reference, start};

const STEPS: usize = 3;
const RATE: f64 = 0.3;
const GROUPS: [(&str, &[&str]); 2] = [("attention", &["Wq", "Wk", "Wv"]), ("head", &["Wo"])];

fn inner(optimiser: Optimiser, rate: f64) -> Inner {
    Inner::new(STEPS, optimiser, rate, NAMES.len())
}

fn path(inner: &Inner) -> SecondOrderPath {
    let machine = Cpu::new(Streaming::new());
    let mut learner = learner(&machine, &NAMES);
    learner.second_order_path(&machine, &start().iter().collect::<Vec<_>>(), inner, &GROUPS).unwrap()
}

fn norm(all: impl IntoIterator<Item = f64>) -> f64 {
    all.into_iter().map(|x| x * x).sum::<f64>().sqrt()
}

#[test]
fn paths_of_the_second_order_are_those_of_an_independent_system() {
    let fixture = reference();
    let found = path(&inner(Optimiser::Sgd, RATE));
    let expected = fixture["rel_diff_full_vs_fo"].as_f64().unwrap();
    assert!((found.rel_diff() - expected).abs() < 1e-12, "{} {expected}", found.rel_diff());

    let (full, first) = (numbers(&fixture["meta_grad"]), numbers(&fixture["first_order_grad"]));
    let mut from = 0;
    for ((part, name), (rows, columns)) in found.parameters.iter().zip(NAMES).zip(SHAPES) {
        let range = from..from + rows * columns;
        from = range.end;
        let whole = norm(full[range.clone()].iter().copied());
        let between = norm(range.map(|n| full[n] - first[n]));
        assert_eq!(part.name, name);
        assert!((part.full - whole).abs() < 1e-12 * whole, "{name}");
        assert!((part.second_order - between).abs() < 1e-12 * between, "{name}");
        assert!((part.relative() - between / whole).abs() < 1e-12 && between > 1e-3, "{name}");
    }
    let [attention, head] = &found.groups[..] else { panic!("{:?}", found.groups) };
    let of = |range: std::ops::Range<usize>| norm(range.map(|n| found.parameters[n].second_order));
    assert_eq!((attention.name.as_str(), attention.second_order), ("attention", of(0..3)));
    assert_eq!((head.name.as_str(), head.second_order), ("head", of(3..4)));
    assert_ne!(attention.second_order, head.second_order);
}

/// The path is what the mode leaves out: nothing where nothing is left out, and all of it where the Hessian is all there is.
#[test]
fn a_loop_of_no_steps_has_no_second_order_and_a_longer_one_has_more() {
    let of = |steps| path(&Inner { steps, ..inner(Optimiser::Sgd, RATE) });
    let none = of(0);
    assert_eq!((none.rel_diff(), none.groups[0].second_order), (0.0, 0.0));
    assert!(none.whole.full > 0.1);
    assert!(of(1).rel_diff() > 1e-2 && of(3).rel_diff() > of(1).rel_diff());
    for optimiser in [MOMENTUM, ADAM] {
        assert!(path(&inner(optimiser, 0.05)).rel_diff() > 1e-2, "{optimiser:?}");
    }
}

/// The learner of a variant and everything that is said of it: its error against the fixture, its path, its symmetry.
fn judged<A>(attention: A) -> (f64, f64, Symmetry)
where
    A: Attention<f64, Storage = theria_contract::Host> + Sync + 'static,
{
    let machine: Cpu<A> = Host::new(attention);
    let mut learner = learner(&machine, &NAMES);
    let (start, inner) = (start(), inner(Optimiser::Sgd, RATE));
    let start: Vec<&Tensor<f64>> = start.iter().collect();
    let path = learner.second_order_path(&machine, &start, &inner, &[]).unwrap();
    let all = numbers(&reference()["meta_grad"]);
    let mut oracle = Vec::new();
    let mut from = 0;
    for (rows, columns) in SHAPES {
        let part = all[from..from + rows * columns].to_vec();
        from += rows * columns;
        oracle.push(Tensor::from_vec(part, [1, 1, rows, columns]).unwrap());
    }
    let off = learner.gradient_error(&machine, &oracle.iter().collect::<Vec<_>>()).unwrap();
    let given: Vec<f64> = learner.gradients().flat_map(|tensor| tensor.data().to_vec()).collect();
    assert!((off - error(&given, &all)).abs() <= 1e-15 + 1e-12 * off, "{off}");
    let symmetry = learner.hessian_symmetry(&machine, &start, &inner, 7, 5).unwrap();
    (off, path.rel_diff(), symmetry)
}

#[test]
fn learners_that_are_right_are_near_the_oracle_and_have_a_symmetric_hessian() {
    for (off, rel_diff, symmetry) in [judged(Streaming::new()), judged(Varied::new(Variant::Exact))] {
        println!("error {off:.1e}, rel_diff {rel_diff:.4}, asymmetry {:.1e}", symmetry.asymmetry);
        assert!(off < 1e-13, "{off:e}");
        assert!(symmetry.asymmetry < 1e-14 && symmetry.product > 1e-2, "{symmetry:?}");
    }
}

/// A backward that takes something for a constant has an asymmetric Hessian; a forward that does so has a symmetric one of
/// another function, and the oracle alone tells. All of them have a path of the second order, so that says nothing.
#[test]
fn learners_that_are_wrong_are_noticed_by_the_oracle_and_most_by_their_hessian() {
    let backward = [
        (Variant::FrozenLse, 1e-3),
        (Variant::FrozenDelta, 1e-3),
        (Variant::FrozenBoth, 1e-3),
        (Variant::OnceDifferentiable, 1e-3),
        (Variant::MissingValueTangent, 1e-3),
        (Variant::DqWrongBy1e4, 1e-8),
        (Variant::DqWrongBy1e6, 1e-10),
    ];
    for (variant, least) in backward {
        let (off, rel_diff, Symmetry { asymmetry, .. }) = judged(Varied::new(variant));
        println!("{variant:?}: error {off:.1e}, rel_diff {rel_diff:.4}, asymmetry {asymmetry:.1e}");
        assert!(off > 1e-9 && rel_diff > 0.1, "{variant:?}: {off:e}");
        assert!(asymmetry > least, "{variant:?}: {asymmetry:e}");
    }
    for variant in [Variant::FrozenStats, Variant::DetachedLogits, Variant::DetachedOutput] {
        let (off, rel_diff, Symmetry { asymmetry, .. }) = judged(Varied::new(variant));
        println!("{variant:?}: error {off:.1e}, rel_diff {rel_diff:.4}, asymmetry {asymmetry:.1e}");
        assert!(off > 0.1 && rel_diff > 0.01, "{variant:?}: {off:e} {rel_diff}");
        assert!(asymmetry < 1e-13, "{variant:?}: {asymmetry:e}");
    }
}

#[test]
fn a_hessian_of_zero_says_nothing_and_is_said_to() {
    let machine = Cpu::new(Streaming::new());
    let mut graph = Graph::new();
    let (x, w) = (graph.input(4, 3), graph.parameter("w", 3, 1));
    let y = graph.multiply(x, w).unwrap();
    let loss = graph.mean(y, 4).unwrap();
    let mut model = Model::new(&machine, graph, loss).unwrap();
    model.write(&machine, x, &[0.5; 12]).unwrap();
    let symmetry = hessian_symmetry(&machine, &mut model, &[w], 1, 3).unwrap();
    assert_eq!(symmetry, Symmetry { asymmetry: 0.0, product: 0.0 });
}

/// `weight · Σ (x w - t)²` of one row, where the numbers say what overflows first.
fn one_row(x: f64, w: f64, weight: f64) -> (Cpu, Model<Cpu>, ValueId) {
    let machine = Cpu::new(Streaming::new());
    let mut graph = Graph::new();
    let (data, target) = (graph.input(1, 2), graph.input(1, 1));
    let parameter = graph.parameter("w", 2, 1);
    let y = graph.multiply(data, parameter).unwrap();
    let y = graph.gelu(y);
    let loss = graph.squared_error(y, target, weight).unwrap();
    let mut model = Model::new(&machine, graph, loss).unwrap();
    model.write(&machine, data, &[x, 0.5 * x]).unwrap();
    model.write(&machine, parameter, &[w, w]).unwrap();
    (machine, model, parameter)
}

#[test]
fn the_first_number_of_a_model_that_is_not_finite_is_named() {
    let found = |x, w, weight| {
        let (machine, mut model, parameter) = one_row(x, w, weight);
        let plan = model.plan(&[parameter], &[parameter]);
        // Random directions are left behind.
        hessian_symmetry(&machine, &mut model, &[parameter], 3, 1).unwrap();
        model.first_not_finite(&machine, &plan).unwrap()
    };
    assert_eq!(found(0.7, 0.3, 1.0), None, "numbers of every day");
    let named = |x, w, weight| {
        let found = found(x, w, weight).unwrap();
        (found.quantity, found.parameter.clone(), found.operation, found.count, found.to_string())
    };
    let (quantity, parameter, operation, count, text) = named(f64::INFINITY, 0.3, 1.0);
    assert_eq!((quantity, parameter, operation, count), (Quantity::Value, None, None, 2));
    assert_eq!(text, "data (value 0): 2 of 2 numbers are NaN or infinite");
    let (quantity, parameter, _, count, text) = named(0.7, f64::NAN, 1.0);
    assert_eq!((quantity, parameter, count), (Quantity::Value, Some("w".to_owned()), 2));
    assert_eq!(text, "the parameter `w`: 2 of 2 numbers are NaN or infinite");
    let (quantity, _, operation, ..) = named(1e200, 1e200, 1.0);
    assert_eq!((quantity, operation), (Quantity::Value, Some("product")));
    let (quantity, _, operation, ..) = named(1e100, 1e100, 1.0);
    assert_eq!((quantity, operation), (Quantity::Value, Some("squared error")));
    // The slope of the loss is infinite, and so is what it is pulled back to: the first is nearest to the loss.
    let (quantity, _, operation, ..) = named(0.7, 0.3, 1e308);
    assert_eq!((quantity, operation), (Quantity::Gradient, Some("gelu")));
    // The loss is about 1e200 · (1e-3)², and its slope in w 1e197 · 1e120.
    let (quantity, parameter, _, _, text) = named(1e120, 1e-123, 1e200);
    assert_eq!((quantity, parameter), (Quantity::Gradient, Some("w".to_owned())), "{text}");
    // The gradient is about (1e-3) 1e160, and its slope 1e320.
    let (quantity, _, _, _, text) = named(1e160, 1e-163, 1.0);
    assert_eq!(quantity, Quantity::GradientTangent, "{text}");
}

#[test]
fn the_first_step_of_a_loop_that_is_not_finite_is_named() {
    let machine = Cpu::new(Streaming::new());
    let mut learner = learner(&machine, &NAMES);
    let start = start();
    let start: Vec<&Tensor<f64>> = start.iter().collect();
    let mut found = |rate, mode| {
        let inner = inner(Optimiser::Sgd, rate);
        let failed = learner.meta_gradient(&machine, &start, &inner, mode).is_err();
        (failed, learner.first_not_finite(&machine, &start, &inner, mode).unwrap())
    };
    assert_eq!(found(RATE, Mode::Full), (false, None));
    // The first step is finite, and leads so far that scores are not.
    let (failed, astray) = found(1e200, Mode::Full);
    let Some(Astray { moment, found: spot }) = astray else { panic!("a loop went astray") };
    assert!(failed);
    assert_eq!(
        (moment, spot.quantity, spot.operation),
        (Moment::Step(1), Quantity::Value, Some("attention"))
    );
    assert_eq!(spot.to_string(), "the result of `attention` (value 9): 24 of 24 numbers are NaN or infinite");
    // θ itself is infinite.
    let (failed, astray) = found(f64::INFINITY, Mode::FirstOrder);
    let Some(Astray { moment, found: spot }) = astray else { panic!("a loop went astray") };
    assert!(failed);
    assert_eq!((moment, spot.parameter.as_deref()), (Moment::Step(1), Some("Wq")));
}

/// Losses of models of one parameter `w` behind data x: what the loop comes to on the query and on the way back.
#[test]
fn the_query_and_the_way_back_are_looked_at_too() {
    let loops = |support: (f64, f64), query: (f64, f64), mode| {
        let (machine, support, _) = one_row(support.0, 0.0, support.1);
        let (_, query, _) = one_row(query.0, 0.0, query.1);
        let mut learner = Learner::new(&machine, support, query, &["w"]).unwrap();
        let begin = Tensor::from_vec(vec![1e-3, 2e-3], [1, 1, 2, 1]).unwrap();
        let inner = Inner::new(2, Optimiser::Sgd, 0.1, 1);
        learner.first_not_finite(&machine, &[&begin], &inner, mode).unwrap()
    };
    let moment = |found: Option<Astray>| found.map(|astray| (astray.moment, astray.found.quantity));
    assert_eq!(moment(loops((0.7, 1.0), (0.9, 1.0), Mode::Full)), None);
    let far = loops((0.7, 1.0), (1e200, 1.0), Mode::Full);
    assert_eq!(moment(far), Some((Moment::Query, Quantity::Value)));
    // λ is 1e304 or so, γ a tenth of it, and what it moves ten million times as much.
    let steep = |mode| loops((1e7, 1e-14), (1.0, 1e307), mode);
    assert_eq!(moment(steep(Mode::FirstOrder)), None);
    assert_eq!(moment(steep(Mode::Full)), Some((Moment::Back(1), Quantity::Tangent)));
}

#[test]
fn groups_and_oracles_that_do_not_fit_are_said() {
    let machine = Cpu::new(Streaming::new());
    let mut learner = learner(&machine, &NAMES);
    let start = start();
    let start: Vec<&Tensor<f64>> = start.iter().collect();
    let inner = inner(Optimiser::Sgd, RATE);
    let unknown = learner.second_order_path(&machine, &start, &inner, &[("head", &["Wx"])]);
    assert!(matches!(&unknown, Err(Error::Unpaired { name, .. }) if name == "Wx"), "{unknown:?}");
    let few = learner.gradient_error(&machine, &start[1..]);
    assert!(matches!(few, Err(Error::Elements { given: 3, expected: 4, .. })), "{few:?}");
}
