//! A model under construction, and how its parameters begin.

use theria_contract::{Element, Tensor};
use theria_maml::tasks::Stream;
use theria_maml::{Graph, Machine, Result, ValueId};

/// A parameter, and how it begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Parameter {
    /// Its name.
    pub name: &'static str,
    /// Its rows.
    pub rows: usize,
    /// Its columns.
    pub columns: usize,
    /// The mean of its numbers.
    pub mean: f64,
    /// Their standard deviation.
    pub deviation: f64,
}

impl Parameter {
    /// How it begins under a seed, as number `n` of the parameters of a model.
    pub fn begin<E: Element>(&self, seed: u64, n: usize) -> Result<Tensor<E>> {
        let mut stream = Stream::new(seed, 0, n as u32);
        let draw = |_| E::from_f64(self.mean + self.deviation * stream.normal());
        Ok(Tensor::from_fn([1, 1, self.rows, self.columns], draw)?)
    }
}

/// A graph under construction, with the parameters that it was given.
#[derive(Debug)]
pub struct Draft<M: Machine> {
    /// The graph.
    pub graph: Graph<M>,
    parameters: Vec<Parameter>,
}

impl<M: Machine> Default for Draft<M> {
    fn default() -> Self {
        Self { graph: Graph::new(), parameters: Vec::new() }
    }
}

impl<M: Machine> Draft<M> {
    /// The graph and its parameters, in the order in which they were made.
    pub fn into_parts(self) -> (Graph<M>, Vec<Parameter>) {
        (self.graph, self.parameters)
    }

    fn parameter(&mut self, parameter: Parameter) -> ValueId {
        let value = self.graph.parameter(parameter.name, parameter.rows, parameter.columns);
        self.parameters.push(parameter);
        value
    }

    /// A parameter that begins with normal numbers of this deviation.
    pub fn normal(&mut self, name: &'static str, (rows, columns): (usize, usize), deviation: f64) -> ValueId {
        self.parameter(Parameter { name, rows, columns, mean: 0.0, deviation })
    }

    /// A row that begins with one number everywhere.
    pub fn constant(&mut self, name: &'static str, columns: usize, value: f64) -> ValueId {
        self.parameter(Parameter { name, rows: 1, columns, mean: value, deviation: 0.0 })
    }

    /// A matrix that begins with columns of length 1, nearly.
    pub fn matrix(&mut self, name: &'static str, rows: usize, columns: usize) -> ValueId {
        self.normal(name, (rows, columns), (rows.max(1) as f64).sqrt().recip())
    }

    /// `x W`, with a matrix of so many columns.
    pub fn project(&mut self, x: ValueId, name: &'static str, columns: usize) -> Result<ValueId> {
        let rows = self.graph.shape(x).1;
        let weights = self.matrix(name, rows, columns);
        self.graph.multiply(x, weights)
    }

    /// `x W + b`, the bias being zero at first.
    pub fn linear(
        &mut self,
        x: ValueId,
        [weights, bias]: [&'static str; 2],
        columns: usize,
    ) -> Result<ValueId> {
        let y = self.project(x, weights, columns)?;
        let bias = self.constant(bias, columns, 0.0);
        self.graph.sum(y, bias)
    }

    /// Layer normalisation, with a gain of 1 and no shift at first.
    pub fn normalise(&mut self, x: ValueId, [gain, shift]: [&'static str; 2]) -> Result<ValueId> {
        let columns = self.graph.shape(x).1;
        let (gain, shift) = (self.constant(gain, columns, 1.0), self.constant(shift, columns, 0.0));
        self.graph.normalise(x, gain, shift, 1e-5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_begins_as_seed_and_number_say() {
        let parameter = Parameter { name: "w", rows: 40, columns: 50, mean: 1.0, deviation: 0.5 };
        let begin = |seed, n| parameter.begin::<f64>(seed, n).unwrap().into_vec();
        let numbers = begin(3, 1);
        assert_eq!(numbers, begin(3, 1));
        assert!(numbers != begin(4, 1) && numbers != begin(3, 2));
        let mean = numbers.iter().sum::<f64>() / 2000.0;
        let variance = numbers.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 2000.0;
        // Five standard errors.
        assert!((mean - 1.0).abs() < 5.0 * 0.5 / 2000_f64.sqrt(), "{mean}");
        assert!((variance / 0.25 - 1.0).abs() < 5.0 * (2.0 / 2000_f64).sqrt(), "{variance}");
    }
}
