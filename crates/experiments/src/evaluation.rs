//! Evaluates the rules of a backend on a case.

use std::time::{Duration, Instant};

use theria_contract::judge::Output;
use theria_contract::{
    Attention, Cotangent, Directions, Element, Inputs, Primal, Qkv, Result, Rule, SavedTensor, Storage,
    Tangent, Tensor,
};

use crate::case_file::Case;

/// What rules made, on the host, in the element type of the case.
#[derive(Clone, Debug)]
pub struct Results<E> {
    tensors: Vec<(Output, Tensor<E>)>,
    times: Vec<(Rule, Duration)>,
}

impl<E: Element> Results<E> {
    /// One of them.
    pub fn get(&self, output: Output) -> Option<&Tensor<E>> {
        self.tensors.iter().find(|(made, _)| *made == output).map(|(_, tensor)| tensor)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (Output, &Tensor<E>)> {
        self.tensors.iter().map(|(output, tensor)| (*output, tensor))
    }

    /// How long a rule took, allocation of its outputs included.
    pub fn time(&self, rule: Rule) -> Option<Duration> {
        self.times.iter().find(|(timed, _)| *timed == rule).map(|(_, time)| *time)
    }
}

/// The tensors of a case in the memory of a backend.
struct Uploaded<S: Storage, E: Element> {
    operands: Qkv<S::Tensor<E>>,
    mask: Option<S::Tensor<u8>>,
    key_lengths: Option<S::Tensor<i32>>,
    directions: Directions<S::Tensor<E>>,
    dout: Option<S::Tensor<E>>,
    dout_tangent: Option<S::Tensor<E>>,
}

impl<S: Storage, E: Element> Uploaded<S, E> {
    fn new(storage: &S, case: &Case<E>) -> Result<Self> {
        let optional =
            |tensor: &Option<Tensor<E>>| tensor.as_ref().map(|tensor| storage.upload(tensor)).transpose();
        let (operands, directions) = (&case.operands, &case.directions);
        Ok(Self {
            operands: Qkv {
                q: storage.upload(&operands.q)?,
                k: storage.upload(&operands.k)?,
                v: storage.upload(&operands.v)?,
                bias: optional(&operands.bias)?,
            },
            mask: case.mask.as_ref().map(|mask| storage.upload(mask)).transpose()?,
            key_lengths: case.key_lengths.as_ref().map(|lengths| storage.upload(lengths)).transpose()?,
            directions: Directions {
                q: optional(&directions.q)?,
                k: optional(&directions.k)?,
                v: optional(&directions.v)?,
                bias: optional(&directions.bias)?,
            },
            dout: optional(&case.dout)?,
            dout_tangent: optional(&case.dout_tangent)?,
        })
    }

    fn inputs(&self) -> Inputs<'_, S, E> {
        Inputs {
            q: S::view(&self.operands.q),
            k: S::view(&self.operands.k),
            v: S::view(&self.operands.v),
            bias: self.operands.bias.as_ref().map(|tensor| S::view(tensor)),
            mask: self.mask.as_ref().map(|tensor| S::view(tensor)),
            key_lengths: self.key_lengths.as_ref().map(|tensor| S::view(tensor)),
        }
    }

    fn directions(&self) -> Tangent<Directions<S::View<'_, E>>> {
        let directions = &self.directions;
        Tangent(Directions {
            q: directions.q.as_ref().map(|tensor| S::view(tensor)),
            k: directions.k.as_ref().map(|tensor| S::view(tensor)),
            v: directions.v.as_ref().map(|tensor| S::view(tensor)),
            bias: directions.bias.as_ref().map(|tensor| S::view(tensor)),
        })
    }
}

/// A rule and the rules that run before it, in the order in which they run.
pub fn built_on(rule: Rule) -> &'static [Rule] {
    match rule {
        Rule::Forward => &[Rule::Forward],
        Rule::Backward => &[Rule::Forward, Rule::Backward],
        Rule::Jvp => &[Rule::Forward, Rule::Jvp],
        Rule::SecondOrder => &[Rule::Forward, Rule::Jvp, Rule::SecondOrder],
    }
}

/// Runs `rules`, and what they build on, and keeps what was asked for. Every rule that runs must be
/// the derivative itself: another linear map is refused like a rule that is not there.
///
/// # Panics
/// If the case lacks an operand of a rule: ask [`Case::missing_for`] first.
pub fn evaluate<E: Element, A: Attention<E>>(
    backend: &A,
    case: &Case<E>,
    rules: &[Rule],
) -> Result<Results<E>> {
    let (storage, problem) = (backend.storage(), &case.problem);
    rules
        .iter()
        .flat_map(|rule| built_on(*rule))
        .try_for_each(|rule| backend.require_exact(problem, *rule))?;
    let uploaded = Uploaded::new(storage, case)?;
    let inputs = uploaded.inputs();
    let inputs = Primal(&inputs);
    let dout = || Cotangent(A::Storage::view(uploaded.dout.as_ref().expect("dout, by Case::missing_for")));
    let wanted = |rule| rules.contains(&rule);
    let mut results = Results { tensors: Vec::new(), times: Vec::new() };

    let start = Instant::now();
    let saved = backend.forward(problem, inputs)?;
    wait(storage)?;
    if wanted(Rule::Forward) {
        results.times.push((Rule::Forward, start.elapsed()));
        results.keep_saved(storage, [Output::Out, Output::Lse], &saved.0)?;
    }
    if wanted(Rule::Backward) {
        let start = Instant::now();
        let gradients = backend.backward(problem, inputs, saved.as_ref(), dout())?;
        wait(storage)?;
        results.times.push((Rule::Backward, start.elapsed()));
        results.keep(storage, [Output::Dq, Output::Dk, Output::Dv, Output::Dbias], &gradients.0)?;
    }
    if wanted(Rule::Jvp) || wanted(Rule::SecondOrder) {
        let start = Instant::now();
        let saved_tangent = backend.jvp(problem, inputs, saved.as_ref(), uploaded.directions())?;
        wait(storage)?;
        if wanted(Rule::Jvp) {
            results.times.push((Rule::Jvp, start.elapsed()));
            results.keep_saved(storage, [Output::OutTangent, Output::LseTangent], &saved_tangent.0)?;
        }
        if wanted(Rule::SecondOrder) {
            let dout_tangent =
                uploaded.dout_tangent.as_ref().map(|tensor| Tangent(Cotangent(A::Storage::view(tensor))));
            let start = Instant::now();
            let second = backend.second_order(
                problem,
                inputs,
                saved.as_ref(),
                uploaded.directions(),
                saved_tangent.as_ref(),
                dout(),
                dout_tangent,
                false,
            )?;
            wait(storage)?;
            results.times.push((Rule::SecondOrder, start.elapsed()));
            let names = [Output::DqTangent, Output::DkTangent, Output::DvTangent, Output::DbiasTangent];
            results.keep(storage, names, &second.tangent.0.0)?;
        }
    }
    Ok(results)
}

/// Waits until everything asked of a kind of memory so far is done: devices work in order, and what
/// is read back comes last.
fn wait<S: Storage>(storage: &S) -> Result<()> {
    let last = storage.upload(&Tensor::<u8>::zeros([1; 4])?)?;
    storage.download(S::view(&last)).map(drop)
}

impl<E: Element> Results<E> {
    fn keep_saved<S: Storage>(
        &mut self,
        storage: &S,
        names: [Output; 2],
        saved: &SavedTensor<S, E>,
    ) -> Result<()> {
        self.tensors.push((names[0], storage.download(S::view(&saved.output))?));
        self.tensors.push((names[1], storage.download(S::view(&saved.lse))?.cast()));
        Ok(())
    }

    fn keep<S: Storage>(&mut self, storage: &S, names: [Output; 4], all: &Qkv<S::Tensor<E>>) -> Result<()> {
        let tensors = [Some(&all.q), Some(&all.k), Some(&all.v), all.bias.as_ref()];
        for (name, tensor) in names.into_iter().zip(tensors) {
            if let Some(tensor) = tensor {
                self.tensors.push((name, storage.download(S::view(tensor))?));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use theria_contract::{DType, Error, Problem, Refusal};
    use theria_jvp_hvp::variant::{Variant, Varied};
    use theria_jvp_hvp::{Dense, Opaque};

    use super::*;

    #[test]
    fn what_is_opaque_or_another_linear_map_is_refused_by_type_before_anything_runs() {
        let problem = Problem::builder(DType::F64).lengths(3, 4).head_dims(2, 2).build().unwrap();
        let case = Case::<f64>::random(&problem, 1).unwrap();
        let opaque = Opaque::new(Dense::new());
        assert!(evaluate(&opaque, &case, &[Rule::Backward]).is_ok());
        for rule in [Rule::Jvp, Rule::SecondOrder] {
            let refused = evaluate(&opaque, &case, &[rule]).unwrap_err();
            assert!(matches!(refused, Error::Refused { reason: Refusal::Opaque, .. }), "{refused}");
        }
        let frozen = Varied::new(Variant::FrozenStats);
        assert!(evaluate(&frozen, &case, &[Rule::Forward]).is_ok());
        for rule in [Rule::Backward, Rule::Jvp, Rule::SecondOrder] {
            let refused = evaluate(&frozen, &case, &[rule]).unwrap_err();
            assert!(matches!(refused, Error::Refused { reason: Refusal::FrozenStats, .. }), "{refused}");
        }
    }
}

#[cfg(test)]
mod differences;
