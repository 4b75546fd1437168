//! A backend of the table as a claim.
//!
//! [`AttentionClaim`] does this for a backend in the memory of the host. This one goes through
//! [`backend::evaluate`], as `theria eval` does, so what is proved is what a user gets, whichever
//! memory the backend computes in.

use theria_contract::judge::Output;
use theria_contract::{Checks, Directions, Error, Problem, Qkv, Rule, Tensor};
use theria_jvp_hvp::Dense;
use theria_jvp_hvp::proof::{Answer, AttentionClaim, Block, Claim, Gap, Point};

use crate::backend::{self, Backend};
use crate::case_file::Case;

const GRADIENTS: [Output; 4] = [Output::Dq, Output::Dk, Output::Dv, Output::Dbias];
const TANGENTS: [Output; 4] = [Output::DqTangent, Output::DkTangent, Output::DvTangent, Output::DbiasTangent];

/// The rules of a backend on a problem in binary64 that has neither mask nor key lengths. Rules that
/// the backend refuses are not claimed.
#[derive(Clone, Debug)]
pub struct Evaluated {
    backend: Backend,
    problem: Problem,
    /// Lends [`AttentionClaim`] its name for everything that is about shapes alone.
    host: Dense,
}

impl Evaluated {
    /// The claim of a backend on a problem.
    pub fn new(backend: Backend, problem: &Problem) -> Self {
        Self { backend, problem: problem.clone(), host: Dense::new() }
    }

    /// Random operands.
    pub fn point(&self, seed: u64) -> Point {
        self.on_the_host().point(seed)
    }

    pub(super) fn problem(&self) -> &Problem {
        &self.problem
    }

    fn on_the_host(&self) -> AttentionClaim<'_, Dense> {
        AttentionClaim::new(&self.host, &self.problem)
    }

    /// Cuts a flat vector into the operands.
    fn split(&self, x: &[f64]) -> Result<Qkv<Tensor<f64>>, Error> {
        let shape = self.problem.shape();
        let mut rest = x;
        let mut take = |shape: [usize; 4]| {
            let (head, tail) = rest.split_at_checked(shape.iter().product()).unwrap_or((rest, &[]));
            rest = tail;
            Tensor::from_vec(head.to_vec(), shape)
        };
        Ok(Qkv {
            q: take(shape.q())?,
            k: take(shape.k())?,
            v: take(shape.v())?,
            bias: self.problem.bias().map(take).transpose()?,
        })
    }

    fn output(&self, u: &[f64]) -> Result<Tensor<f64>, Error> {
        Tensor::from_vec(u.to_vec(), self.problem.shape().output())
    }

    /// The case at x, before anything is asked of it.
    fn case(&self, x: &[f64]) -> Result<Case<f64>, Error> {
        Ok(Case {
            problem: self.problem.clone(),
            operands: self.split(x)?,
            bias_rank: 4,
            mask: None,
            key_lengths: None,
            directions: Directions::default(),
            dout: None,
            dout_tangent: None,
        })
    }

    /// Completes the case at x, runs a rule, and joins what it made.
    fn run(
        &self,
        x: &[f64],
        rule: Rule,
        outputs: &[Output],
        complete: impl FnOnce(&mut Case<f64>) -> Result<(), Error>,
    ) -> Answer<Error> {
        let run = || {
            let mut case = self.case(x)?;
            complete(&mut case)?;
            let results = backend::evaluate(self.backend, Checks::Finite, &case, &[rule])?;
            let made = outputs.iter().filter_map(|output| results.get(*output));
            Ok(made.flat_map(|tensor| tensor.data().iter().copied()).collect())
        };
        run().map_err(|error| match error {
            Error::Refused { .. } => Gap::NotClaimed(error.to_string()),
            error => Gap::Failed(error),
        })
    }
}

fn directions(along: Qkv<Tensor<f64>>) -> Directions<Tensor<f64>> {
    Directions { q: Some(along.q), k: Some(along.k), v: Some(along.v), bias: along.bias }
}

impl Claim for Evaluated {
    type Error = Error;

    fn outputs(&self) -> usize {
        self.problem.shape().output().iter().product()
    }

    fn value(&self, x: &[f64]) -> Answer<Error> {
        self.run(x, Rule::Forward, &[Output::Out], |_| Ok(()))
    }

    fn jvp(&self, x: &[f64], v: &[f64]) -> Answer<Error> {
        self.run(x, Rule::Jvp, &[Output::OutTangent], |case| {
            case.directions = directions(self.split(v)?);
            Ok(())
        })
    }

    fn vjp(&self, x: &[f64], u: &[f64]) -> Answer<Error> {
        self.run(x, Rule::Backward, &GRADIENTS, |case| {
            case.dout = Some(self.output(u)?);
            Ok(())
        })
    }

    fn second_order(&self, x: &[f64], v: &[f64], u: &[f64], u_tangent: Option<&[f64]>) -> Answer<Error> {
        self.run(x, Rule::SecondOrder, &TANGENTS, |case| {
            case.directions = directions(self.split(v)?);
            case.dout = Some(self.output(u)?);
            case.dout_tangent = u_tangent.map(|u_tangent| self.output(u_tangent)).transpose()?;
            Ok(())
        })
    }

    fn blocks(&self) -> Vec<Block> {
        self.on_the_host().blocks()
    }

    fn invariant_directions(&self) -> Vec<Vec<f64>> {
        self.on_the_host().invariant_directions()
    }
}

#[cfg(test)]
mod tests {
    use theria_contract::{Causal, DType};

    use super::*;

    #[test]
    fn a_backend_through_evaluation_claims_the_bits_that_it_claims_in_the_memory_of_the_host() {
        let builder = Problem::builder(DType::F64).batch(2).heads(4, 2).lengths(5, 7).head_dims(4, 3);
        let problem = builder.causal(Causal::BottomRight).bias([1, 4, 1, 7]).dropout(0.2, 3).build().unwrap();
        let dense = Dense::new();
        let (here, there) = (Evaluated::new(Backend::Dense, &problem), AttentionClaim::new(&dense, &problem));
        let x = here.point(1).x;
        let v = here.point(2).x;
        let u: Vec<f64> = x[..here.outputs()].to_vec();
        let u_tangent: Vec<f64> = v[..here.outputs()].to_vec();
        assert_eq!(here.value(&x).unwrap(), there.value(&x).unwrap());
        assert_eq!(here.jvp(&x, &v).unwrap(), there.jvp(&x, &v).unwrap());
        assert_eq!(here.vjp(&x, &u).unwrap(), there.vjp(&x, &u).unwrap());
        for u_tangent in [None, Some(&u_tangent[..])] {
            let second = here.second_order(&x, &v, &u, u_tangent).unwrap();
            assert_eq!(second, there.second_order(&x, &v, &u, u_tangent).unwrap());
            assert_eq!(second.len(), x.len());
        }
        assert_eq!((here.blocks(), here.outputs()), (there.blocks(), there.outputs()));
    }
}
