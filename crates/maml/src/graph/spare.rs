//! Tensors for what is needed for a while: a tangent until the pull-back has passed it, a cotangent until it is pulled back.

use std::sync::{Arc, Mutex, PoisonError};

use theria_contract::Layout;

use crate::Result;
use crate::machine::{Machine, Width};

/// Tensors that nobody needs now, by their layout and their width. Copies are the same: models that are never at work at once share them.
/// None is released before the last copy is, because recordings name them.
pub(super) struct Spare<M: Machine>(Arc<Mutex<Shelves<M>>>);

type Shelves<M> = Vec<((Layout, Width), Vec<<M as Machine>::Tensor>)>;

impl<M: Machine> Clone for Spare<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M: Machine> Default for Spare<M> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<M: Machine> Spare<M> {
    /// One of this layout and width, with anything in it. It is made where there is none.
    pub(super) fn take(&self, machine: &M, form: (Layout, Width)) -> Result<M::Tensor> {
        let found = {
            let mut shelves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            shelves.iter_mut().find(|(of, _)| *of == form).and_then(|(_, tensors)| tensors.pop())
        };
        found.map_or_else(|| machine.allocate(form.0, form.1), Ok)
    }

    /// Gives one back.
    pub(super) fn give(&self, tensor: M::Tensor) {
        let form = M::form(&tensor);
        let mut shelves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match shelves.iter_mut().find(|(of, _)| *of == form) {
            Some((_, tensors)) => tensors.push(tensor),
            None => shelves.push((form, vec![tensor])),
        }
    }
}
