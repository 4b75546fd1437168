//! A spinner for work that takes longer than a person expects.

use std::io::{self, IsTerminal as _};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use indicatif::ProgressBar;

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
