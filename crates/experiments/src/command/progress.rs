//! A spinner for work that takes longer than a person expects, and a bar for work that is counted.

use std::io::{self, IsTerminal as _};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Work shorter than this shows nothing.
const PATIENCE: Duration = Duration::from_secs(2);

/// Spins on standard error, if that is a terminal, from two seconds on until it is dropped.
pub(super) struct Progress(Option<(Sender<()>, JoinHandle<()>)>);

impl Progress {
    pub(super) fn start(what: &'static str) -> Self {
        if !io::stderr().is_terminal() {
            return Self(None);
        }
        // Nothing is ever sent: the end of the work is the end of the channel.
        let (sender, end) = mpsc::channel::<()>();
        let spinner = thread::spawn(move || {
            if end.recv_timeout(PATIENCE) != Err(RecvTimeoutError::Timeout) {
                return;
            }
            let bar = ProgressBar::new_spinner().with_message(what);
            bar.enable_steady_tick(Duration::from_millis(100));
            let _ = end.recv();
            bar.finish_and_clear();
        });
        Self(Some((sender, spinner)))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((sender, spinner)) = self.0.take() {
            drop(sender);
            // It draws nothing after this, so the results that follow stay clean.
            let _ = spinner.join();
        }
    }
}

/// A bar of steps on standard error, if that is a terminal, from two seconds on until it is dropped: how many were made,
/// how many a second, what the last one said, and the time that is left.
pub(super) struct Steps {
    bar: ProgressBar,
    begun: Instant,
}

impl Steps {
    /// From a step to the last one.
    pub(super) fn new(from: usize, last: usize) -> Self {
        let bar = ProgressBar::with_draw_target(Some(last as u64), ProgressDrawTarget::hidden());
        // The pattern is fixed and sound; without it the bar would only look otherwise.
        if let Ok(style) =
            ProgressStyle::with_template("step {pos} of {len} {wide_bar} {msg}, {per_sec}, {eta} left")
        {
            bar.set_style(style);
        }
        bar.set_position(from as u64);
        bar.reset_eta();
        Self { bar, begun: Instant::now() }
    }

    /// A step was made.
    pub(super) fn reached(&self, step: usize, said: &str) {
        if self.bar.is_hidden() && self.begun.elapsed() > PATIENCE && io::stderr().is_terminal() {
            self.bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        self.bar.set_message(said.to_owned());
        self.bar.set_position(step as u64);
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
