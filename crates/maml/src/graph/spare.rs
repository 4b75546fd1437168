//! Tensors for what is needed for a while: a tangent until the pull-back has passed it, a cotangent until it is pulled back.

use std::sync::{Arc, Mutex, PoisonError};

use theria_contract::{Layout, Storage};

use crate::Result;
use crate::machine::{Machine, TensorOf};

/// Tensors that nobody needs now, by their layout. Copies are the same: models that are never at work at once share them.
/// None is released before the last copy is, because recordings name them.
pub(super) struct Spare<M: Machine>(Arc<Mutex<Shelves<M>>>);

type Shelves<M> = Vec<(Layout, Vec<TensorOf<M>>)>;

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
    /// One of this layout, with anything in it. It is made where there is none.
    pub(super) fn take(&self, machine: &M, layout: Layout) -> Result<TensorOf<M>> {
        let found = {
            let mut shelves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            shelves.iter_mut().find(|(of, _)| *of == layout).and_then(|(_, tensors)| tensors.pop())
        };
        found.map_or_else(|| Ok(machine.storage().allocate(layout)?), Ok)
    }

    /// Gives one back.
    pub(super) fn give(&self, tensor: TensorOf<M>) {
        let layout = M::Storage::layout(&M::Storage::view(&tensor));
        let mut shelves = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match shelves.iter_mut().find(|(of, _)| *of == layout) {
            Some((_, tensors)) => tensors.push(tensor),
            None => shelves.push((layout, vec![tensor])),
        }
    }
}
