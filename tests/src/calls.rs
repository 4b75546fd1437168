//! A case as the operands of a call on the host.

use theria_contract::{Cotangent, Directions, Element, Host, Inputs, Tangent, Tensor, TensorView};
use theria_experiments::case_file::Case;

/// Q, K, V, and what decides visibility.
pub fn inputs<E: Element>(case: &Case<E>) -> Inputs<'_, Host, E> {
    let operands = &case.operands;
    Inputs {
        bias: operands.bias.as_ref().map(Tensor::view),
        mask: case.mask.as_ref().map(Tensor::view),
        key_lengths: case.key_lengths.as_ref().map(Tensor::view),
        ..Inputs::new(operands.q.view(), operands.k.view(), operands.v.view())
    }
}

/// Q′, K′, V′ and bias′, as far as the case has them.
pub fn directions<E: Element>(case: &Case<E>) -> Directions<TensorView<'_, E>> {
    let directions = &case.directions;
    let [q, k, v, bias] = [&directions.q, &directions.k, &directions.v, &directions.bias]
        .map(|direction| direction.as_ref().map(Tensor::view));
    Directions { q, k, v, bias }
}

/// G.
///
/// # Panics
/// If the case has none.
pub fn cotangent<E: Element>(case: &Case<E>) -> Cotangent<TensorView<'_, E>> {
    Cotangent(case.dout.as_ref().expect("a case with a cotangent").view())
}

/// G′.
pub fn cotangent_tangent<E: Element>(case: &Case<E>) -> Option<Tangent<Cotangent<TensorView<'_, E>>>> {
    case.dout_tangent.as_ref().map(|tensor| Tangent(Cotangent(tensor.view())))
}
