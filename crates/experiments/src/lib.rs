//! The `theria` command as a library: case files, evaluation on any backend, and the judge.
//!
//! ```
//! use theria_contract::judge::Output;
//! use theria_contract::{DType, Problem, Rule};
//! use theria_experiments::backend::{self, Backend};
//! use theria_experiments::case_file::{Case, CaseFile};
//!
//! let problem = Problem::builder(DType::F64).heads(2, 1).lengths(5, 7).head_dims(4, 4).build()?;
//! let bytes = Case::<f64>::random(&problem, 1)?.to_bytes()?; // what `theria eval --input` reads
//! let case = CaseFile::parse(bytes)?.load::<f64>()?;
//! let results = backend::evaluate(Backend::Dense, theria_contract::Checks::Finite, &case, &[Rule::Forward])?;
//! assert_eq!(results.get(Output::Out).unwrap().shape(), [1, 2, 5, 4]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![forbid(unsafe_code)]

pub mod backend;
pub mod bench;
pub mod case_file;
pub mod claim;
pub mod command;
pub mod cuda;
pub mod evaluation;
pub mod judgement;
pub mod machine;
pub mod maml;
pub mod phase10;
pub mod plot;
