//! Measuring choices, and holding what they make against what the shipped one makes.

use std::time::Duration;

use theria_contract::Result;

use super::Situation;
use crate::forward::Choice;
use crate::{Architecture, Device, KernelSpec};

/// A piece of work that can be done by any choice.
pub trait Trial {
    /// Choices worth a try beside the shipped one. What cannot be launched here or spills is passed over later.
    fn candidates(&self) -> Vec<Choice>;

    /// What is worth a try once the best of them is known.
    fn refinements(&self, _best: Choice) -> Vec<Choice> {
        Vec::new()
    }

    /// Makes kernels ready, as many at a time as it likes.
    fn prepare(&mut self, kernels: &[KernelSpec]);

    /// The median time of a choice; `None` if its kernels keep in memory what registers should hold.
    fn time(&mut self, choice: Choice) -> Result<Option<Duration>>;

    /// Every result of the choice that was timed last.
    fn results(&mut self) -> Result<Vec<Vec<f32>>>;
}

/// What was found for a situation.
#[derive(Clone, Debug)]
pub struct Tuned<S> {
    /// What was chosen for.
    pub situation: S,
    /// The choice that is shipped, and its time.
    pub shipped: (Choice, Duration),
    /// The fastest choice, and its time.
    pub best: (Choice, Duration),
    /// Choices that were measured.
    pub measured: usize,
    /// Choices that were passed over: their registers did not hold what they need, or they could not be
    /// compiled or launched here.
    pub unfit: usize,
    /// Choices that were passed over because their result was another one.
    pub wrong: usize,
}

/// Finds the fastest choice. `progress` is told how many of how many were tried.
pub fn search<S: Situation>(
    situation: S,
    architecture: Architecture,
    trial: &mut impl Trial,
    mut progress: impl FnMut(usize, usize),
) -> Result<Tuned<S>> {
    let default = situation.shipped(architecture);
    let candidates = trial.candidates();
    prepare(trial, situation, &candidates);
    let time = trial.time(default)?.unwrap_or(Duration::MAX);
    let wanted = trial.results()?;
    let shipped = (default, time);
    let mut tuned = Tuned { situation, shipped, best: shipped, measured: 1, unfit: 0, wrong: 0 };
    tuned.try_all(trial, &candidates, &wanted, |tried| progress(tried, candidates.len()));

    let refinements = trial.refinements(tuned.best.0);
    prepare(trial, situation, &refinements);
    let (before, all) = (candidates.len(), candidates.len() + refinements.len());
    tuned.try_all(trial, &refinements, &wanted, |tried| progress(before + tried, all));

    tuned.decide(trial)?;
    Ok(tuned)
}

/// Compiles ahead: that takes longer than to measure.
fn prepare(trial: &mut impl Trial, situation: impl Situation, choices: &[Choice]) {
    let kernels: Vec<_> = choices.iter().flat_map(|choice| situation.kernels(*choice)).collect();
    trial.prepare(&kernels);
}

impl<S> Tuned<S> {
    fn try_all(
        &mut self,
        trial: &mut impl Trial,
        choices: &[Choice],
        wanted: &[Vec<f32>],
        mut progress: impl FnMut(usize),
    ) {
        for (tried, choice) in choices.iter().enumerate() {
            progress(tried);
            if *choice == self.shipped.0 {
                continue;
            }
            let timed = trial.time(*choice);
            match timed.and_then(|time| time.map(|time| Ok((time, trial.results()?))).transpose()) {
                Err(error) => {
                    tracing::warn!(%error, ?choice, "a choice is passed over");
                    self.unfit += 1;
                }
                Ok(None) => self.unfit += 1,
                Ok(Some((time, made))) => {
                    self.measured += 1;
                    if !near(wanted, &made) {
                        self.wrong += 1;
                    } else if time < self.best.1 {
                        self.best = (*choice, time);
                    }
                }
            }
        }
        progress(choices.len());
    }

    /// Clocks have moved since the first measurement: the two that matter are measured again, in turns.
    fn decide(&mut self, trial: &mut impl Trial) -> Result<()> {
        let finalists = [&mut self.shipped, &mut self.best];
        for (_, time) in finalists {
            *time = Duration::MAX;
        }
        for _ in 0..3 {
            for (choice, best) in [&mut self.shipped, &mut self.best] {
                *best = (*best).min(trial.time(*choice)?.unwrap_or(Duration::MAX));
            }
        }
        // What is within the noise of the shipped choice is no reason to leave it.
        if self.best.1.as_secs_f64() > 0.98 * self.shipped.1.as_secs_f64() {
            self.best = self.shipped;
        }
        Ok(())
    }
}

/// The median time of a call, the device kept busy in between.
pub fn median_time<E: From<crate::Error>>(
    device: &Device,
    mut call: impl FnMut() -> Result<(), E>,
) -> Result<Duration, E> {
    let median = |mut times: Vec<Duration>| {
        times.sort_unstable();
        times[times.len() / 2]
    };
    let first = median(device.time_calls(3, |_| call())??);
    // Ten milliseconds of each: enough for a median, and for the list.
    let runs = (Duration::from_millis(10).as_nanos() / first.as_nanos().max(1)).clamp(3, 40) as usize;
    Ok(median(device.time_replays(5, runs, |_| call())??))
}

/// Whether results differ from others by rounding alone.
fn near(wanted: &[Vec<f32>], made: &[Vec<f32>]) -> bool {
    let near = |(a, b): (&Vec<f32>, &Vec<f32>)| {
        let (mut size, mut error) = (0.0_f64, 0.0_f64);
        for (a, b) in a.iter().zip(b) {
            let (a, b) = (f64::from(*a), f64::from(*b));
            size += a * a;
            error += (a - b) * (a - b);
        }
        // False for NaN. Two roundings of bf16 are 2^-8 of an element apart at most.
        a.len() == b.len() && error.sqrt() <= 5e-3 * size.sqrt()
    };
    wanted.len() == made.len() && wanted.iter().zip(made).all(near)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forward::{Load, Masking, Occasion, Products};

    const OCCASION: Occasion =
        Occasion { products: Products::Bf16, room: 64, masking: Masking::Intervals, load: Load::Long };

    /// A choice that differs from the shipped one in its section alone.
    fn choice(section: u32) -> Choice {
        Choice { section, ..OCCASION.shipped(Architecture::SM_90A) }
    }

    /// What a choice of this section comes to.
    #[derive(Clone)]
    struct Answer {
        section: u32,
        microseconds: Result<Option<u64>, &'static str>,
        results: [f32; 2],
    }

    fn answer(section: u32, microseconds: u64) -> Answer {
        Answer { section, microseconds: Ok(Some(microseconds)), results: RIGHT }
    }

    const RIGHT: [f32; 2] = [1.0, -2.0];
    const SHIPPED: u32 = 16;

    /// Answers out of a list. The shipped choice takes 100 µs.
    struct Fake {
        answers: Vec<Answer>,
        refinements: Vec<u32>,
        last: Option<Answer>,
        prepared: usize,
    }

    impl Fake {
        fn new(answers: &[Answer]) -> Self {
            let answers = answers.iter().cloned().chain([answer(SHIPPED, 100)]).collect();
            Self { answers, refinements: Vec::new(), last: None, prepared: 0 }
        }

        fn found(mut self) -> Tuned<Occasion> {
            search(OCCASION, Architecture::SM_90A, &mut self, |_, _| {}).unwrap()
        }
    }

    impl Trial for Fake {
        fn candidates(&self) -> Vec<Choice> {
            let first = self.answers.iter().map(|answer| answer.section);
            first.filter(|section| !self.refinements.contains(section)).map(choice).collect()
        }
        fn refinements(&self, _: Choice) -> Vec<Choice> {
            self.refinements.iter().copied().map(choice).collect()
        }
        fn prepare(&mut self, kernels: &[KernelSpec]) {
            self.prepared += kernels.len();
        }
        fn time(&mut self, asked: Choice) -> Result<Option<Duration>> {
            let answer = self.answers.iter().find(|answer| choice(answer.section) == asked).unwrap();
            self.last = Some(answer.clone());
            let lost = |call| crate::Error::Driver { call, code: "lost".into() }.into();
            answer.microseconds.map(|time| time.map(Duration::from_micros)).map_err(lost)
        }
        fn results(&mut self) -> Result<Vec<Vec<f32>>> {
            Ok(vec![self.last.as_ref().unwrap().results.to_vec()])
        }
    }

    /// The section of the best one; how many were measured, unfit, wrong.
    fn outcome(answers: &[Answer]) -> (u32, [usize; 3]) {
        let tuned = Fake::new(answers).found();
        (tuned.best.0.section, [tuned.measured, tuned.unfit, tuned.wrong])
    }

    #[test]
    fn the_fastest_right_choice_is_taken() {
        assert_eq!(outcome(&[answer(1, 90), answer(4, 80), answer(64, 85)]), (4, [4, 0, 0]));
    }

    #[test]
    fn without_a_faster_choice_the_shipped_one_stays() {
        assert_eq!(outcome(&[]), (SHIPPED, [1, 0, 0]));
        assert_eq!(outcome(&[answer(1, 101)]), (SHIPPED, [2, 0, 0]));
    }

    #[test]
    fn a_faster_choice_with_another_result_is_not_taken() {
        for results in [[1.0, 2.0], [1.02, -2.0], [0.0, 0.0], [f32::NAN, -2.0]] {
            let wrong = Answer { results, ..answer(1, 10) };
            assert_eq!(outcome(&[wrong.clone(), answer(4, 80)]), (4, [3, 0, 1]), "{results:?}");
            assert_eq!(outcome(&[wrong]), (SHIPPED, [2, 0, 1]), "{results:?}");
        }
        let rounded = Answer { results: [1.001, -2.001], ..answer(1, 10) };
        assert_eq!(outcome(&[rounded]), (1, [2, 0, 0]));
    }

    #[test]
    fn results_that_are_missing_are_not_those_that_were_wanted() {
        let wanted = [vec![1.0], vec![2.0]];
        assert!(near(&wanted, &wanted));
        assert!(!near(&wanted, &wanted[..1]) && !near(&wanted, &[vec![1.0], vec![]]));
    }

    #[test]
    fn a_choice_that_spills_or_cannot_be_launched_is_unfit() {
        let spills = Answer { microseconds: Ok(None), ..answer(1, 0) };
        let fails = Answer { microseconds: Err("cuLaunchKernelEx"), ..answer(4, 0) };
        assert_eq!(outcome(&[spills, fails, answer(64, 80)]), (64, [2, 2, 0]));
    }

    #[test]
    fn what_is_within_two_per_cent_of_the_shipped_choice_is_not_taken() {
        assert_eq!(outcome(&[answer(1, 99)]).0, SHIPPED);
        assert_eq!(outcome(&[answer(1, 97)]).0, 1);
    }

    #[test]
    fn refinements_are_tried_after_the_candidates_and_by_the_same_measure() {
        let refined = |answers: &[Answer], refinements: &[u32]| {
            let mut trial = Fake { refinements: refinements.to_vec(), ..Fake::new(answers) };
            let mut seen = Vec::new();
            let tuned = search(OCCASION, Architecture::SM_90A, &mut trial, |tried, all| {
                seen.push((tried, all));
            });
            (tuned.unwrap(), trial.prepared, seen)
        };
        let wrong = Answer { results: [0.0, 0.0], ..answer(64, 10) };
        let (tuned, prepared, seen) = refined(&[answer(1, 90), answer(4, 80), wrong], &[4, 64]);
        assert_eq!((tuned.best.0.section, tuned.wrong, prepared), (4, 1, 4));
        assert_eq!((seen[0], seen[seen.len() - 1]), ((0, 2), (4, 4)));
    }

    #[test]
    fn a_shipped_choice_that_cannot_be_measured_is_an_error() {
        let mut trial = Fake::new(&[answer(1, 10)]);
        trial.answers[1].microseconds = Err("cuLaunchKernelEx");
        assert!(search(OCCASION, Architecture::SM_90A, &mut trial, |_, _| {}).is_err());
    }
}
