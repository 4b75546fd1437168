//! Who may ask something of a device, and when.
//!
//! A stream that is recorded takes down whatever comes to it, whoever sends it. So a thread that records
//! has the device for itself: the others wait with their work until the recording ends. And what is let go
//! meanwhile is kept until it has ended: to release it is work too, and what was recorded may name it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, ThreadId};

use crate::{Error, Result};

/// Turns on one device. `K` is what a recording keeps alive, `R` what is to be released.
pub(super) struct Turns<K, R> {
    state: Mutex<State<K, R>>,
    changed: Condvar,
}

struct State<K, R> {
    /// Turns taken by threads that do not record.
    users: usize,
    /// Threads that wait to record. Nobody overtakes them.
    waiting: usize,
    /// The thread that records.
    recorder: Option<ThreadId>,
    /// What the recording keeps.
    kept: Vec<K>,
    /// Reasons to release nothing.
    holds: usize,
    /// What was let go while there was one.
    released: Vec<R>,
}

impl<K, R> Turns<K, R> {
    pub(super) fn new() -> Self {
        let (kept, released) = (Vec::new(), Vec::new());
        let state = State { users: 0, waiting: 0, recorder: None, kept, holds: 0, released };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// No code of others runs under this lock, so a panic leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, State<K, R>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(
        &self,
        state: MutexGuard<'a, State<K, R>>,
        while_: impl FnMut(&mut State<K, R>) -> bool,
    ) -> MutexGuard<'a, State<K, R>> {
        self.changed.wait_while(state, while_).unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a turn, and says whether it is one of the recording. A thread that holds one takes no second.
    pub(super) fn enter(&self) -> bool {
        let state = self.lock();
        if state.recorder == Some(thread::current().id()) {
            return true;
        }
        let mut state = self.wait(state, |state| state.recorder.is_some() || state.waiting > 0);
        state.users += 1;
        false
    }

    /// Gives a turn back that was none of the recording.
    pub(super) fn leave(&self) {
        let mut state = self.lock();
        state.users -= 1;
        if state.users == 0 && state.waiting > 0 {
            self.changed.notify_all();
        }
    }

    /// Begins a recording on this thread, when all turns are given back.
    pub(super) fn begin(&self) -> Result<()> {
        let me = thread::current().id();
        let mut state = self.lock();
        if state.recorder == Some(me) {
            return Err(Error::AlreadyRecording);
        }
        state.waiting += 1;
        let mut state = self.wait(state, |state| state.recorder.is_some() || state.users > 0);
        state.waiting -= 1;
        state.recorder = Some(me);
        Ok(())
    }

    /// Ends it, and gives what it kept.
    pub(super) fn end(&self) -> Vec<K> {
        let mut state = self.lock();
        state.recorder = None;
        self.changed.notify_all();
        std::mem::take(&mut state.kept)
    }

    /// Keeps something for the recording, unless it says that it is there.
    pub(super) fn keep(&self, new: impl IntoIterator<Item = K>, same: impl Fn(&K, &K) -> bool) {
        let mut state = self.lock();
        for new in new {
            if !state.kept.iter().any(|kept| same(kept, &new)) {
                state.kept.push(new);
            }
        }
    }

    /// From here on nothing is released.
    pub(super) fn hold(&self) {
        self.lock().holds += 1;
    }

    /// Until here. Gives what is to be released now.
    pub(super) fn let_go(&self) -> Vec<R> {
        let mut state = self.lock();
        state.holds -= 1;
        if state.holds == 0 { std::mem::take(&mut state.released) } else { Vec::new() }
    }

    /// Gives it back with a turn to release it in, or puts it aside. Never waits: whoever drops something
    /// may be waited for by the thread that records.
    pub(super) fn release(&self, what: R) -> Option<R> {
        let mut state = self.lock();
        if state.holds > 0 {
            state.released.push(what);
            return None;
        }
        state.users += 1;
        Some(what)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::Turns;
    use crate::Error;

    #[test]
    fn others_wait_while_one_thread_records() {
        let (turns, inside) = (Turns::<u8, u8>::new(), AtomicUsize::new(0));
        let recording = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for n in 0..8 {
                let (turns, inside, recording) = (&turns, &inside, &recording);
                scope.spawn(move || {
                    for _ in 0..200 {
                        if n < 2 {
                            turns.begin().unwrap();
                            assert_eq!(recording.fetch_add(1, Ordering::SeqCst), 0);
                            // Its own turns it has at once.
                            assert!(turns.enter());
                            assert_eq!(inside.load(Ordering::SeqCst), 0);
                            recording.fetch_sub(1, Ordering::SeqCst);
                            turns.end();
                        } else {
                            assert!(!turns.enter());
                            inside.fetch_add(1, Ordering::SeqCst);
                            assert_eq!(recording.load(Ordering::SeqCst), 0);
                            std::thread::yield_now();
                            inside.fetch_sub(1, Ordering::SeqCst);
                            turns.leave();
                        }
                    }
                });
            }
        });
    }

    #[test]
    fn a_recording_waits_for_the_turns_taken() {
        let turns = Turns::<u8, u8>::new();
        assert!(!turns.enter());
        let began = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                turns.begin().unwrap();
                began.store(1, Ordering::SeqCst);
                turns.end();
            });
            std::thread::sleep(Duration::from_millis(20));
            assert_eq!(began.load(Ordering::SeqCst), 0);
            turns.leave();
        });
        assert_eq!(began.into_inner(), 1);
    }

    #[test]
    fn a_recording_in_a_recording_is_refused() {
        let turns = Turns::<u8, u8>::new();
        turns.begin().unwrap();
        assert!(matches!(turns.begin(), Err(Error::AlreadyRecording)));
        turns.end();
        turns.begin().unwrap();
        turns.end();
    }

    #[test]
    fn a_recording_keeps_each_thing_once_and_leaves_none() {
        let turns = Turns::<u8, u8>::new();
        turns.begin().unwrap();
        turns.keep([1, 2, 1], |a, b| a == b);
        turns.keep([2, 3], |a, b| a == b);
        assert_eq!(turns.end(), [1, 2, 3]);
        turns.begin().unwrap();
        assert_eq!(turns.end(), [0; 0]);
    }

    #[test]
    fn what_is_let_go_waits_for_the_last_hold_and_not_for_a_turn() {
        let turns = Turns::<u8, u8>::new();
        assert_eq!(turns.release(1), Some(1));
        turns.leave();
        turns.hold();
        turns.hold();
        turns.begin().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| assert_eq!(turns.release(2), None));
        });
        assert_eq!(turns.release(3), None);
        turns.end();
        assert_eq!(turns.let_go(), [0; 0]);
        assert_eq!(turns.let_go(), [2, 3]);
        assert!(!turns.enter());
        turns.leave();
    }
}
