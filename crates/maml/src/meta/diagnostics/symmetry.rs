//! Symmetry of the Hessian of a model as it is: with its data, its parameters and its attention.
//!
//! A backward that takes for constants what moves has a Hessian that is not symmetric, and its products come from the
//! same sweep that makes meta-gradients. A forward that does so has a symmetric one of another function: that is for a
//! comparison of gradients to find.

use theria_contract::{Element, Storage, Tensor};

use super::part;
use crate::Result;
use crate::graph::{Model, Plan, ValueId};
use crate::machine::{Machine, TensorOf};
use crate::meta::learner::asked_for;
use crate::meta::{Inner, Learner};
use crate::tasks::Stream;

/// The stream that directions are drawn from.
const DIRECTIONS: u32 = 0xf00;

/// How symmetric a Hessian is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Symmetry {
    /// The largest |⟨u, H v⟩ - ⟨v, H u⟩| / (|u| |H v| + |v| |H u|) that was found.
    pub asymmetry: f64,
    /// The smallest |H v| / |v|: a Hessian of zero is symmetric, too, and says nothing.
    pub product: f64,
}

/// A direction, what the Hessian makes of it, and the norms of both.
struct Along<M: Machine> {
    direction: Vec<TensorOf<M>>,
    norm: f64,
    product: Vec<TensorOf<M>>,
    product_norm: f64,
}

fn dot<M: Machine>(machine: &M, x: &[TensorOf<M>], y: &[TensorOf<M>]) -> Result<f64> {
    x.iter().zip(y).map(|(x, y)| machine.dot(x, y)).sum()
}

impl<M: Machine> Along<M> {
    /// Along normal numbers.
    fn drawn(
        machine: &M,
        model: &mut Model<M>,
        plan: &Plan,
        of: &[ValueId],
        stream: &mut Stream,
    ) -> Result<Self> {
        let mut direction = Vec::with_capacity(of.len());
        for value in of {
            let (rows, columns) = model.shape(*value);
            let numbers = Tensor::from_fn([1, 1, rows, columns], |_| M::Element::from_f64(stream.normal()))?;
            let numbers = machine.storage().upload(&numbers)?;
            machine.copy(&numbers, model.direction_mut(machine, plan, *value)?)?;
            direction.push(numbers);
        }
        model.gradient_tangent(machine, plan)?;
        let mut product = Vec::with_capacity(of.len());
        for (value, like) in of.iter().zip(&direction) {
            let layout = M::Storage::layout(&M::Storage::view(like));
            let mut made = machine.storage().allocate(layout)?;
            machine.copy(asked_for(model.gradient_tangent_of(*value)), &mut made)?;
            product.push(made);
        }
        let norm = |x: &[TensorOf<M>]| dot(machine, x, x).map(f64::sqrt);
        Ok(Self { norm: norm(&direction)?, product_norm: norm(&product)?, direction, product })
    }
}

/// Symmetry of the Hessian of a model's loss in some of its parameters, where they are, along so many pairs of random
/// directions.
pub fn hessian_symmetry<M: Machine>(
    machine: &M,
    model: &mut Model<M>,
    of: &[ValueId],
    seed: u64,
    pairs: u64,
) -> Result<Symmetry> {
    let plan = model.plan(of, of);
    let mut found = Symmetry { asymmetry: 0.0, product: f64::INFINITY };
    for pair in 0..pairs {
        let mut stream = Stream::new(seed, pair, DIRECTIONS);
        let u = Along::drawn(machine, model, &plan, of, &mut stream)?;
        let v = Along::drawn(machine, model, &plan, of, &mut stream)?;
        let (left, right) =
            (dot(machine, &u.direction, &v.product)?, dot(machine, &v.direction, &u.product)?);
        let asymmetry = part((left - right).abs(), u.norm * v.product_norm + v.norm * u.product_norm);
        let product = (u.product_norm / u.norm).min(v.product_norm / v.norm);
        // NaN is no symmetry, and no comparison keeps it.
        found.asymmetry = if asymmetry.is_nan() { asymmetry } else { found.asymmetry.max(asymmetry) };
        found.product = found.product.min(product);
        if asymmetry.is_nan() {
            break;
        }
    }
    Ok(found)
}

impl<M: Machine> Learner<M> {
    /// Adapts, and says how symmetric the Hessian of the task's own loss is in all parameters, where they are after that.
    pub fn hessian_symmetry(
        &mut self,
        machine: &M,
        start: &[&TensorOf<M>],
        inner: &Inner,
        seed: u64,
        pairs: u64,
    ) -> Result<Symmetry> {
        self.admit(start, inner)?;
        self.adapt(machine, start, inner, &[])?;
        let all: Vec<ValueId> = self.support.parameters().map(|(_, value)| value).collect();
        hessian_symmetry(machine, &mut self.support, &all, seed, pairs)
    }
}
