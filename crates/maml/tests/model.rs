//! Every operation by every rule: gradients against differences of losses, products of the Hessian against differences
//! of gradients, in models that have all operations.

use theria_contract::Storage as _;
use theria_jvp_hvp::{Dense, Streaming};
use theria_maml::machine::TensorOf;
use theria_maml::operation::Heads;
use theria_maml::{Error, Graph, Host, Machine, Model, Plan, ValueId};

/// Numbers that no pattern of an operation meets.
fn wave(count: usize, seed: f64) -> Vec<f64> {
    (0..count).map(|n| ((n as f64 + 1.0) * (1.7 + seed)).sin()).collect()
}

/// A model with parameters, all of which have numbers.
struct Subject<M: Machine<Element = f64>> {
    machine: M,
    model: Model<M>,
    parameters: Vec<ValueId>,
}

type Cpu<A> = Host<A, f64>;

/// A small transformer: positions, layer normalisation, grouped causal attention whose values are its keys, residuals, a
/// unit, a mean over each sequence.
fn transformer<M: Machine<Element = f64> + 'static>(
    graph: &mut Graph<M>,
    unit: fn(&mut Graph<M>, ValueId) -> ValueId,
) -> (Vec<ValueId>, ValueId) {
    let (batch, length, width) = (2, 5, 6);
    let x = graph.parameter("x", batch * length, width);
    let positions = graph.parameter("positions", length, width);
    let (gain, shift) = (graph.parameter("gain", 1, width), graph.parameter("shift", 1, width));
    let (wq, wk) = (graph.parameter("wq", width, 8), graph.parameter("wk", width, 4));
    let (wo, bias) = (graph.parameter("wo", 8, width), graph.parameter("bias", 1, width));
    let placed = graph.sum(x, positions).unwrap();
    let normal = graph.normalise(placed, gain, shift, 1e-3).unwrap();
    let (q, k) = (graph.multiply(normal, wq).unwrap(), graph.multiply(normal, wk).unwrap());
    let heads = Heads { queries: 4, keys: 2, batch, causal: true };
    let o = graph.attention(q, k, k, heads).unwrap();
    let o = graph.multiply(o, wo).unwrap();
    let residual = graph.sum(placed, o).unwrap();
    let biased = graph.sum(residual, bias).unwrap();
    let made = unit(graph, biased);
    let mean = graph.mean(made, length).unwrap();
    (vec![x, positions, gain, shift, wq, wk, wo, bias], mean)
}

fn classified<A>(attention: A) -> Subject<Cpu<A>>
where
    A: theria_contract::Attention<f64, Storage = theria_contract::Host> + Sync + 'static,
{
    let machine = Cpu::new(attention);
    let mut graph = Graph::new();
    let (parameters, mean) = transformer(&mut graph, Graph::gelu);
    let classes = graph.input(2, 1);
    let loss = graph.cross_entropy(mean, classes, 0.5).unwrap();
    subject(machine, graph, loss, parameters, &[(classes, vec![4.0, 1.0])])
}

fn regressed() -> Subject<Cpu<Streaming>> {
    let machine = Cpu::new(Streaming::new());
    let mut graph = Graph::new();
    let (mut parameters, mean) = transformer(&mut graph, Graph::relu);
    let target = graph.parameter("target", 2, 6);
    parameters.push(target);
    let loss = graph.squared_error(mean, target, 0.25).unwrap();
    subject(machine, graph, loss, parameters, &[])
}

/// Embeddings: a table that is looked up twice, with rows that are picked more than once and one that is not, and whose
/// rows are read by attention and compared with others.
fn looked_up() -> Subject<Cpu<Streaming>> {
    let machine = Cpu::new(Streaming::new());
    let mut graph = Graph::new();
    let (table, other) = (graph.parameter("table", 7, 4), graph.parameter("other", 10, 4));
    let (numbers, answers) = (graph.input(10, 1), graph.input(10, 1));
    let words = graph.lookup(table, numbers).unwrap();
    let placed = graph.sum(words, other).unwrap();
    let read = graph.attention(placed, words, words, Heads { batch: 2, ..Heads::default() }).unwrap();
    let made = graph.gelu(read);
    let target = graph.lookup(table, answers).unwrap();
    let loss = graph.squared_error(made, target, 0.25).unwrap();
    let data = [
        (numbers, vec![3.0, 0.0, 3.0, 6.0, 1.0, 1.0, 4.0, 3.0, 0.0, 2.0]),
        (answers, vec![2.0, 2.0, 6.0, 0.0, 0.0, 3.0, 4.0, 4.0, 1.0, 2.0]),
    ];
    subject(machine, graph, loss, vec![table, other], &data)
}

fn subject<M: Machine<Element = f64>>(
    machine: M,
    graph: Graph<M>,
    loss: ValueId,
    parameters: Vec<ValueId>,
    data: &[(ValueId, Vec<f64>)],
) -> Subject<M> {
    let mut model = Model::new(&machine, graph, loss).unwrap();
    for (id, numbers) in data {
        model.write(&machine, *id, numbers).unwrap();
    }
    let mut subject = Subject { machine, model, parameters };
    subject.go(0.0, 0);
    subject
}

impl<M: Machine<Element = f64>> Subject<M> {
    /// Goes to the start, and from there so far along a direction.
    fn go(&mut self, far: f64, direction: usize) {
        for (n, id) in self.parameters.clone().into_iter().enumerate() {
            let (rows, columns) = self.model.shape(id);
            let along = self.direction(n, direction);
            let numbers = wave(rows * columns, n as f64)
                .iter()
                .zip(along)
                .map(|(x, d)| x + far * d)
                .collect::<Vec<_>>();
            self.model.write(&self.machine, id, &numbers).unwrap();
        }
    }

    fn direction(&self, n: usize, direction: usize) -> Vec<f64> {
        let (rows, columns) = self.model.shape(self.parameters[n]);
        wave(rows * columns, 20.3 * (direction as f64 + 1.0) + n as f64)
    }

    fn plan(&self) -> Plan {
        self.model.plan(&self.parameters, &self.parameters)
    }

    fn loss(&mut self, far: f64, direction: usize) -> f64 {
        self.go(far, direction);
        self.model.evaluate(&self.machine).unwrap();
        self.model.loss(&self.machine).unwrap()
    }

    fn numbers(&self, tensor: fn(&Model<M>, ValueId) -> Option<&TensorOf<M>>) -> Vec<f64> {
        let one = |id: &ValueId| {
            let view = M::Storage::view(tensor(&self.model, *id).unwrap());
            self.machine.storage().download(view).unwrap().data().to_vec()
        };
        self.parameters.iter().flat_map(one).collect()
    }

    fn gradient(&mut self, far: f64, direction: usize) -> Vec<f64> {
        self.go(far, direction);
        let plan = self.plan();
        self.model.gradient(&self.machine, &plan).unwrap();
        self.numbers(Model::gradient_of)
    }

    /// The Hessian times a direction, at the start.
    fn product(&mut self, direction: usize) -> Vec<f64> {
        self.go(0.0, direction);
        let plan = self.plan();
        for n in 0..self.parameters.len() {
            let along = self.direction(n, direction);
            self.model.write_direction(&self.machine, &plan, self.parameters[n], &along).unwrap();
        }
        self.model.gradient_tangent(&self.machine, &plan).unwrap();
        self.numbers(Model::gradient_tangent_of)
    }

    fn whole_direction(&self, direction: usize) -> Vec<f64> {
        (0..self.parameters.len()).flat_map(|n| self.direction(n, direction)).collect()
    }

    fn is_differentiated(&mut self) {
        let h = 1e-3;
        let fourth = |at: &mut dyn FnMut(f64) -> f64| {
            let mut slope = |h: f64| (at(h) - at(-h)) / (2.0 * h);
            (4.0 * slope(h) - slope(2.0 * h)) / 3.0
        };
        for direction in 0..3 {
            let given = dot(&self.gradient(0.0, direction), &self.whole_direction(direction));
            let expected = fourth(&mut |far| self.loss(far, direction));
            assert!(
                (given - expected).abs() < 1e-8 * expected.abs().max(1.0),
                "{direction}: {given} {expected}"
            );
            assert!((1.0001 * given - expected).abs() > 1e-6 * expected.abs(), "a little off is noticed");

            let product = self.product(direction);
            let other = self.whole_direction(direction + 5);
            let expected = fourth(&mut |far| dot(&self.gradient(far, direction), &other));
            let given = dot(&product, &other);
            assert!(
                (given - expected).abs() < 1e-8 * expected.abs().max(1.0),
                "{direction}: {given} {expected}"
            );
        }
        // The Hessian is symmetric.
        let (u, v) = (self.whole_direction(1), self.whole_direction(2));
        let (by_u, by_v) = (self.product(1), self.product(2));
        let (left, right) = (dot(&by_u, &v), dot(&by_v, &u));
        assert!((left - right).abs() <= 1e-12 * left.abs(), "{left} {right}");
        assert!(left.abs() > 1e-3, "a Hessian of zero is symmetric, too");
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

#[test]
fn gelu_and_cross_entropy_behind_streaming_attention() {
    classified(Streaming::new()).is_differentiated();
}

#[test]
fn gelu_and_cross_entropy_behind_dense_attention() {
    classified(Dense::new()).is_differentiated();
}

#[test]
fn relu_and_squared_error() {
    regressed().is_differentiated();
}

#[test]
fn lookups_of_a_table() {
    let mut subject = looked_up();
    subject.is_differentiated();
    // Row 5 is picked nowhere.
    for all in [subject.gradient(0.0, 0), subject.product(0)] {
        let rows: Vec<bool> = all[..28].chunks(4).map(|row| row.iter().any(|x| *x != 0.0)).collect();
        assert_eq!(rows, [true, true, true, true, true, false, true]);
    }
}

/// Derivatives of a wrong function may agree with each other: these are the functions. `target` is subtracted from what
/// is made, so the square of the difference is the loss.
#[test]
fn values_are_those_of_the_formulas() {
    type Make = fn(&mut Graph<Cpu<Streaming>>, [ValueId; 5]) -> ValueId;
    // 6 × 2, two rows, three rows that take turns, and a column of 6.
    let (x, row, shift) = (wave(12, 0.0), wave(2, 0.3), wave(2, 0.5));
    let (turns, column) = (wave(6, 0.9), wave(6, 1.4));
    let erf = |x: f64| {
        // Its series, which is exact enough for |x| ≤ 1.
        let term = |n: i32| {
            x.powi(2 * n + 1) / (f64::from(2 * n + 1) * (1..=n).map(|k| -f64::from(k)).product::<f64>())
        };
        std::f64::consts::FRAC_2_SQRT_PI * (0..25).map(term).sum::<f64>()
    };
    let normal = |i: usize| {
        let (a, b) = (x[2 * i], x[2 * i + 1]);
        let half = (a - b) / 2.0;
        let unit = half / (half * half + 0.01).sqrt();
        [row[0] * unit + shift[0], -row[1] * unit + shift[1]]
    };
    let means = |rows: usize, columns: usize, all: &[f64]| -> Vec<f64> {
        let mean = |n: usize| {
            let (group, column) = (n / columns, n % columns);
            (0..rows).map(|i| all[(group * rows + i) * columns + column]).sum::<f64>() / rows as f64
        };
        (0..all.len() / rows).map(mean).collect()
    };
    let cases: [(&str, Make, Vec<f64>); 10] = [
        ("a row", |g, [x, row, ..]| g.sum(x, row).unwrap(), (0..12).map(|n| x[n] + row[n % 2]).collect()),
        (
            "turns",
            |g, [x, _, _, turns, _]| g.sum(x, turns).unwrap(),
            (0..12).map(|n| x[n] + turns[n % 6]).collect(),
        ),
        ("twice", |g, [x, ..]| g.sum(x, x).unwrap(), x.iter().map(|x| 2.0 * x).collect()),
        ("mean of three", |g, [x, ..]| g.mean(x, 3).unwrap(), means(3, 2, &x)),
        ("mean of all", |g, [x, ..]| g.mean(x, 6).unwrap(), means(6, 2, &x)),
        ("mean of a column", |g, [.., column]| g.mean(column, 6).unwrap(), means(6, 1, &column)),
        ("mean of thirds of a column", |g, [.., column]| g.mean(column, 2).unwrap(), means(2, 1, &column)),
        ("relu", |g, [x, ..]| g.relu(x), x.iter().map(|x| x.max(0.0)).collect()),
        (
            "gelu",
            |g, [x, ..]| g.gelu(x),
            x.iter().map(|x| x * (1.0 + erf(x / 2.0_f64.sqrt())) / 2.0).collect(),
        ),
        (
            "normalised",
            |g, [x, row, shift, ..]| g.normalise(x, row, shift, 0.01).unwrap(),
            (0..6).flat_map(normal).collect(),
        ),
    ];
    for (name, make, expected) in cases {
        let machine = Cpu::new(Streaming::new());
        let mut graph = Graph::new();
        let inputs =
            [(6, 2), (1, 2), (1, 2), (3, 2), (6, 1)].map(|(rows, columns)| graph.input(rows, columns));
        let made = make(&mut graph, inputs);
        let (rows, columns) = graph.shape(made);
        let target = graph.input(rows, columns);
        let loss = graph.squared_error(made, target, 1.0).unwrap();
        graph.keep(made);
        let mut model = Model::new(&machine, graph, loss).unwrap();
        for (id, numbers) in inputs.iter().zip([&x, &row, &shift, &turns, &column]) {
            model.write(&machine, *id, numbers).unwrap();
        }
        model.write(&machine, target, &expected).unwrap();
        model.evaluate(&machine).unwrap();
        let off = model.loss(&machine).unwrap();
        assert!(off < 1e-28, "{name}: {:?} and not {expected:?}", model.tensor(made).unwrap().data());
        // And the loss is what it is said to be.
        model.write(&machine, target, &expected.iter().map(|y| y + 0.5).collect::<Vec<_>>()).unwrap();
        model.evaluate(&machine).unwrap();
        let halves = 0.25 * expected.len() as f64;
        assert!((model.loss(&machine).unwrap() - halves).abs() < 1e-13, "{name}");
    }
}

#[test]
fn cross_entropies_are_those_of_the_formula() {
    let machine = Cpu::new(Streaming::new());
    let mut graph = Graph::new();
    let (logits, classes) = (graph.input(3, 4), graph.input(3, 1));
    let loss = graph.cross_entropy(logits, classes, 0.5).unwrap();
    let mut model = Model::new(&machine, graph, loss).unwrap();
    // Beside large ones, which must not overflow.
    let numbers: Vec<f64> =
        wave(12, 0.2).iter().enumerate().map(|(n, x)| x + if n < 4 { 800.0 } else { 0.0 }).collect();
    let chosen = [1, 3, 0];
    model.write(&machine, logits, &numbers).unwrap();
    model.write(&machine, classes, &chosen.map(f64::from)).unwrap();
    model.evaluate(&machine).unwrap();
    let one = |(row, class): (&[f64], i32)| {
        let all: f64 = row.iter().map(|x| (x - row[class as usize]).exp()).sum();
        all.ln() / 2.0
    };
    let expected: f64 = numbers.chunks(4).zip(chosen).map(one).sum();
    let given = model.loss(&machine).unwrap();
    assert!((given - expected).abs() < 1e-13, "{given} {expected}");
}

/// A loss that is linear in a product with what does not move: the tangent of that cotangent is zero, and nobody writes it.
#[test]
fn a_product_with_what_does_not_move() {
    let machine = Cpu::new(Streaming::new());
    let mut graph = Graph::new();
    let (x, b) = (graph.parameter("x", 5, 3), graph.parameter("b", 3, 1));
    let unit = graph.gelu(x);
    let unit = graph.gelu(unit);
    let y = graph.multiply(unit, b).unwrap();
    let loss = graph.mean(y, 5).unwrap();
    let mut subject = subject(machine, graph, loss, vec![x], &[(b, vec![0.7, -1.3, 0.4])]);
    // Numbers of a plan in which it moves lie about.
    let plan = subject.model.plan(&[x], &[x, b]);
    for (value, count) in [(x, 15), (b, 3)] {
        subject.model.write_direction(&subject.machine, &plan, value, &vec![1.0; count]).unwrap();
    }
    subject.model.gradient_tangent(&subject.machine, &plan).unwrap();
    subject.is_differentiated();
}

#[test]
fn backends_of_attention_agree() {
    let (mut a, mut b) = (classified(Streaming::new()), classified(Dense::new()));
    for (a, b) in [(a.gradient(0.0, 0), b.gradient(0.0, 0)), (a.product(0), b.product(0))] {
        let difference: Vec<f64> = a.iter().zip(&b).map(|(a, b)| a - b).collect();
        assert!(dot(&difference, &difference).sqrt() < 1e-12 * dot(&a, &a).sqrt());
        assert_ne!(a, b, "two backends round otherwise");
    }
}

/// Every plan gives what the plan of everything gives.
#[test]
fn what_is_not_asked_for_changes_nothing() {
    let mut all = classified(Streaming::new());
    let whole = all.product(1);
    let mut from = 0;
    let starts: Vec<usize> = all
        .parameters
        .iter()
        .map(|id| {
            let (rows, columns) = all.model.shape(*id);
            from += rows * columns;
            from - rows * columns
        })
        .collect();
    for n in 0..all.parameters.len() {
        let mut one = classified(Streaming::new());
        one.product(1); // Numbers of another plan lie about.
        let plan = one.model.plan(&[one.parameters[n]], &one.parameters);
        one.go(0.0, 1);
        one.model.gradient_tangent(&one.machine, &plan).unwrap();
        let given = one.model.gradient_tangent_of(one.parameters[n]).unwrap().data().to_vec();
        let expected = &whole[starts[n]..starts[n] + given.len()];
        assert_eq!(given, expected, "{n}");
    }
}

#[test]
fn what_the_loss_does_not_depend_on_has_a_gradient_of_zero() {
    let machine = Cpu::new(Streaming::new());
    let mut graph = Graph::new();
    let (x, idle) = (graph.parameter("x", 3, 2), graph.parameter("idle", 2, 2));
    let target = graph.input(3, 2);
    let _unused = graph.multiply(x, idle).unwrap();
    let loss = graph.squared_error(x, target, 1.0).unwrap();
    let mut subject = subject(machine, graph, loss, vec![x, idle], &[(target, vec![0.0; 6])]);
    assert_eq!(subject.gradient(0.0, 0)[6..], [0.0; 4]);
    assert_eq!(subject.product(0)[6..], [0.0; 4]);
    assert_ne!(subject.product(0)[..6], [0.0; 6]);
}

#[test]
fn a_class_that_is_none_gives_no_loss() {
    for class in [6.0, -1.0, 0.5, f64::NAN] {
        let mut subject = classified(Streaming::new());
        let machine = Cpu::new(Streaming::new());
        let mut graph = Graph::new();
        let (x, classes) = (graph.parameter("x", 1, 6), graph.input(1, 1));
        let loss = graph.cross_entropy(x, classes, 1.0).unwrap();
        let mut model = Model::new(&machine, graph, loss).unwrap();
        model.write(&machine, classes, &[class]).unwrap();
        model.evaluate(&machine).unwrap();
        assert!(model.loss(&machine).unwrap().is_nan(), "{class}");
        assert!(subject.loss(0.0, 0).is_finite());
    }
}

#[test]
fn shapes_that_do_not_fit_are_said() {
    let mut graph: Graph<Cpu<Streaming>> = Graph::new();
    let (a, b) = (graph.parameter("a", 4, 3), graph.parameter("b", 4, 2));
    let heads = Heads::default();
    let refused = [
        graph.multiply(a, b),
        graph.sum(a, b),
        graph.mean(a, 3),
        graph.normalise(a, b, b, 1e-5),
        graph.squared_error(a, b, 1.0),
        graph.cross_entropy(a, b, 1.0),
        graph.lookup(a, b),
        graph.attention(a, b, b, heads),
        graph.attention(a, a, b, Heads { batch: 3, ..heads }),
        graph.attention(a, a, a, Heads { queries: 2, ..heads }),
    ];
    for refused in refused {
        assert!(matches!(refused, Err(Error::Shapes { .. })), "{refused:?}");
    }
    let machine = Cpu::new(Streaming::new());
    assert!(matches!(Model::new(&machine, graph, a), Err(Error::Shapes { operation: "loss", .. })));
}
