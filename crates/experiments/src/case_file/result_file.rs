//! Result files: ours to write, anybody's to read.

use std::collections::BTreeMap;
use std::path::Path;

use theria_contract::judge::{self, Comparison, Output};
use theria_contract::{DType, Element, Rule, Tensor};

use super::raw::{self, Container, Entry};
use super::{CaseError, FileTensor, encode, names};
use crate::backend::with_element;
use crate::evaluation::Results;

/// What a result file says about itself.
#[derive(Clone, Debug)]
pub struct ResultFile {
    metadata: BTreeMap<String, String>,
    bias_rank: usize,
}

impl ResultFile {
    /// Results that `backend` made in `dtype`, with what it supports.
    pub fn new(backend: &str, dtype: DType, support: &[(Rule, String)]) -> Self {
        let support: serde_json::Map<String, serde_json::Value> =
            support.iter().map(|(rule, answer)| (rule.name().to_owned(), answer.as_str().into())).collect();
        let metadata = BTreeMap::from([
            ("backend".to_owned(), backend.to_owned()),
            ("dtype".to_owned(), dtype.name().to_owned()),
            ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("support".to_owned(), serde_json::Value::Object(support).to_string()),
        ]);
        Self { metadata, bias_rank: 4 }
    }

    /// The gradient of a bias gets as many axes as the bias has in its file.
    #[must_use]
    pub fn bias_rank(mut self, rank: usize) -> Self {
        self.bias_rank = rank;
        self
    }

    /// The bytes of the file.
    pub fn to_bytes<E: Element>(&self, results: &Results<E>) -> Vec<u8> {
        let tensors: Vec<FileTensor> = results
            .iter()
            .map(|(output, tensor)| match output {
                Output::Lse | Output::LseTangent => FileTensor::rows(output.name(), tensor),
                Output::Dbias | Output::DbiasTangent => {
                    FileTensor::floating(output.name(), tensor, self.bias_rank)
                }
                _ => FileTensor::floating(output.name(), tensor, 4),
            })
            .collect();
        encode(&tensors, &self.metadata)
    }
}

/// Somebody's results, to be judged. Metadata is theirs to choose and is not read.
#[derive(Debug)]
pub struct Candidate {
    container: Container,
    results: Vec<(Output, DType)>,
}

impl Candidate {
    /// Reads a file.
    pub fn read(path: &Path) -> Result<Self, CaseError> {
        Self::parse(raw::read(path)?)
    }

    /// Reads a file that is already in memory.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, CaseError> {
        let container = Container::parse(bytes)?;
        let mut results = Vec::new();
        for (name, entry) in &container.entries {
            let Some(output) = names::result_tensor(name) else {
                return Err(CaseError::UnknownTensor { name: name.clone(), known: names::result_tensors() });
            };
            let Some(dtype) = names::element_type(entry.dtype) else {
                let (name, given) = (output.name(), format!("{:?}", entry.dtype));
                return Err(CaseError::ElementType { name, given, allowed: "F64, F32, F16 or BF16" });
            };
            results.push((output, dtype));
        }
        if results.is_empty() {
            return Err(CaseError::NoResults { known: names::result_tensors() });
        }
        results.sort_by_key(|(output, _)| Output::ALL.iter().position(|known| known == output));
        Ok(Self { container, results })
    }

    /// What is in it, in the order of the rules.
    pub fn outputs(&self) -> impl Iterator<Item = Output> {
        self.results.iter().map(|(output, _)| *output)
    }

    /// The narrowest type among the results: row statistics are often kept wider than the rest.
    pub fn dtype(&self) -> DType {
        self.results.iter().map(|(_, dtype)| *dtype).max().unwrap_or(DType::F64)
    }

    /// The shape as it is in the file.
    pub fn shape(&self, output: Output) -> &[usize] {
        &self.entry(output).shape
    }

    /// Holds a result against its reference; `None` when it has another shape than the problem gives
    /// it. A row statistic may have a last axis of length 1, and the gradient of a bias may lack
    /// leading ones.
    pub fn compare(&self, output: Output, reference: &Tensor<f64>, natural_size: f64) -> Option<Comparison> {
        let entry = self.entry(output);
        let expected = reference.shape();
        let fits = match output {
            Output::Lse | Output::LseTangent => entry.shape == expected[..3] || entry.shape == expected,
            Output::Dbias | Output::DbiasTangent => {
                entry.shape.len() <= 4 && super::parsed::padded(&entry.shape) == expected
            }
            _ => entry.shape == expected,
        };
        let dtype = names::element_type(entry.dtype).filter(|_| fits)?;
        // In its own type: the judge forgives the one rounding that the type makes.
        with_element!(dtype, E => {
            let tensor = Tensor::<E>::from_vec(self.container.elements(entry), expected).ok()?;
            Some(judge::compare(tensor.view(), reference.view(), natural_size))
        })
    }

    fn entry(&self, output: Output) -> &Entry {
        &self.container.entries[output.name()]
    }
}
