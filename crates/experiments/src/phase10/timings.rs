//! Time and bytes of a whole meta-gradient: one head on the CPU, a transformer on the device.

use std::process::Command;
use std::time::Instant;

use theria_contract::Element;
use theria_maml::meta::{Inner, Learner, Mode, Optimiser};
use theria_maml::models::{Begin as Beginning, Transformer};
use theria_maml::operation::Heads;
use theria_maml::tasks::Stream;
use theria_maml::{Graph, Machine, Model, Result as Learned, ValueId};

use super::workload::{Begin, Workload, error, same_bits};
use super::{Origin, Part, Result, Row, Subject, Verdict, memory};
use crate::bench::{Method, Times};
use crate::maml::Visit;

/// One head between four matrices, as wide as its rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Head {
    pub(super) tokens: usize,
    pub(super) width: usize,
    pub(super) steps: usize,
}

/// A transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Deep {
    tokens: usize,
    steps: usize,
    layers: usize,
    width: usize,
    heads: usize,
}

/// What is measured on the CPU.
pub(super) const HEADS: [Head; 2] =
    [Head { tokens: 64, width: 32, steps: 5 }, Head { tokens: 256, width: 64, steps: 20 }];

impl Deep {
    /// Small enough for an oracle on the host.
    pub(super) const SMALL: Self = Self { tokens: 48, steps: 3, layers: 2, width: 64, heads: 2 };
    /// What is measured on a device.
    pub(super) const LARGE: Self = Self { tokens: 2048, steps: 5, layers: 4, width: 512, heads: 8 };

    fn transformer(&self) -> Transformer {
        let heads = Heads { queries: self.heads, keys: self.heads, ..Heads::default() };
        Transformer::new(self.layers, self.width, heads)
    }

    /// As the script of the peers takes it.
    pub(super) fn numbers(&self) -> [usize; 5] {
        [self.tokens, self.steps, self.layers, self.width, self.heads]
    }

    /// What a row says of it.
    pub(super) fn described(&self, row: Row) -> Row {
        let Self { tokens, steps, layers, width, heads } = self;
        let shape = format!("{tokens} tokens, {layers} layers of {width}, {heads} heads");
        row.with("shape", shape).with("steps", *steps)
    }
}

/// What is differentiated.
#[derive(Clone, Copy, Debug)]
pub(super) enum Subjected {
    Head(Head),
    Deep(Deep),
}

const MATRICES: [&str; 4] = ["Wq", "Wk", "Wv", "Wo"];

fn normal(seed: u32, count: usize, size: f64, offset: f64) -> Vec<f64> {
    let mut stream = Stream::new(7, 0, seed);
    (0..count).map(|_| offset + size * stream.normal()).collect()
}

impl Subjected {
    fn described(&self, row: Row) -> Row {
        match self {
            Self::Head(Head { tokens, width, steps }) => {
                row.with("shape", format!("{tokens} tokens, one head of {width}")).with("steps", *steps)
            }
            Self::Deep(deep) => deep.described(row),
        }
    }

    fn inner(&self, parameters: usize) -> Inner {
        let (steps, rate) = match self {
            Self::Head(head) => (head.steps, 0.1),
            Self::Deep(deep) => (deep.steps, 0.05),
        };
        Inner::new(steps, Optimiser::Sgd, rate, parameters)
    }

    fn begin(&self) -> Vec<Beginning> {
        match self {
            Self::Head(Head { width, .. }) => {
                let (shape, size) = ((*width, *width), (*width as f64).sqrt().recip());
                let begin = |name: &str| Beginning { name: name.to_owned(), shape, size, offset: 0.0 };
                MATRICES.iter().map(|name| begin(name)).collect()
            }
            Self::Deep(deep) => deep.transformer().begin(),
        }
    }

    fn graph<M: Machine + 'static>(&self, graph: &mut Graph<M>, x: ValueId) -> Learned<ValueId> {
        match self {
            Self::Head(Head { width, .. }) => {
                let [wq, wk, wv, wo] = MATRICES.map(|name| graph.parameter(name, *width, *width));
                let (q, k, v) = (graph.multiply(x, wq)?, graph.multiply(x, wk)?, graph.multiply(x, wv)?);
                let o = graph.attention(q, k, v, Heads::default())?;
                graph.multiply(o, wo)
            }
            Self::Deep(deep) => deep.transformer().on(graph, x),
        }
    }

    /// The model and the mean of its squared errors.
    fn model<M: Machine + 'static>(&self, machine: &M, seed: u32) -> Learned<Model<M>> {
        let (tokens, width) = match self {
            Self::Head(head) => (head.tokens, head.width),
            Self::Deep(deep) => (deep.tokens, deep.width),
        };
        let mut graph = Graph::new();
        let (x, target) = (graph.input(tokens, width), graph.input(tokens, width));
        let y = self.graph(&mut graph, x)?;
        let loss = graph.squared_error(y, target, 1.0 / (tokens * width) as f64)?;
        let mut model = Model::new(machine, graph, loss)?;
        for (place, seed) in [(x, seed), (target, seed + 1)] {
            let numbers = normal(seed, tokens * width, 1.0, 0.0);
            model.write(
                machine,
                place,
                &numbers.into_iter().map(M::Element::from_f64).collect::<Vec<_>>(),
            )?;
        }
        Ok(model)
    }

    fn workload<M: Machine + 'static>(&self, machine: &M) -> Learned<Workload<M>> {
        let begin = self.begin();
        let names: Vec<&str> = begin.iter().map(|begin| begin.name.as_str()).collect();
        let learner = Learner::new(machine, self.model(machine, 1)?, self.model(machine, 3)?, &names)?;
        let numbers = |(n, begin): (usize, &Beginning)| {
            normal(100 + n as u32, begin.shape.0 * begin.shape.1, begin.size, begin.offset)
        };
        let all: Vec<Begin<'_>> = begin
            .iter()
            .enumerate()
            .map(|at| Begin { name: &at.1.name, shape: at.1.shape, numbers: numbers(at) })
            .collect();
        Workload::new(machine, learner, &all)
    }
}

/// What was found of a meta-gradient.
pub(super) struct Found {
    gradient: Vec<f64>,
    times: Times,
    bytes: Option<i64>,
    same_bits: bool,
}

/// A meta-gradient that is timed on a machine.
struct Timed {
    what: Subjected,
    runs: usize,
    is_cuda: bool,
}

impl Visit for Timed {
    type Output = Learned<Found>;

    fn visit<M: Machine + 'static>(self, machine: &M) -> Self::Output {
        let inner = self.what.inner(self.what.begin().len());
        // Once as it is, which makes all memory; once to be recorded, where that is done.
        let (made, bytes) = memory::held(self.is_cuda, || -> Learned<Workload<M>> {
            let mut workload = self.what.workload(machine)?;
            (0..2).try_for_each(|_| workload.run(machine, &inner, Mode::Full))?;
            Ok(workload)
        });
        let mut workload = made?;
        let first = workload.gradient(machine, &inner, Mode::Full)?;
        let mut samples = Vec::with_capacity(self.runs);
        for _ in 0..self.runs {
            let now = Instant::now();
            workload.run(machine, &inner, Mode::Full)?;
            // The loss was waited for; the gradients are waited for here.
            workload.learner.gradients().next().map(|tensor| machine.sum(tensor)).transpose()?;
            samples.push(now.elapsed());
        }
        let gradient = workload.gradient(machine, &inner, Mode::Full)?;
        let same_bits = same_bits(&first, &gradient);
        Ok(Found { gradient, times: Times::new(Method::Clock, &samples), bytes, same_bits })
    }
}

/// Gradients that others are held against, and what they were made with.
pub(super) struct Oracle {
    name: String,
    gradient: Vec<f64>,
}

/// That of the reference, on the host.
pub(super) fn reference(what: Subjected) -> Result<Oracle> {
    let found = Subject::REFERENCE.visit(Timed { what, runs: 0, is_cuda: false })??;
    let name = format!("{} {}", Subject::REFERENCE.name(), Subject::REFERENCE.dtype);
    Ok(Oracle { name, gradient: found.gradient })
}

/// A row of a subject, held against an oracle if there is one. What was found may be one for the next.
pub(super) fn row(
    subject: Subject,
    what: Subjected,
    runs: usize,
    oracle: Option<&Oracle>,
    origin: &Origin,
) -> Result<(Row, Option<Oracle>)> {
    let row = what.described(Row::new(Part::Timings, subject, origin)).with("peer", false);
    let row = row.with("inner_rate", what.inner(1).rates.first().copied());
    let found = match subject.visit(Timed { what, runs, is_cuda: subject.is_cuda() })? {
        Ok(found) => found,
        Err(reason) => {
            let row = row.with("reason", reason.to_string()).with("finite", false);
            return Ok((row.judged(Verdict::Failed, Verdict::Passed), None));
        }
    };
    let bytes = match what {
        Subjected::Deep(Deep::LARGE) if subject.is_cuda() => in_a_process_of_its_own(subject),
        // Its pool has memory left of what was measured before, which nobody sees being taken.
        _ if subject.is_cuda() => None,
        _ => found.bytes,
    };
    let off = oracle.map(|oracle| error(&found.gradient, &oracle.gradient));
    let bound = oracle.map(|_| subject.bound() * (what.inner(1).steps as f64).sqrt());
    let finite = found.gradient.iter().all(|x| x.is_finite());
    let within = off.zip(bound).is_none_or(|(off, bound)| off <= bound);
    let row = row
        .with("oracle", oracle.map(|oracle| oracle.name.clone()))
        .with("error", off)
        .with("bound", bound)
        .with("time_median_us", found.times.percentile(0.5))
        .with("time_p90_us", found.times.percentile(0.9))
        .with("runs", found.times.count())
        .with("bytes", bytes)
        .with("same_bits", found.same_bits)
        .with("finite", finite);
    let row = if oracle.is_some() || !finite {
        row.judged(Verdict::of(within && finite), Verdict::Passed)
    } else {
        row
    };
    let name = format!("{} {}", subject.name(), subject.dtype);
    Ok((row, Some(Oracle { name, gradient: found.gradient })))
}

/// Bytes that the large transformer holds on this machine of a device, if nothing was done on it before.
pub(super) fn bytes_of_large(subject: Subject) -> Result<Option<i64>> {
    let timed = Timed { what: Subjected::Deep(Deep::LARGE), runs: 0, is_cuda: subject.is_cuda() };
    Ok(subject.visit(timed)??.bytes)
}

/// The same, asked of the program itself: a device keeps the memory of a process for its next work, so only a process that
/// did nothing else can say. None where the program is another one.
fn in_a_process_of_its_own(subject: Subject) -> Option<i64> {
    let of = format!("{}:{}", subject.name(), subject.dtype);
    let program = std::env::current_exe().ok()?;
    let output = Command::new(program).args(["experiment", "phase10", "--bytes-of", &of]).output().ok()?;
    String::from_utf8(output.stdout).ok()?.trim().parse().ok()
}
