//! What a rule made, on the host, and how it is held against the oracle's.

use crate::judge::{Comparison, Output, compare};
use crate::{Attention, Element, Qkv, Result, SavedTensor, Storage, Tensor};

/// The outputs of one rule.
pub(super) struct Outputs<E: Element> {
    pub(super) tensors: Vec<(Output, Made<E>)>,
    /// What rounding took from the first of them, where the call had a place for it.
    pub(super) rest: Option<Tensor<E>>,
}

/// A tensor in the element type, or a row statistic in the accumulation type.
pub(super) enum Made<E: Element> {
    Element(Tensor<E>),
    Statistic(Tensor<E::Acc>),
}

impl<E: Element> Made<E> {
    pub(super) fn to_f64(&self) -> Tensor<f64> {
        match self {
            Self::Element(tensor) => tensor.cast(),
            Self::Statistic(tensor) => tensor.cast(),
        }
    }

    /// Against the oracle's, in its own type: its own rounding is not counted.
    pub(super) fn compare(&self, wanted: &Tensor<f64>, natural_size: f64) -> Comparison {
        match self {
            Self::Element(tensor) => compare(tensor.view(), wanted.view(), natural_size),
            Self::Statistic(tensor) => compare(tensor.view(), wanted.view(), natural_size),
        }
    }

    pub(super) fn same_bits(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Element(a), Self::Element(b)) => a.bytes() == b.bytes(),
            (Self::Statistic(a), Self::Statistic(b)) => a.bytes() == b.bytes(),
            _ => false,
        }
    }
}

/// O and lse, or their tangents.
pub(super) fn of_saved<E: Element, B: Attention<E>>(
    backend: &B,
    names: [Output; 2],
    saved: &SavedTensor<B::Storage, E>,
) -> Result<Outputs<E>> {
    let storage = backend.storage();
    let tensors = vec![
        (names[0], Made::Element(storage.download(B::Storage::view(&saved.output))?)),
        (names[1], Made::Statistic(storage.download(B::Storage::view(&saved.lse))?)),
    ];
    let rest = saved.rest.as_ref().map(|rest| storage.download(B::Storage::view(rest))).transpose()?;
    Ok(Outputs { tensors, rest })
}

/// The gradients that were wanted.
pub(super) fn of_gradients<E: Element, B: Attention<E>>(
    backend: &B,
    names: [Output; 4],
    gradients: &Qkv<<B::Storage as Storage>::Tensor<E>>,
) -> Result<Outputs<E>> {
    let tensors = [Some(&gradients.q), Some(&gradients.k), Some(&gradients.v), gradients.bias.as_ref()];
    let tensors: Result<Vec<_>> = names
        .into_iter()
        .zip(tensors)
        .filter_map(|(name, tensor)| Some((name, tensor?)))
        .map(|(name, tensor)| {
            Ok((name, Made::Element(backend.storage().download(B::Storage::view(tensor))?)))
        })
        .collect();
    Ok(Outputs { tensors: tensors?, rest: None })
}
