//! Tasks that a model adapts to, on any machine: data, parameters and the loop.

use serde_json::Value;
use theria_maml::machine::TensorOf;
use theria_maml::meta::{Inner, Learner, Mode, Optimiser};
use theria_maml::models::Transformer;
use theria_maml::operation::Heads;
use theria_maml::{Graph, Machine, Model, Result, ValueId};

use crate::phase10::machines::{download, normal, of, upload};

/// Momentum, as the independent system had it.
pub const MOMENTUM: Optimiser = Optimiser::Momentum { decay: 0.9 };
/// Adam, as the independent system had it.
pub const ADAM: Optimiser = Optimiser::Adam { first: 0.9, second: 0.999, epsilon: 1e-3 };

/// A model and its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// One head of attention between four matrices: the task of the independent system.
    Head,
    /// A sequence classifier: attention, a mean over the sequence, logits.
    Classifier,
    /// A transformer of two layers and the mean of its squared errors.
    Transformer {
        /// Rows.
        tokens: usize,
        /// Columns.
        width: usize,
    },
}

/// A parameter: its name, its shape and where it begins.
struct Begin {
    name: String,
    shape: (usize, usize),
    numbers: Vec<f64>,
}

/// What an independent system found.
///
/// # Panics
/// If the file is none that was stored.
pub fn reference() -> Value {
    let text = include_str!("../../../crates/maml/tests/fixtures/maml_reference.json");
    serde_json::from_str(text).expect("the fixture is JSON")
}

/// All numbers of a part of it, one after the other.
pub fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(all) => all.iter().flat_map(numbers).collect(),
        other => vec![other.as_f64().unwrap_or(f64::NAN)],
    }
}

/// Sequences of the classifier, their length, and their columns.
const CLASSIFIED: (usize, usize, usize) = (12, 8, 6);
/// Its classes.
const CLASSES: usize = 4;

impl Task {
    /// What one of a list of four is called that the tests adapt where not everything is.
    pub const SOME: [&'static str; 2] = ["Wk", "Wo"];

    fn transformer(width: usize) -> Transformer {
        Transformer::new(2, width, Heads { queries: 2, keys: 2, ..Heads::default() })
    }

    fn begin(self) -> Vec<Begin> {
        let names = ["Wq", "Wk", "Wv", "Wo"];
        match self {
            Self::Head => {
                let fixture = reference();
                let shapes = [(5, 4), (5, 4), (5, 4), (4, 2)];
                let each = names.iter().zip(shapes).enumerate();
                let one = |(n, (name, shape)): (usize, (&&str, _))| Begin {
                    name: (*name).to_owned(),
                    shape,
                    numbers: numbers(&fixture["problem"]["theta"][n]),
                };
                each.map(one).collect()
            }
            Self::Classifier => {
                let (_, _, width) = CLASSIFIED;
                let shapes = [(width, 8), (width, 8), (width, 8), (8, CLASSES)];
                let each = names.iter().zip(shapes).enumerate();
                let one = |(n, (name, shape)): (usize, (&&str, (usize, usize)))| Begin {
                    name: (*name).to_owned(),
                    shape,
                    numbers: normal(200 + n as u32, shape.0 * shape.1, 0.4, 0.0),
                };
                each.map(one).collect()
            }
            Self::Transformer { width, .. } => {
                let begin = Self::transformer(width).begin();
                let one = |(n, begin): (usize, theria_maml::models::Begin)| {
                    let (rows, columns) = begin.shape;
                    // What begins at one number goes a little apart, so that no parameter is 0.
                    let size = if begin.size == 0.0 { 0.05 } else { begin.size };
                    let numbers = normal(300 + n as u32, rows * columns, size, begin.offset);
                    Begin { name: begin.name, shape: begin.shape, numbers }
                };
                begin.into_iter().enumerate().map(one).collect()
            }
        }
    }

    /// The loss, and the values of the data.
    fn graph<M: Machine + 'static>(self, graph: &mut Graph<M>) -> Result<(ValueId, [ValueId; 2])> {
        let square = |graph: &mut Graph<M>, x: ValueId, heads: Heads| {
            let all = self.begin();
            let theta: Vec<ValueId> =
                all.iter().map(|one| graph.parameter(&one.name, one.shape.0, one.shape.1)).collect();
            let (q, k) = (graph.multiply(x, theta[0])?, graph.multiply(x, theta[1])?);
            let v = graph.multiply(x, theta[2])?;
            let seen = graph.attention(q, k, v, heads)?;
            Ok::<_, theria_maml::Error>((seen, theta[3]))
        };
        match self {
            Self::Head => {
                let (x, target) = (graph.input(6, 5), graph.input(6, 2));
                let (seen, by) = square(graph, x, Heads::default())?;
                let y = graph.multiply(seen, by)?;
                Ok((graph.squared_error(y, target, 1.0 / 12.0)?, [x, target]))
            }
            Self::Classifier => {
                let (sequences, length, width) = CLASSIFIED;
                let (x, classes) = (graph.input(sequences * length, width), graph.input(sequences, 1));
                let heads = Heads { batch: sequences, ..Heads::default() };
                let (seen, by) = square(graph, x, heads)?;
                let mean = graph.mean(seen, length)?;
                let logits = graph.multiply(mean, by)?;
                Ok((graph.cross_entropy(logits, classes, 1.0 / sequences as f64)?, [x, classes]))
            }
            Self::Transformer { tokens, width } => {
                let (x, target) = (graph.input(tokens, width), graph.input(tokens, width));
                let y = Self::transformer(width).on(graph, x)?;
                Ok((graph.squared_error(y, target, 1.0 / (tokens * width) as f64)?, [x, target]))
            }
        }
    }

    fn data(self, query: bool) -> [Vec<f64>; 2] {
        let tag = if query { 110 } else { 100 };
        match self {
            Self::Head => {
                let fixture = reference();
                let of = if query { ["Xq", "Tq"] } else { ["Xs", "Ts"] };
                of.map(|name| numbers(&fixture["problem"][name]))
            }
            Self::Classifier => {
                let (sequences, length, width) = CLASSIFIED;
                let mut x = normal(tag, sequences * length * width, 1.0, 0.0);
                let class = |n: usize| (n * 5 + 1) % CLASSES;
                // Every sequence has a row or two of its class.
                for (n, sequence) in x.chunks_mut(length * width).enumerate() {
                    sequence[(n % length) * width + class(n)] += 3.0;
                    sequence[((n + 3) % length) * width + class(n)] += 2.0;
                }
                [x, (0..sequences).map(|n| class(n) as f64).collect()]
            }
            Self::Transformer { tokens, width } => {
                [tag, tag + 1].map(|tag| normal(tag, tokens * width, 1.0, 0.0))
            }
        }
    }

    /// The model of the task's own data, or that of the query.
    pub fn model<M: Machine + 'static>(self, machine: &M, query: bool) -> Result<Model<M>> {
        let mut graph = Graph::new();
        let (loss, data) = self.graph(&mut graph)?;
        let mut model = Model::new(machine, graph, loss)?;
        for (value, numbers) in data.into_iter().zip(self.data(query)) {
            model.write(machine, value, &of(&numbers))?;
        }
        Ok(model)
    }

    /// The names of its parameters.
    pub fn names(self) -> Vec<String> {
        self.begin().into_iter().map(|begin| begin.name).collect()
    }

    /// The numbers that a parameter begins with; factors of rates differ from each other.
    pub fn numbers(self, name: &str) -> (Vec<f64>, (usize, usize)) {
        let (of_rates, plain) = name.strip_prefix("rate of ").map_or((false, name), |of| (true, of));
        let found = self.begin().into_iter().find(|begin| begin.name == plain);
        let (numbers, shape) = found.map(|begin| (begin.numbers, begin.shape)).unwrap_or_default();
        let factors = || (0..numbers.len()).map(|n| 1.0 + 0.6 * (1.3 * n as f64).sin()).collect();
        (if of_rates { factors() } else { numbers }, shape)
    }
}

/// Everything that a learner says of a loop.
#[derive(Clone, Debug)]
pub struct Said {
    /// The losses before and after.
    pub losses: [f64; 2],
    /// The gradients, in the order of the learner's names.
    pub gradients: Vec<f64>,
    /// Those of the rates.
    pub rates: Vec<f64>,
}

impl Said {
    /// All numbers.
    pub fn numbers(&self) -> Vec<f64> {
        [&self.losses[..], &self.gradients, &self.rates].concat()
    }
}

/// A learner of a task, and where its loops begin.
pub struct Loop<M: Machine> {
    learner: Learner<M>,
    start: Vec<TensorOf<M>>,
    adapted: usize,
}

impl<M: Machine + 'static> Loop<M> {
    /// One that adapts everything.
    pub fn new(machine: &M, task: Task) -> Result<Self> {
        let names = task.names();
        Self::adapting(machine, task, &names.iter().map(String::as_str).collect::<Vec<_>>(), false)
    }

    /// One that adapts some parameters, with rates for all their elements or with one each.
    pub fn adapting(machine: &M, task: Task, adapted: &[&str], of_elements: bool) -> Result<Self> {
        let (support, query) = (task.model(machine, false)?, task.model(machine, true)?);
        let learner = Learner::new(machine, support, query, adapted)?;
        let learner = if of_elements { learner.with_element_rates(machine)? } else { learner };
        let names: Vec<String> = learner.names().map(str::to_owned).collect();
        let tensor = |name: &String| {
            let (numbers, shape) = task.numbers(name);
            upload(machine, &numbers, shape)
        };
        let start = names.iter().map(tensor).collect::<Result<_>>()?;
        Ok(Self { learner, start, adapted: adapted.len() })
    }

    /// One with rates for all elements of what it adapts, each of them that of its parameter.
    pub fn of_each_element(machine: &M, task: Task, adapted: &[&str]) -> Result<Self> {
        let made = Self::adapting(machine, task, adapted, true)?;
        let names: Vec<String> = made.learner.names().map(str::to_owned).collect();
        let ones = |(name, tensor): (&String, TensorOf<M>)| {
            let (numbers, shape) = task.numbers(name);
            if name.starts_with("rate of ") {
                upload(machine, &vec![1.0; numbers.len()], shape)
            } else {
                Ok(tensor)
            }
        };
        Ok(Self { start: names.iter().zip(made.start).map(ones).collect::<Result<_>>()?, ..made })
    }

    /// What the gradient of each rate is the sum of: the absolute numbers of its terms, added up. A loop that is gone by it
    /// has one rate for each element.
    pub fn terms_of_rates(&mut self, machine: &M, inner: &Inner) -> Result<Vec<f64>> {
        let said = self.say(machine, inner, Mode::Full)?;
        let names: Vec<String> = self.learner.names().map(str::to_owned).collect();
        let (mut at, mut sums) = (0, Vec::new());
        for (name, tensor) in names.iter().zip(&self.start) {
            let numbers = download(machine, tensor)?;
            let gradients = &said.gradients[at..at + numbers.len()];
            if name.starts_with("rate of ") {
                let rate = inner.rates[sums.len()];
                sums.push(numbers.iter().zip(gradients).map(|(factor, g)| (factor * g / rate).abs()).sum());
            }
            at += numbers.len();
        }
        Ok(sums)
    }

    /// A loop of as many steps.
    pub fn inner(&self, steps: usize, optimiser: Optimiser, rate: f64) -> Inner {
        Inner::new(steps, optimiser, rate, self.adapted).learning_rates()
    }

    /// What the learner says.
    pub fn say(&mut self, machine: &M, inner: &Inner, mode: Mode) -> Result<Said> {
        let start: Vec<_> = self.start.iter().collect();
        let adapted = self.learner.meta_gradient(machine, &start, inner, mode)?;
        let mut gradients = Vec::new();
        for tensor in self.learner.gradients() {
            gradients.extend(download(machine, tensor)?);
        }
        let rates = self.learner.rate_gradients().to_vec();
        Ok(Said { losses: [adapted.before, adapted.after], gradients, rates })
    }

    /// |FULL - FO| / |FULL|.
    pub fn path(&mut self, machine: &M, inner: &Inner) -> Result<f64> {
        let start: Vec<_> = self.start.iter().collect();
        Ok(self.learner.second_order_path(machine, &start, inner, &[])?.rel_diff())
    }
}
