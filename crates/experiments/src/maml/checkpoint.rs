//! A training at rest: everything that it goes on from, as one file.
//!
//! Parameters and what the optimiser remembers are tensors in full precision; settings and the number of the step are
//! metadata, under one key, so that equal trainings give equal bytes. One file is whole or it is not there, where two
//! could be of different steps. A checksum over all of it tells damage that leaves the form as it was.

use std::collections::{BTreeMap, HashMap};

use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};
use serde_json::{Value, json};
use theria_contract::{DType, Element, Tensor};
use theria_maml::meta::State;

use super::experiment::Parameter;
use super::{Damage, MamlError, Result, Settings};

/// The metadata of the file.
const KEY: &str = "theria maml";
const SCHEMA: u64 = 1;
const RATES: &str = "rates";

/// A training at rest.
#[derive(Clone, Debug, PartialEq)]
pub struct Checkpoint {
    /// What it was made with.
    pub settings: Settings,
    /// Outer steps that were made.
    pub step: usize,
    tensors: BTreeMap<String, Stored>,
}

/// A tensor of the file.
#[derive(Clone, Debug, PartialEq)]
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

fn file_type(dtype: DType) -> Dtype {
    match dtype {
        DType::F64 => Dtype::F64,
        DType::F32 => Dtype::F32,
        DType::F16 => Dtype::F16,
        DType::Bf16 => Dtype::BF16,
    }
}

impl Stored {
    fn of<E: Element>(shape: &[usize], numbers: &[E]) -> Self {
        let bytes = bytemuck::cast_slice(numbers).to_vec();
        Self { dtype: file_type(E::DTYPE), shape: shape.to_vec(), bytes }
    }

    fn numbers<E: Element>(&self, shape: &[usize]) -> Option<Vec<E>> {
        if self.dtype != file_type(E::DTYPE) || self.shape != shape {
            return None;
        }
        let mut numbers = vec![E::default(); shape.iter().product()];
        bytemuck::cast_slice_mut(&mut numbers).copy_from_slice(&self.bytes);
        Some(numbers)
    }
}

fn memory(name: &str, n: usize) -> String {
    format!("memory {n} of {name}")
}

impl Checkpoint {
    /// Of what a trainer stands at and of the rates of its loop. What is no longer finite is refused.
    pub fn new<E: Element>(
        settings: &Settings,
        parameters: &[Parameter],
        state: &State<E>,
        rates: &[f64],
    ) -> Result<Self> {
        let mut tensors = BTreeMap::new();
        for ((parameter, value), memories) in parameters.iter().zip(&state.parameters).zip(&state.memories) {
            let shape = [parameter.rows, parameter.columns];
            tensors.insert(parameter.name.to_owned(), Stored::of(&shape, value.data()));
            for (n, value) in memories.iter().enumerate() {
                tensors.insert(memory(parameter.name, n), Stored::of(&shape, value.data()));
            }
        }
        let lists = state.rate_memories.iter().enumerate().map(|(n, list)| (memory(RATES, n), &list[..]));
        for (name, list) in lists.chain([(RATES.to_owned(), rates)]) {
            tensors.insert(name, Stored::of(&[list.len()], list));
        }
        let finite = |stored: &Stored| match stored.dtype {
            Dtype::F64 => {
                stored.numbers::<f64>(&stored.shape).is_some_and(|all| all.iter().all(|x| x.is_finite()))
            }
            _ => stored.numbers::<E>(&stored.shape).is_some_and(|all| all.iter().all(|x| x.is_finite())),
        };
        if let Some((name, _)) = tensors.iter().find(|(_, stored)| !finite(stored)) {
            return Err(MamlError::NotFinite { step: state.steps, name: name.clone() });
        }
        Ok(Self { settings: settings.clone(), step: state.steps, tensors })
    }

    /// What a trainer of these parameters goes on from, and the rates of its loop.
    pub fn state<E: Element>(
        &self,
        parameters: &[Parameter],
        adapted: usize,
    ) -> Result<(State<E>, Vec<f64>), Damage> {
        let memories = self.settings.outer_optimiser.optimiser().memories();
        let tensor = |name: &str, parameter: &Parameter| -> Result<Tensor<E>, Damage> {
            let Parameter { rows, columns, .. } = *parameter;
            let numbers = self.numbers::<E>(name, &[rows, columns])?;
            Tensor::from_vec(numbers, [1, 1, rows, columns]).map_err(|_| Damage::Lacks(name.to_owned()))
        };
        let state = State {
            steps: self.step,
            parameters: parameters
                .iter()
                .map(|parameter| tensor(parameter.name, parameter))
                .collect::<Result<_, _>>()?,
            memories: parameters
                .iter()
                .map(|parameter| {
                    (0..memories).map(|n| tensor(&memory(parameter.name, n), parameter)).collect()
                })
                .collect::<Result<_, _>>()?,
            rate_memories: (0..memories)
                .map(|n| {
                    let name = memory(RATES, n);
                    // Before the first step nothing is remembered of rates.
                    let none = self.tensors.get(&name).is_some_and(|stored| stored.bytes.is_empty());
                    self.numbers::<f64>(&name, &[if none { 0 } else { adapted }])
                })
                .collect::<Result<_, _>>()?,
        };
        Ok((state, self.numbers::<f64>(RATES, &[adapted])?))
    }

    fn numbers<E: Element>(&self, name: &str, shape: &[usize]) -> Result<Vec<E>, Damage> {
        let numbers = self.tensors.get(name).and_then(|stored| stored.numbers(shape));
        numbers.ok_or_else(|| Damage::Lacks(format!("tensor `{name}`")))
    }

    /// The metadata, but for the checksum.
    fn about(&self) -> Value {
        json!({ "schema": SCHEMA, "settings": self.settings.texts(), "step": self.step })
    }

    fn checksum(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.about().to_string().as_bytes());
        for (name, stored) in &self.tensors {
            hasher.update(format!("\n{name} {:?} {:?}\n", stored.dtype, stored.shape).as_bytes());
            hasher.update(&stored.bytes);
        }
        hasher.finalize().to_hex().to_string()
    }

    /// The bytes of the file: equal ones for equal trainings.
    pub fn to_bytes(&self) -> Result<Vec<u8>, Damage> {
        let mut about = self.about();
        about["checksum"] = self.checksum().into();
        let views = self.tensors.iter().map(|(name, stored)| {
            Ok((name, TensorView::new(stored.dtype, stored.shape.clone(), &stored.bytes)?))
        });
        let views = views.collect::<Result<Vec<_>, safetensors::SafeTensorError>>()?;
        let metadata = HashMap::from([(KEY.to_owned(), about.to_string())]);
        Ok(safetensors::serialize(views, Some(metadata))?)
    }

    /// A file that was read.
    pub fn parse(bytes: &[u8]) -> Result<Self, Damage> {
        let (_, header) = SafeTensors::read_metadata(bytes)?;
        let about = header.metadata().as_ref().and_then(|metadata| metadata.get(KEY));
        let about = about.and_then(|about| serde_json::from_str::<Value>(about).ok());
        let about = about.ok_or_else(|| Damage::Lacks(format!("metadata `{KEY}`")))?;
        let lacks = |what: &str| Damage::Lacks(what.to_owned());
        if about["schema"] != SCHEMA {
            return Err(Damage::Lacks(format!(
                "schema: it has {}, this build reads {SCHEMA}",
                about["schema"]
            )));
        }
        let texts = serde_json::from_value(about["settings"].clone()).ok();
        let settings =
            texts.and_then(|texts| Settings::from_texts(&texts)).ok_or_else(|| lacks("settings"))?;
        let step = about["step"].as_u64().ok_or_else(|| lacks("step"))? as usize;
        let tensors = SafeTensors::deserialize(bytes)?.tensors().into_iter().map(|(name, view)| {
            let stored =
                Stored { dtype: view.dtype(), shape: view.shape().to_vec(), bytes: view.data().to_vec() };
            (name, stored)
        });
        let checkpoint = Self { settings, step, tensors: tensors.collect() };
        if about["checksum"] != checkpoint.checksum() {
            return Err(Damage::Checksum);
        }
        Ok(checkpoint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::maml::{OptimiserName, TaskName};

    fn parameters() -> [Parameter; 2] {
        let parameter = |name, rows, columns| Parameter { name, rows, columns, mean: 0.0, deviation: 1.0 };
        [parameter("w", 2, 3), parameter("b", 1, 3)]
    }

    fn state<E: Element>() -> State<E> {
        let begin = |seed: u64| -> Vec<Tensor<E>> {
            parameters().iter().enumerate().map(|(n, parameter)| parameter.begin(seed, n).unwrap()).collect()
        };
        let memories = begin(2).into_iter().zip(begin(3)).map(|(mean, square)| vec![mean, square]).collect();
        let rate_memories = vec![vec![0.1, 0.2], vec![0.3, f64::MIN_POSITIVE / 8.0]];
        State { steps: 7, parameters: begin(1), memories, rate_memories }
    }

    fn settings() -> Settings {
        Settings { outer_optimiser: OptimiserName::Adam, ..Settings::of(TaskName::KeyValue) }
    }

    const RATES_HERE: [f64; 2] = [1.0 / 3.0, 0.1 + 0.2];

    fn round_trip<E: Element>() {
        let state = state::<E>();
        let checkpoint = Checkpoint::new(&settings(), &parameters(), &state, &RATES_HERE).unwrap();
        let bytes = checkpoint.to_bytes().unwrap();
        assert_eq!(bytes, checkpoint.to_bytes().unwrap());
        let read = Checkpoint::parse(&bytes).unwrap();
        assert_eq!(read, checkpoint);
        let (again, rates) = read.state::<E>(&parameters(), 2).unwrap();
        assert_eq!(
            (again.steps, &again.rate_memories, &rates[..]),
            (7, &state.rate_memories, &RATES_HERE[..])
        );
        let numbers = |all: &[Tensor<E>]| all.iter().flat_map(|x| x.data().to_vec()).collect::<Vec<_>>();
        assert_eq!(numbers(&again.parameters), numbers(&state.parameters));
        assert_eq!(numbers(&again.memories.concat()), numbers(&state.memories.concat()));
        assert_ne!(numbers(&again.memories.concat()), numbers(&again.parameters));
    }

    #[test]
    fn a_checkpoint_is_read_as_it_was_written() {
        round_trip::<f64>();
        round_trip::<f32>();
    }

    #[test]
    fn every_byte_of_a_checkpoint_matters_and_so_does_its_length() {
        let checkpoint = Checkpoint::new(&settings(), &parameters(), &state::<f64>(), &RATES_HERE).unwrap();
        let bytes = checkpoint.to_bytes().unwrap();
        for place in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[place] ^= 1;
            // The padding of the header is nothing that is read.
            if bytes[place] != b' ' {
                assert!(Checkpoint::parse(&damaged).is_err(), "byte {place} of {}", bytes.len());
            }
            assert!(Checkpoint::parse(&bytes[..place]).is_err(), "cut at {place}");
        }
        assert!(matches!(Checkpoint::parse(b"text"), Err(Damage::Container(_))));
    }

    #[test]
    fn another_model_or_another_type_is_not_read_into() {
        let checkpoint = Checkpoint::new(&settings(), &parameters(), &state::<f64>(), &RATES_HERE).unwrap();
        assert!(checkpoint.state::<f32>(&parameters(), 2).is_err());
        assert!(checkpoint.state::<f64>(&parameters(), 3).is_err());
        let mut wider = parameters();
        wider[0].columns = 4;
        let damage = checkpoint.state::<f64>(&wider, 2).unwrap_err().to_string();
        assert!(damage.contains("tensor `w`"), "{damage}");
    }

    #[test]
    fn what_is_not_finite_is_not_kept() {
        let mut state = state::<f64>();
        state.memories[1][0].data_mut()[2] = f64::INFINITY;
        let refused = Checkpoint::new(&settings(), &parameters(), &state, &RATES_HERE);
        let error = refused.unwrap_err().to_string();
        assert!(error.contains("step 7") && error.contains("memory 0 of b"), "{error}");
    }
}
