//! Times of work on a device, by marks that the device itself passes.
#![allow(unsafe_code)] // replays recorded work; the block says why it is sound

use std::time::Duration;

use crate::{Device, Result};

impl Device {
    /// Times of single calls, with a mark before and after each. `call` is given its number. A gap in
    /// which the device waits for the host is part of the time, so this is for calls that take longer
    /// than the host needs to ask for them.
    ///
    /// The outer error is one of marks, the inner one is what `call` returned.
    pub fn time_calls<E>(
        &self,
        runs: usize,
        mut call: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Result<Vec<Duration>, E>> {
        let mut marks = Vec::with_capacity(runs);
        for run in 0..runs {
            let before = self.mark()?;
            if let Err(error) = call(run) {
                return Ok(Err(error));
            }
            marks.push((before, self.mark()?));
        }
        let times: Result<Vec<Duration>> = marks.iter().map(|(before, after)| after.since(before)).collect();
        Ok(Ok(times?))
    }

    /// Times of one call of `calls` that are recorded together and replayed: no gap between them is the
    /// host's. `call` is given its number among them. What it does must be ready to be recorded (see
    /// [`Device::record`]). Memory of this device that is dropped meanwhile, by any thread, is released when
    /// the times are taken.
    ///
    /// The outer error is one of recording, the inner one is what `call` returned.
    pub fn time_replays<E>(
        &self,
        runs: usize,
        calls: usize,
        mut call: impl FnMut(usize) -> Result<(), E>,
    ) -> Result<Result<Vec<Duration>, E>> {
        let _hold = self.hold();
        let recorded = self.record(|| (0..calls).try_for_each(&mut call))?;
        let graph = match recorded {
            Ok(graph) => graph,
            Err(error) => return Ok(Err(error)),
        };
        let replay = |_| {
            // SAFETY: memory that was alive while `call` was recorded is not released before `_hold` goes, and
            // that is after the replays were asked for; what is asked of the device later comes after them.
            unsafe { graph.launch() }
        };
        replay(0)?;
        let times = match self.time_calls(runs, replay)? {
            Ok(times) => times.into_iter().map(|time| time.div_f64(calls.max(1) as f64)).collect(),
            Err(error) => {
                self.synchronize()?;
                return Err(error);
            }
        };
        self.synchronize()?;
        drop(call);
        Ok(Ok(times))
    }
}
