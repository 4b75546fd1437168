//! Outputs full of NaN: whatever a rule does not write shows.

use theria_contract::{Attention, Element, Problem, Qkv, Result, Saved, SavedTensor, Storage, Tensor};

fn nan<S: Storage, T: Element>(storage: &S, shape: [usize; 4]) -> Result<S::Tensor<T>> {
    storage.upload(&Tensor::from_vec(vec![T::from_f64(f64::NAN); shape.iter().product()], shape)?)
}

/// Outputs of the forward rule or of the JVP, with or without a place for what rounding takes from O.
pub(super) fn saved<E: Element, A: Attention<E>>(
    backend: &A,
    problem: &Problem,
    with_rest: bool,
) -> Result<SavedTensor<A::Storage, E>> {
    let (storage, shape) = (backend.storage(), problem.shape());
    let rest = with_rest.then(|| nan(storage, shape.output())).transpose()?;
    Ok(Saved { output: nan(storage, shape.output())?, lse: nan(storage, shape.rows())?, rest })
}

/// Outputs of the backward rule or of the second order.
pub(super) fn gradients<E: Element, A: Attention<E>>(
    backend: &A,
    shape: theria_contract::Shape,
) -> Result<Qkv<<A::Storage as Storage>::Tensor<E>>> {
    let storage = backend.storage();
    Ok(Qkv {
        q: nan(storage, shape.q())?,
        k: nan(storage, shape.k())?,
        v: nan(storage, shape.v())?,
        bias: None,
    })
}
