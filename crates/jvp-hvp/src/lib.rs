//! Attention on the CPU, whole: the JVP and the second-order rule beside forward and backward.
//!
//! - [`Streaming`] is the default: one sweep over tiles for each rule, memory linear in the length.
//! - [`Dense`] is the textbook, and the oracle of everything else.
//! - [`composition`] makes every other mode of order two out of the four rules, for any backend.
//! - [`proof`] says whether derivatives are right, of these backends or of anybody's function.
//! - [`linearisation`] names the two maps that call themselves the derivative; only one of them is.
//! - [`variant`] holds operators that are broken on purpose, and [`matrix`] which proof catches which.
//!
//! ```
//! use theria_contract::{Attention, Cotangent, DType, Directions, Inputs, Primal, Problem, Tangent, Tensor};
//! use theria_jvp_hvp::Streaming;
//! use theria_jvp_hvp::composition::{Linear, hvp};
//!
//! let wave = |[_, h, i, c]: [usize; 4]| ((3 * h + 5 * i + 7 * c) as f64).sin();
//! let problem = Problem::builder(DType::F64).heads(4, 2).lengths(12, 16).head_dims(8, 8).build()?;
//! let (q, k) = (Tensor::from_fn(problem.shape().q(), wave)?, Tensor::from_fn(problem.shape().k(), wave)?);
//! let inputs = Inputs::new(q.view(), k.view(), k.view()); // the keys are the values, too
//! let saved = Streaming::new().forward(&problem, Primal(&inputs))?;
//! let g = Tensor::from_fn(problem.shape().output(), wave)?;
//! let along = Tangent(Directions { q: Some(q.view()), ..Directions::default() }); // only the queries move
//! let loss = Linear(Cotangent(&g)); // the sum of G ∘ O
//! let made = hvp(&Streaming::new(), &problem, Primal(&inputs), saved.as_ref(), along, &loss)?;
//! assert_eq!(made.gradient.0.q.shape(), q.shape()); // dQ; dK and dV beside it
//! assert_eq!(made.product.0.0.k.shape(), k.shape()); // the Hessian times the direction, in K
//! # Ok::<(), theria_contract::Error>(())
//! ```

#![forbid(unsafe_code)]

pub mod composition;
pub mod dense;
pub mod linearisation;
pub mod matrix;
mod opaque;
pub mod proof;
pub mod streaming;
pub mod variant;

pub use dense::Dense;
pub use linearisation::Linearisation;
pub use opaque::Opaque;
pub use streaming::Streaming;
