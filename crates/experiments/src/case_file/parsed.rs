//! A case file, validated once and for all.

use std::path::Path;

use safetensors::Dtype;
use theria_contract::{DType, Directions, Element, Problem, Qkv, Tensor};

use super::raw::{self, Container, Entry};
use super::{Case, CaseError, metadata, names};
use crate::backend::with_element;

/// A case file whose tensors fit together. [`load`](Self::load) types them.
#[derive(Debug)]
pub struct CaseFile {
    container: Container,
    problem: Problem,
    bias_rank: usize,
    key_lengths: Option<Tensor<i32>>,
}

impl CaseFile {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, CaseError> {
        Self::parse(raw::read(path)?)
    }

    /// Reads a file that is already in memory.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, CaseError> {
        let container = Container::parse(bytes)?;
        if let Some(name) = container.entries.keys().find(|name| names::case_tensor(name).is_none()) {
            return Err(CaseError::UnknownTensor { name: name.clone(), known: names::case_tensors() });
        }
        let required = |name| container.entries.get(name).ok_or(CaseError::MissingTensor { name });
        let (q, k, v) = (required("q")?, required("k")?, required("v")?);
        let dtype = floating("q", q)?;
        for name in names::FLOATING {
            let Some(entry) = container.entries.get(name) else { continue };
            match floating(name, entry)? {
                given if given != dtype => {
                    return Err(CaseError::MixedTypes { name, given, expected: dtype });
                }
                _ => {}
            }
        }
        let mut builder = Problem::for_qkv(
            dtype,
            four_axes("q", q, "the four axes [B, Hq, T, D]")?,
            four_axes("k", k, "the four axes [B, Hkv, M, D]")?,
            four_axes("v", v, "the four axes [B, Hkv, M, Dv]")?,
        );
        let mut bias_rank = 4;
        if let Some(entry) = container.entries.get("bias") {
            bias_rank = entry.shape.len();
            builder = builder.bias(broadcastable("bias", entry)?);
        }
        if let Some(entry) = container.entries.get(names::MASK) {
            if !matches!(entry.dtype, Dtype::BOOL | Dtype::U8) {
                return Err(element_type(names::MASK, entry, "BOOL or U8 (nonzero = visible)"));
            }
            builder = builder.mask(broadcastable(names::MASK, entry)?);
        }
        if container.entries.contains_key(names::KEY_LENGTHS) {
            builder = builder.key_lengths();
        }
        let problem = metadata::describe(builder, &container.metadata)?.build()?;
        let key_lengths = key_lengths(&container, &problem)?;
        companions(&container, &problem)?;
        Ok(Self { container, problem, bias_rank, key_lengths })
    }

    /// The problem, in the element type of the file.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// The tensors, rounded to `E` where the file has another type.
    pub fn load<E: Element>(&self) -> Result<Case<E>, CaseError> {
        let optional = |name: &str| -> Result<Option<Tensor<E>>, CaseError> {
            let Some(entry) = self.container.entries.get(name) else { return Ok(None) };
            self.tensor(entry).map(Some)
        };
        let required = |name| optional(name)?.ok_or(CaseError::MissingTensor { name });
        let mask = match self.container.entries.get(names::MASK) {
            None => None,
            Some(entry) => Some(Tensor::from_vec(self.container.elements(entry), padded(&entry.shape))?),
        };
        Ok(Case {
            problem: self.problem.with_dtype(E::DTYPE),
            operands: Qkv {
                q: required("q")?,
                k: required("k")?,
                v: required("v")?,
                bias: optional("bias")?,
            },
            bias_rank: self.bias_rank,
            mask,
            key_lengths: self.key_lengths.clone(),
            directions: Directions {
                q: optional("q_tangent")?,
                k: optional("k_tangent")?,
                v: optional("v_tangent")?,
                bias: optional("bias_tangent")?,
            },
            dout: optional("dout")?,
            dout_tangent: optional("dout_tangent")?,
        })
    }

    /// An error when a finite value of the file is infinite in `E`.
    pub fn fits<E: Element>(&self) -> Result<(), CaseError> {
        for name in names::FLOATING {
            let Some(entry) = self.container.entries.get(name) else { continue };
            let count = with_element!(self.problem.dtype(), F => {
                let overflows = |x: &&F| x.is_finite() && !E::from_f64(x.to_f64()).is_finite();
                self.container.elements::<F>(entry).iter().filter(overflows).count()
            });
            if count > 0 {
                return Err(CaseError::Overflow { name, count, dtype: E::DTYPE });
            }
        }
        Ok(())
    }

    fn tensor<E: Element>(&self, entry: &Entry) -> Result<Tensor<E>, CaseError> {
        let shape = padded(&entry.shape);
        let dtype = self.problem.dtype();
        if dtype == E::DTYPE {
            return Ok(Tensor::from_vec(self.container.elements(entry), shape)?);
        }
        Ok(with_element!(dtype, F => Tensor::<F>::from_vec(self.container.elements(entry), shape)?.cast()))
    }
}

fn element_type(name: &'static str, entry: &Entry, allowed: &'static str) -> CaseError {
    CaseError::ElementType { name, given: format!("{:?}", entry.dtype), allowed }
}

fn floating(name: &'static str, entry: &Entry) -> Result<DType, CaseError> {
    names::element_type(entry.dtype).ok_or_else(|| element_type(name, entry, "F64, F32, F16 or BF16"))
}

fn four_axes(name: &'static str, entry: &Entry, expected: &'static str) -> Result<[usize; 4], CaseError> {
    let shape = <[usize; 4]>::try_from(entry.shape.as_slice());
    shape.map_err(|_| CaseError::Rank { name, given: entry.shape.clone(), expected })
}

/// The shape with leading axes of length 1, as broadcasting reads it.
pub(super) fn padded(shape: &[usize]) -> [usize; 4] {
    let mut four = [1; 4];
    four[4 - shape.len()..].copy_from_slice(shape);
    four
}

fn broadcastable(name: &'static str, entry: &Entry) -> Result<[usize; 4], CaseError> {
    if entry.shape.len() > 4 {
        let expected = "at most four axes, which broadcast to [B, Hq, T, M]";
        return Err(CaseError::Rank { name, given: entry.shape.clone(), expected });
    }
    Ok(padded(&entry.shape))
}

fn key_lengths(container: &Container, problem: &Problem) -> Result<Option<Tensor<i32>>, CaseError> {
    let name = names::KEY_LENGTHS;
    let Some(entry) = container.entries.get(name) else { return Ok(None) };
    let lengths: Vec<i64> = match entry.dtype {
        Dtype::I32 => container.elements::<i32>(entry).into_iter().map(i64::from).collect(),
        Dtype::I64 => container.elements(entry),
        _ => return Err(element_type(name, entry, "I32 or I64")),
    };
    let shape = problem.shape();
    if entry.shape != [shape.batch] {
        return Err(CaseError::TensorShape { name, given: entry.shape.clone(), expected: vec![shape.batch] });
    }
    let m = shape.m;
    let checked = lengths.into_iter().enumerate().map(|(batch, given)| {
        usize::try_from(given)
            .ok()
            .filter(|length| *length <= m)
            .and_then(|length| i32::try_from(length).ok())
            .ok_or(CaseError::KeyLength { batch, given, m })
    });
    let lengths = checked.collect::<Result<Vec<i32>, CaseError>>()?;
    Ok(Some(Tensor::from_vec(lengths, shape.key_lengths())?))
}

/// Tangents and cotangents have the shapes of what they belong to, and it is there.
fn companions(container: &Container, problem: &Problem) -> Result<(), CaseError> {
    let has = |name: &str| container.entries.contains_key(name);
    for (name, needs) in [("bias_tangent", "bias"), ("dout_tangent", "dout")] {
        if has(name) && !has(needs) {
            return Err(CaseError::Without { name, needs });
        }
    }
    let output = problem.shape().output().to_vec();
    for (name, primal) in [
        ("q_tangent", Some("q")),
        ("k_tangent", Some("k")),
        ("v_tangent", Some("v")),
        ("bias_tangent", Some("bias")),
        ("dout", None),
        ("dout_tangent", None),
    ] {
        let Some(entry) = container.entries.get(name) else { continue };
        let expected = match primal {
            Some(primal) => &container.entries[primal].shape,
            None => &output,
        };
        if entry.shape != *expected {
            return Err(CaseError::TensorShape {
                name,
                given: entry.shape.clone(),
                expected: expected.clone(),
            });
        }
    }
    Ok(())
}
