//! The tensors of a case, typed.

use std::path::Path;

use theria_contract::judge::{Magnitudes, rms};
use theria_contract::{Directions, Element, Problem, Qkv, Rule, Tensor};
use theria_jvp_hvp::proof::Samples;

use super::{CaseError, CaseFile, Destination, FileTensor, encode, metadata};

/// A problem and its data. [`CaseFile::load`] makes one from a file, [`Case::random`] from nothing,
/// and its fields are open, so a program can make its own.
#[derive(Clone, Debug)]
pub struct Case<E: Element> {
    /// What is asked.
    pub problem: Problem,
    /// Queries, keys, values, and the bias if the problem has one.
    pub operands: Qkv<Tensor<E>>,
    /// How many axes the bias has in its file; results give its gradient the same number.
    pub bias_rank: usize,
    /// Nonzero = visible.
    pub mask: Option<Tensor<u8>>,
    /// `[1, 1, 1, B]`.
    pub key_lengths: Option<Tensor<i32>>,
    /// The direction of the JVP and of the second order; what is absent is zero.
    pub directions: Directions<Tensor<E>>,
    /// The cotangent of the output.
    pub dout: Option<Tensor<E>>,
    /// Its tangent; zero when absent.
    pub dout_tangent: Option<Tensor<E>>,
}

/// The operands that a rule lacks, as a phrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missing(pub &'static str);

impl<E: Element> Case<E> {
    /// A case with everything that the problem can have, drawn from a seed: operands and directions
    /// of unit variance, a mask with three of four keys visible, lengths from one key to all.
    pub fn random(problem: &Problem, seed: u64) -> Result<Self, CaseError> {
        let shape = problem.shape();
        let draw = |stream, shape| Samples::new(seed, stream).tensor::<E>(shape);
        let bias = |stream| problem.bias().map(|shape| draw(stream, shape)).transpose();
        let mut choices = Samples::new(seed, 20);
        let mask = |shape| Tensor::from_fn(shape, |_| u8::from(choices.below(4) > 0));
        let mask = problem.mask().map(mask).transpose()?;
        let length = |_| if shape.m == 0 { 0 } else { 1 + choices.below(shape.m as u64) as i32 };
        let key_lengths =
            problem.key_lengths().then(|| Tensor::from_fn(shape.key_lengths(), length)).transpose()?;
        Ok(Self {
            problem: problem.with_dtype(E::DTYPE),
            operands: Qkv {
                q: draw(0, shape.q())?,
                k: draw(1, shape.k())?,
                v: draw(2, shape.v())?,
                bias: bias(3)?,
            },
            bias_rank: 4,
            mask,
            key_lengths,
            directions: Directions {
                q: Some(draw(4, shape.q())?),
                k: Some(draw(5, shape.k())?),
                v: Some(draw(6, shape.v())?),
                bias: bias(7)?,
            },
            dout: Some(draw(8, shape.output())?),
            dout_tangent: Some(draw(9, shape.output())?),
        })
    }

    /// What a rule lacks here, if it lacks anything.
    pub fn missing_for(&self, rule: Rule) -> Option<Missing> {
        let directions = &self.directions;
        let direction =
            [&directions.q, &directions.k, &directions.v, &directions.bias].iter().any(|x| x.is_some());
        match rule {
            Rule::Forward => None,
            Rule::Backward => self.dout.is_none().then_some(Missing("dout")),
            Rule::Jvp => (!direction)
                .then_some(Missing("a direction (q_tangent, k_tangent, v_tangent or bias_tangent)")),
            Rule::SecondOrder if self.dout.is_none() => Some(Missing("dout")),
            Rule::SecondOrder => (!direction && self.dout_tangent.is_none()).then_some(Missing(
                "a direction (q_tangent, k_tangent, v_tangent, bias_tangent or dout_tangent)",
            )),
        }
    }

    /// The same case in binary64.
    pub fn widen(&self) -> Case<f64> {
        let directions = &self.directions;
        let wide = |tensor: &Option<Tensor<E>>| tensor.as_ref().map(Tensor::cast);
        Case {
            problem: self.problem.with_dtype(f64::DTYPE),
            operands: self.operands.as_ref().map(Tensor::cast),
            bias_rank: self.bias_rank,
            mask: self.mask.clone(),
            key_lengths: self.key_lengths.clone(),
            directions: Directions {
                q: wide(&directions.q),
                k: wide(&directions.k),
                v: wide(&directions.v),
                bias: wide(&directions.bias),
            },
            dout: wide(&self.dout),
            dout_tangent: wide(&self.dout_tangent),
        }
    }

    /// Root mean squares of the operands and of the reference output, for the judge.
    pub fn magnitudes(&self, out: &Tensor<f64>) -> Magnitudes {
        let v = rms(self.operands.v.view());
        let size = |tensor: &Option<Tensor<E>>| tensor.as_ref().map_or(0.0, |tensor| rms(tensor.view()));
        Magnitudes {
            q: rms(self.operands.q.view()),
            k: rms(self.operands.k.view()),
            v,
            dout: size(&self.dout),
            q_tangent: size(&self.directions.q),
            k_tangent: size(&self.directions.k),
            v_tangent: size(&self.directions.v),
            bias_tangent: size(&self.directions.bias),
            dout_tangent: size(&self.dout_tangent),
            concentration: Magnitudes::concentration_of(rms(out.view()), v),
        }
    }

    /// The bytes of a case file. An error when the tensors do not make a case.
    pub fn to_bytes(&self) -> Result<Vec<u8>, CaseError> {
        let floating = [
            ("q", Some(&self.operands.q)),
            ("k", Some(&self.operands.k)),
            ("v", Some(&self.operands.v)),
            ("bias", self.operands.bias.as_ref()),
            ("dout", self.dout.as_ref()),
            ("q_tangent", self.directions.q.as_ref()),
            ("k_tangent", self.directions.k.as_ref()),
            ("v_tangent", self.directions.v.as_ref()),
            ("bias_tangent", self.directions.bias.as_ref()),
            ("dout_tangent", self.dout_tangent.as_ref()),
        ];
        let mut tensors: Vec<FileTensor> = floating
            .into_iter()
            .filter_map(|(name, tensor)| {
                let rank = if name.starts_with("bias") { self.bias_rank } else { 4 };
                Some(FileTensor::floating(name, tensor?, rank))
            })
            .collect();
        tensors.extend(self.mask.as_ref().map(FileTensor::mask));
        tensors.extend(self.key_lengths.as_ref().map(FileTensor::key_lengths));
        let bytes = encode(&tensors, &metadata::of(&self.problem));
        // What is written can be read: the loader is the one place that knows what a case is.
        let read = CaseFile::parse(bytes.clone())?;
        if *read.problem() != self.problem {
            let declared = |name, given: Option<[usize; 4]>, stated: Option<[usize; 4]>| {
                (given != stated)
                    .then_some(theria_contract::Error::Presence { name, declared: stated.is_some() })
            };
            let problem = read.problem();
            return Err(declared("bias", problem.bias(), self.problem.bias())
                .or_else(|| declared("mask", problem.mask(), self.problem.mask()))
                .or_else(|| {
                    let shape = |has: bool| has.then_some([1; 4]);
                    declared("key_lengths", shape(problem.key_lengths()), shape(self.problem.key_lengths()))
                })
                .unwrap_or(theria_contract::Error::Shape {
                    name: "q",
                    given: problem.shape().q(),
                    expected: self.problem.shape().q(),
                })
                .into());
        }
        Ok(bytes)
    }

    /// Writes a case file, whole or not at all.
    pub fn write(&self, path: &Path) -> Result<(), CaseError> {
        let bytes = self.to_bytes()?;
        Destination::open(path)?.commit(&bytes)
    }
}
