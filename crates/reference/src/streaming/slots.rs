//! Scratch of the threads.

use std::sync::Mutex;

use smallvec::SmallVec;
use theria_contract::{Arena, Workspace};

use super::Vector;

/// One piece of scratch for each thread of the pool.
///
/// A task locks the slot of its own thread and calls nothing parallel while it holds it, so no lock
/// is ever contended.
#[derive(Debug)]
pub struct Slots<'a, A> {
    /// Inline up to this many threads: a call allocates nothing.
    slots: SmallVec<[Mutex<&'a mut [A]>; 128]>,
}

impl<'a, A: Vector> Slots<'a, A> {
    /// Scratch that `elements` for each thread need.
    pub fn bytes(elements: usize) -> usize {
        rayon::current_num_threads() * Workspace::bytes_for::<A>(elements)
    }

    /// Takes it.
    pub fn new(arena: &mut Arena<'a>, elements: usize) -> Self {
        let slots = (0..rayon::current_num_threads()).map(|_| Mutex::new(arena.take(elements)));
        Self { slots: slots.collect() }
    }

    /// Lends the scratch of this thread.
    pub fn with<R>(&self, work: impl FnOnce(&mut [A]) -> R) -> R {
        let index = rayon::current_thread_index().unwrap_or(0);
        // A poisoned slot only means that another task panicked: its scratch holds no state.
        let mut slot = self.slots[index].lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        work(&mut slot)
    }
}
