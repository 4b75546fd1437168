//! How a kind of memory tells the time of work on it.

use std::time::{Duration, Instant};

use theria_contract::{Error, Host, Result, Storage};
use theria_gpu_fwd::Cuda;

/// Calls shorter than this are recorded together and replayed: the host could not ask for them fast
/// enough.
const SHORT: Duration = Duration::from_micros(200);
/// Calls of one recording.
const RECORDED: usize = 20;
/// Calls that wake a device up, and those that say how long one takes.
const WARM_UP: usize = 5;
const PROBES: usize = 5;
/// However long a call takes.
const FEWEST_RUNS: usize = 3;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Runs that are timed.
    pub runs: usize,
    /// When that takes longer, fewer are.
    pub patience: Duration,
}

impl Plan {
    /// Runs for calls that take this long.
    fn runs(&self, call: Duration) -> usize {
        let fit = self.patience.as_secs_f64() / call.as_secs_f64().max(1e-9);
        self.runs.min(fit as usize).max(FEWEST_RUNS.min(self.runs.max(1)))
    }
}

/// How times were taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The clock of the host around each call.
    Clock,
    /// Marks of the device around each call.
    Events,
    /// Marks of the device around a replay of twenty recorded calls, divided.
    Graph,
}

impl Method {
    /// The name in result files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Clock => "clock",
            Self::Events => "events",
            Self::Graph => "graph",
        }
    }
}

/// Times of calls.
#[derive(Clone, Debug)]
pub struct Times {
    /// How they were taken.
    pub method: Method,
    samples: Vec<f64>,
}

impl Times {
    /// Times of calls, taken in this way.
    pub fn new(method: Method, samples: &[Duration]) -> Self {
        let mut samples: Vec<f64> = samples.iter().map(|time| time.as_secs_f64() * 1e6).collect();
        samples.sort_by(f64::total_cmp);
        Self { method, samples }
    }

    /// The time in microseconds below which this share of the calls stays.
    pub fn percentile(&self, share: f64) -> f64 {
        let last = self.samples.len().saturating_sub(1);
        self.samples.get((last as f64 * share).round() as usize).copied().unwrap_or(f64::NAN)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.samples.len()
    }

    /// These and those of another round.
    #[must_use]
    pub fn and(mut self, other: &Self) -> Self {
        self.samples.extend_from_slice(&other.samples);
        self.samples.sort_by(f64::total_cmp);
        self
    }
}

/// Memory that tells the time of what is done in it.
pub trait Timed: Storage {
    /// Times of calls after a warm-up. A call is given its number, so that operands can rotate.
    fn times(&self, plan: Plan, call: &mut dyn FnMut(usize) -> Result<()>) -> Result<Times>;
}

impl Timed for Host {
    fn times(&self, plan: Plan, call: &mut dyn FnMut(usize) -> Result<()>) -> Result<Times> {
        let mut timed = |number| -> Result<Duration> {
            let start = Instant::now();
            call(number)?;
            Ok(start.elapsed())
        };
        timed(0)?;
        let runs = plan.runs(timed(1)?);
        let samples: Vec<Duration> = (0..runs).map(timed).collect::<Result<_>>()?;
        Ok(Times::new(Method::Clock, &samples))
    }
}

impl Timed for Cuda {
    fn times(&self, plan: Plan, call: &mut dyn FnMut(usize) -> Result<()>) -> Result<Times> {
        let device = self.device();
        (0..WARM_UP).try_for_each(&mut *call)?;
        let probes = of_device(device.time_calls(PROBES, &mut *call))??;
        let probe = Duration::from_secs_f64(Times::new(Method::Events, &probes).percentile(0.5) * 1e-6);
        if probe < SHORT {
            let runs = plan.runs(probe * RECORDED as u32);
            let samples = of_device(device.time_replays(runs, RECORDED, call))??;
            return Ok(Times::new(Method::Graph, &samples));
        }
        let samples = of_device(device.time_calls(plan.runs(probe), call))??;
        Ok(Times::new(Method::Events, &samples))
    }
}

fn of_device<T>(outcome: theria_gpu_fwd::Result<T>) -> Result<T> {
    outcome.map_err(|error| Error::Backend { backend: "cuda", source: Box::new(error) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_all_rounds() {
        let of = |micros: &[u64]| {
            let times: Vec<Duration> = micros.iter().map(|n| Duration::from_micros(*n)).collect();
            Times::new(Method::Clock, &times)
        };
        let times = of(&[3, 1]).and(&of(&[2, 100, 4]));
        let rounded = |share| times.percentile(share).round();
        assert_eq!((rounded(0.0), rounded(0.5), rounded(0.99), times.count()), (1.0, 3.0, 100.0, 5));
        assert!(of(&[]).percentile(0.5).is_nan());
    }

    #[test]
    fn long_calls_are_repeated_as_patience_allows_and_three_times_at_least() {
        let plan = Plan { runs: 100, patience: Duration::from_secs(10) };
        assert_eq!(plan.runs(Duration::from_millis(1)), 100);
        assert_eq!(plan.runs(Duration::from_secs(1)), 10);
        assert_eq!(plan.runs(Duration::from_secs(60)), 3);
        assert_eq!(Plan { runs: 1, ..plan }.runs(Duration::from_secs(60)), 1);
    }

    #[test]
    fn the_host_calls_once_for_each_run_after_its_warm_up_and_an_error_ends_it() {
        let mut numbers = Vec::new();
        let plan = Plan { runs: 4, patience: Duration::from_secs(10) };
        let times = Host.times(plan, &mut |number| {
            numbers.push(number);
            Ok(())
        });
        assert_eq!((times.unwrap().count(), &numbers[2..]), (4, &[0, 1, 2, 3][..]));
        let broken = || Err(Error::ZeroDimension { name: "t" });
        assert!(Host.times(plan, &mut |_| broken()).is_err());
    }
}
