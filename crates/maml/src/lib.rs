//! Meta-learning on explicit rules.
//!
//! A model is a [`graph`] of operations, each of which gives its value, its pull-back, its push-forward and the tangent
//! of its pull-back. So a model yields its loss, its gradient, and products of its Hessian by forward over reverse, and
//! no graph of an automatic differentiation is kept. On these a [`meta`] loop gives the exact gradient of the loss after
//! it has adapted a model to a task, with one Hessian product a step; [`tasks`] has tasks to learn to adapt to.
//!
//! ```
//! use theria_contract::Tensor;
//! use theria_jvp_hvp::Streaming;
//! use theria_maml::meta::{Inner, Learner, Mode, Optimiser};
//! use theria_maml::operation::Heads;
//! use theria_maml::{Graph, Host, Model, Result};
//!
//! // One head of attention over six rows; the mean of its squared errors.
//! fn model(machine: &Host<Streaming, f64>, seed: f64) -> Result<Model<Host<Streaming, f64>>> {
//!     let mut graph = Graph::new();
//!     let (x, target) = (graph.input(6, 4), graph.input(6, 4));
//!     let (wq, wv) = (graph.parameter("wq", 4, 4), graph.parameter("wv", 4, 4));
//!     let (q, v) = (graph.multiply(x, wq)?, graph.multiply(x, wv)?);
//!     let y = graph.attention(q, x, v, Heads::default())?;
//!     let loss = graph.squared_error(y, target, 1.0 / 24.0)?;
//!     let mut model = Model::new(machine, graph, loss)?;
//!     let wave = |shift: f64| (0..24).map(|n| (f64::from(n) * 1.3 + shift).sin()).collect::<Vec<_>>();
//!     model.write(machine, x, &wave(seed))?;
//!     model.write(machine, target, &wave(seed + 1.0))?;
//!     Ok(model)
//! }
//!
//! let machine = Host::new(Streaming::new());
//! let mut learner = Learner::new(&machine, model(&machine, 0.0)?, model(&machine, 0.5)?, &["wq", "wv"])?;
//! let start = Tensor::from_fn([1, 1, 4, 4], |[_, _, i, j]| if i == j { 1.0 } else { 0.2 })?;
//! let inner = Inner::new(3, Optimiser::Sgd, 0.3, 2); // three steps of gradient descent
//! let mut gradient = |mode| -> Result<f64> {
//!     learner.meta_gradient(&machine, &[&start, &start], &inner, mode)?;
//!     let first = learner.gradients().next();
//!     Ok(first.map_or(f64::NAN, |wq| wq.data()[0]))
//! };
//! assert_ne!(gradient(Mode::Full)?, gradient(Mode::FirstOrder)?); // what the first order leaves out
//! # Ok::<(), theria_maml::Error>(())
//! ```

mod error;
pub mod graph;
pub mod machine;
pub mod meta;
pub mod models;
pub mod number;
pub mod operation;
pub mod tasks;

pub use error::{Error, Result};
pub use graph::{Graph, Model, Plan, ValueId};
pub use machine::{Gpu, Host, Machine};
