//! Any backend on the host in binary64 as a claim.
//!
//! ```text
//! x = (Q, K, V, bias), row-major and one after the other        f(x) = O
//! J v = O′        Jᵀu = (dQ, dK, dV, dBias) with G = u
//!                 second order = (dQ′, dK′, dV′, dBias′) with G = u, G′ = u′
//! ```
//!
//! f does not see a shift of all scores of a row. Two kinds of directions make one: a bias that is
//! constant along a row, and one vector added to every key of a head (it adds `scale · q·c` to the
//! whole row of q).

use theria_contract::{
    Attention, Cotangent, Directions, Error, Host, Inputs, Primal, Problem, Qkv, Saved, Tangent, Tensor,
    TensorView,
};

use super::{Answer, Block, Claim, Gap, Point, Samples};

/// A backend's rules on one problem, as a claim. Rules that the backend refuses are not claimed.
#[derive(Debug)]
pub struct AttentionClaim<'a, A> {
    attention: &'a A,
    problem: &'a Problem,
    mask: Option<Tensor<u8>>,
    key_lengths: Option<Tensor<i32>>,
}

impl<'a, A: Attention<f64, Storage = Host>> AttentionClaim<'a, A> {
    /// The claim of a backend on a problem, which is in binary64.
    pub fn new(attention: &'a A, problem: &'a Problem) -> Self {
        Self { attention, problem, mask: None, key_lengths: None }
    }

    /// With the boolean mask that the problem declares.
    #[must_use]
    pub fn with_mask(self, mask: Tensor<u8>) -> Self {
        Self { mask: Some(mask), ..self }
    }

    /// With the key lengths that the problem declares.
    #[must_use]
    pub fn with_key_lengths(self, key_lengths: Tensor<i32>) -> Self {
        Self { key_lengths: Some(key_lengths), ..self }
    }

    /// Random operands. Queries, keys and bias have a variance of 1/4: probabilities of the same
    /// order, so that every key has its say.
    pub fn point(&self, seed: u64) -> Point {
        let mut x = Vec::new();
        for (stream, (name, shape)) in (0..).zip(self.shapes().named()) {
            let amplitude = if name == "v" { 1.0 } else { 0.5 };
            let numbers = Samples::new(seed, stream).vector(shape.iter().product());
            x.extend(numbers.into_iter().map(|number| amplitude * number));
        }
        Point::new(x, seed)
    }

    fn shapes(&self) -> Qkv<[usize; 4]> {
        let shape = self.problem.shape();
        Qkv { q: shape.q(), k: shape.k(), v: shape.v(), bias: self.problem.bias() }
    }

    /// Cuts a flat vector into tensors.
    fn split<'x>(&self, x: &'x [f64]) -> Result<Qkv<TensorView<'x, f64>>, Error> {
        let mut rest = x;
        let mut take = |shape: [usize; 4]| {
            let (head, tail) = rest.split_at_checked(shape.iter().product()).unwrap_or((rest, &[]));
            rest = tail;
            TensorView::contiguous(head, shape)
        };
        let shapes = self.shapes();
        Ok(Qkv {
            q: take(shapes.q)?,
            k: take(shapes.k)?,
            v: take(shapes.v)?,
            bias: shapes.bias.map(take).transpose()?,
        })
    }

    fn inputs<'x>(&'x self, x: &'x [f64]) -> Result<Inputs<'x, Host, f64>, Error> {
        let operands = self.split(x)?;
        Ok(Inputs {
            bias: operands.bias,
            mask: self.mask.as_ref().map(Tensor::view),
            key_lengths: self.key_lengths.as_ref().map(Tensor::view),
            ..Inputs::new(operands.q, operands.k, operands.v)
        })
    }

    fn output<'u>(&self, u: &'u [f64]) -> Result<TensorView<'u, f64>, Error> {
        TensorView::contiguous(u, self.problem.shape().output())
    }

    fn forward(&self, x: &[f64]) -> Result<Primal<Saved<Tensor<f64>, Tensor<f64>>>, Error> {
        self.attention.forward(self.problem, Primal(&self.inputs(x)?))
    }
}

/// Row-major numbers of all operands, one after the other.
fn join(all: Qkv<Tensor<f64>>) -> Vec<f64> {
    all.named().flat_map(|(_, tensor)| tensor.into_vec()).collect()
}

/// A refusal is no failure: the rule is not claimed.
fn answer(result: Result<Vec<f64>, Error>) -> Answer<Error> {
    result.map_err(|error| match error {
        Error::Refused { .. } => Gap::NotClaimed(error.to_string()),
        error => Gap::Failed(error),
    })
}

impl<A: Attention<f64, Storage = Host>> Claim for AttentionClaim<'_, A> {
    type Error = Error;

    fn outputs(&self) -> usize {
        self.problem.shape().output().iter().product()
    }

    fn value(&self, x: &[f64]) -> Answer<Error> {
        answer(self.forward(x).map(|saved| saved.0.output.into_vec()))
    }

    fn jvp(&self, x: &[f64], v: &[f64]) -> Answer<Error> {
        let run = || {
            let saved = self.forward(x)?;
            let directions = Tangent(Directions::from(self.split(v)?));
            self.attention.jvp(self.problem, Primal(&self.inputs(x)?), saved.as_ref(), directions)
        };
        answer(run().map(|tangent| tangent.0.output.into_vec()))
    }

    fn vjp(&self, x: &[f64], u: &[f64]) -> Answer<Error> {
        let run = || {
            let saved = self.forward(x)?;
            let cotangent = Cotangent(self.output(u)?);
            self.attention.backward(self.problem, Primal(&self.inputs(x)?), saved.as_ref(), cotangent)
        };
        answer(run().map(|gradients| join(gradients.0)))
    }

    fn second_order(&self, x: &[f64], v: &[f64], u: &[f64], u_tangent: Option<&[f64]>) -> Answer<Error> {
        let run = || {
            let inputs = self.inputs(x)?;
            let inputs = Primal(&inputs);
            let saved = self.forward(x)?;
            let directions = Tangent(Directions::from(self.split(v)?));
            let saved_tangent = self.attention.jvp(self.problem, inputs, saved.as_ref(), directions)?;
            let u_tangent = u_tangent.map(|u_tangent| self.output(u_tangent)).transpose()?;
            self.attention.second_order(
                self.problem,
                inputs,
                saved.as_ref(),
                directions,
                saved_tangent.as_ref(),
                Cotangent(self.output(u)?),
                u_tangent.map(|u_tangent| Tangent(Cotangent(u_tangent))),
                false,
            )
        };
        answer(run().map(|second| join(second.tangent.0.0)))
    }

    fn blocks(&self) -> Vec<Block> {
        let mut start = 0;
        let mut blocks = Vec::new();
        for (name, shape) in self.shapes().named() {
            let end = start + shape.iter().product::<usize>();
            blocks.push(Block::new(name, start..end));
            start = end;
        }
        blocks
    }

    fn invariant_directions(&self) -> Vec<Vec<f64>> {
        let blocks = self.blocks();
        let zero = vec![0.0; blocks.last().map_or(0, |block| block.range.end)];
        let mut directions = Vec::new();
        for block in blocks {
            let ones: Vec<Vec<usize>> = match (block.name.as_str(), self.shapes().bias) {
                ("k", _) => key_shifts(self.shapes().k),
                ("bias", Some(shape)) => row_shifts(shape),
                _ => Vec::new(),
            };
            directions.extend(ones.into_iter().map(|ones| {
                let mut direction = zero.clone();
                for index in ones {
                    direction[block.range.start + index] = 1.0;
                }
                direction
            }));
        }
        directions
    }
}

/// For each head and each component, that component of every key.
fn key_shifts([batch, heads, keys, components]: [usize; 4]) -> Vec<Vec<usize>> {
    let mut shifts = Vec::new();
    for head in 0..batch * heads {
        for component in 0..components {
            shifts.push((0..keys).map(|key| (head * keys + key) * components + component).collect());
        }
    }
    shifts
}

/// For each row of the bias, all of it.
fn row_shifts([batch, heads, rows, columns]: [usize; 4]) -> Vec<Vec<usize>> {
    (0..batch * heads * rows).map(|row| (row * columns..(row + 1) * columns).collect()).collect()
}

#[cfg(test)]
mod tests {
    use theria_contract::DType;

    use super::*;
    use crate::Dense;
    use crate::proof::{Proof, Verdict};

    fn problem() -> Problem {
        let builder = Problem::builder(DType::F64).heads(2, 1).lengths(3, 4).head_dims(2, 3);
        builder.bias([1, 2, 3, 4]).mask([1, 1, 3, 4]).key_lengths().build().unwrap()
    }

    fn claim<'a, A: Attention<f64, Storage = Host>>(
        attention: &'a A,
        problem: &'a Problem,
    ) -> AttentionClaim<'a, A> {
        AttentionClaim::new(attention, problem)
            .with_mask(Tensor::from_vec(vec![1, 0, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1], [1, 1, 3, 4]).unwrap())
            .with_key_lengths(Tensor::from_vec(vec![3], [1, 1, 1, 1]).unwrap())
    }

    #[test]
    fn blocks_tile_the_inputs_in_the_order_of_the_operands() {
        let (dense, problem) = (Dense::new(), problem());
        let claim = claim(&dense, &problem);
        let ranges: Vec<_> = claim.blocks().into_iter().map(|block| (block.name, block.range)).collect();
        let expected = [("q", 0..12), ("k", 12..20), ("v", 20..32), ("bias", 32..56)];
        assert_eq!(ranges, expected.map(|(name, range)| (name.to_owned(), range)));
        assert_eq!(claim.point(1).x.len(), 56);
    }

    #[test]
    fn the_output_does_not_move_along_any_invariant_direction_and_moves_along_others() {
        let (dense, problem) = (Dense::new(), problem());
        let claim = claim(&dense, &problem);
        let x = claim.point(1).x;
        let at = |x: &[f64]| claim.value(x).unwrap();
        let moved = |w: &[f64]| {
            let there: Vec<f64> = x.iter().zip(w).map(|(x, w)| x + w).collect();
            at(&there).iter().zip(at(&x)).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
        };
        let directions = claim.invariant_directions();
        // Two components of one key head, six rows of bias.
        assert_eq!(directions.len(), 2 + 6);
        for direction in &directions {
            assert!(moved(direction) < 1e-15);
        }
        let mut half_a_row = directions[2].clone();
        let first = half_a_row.iter().position(|entry| *entry != 0.0).unwrap();
        half_a_row[first] = 0.0;
        assert!(moved(&half_a_row) > 1e-3);
    }

    #[test]
    fn a_mask_and_key_lengths_reach_the_rules_and_their_absence_is_an_error_not_a_refusal() {
        let (dense, problem) = (Dense::new(), problem());
        let complete = claim(&dense, &problem);
        let point = complete.point(1);
        assert_eq!(Proof::Adjoint.run(&complete, &point).verdict, Verdict::Passed);
        let bare = AttentionClaim::new(&dense, &problem);
        assert!(matches!(bare.value(&point.x), Err(Gap::Failed(_))));
        assert!(matches!(Proof::Adjoint.run(&bare, &point).verdict, Verdict::Invalid(_)));
    }

    #[test]
    fn a_rule_that_a_backend_refuses_is_not_claimed() {
        let (first_order, problem) = (theria_reference::Dense::new(), problem());
        let claim = claim(&first_order, &problem);
        let point = claim.point(1);
        assert_eq!(Proof::VjpOrder.run(&claim, &point).verdict, Verdict::Passed);
        let Verdict::NotApplicable(reason) = Proof::JvpOrder.run(&claim, &point).verdict else {
            panic!("the first-order backend has no JVP");
        };
        assert!(reason.contains("jvp"), "{reason}");
    }
}
