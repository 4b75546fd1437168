//! Attention on the CPU: forward and backward, exact.
//!
//! - [`Streaming`] is the default: tiles with an online softmax, memory linear in the length, threads
//!   and SIMD.
//! - [`Dense`] is the textbook: whole score matrices, written to be read beside the mathematics. It
//!   is the oracle of everything else, and is itself held against an independent system.
//!
//! ```
//! use theria_contract::{Attention, Cotangent, DType, Inputs, Primal, Problem, Tensor};
//! use theria_reference::Streaming;
//!
//! let q = Tensor::<f64>::from_fn([1, 1, 2, 1], |[_, _, i, _]| i as f64)?;
//! let k = Tensor::<f64>::from_fn([1, 1, 3, 1], |[_, _, j, _]| j as f64)?;
//! let v = k.clone();
//! let problem = Problem::for_qkv(DType::F64, q.shape(), k.shape(), v.shape()).build()?;
//! let inputs = Inputs::new(q.view(), k.view(), v.view());
//!
//! let saved = Streaming::new().forward(&problem, Primal(&inputs))?;
//! assert_eq!(saved.0.output.at([0, 0, 0, 0]), 1.0); // q = 0 sees the mean of v
//! let g = Tensor::from_vec(vec![1.0; 2], [1, 1, 2, 1])?;
//! let gradients = Streaming::new().backward(&problem, Primal(&inputs), saved.as_ref(), Cotangent(g.view()))?;
//! assert!((gradients.0.q.at([0, 0, 0, 0]) - 2.0 / 3.0).abs() < 1e-15); // the variance of v
//! # Ok::<(), theria_contract::Error>(())
//! ```

#![forbid(unsafe_code)]

pub mod dense;
mod real;
mod registers;
pub mod streaming;

pub use dense::Dense;
pub use real::Real;
pub use registers::give_back_registers;
pub use streaming::Streaming;
