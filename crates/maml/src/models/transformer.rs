//! A transformer: blocks of attention and of two layers, each after a normalisation and around which what came in goes.
//!
//! ```text
//! h ← h + Wo attention(Wq u, Wk u, Wv u) + bo       u = normalise(h)
//! h ← h + W2 gelu(W1 v + b1) + b2                    v = normalise(h)
//! ```
//!
//! Every product has a bias, as in GPT-2 (Radford et al., 2019).

use crate::Result;
use crate::graph::{Graph, ValueId};
use crate::machine::Machine;
use crate::operation::Heads;

/// Added to the variance of a row.
const EPSILON: f64 = 1e-5;

/// A transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transformer {
    /// Blocks.
    pub layers: usize,
    /// What all of them are made of.
    pub block: Block,
}

/// A block of a transformer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// Columns.
    pub width: usize,
    /// Columns between the two layers.
    pub hidden: usize,
    /// How attention reads rows and columns.
    pub heads: Heads,
}

/// A parameter of a model: its name, and how it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Begin {
    /// Its name.
    pub name: String,
    /// Its rows and columns.
    pub shape: (usize, usize),
    /// What normal numbers are multiplied by; 0 for a parameter that begins as `offset`.
    pub size: f64,
    /// What is added to them.
    pub offset: f64,
}

impl Transformer {
    /// Of `layers` blocks with hidden layers four times as wide.
    pub fn new(layers: usize, width: usize, heads: Heads) -> Self {
        Self { layers, block: Block { width, hidden: 4 * width, heads } }
    }

    /// What comes out of all blocks, normalised.
    pub fn on<M: Machine + 'static>(&self, graph: &mut Graph<M>, x: ValueId) -> Result<ValueId> {
        let mut h = x;
        for n in 0..self.layers {
            h = self.block.on(graph, h, &format!("block{n}."))?;
        }
        self.block.normalised(graph, h, "last.")
    }

    /// How every parameter begins: products by numbers whose variance is that of one over their rows.
    pub fn begin(&self) -> Vec<Begin> {
        let blocks = (0..self.layers).flat_map(|n| self.block.begin(&format!("block{n}.")));
        blocks.chain(self.block.normal("last.")).collect()
    }
}

impl Block {
    fn on<M: Machine + 'static>(&self, graph: &mut Graph<M>, h: ValueId, name: &str) -> Result<ValueId> {
        let Self { width, hidden, heads } = *self;
        let u = self.normalised(graph, h, &format!("{name}first."))?;
        let [q, k, v] = ["q", "k", "v"].map(|of| linear(graph, u, width, &format!("{name}{of}.")));
        let o = graph.attention(q?, k?, v?, heads)?;
        let [weight, bias] = parameters(graph, (width, width), &format!("{name}o."));
        let h = graph.linear_onto(h, o, weight, bias)?;
        let v = self.normalised(graph, h, &format!("{name}second."))?;
        let wide = linear(graph, v, hidden, &format!("{name}in."))?;
        let unit = graph.gelu(wide);
        let [weight, bias] = parameters(graph, (hidden, width), &format!("{name}out."));
        graph.linear_onto(h, unit, weight, bias)
    }

    fn normalised<M: Machine>(&self, graph: &mut Graph<M>, h: ValueId, name: &str) -> Result<ValueId> {
        let [gain, shift] =
            ["gain", "shift"].map(|of| graph.parameter(&format!("{name}{of}"), 1, self.width));
        graph.normalise(h, gain, shift, EPSILON)
    }

    fn begin(&self, name: &str) -> Vec<Begin> {
        let Self { width, hidden, .. } = *self;
        let square = ["q", "k", "v", "o"].map(|of| (of, (width, width)));
        let products = square.into_iter().chain([("in", (width, hidden)), ("out", (hidden, width))]);
        let of_product = |(of, (rows, columns)): (&str, (usize, usize))| {
            let size = (rows as f64).sqrt().recip();
            let weight =
                Begin { name: format!("{name}{of}.weight"), shape: (rows, columns), size, offset: 0.0 };
            [weight, Begin { name: format!("{name}{of}.bias"), shape: (1, columns), size: 0.0, offset: 0.0 }]
        };
        let products: Vec<Begin> = products.flat_map(of_product).collect();
        let normal = ["first.", "second."].map(|of| self.normal(&format!("{name}{of}")));
        products.into_iter().chain(normal.into_iter().flatten()).collect()
    }

    fn normal(&self, name: &str) -> [Begin; 2] {
        [("gain", 1.0), ("shift", 0.0)].map(|(of, offset)| Begin {
            name: format!("{name}{of}"),
            shape: (1, self.width),
            size: 0.0,
            offset,
        })
    }
}

/// A matrix and a bias.
fn parameters<M: Machine>(graph: &mut Graph<M>, (rows, columns): (usize, usize), name: &str) -> [ValueId; 2] {
    [("weight", rows), ("bias", 1)].map(|(of, rows)| graph.parameter(&format!("{name}{of}"), rows, columns))
}

/// Rows times a matrix, and a bias.
fn linear<M: Machine>(graph: &mut Graph<M>, x: ValueId, columns: usize, name: &str) -> Result<ValueId> {
    let rows = graph.shape(x).1;
    let [weight, bias] = parameters(graph, (rows, columns), name);
    graph.linear(x, weight, bias)
}
