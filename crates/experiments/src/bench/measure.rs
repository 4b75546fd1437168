//! One row: operands, check, times; peers between two rounds of theria.

use theria_contract::{Attention, Checks, Element, Problem, Rule};

use super::stage::{Drawn, Stage};
use super::{Checked, Peer, Plan, Timed, Times, check};
use crate::backend::{Backend, Served as _, Visit, with_element};

/// What is measured.
#[derive(Clone, Debug)]
pub struct Task {
    /// Who computes.
    pub backend: Backend,
    /// What.
    pub problem: Problem,
    /// Which rule of it.
    pub rule: Rule,
    /// How long.
    pub plan: Plan,
    /// Of the operands.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Times of all rounds; none where the check failed.
    pub times: Option<Times>,
    /// Those of a forward that also keeps what rounding takes from O, for the rules that start from it.
    pub with_rest: Option<Times>,
    /// The larger median of two rounds over the smaller one; 1 for one round.
    pub drift: f64,
    /// The check, made before anything is timed.
    pub checked: Checked,
    /// Sets of operands through which calls rotated.
    pub sets: usize,
    /// Scratch.
    pub workspace_bytes: usize,
    /// What peers did between the rounds.
    pub peers: Vec<Peer>,
}

/// Checks and times a rule. Where there are peers, they are measured between two rounds.
pub fn measure(task: &Task, peers: Option<&mut dyn FnMut() -> Vec<Peer>>) -> anyhow::Result<Measured> {
    with_element!(task.problem.dtype(), E => {
        E::with_backend(task.backend, Checks::None, Measure { task, peers })
            .map_err(task.backend.refuses(task.rule))?
    })
}

struct Measure<'a, 'p> {
    task: &'a Task,
    peers: Option<&'p mut dyn FnMut() -> Vec<Peer>>,
}

impl<E: Element> Visit<E> for Measure<'_, '_> {
    type Output = anyhow::Result<Measured>;

    fn visit<A: Attention<E, Storage: Timed>>(self, backend: &A) -> Self::Output {
        let Task { problem, rule, plan, seed, .. } = self.task;
        for needed in crate::evaluation::built_on(*rule) {
            backend.require_exact(problem, *needed)?;
        }
        let (mut stage, drawn) = Stage::<E, A>::new(backend, problem, *rule, *seed)?;
        let precision = self.task.backend.precision(E::DTYPE);
        let checked_now = |stage: &mut Stage<'_, E, A>, drawn: &Drawn<E>| {
            stage.call(0)?;
            check::check(backend, problem, *rule, precision, drawn, stage.outputs())
        };
        let checked = checked_now(&mut stage, &drawn)?;
        // Nothing is held for a check that does not come.
        let drawn = stage.can_keep_rest().then_some(drawn);
        let mut measured = Measured {
            times: None,
            with_rest: None,
            drift: 1.0,
            checked,
            sets: stage.sets(),
            workspace_bytes: backend.workspace_bytes(problem, *rule),
            peers: Vec::new(),
        };
        if !checked.passed() {
            return Ok(measured);
        }
        let first = backend.storage().times(*plan, &mut |number| stage.call(number))?;
        measured.times = Some(match self.peers {
            None => first,
            Some(peers) => {
                measured.peers = peers();
                let second = backend.storage().times(*plan, &mut |number| stage.call(number))?;
                let (a, b) = (first.percentile(0.5), second.percentile(0.5));
                measured.drift = a.max(b) / a.min(b);
                first.and(&second)
            }
        });
        if let Some(drawn) = drawn {
            stage.keep_rest()?;
            measured.checked = checked.and(checked_now(&mut stage, &drawn)?);
            if measured.checked.passed() {
                measured.with_rest = Some(backend.storage().times(*plan, &mut |number| stage.call(number))?);
            } else {
                measured.times = None;
            }
        }
        Ok(measured)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use theria_contract::{
        DType, Host, Inputs, Primal, Result, SavedViewMut, Support, TensorViewMut, Workspace,
    };
    use theria_jvp_hvp::Dense;

    use super::super::Shape;
    use super::*;

    /// The forward rule with a mistake; or one that keeps rests, and makes the mistake where it does.
    struct Mistaken {
        mistake: fn(TensorViewMut<'_, f64>),
        keeps_rests: bool,
    }

    impl Attention<f64> for Mistaken {
        type Storage = Host;

        fn name(&self) -> &'static str {
            "mistaken"
        }

        fn storage(&self) -> &Host {
            &Host
        }

        fn support(&self, _: &Problem, _: Rule) -> Support {
            Support::Exact
        }

        fn keeps_rest(&self, _: &Problem) -> bool {
            self.keeps_rests
        }

        fn workspace_bytes(&self, problem: &Problem, rule: Rule) -> usize {
            Attention::<f64>::workspace_bytes(&Dense::new(), problem, rule)
        }

        fn forward_kernel(
            &self,
            problem: &Problem,
            inputs: Primal<&Inputs<'_, Host, f64>>,
            Primal(mut saved): Primal<SavedViewMut<'_, Host, f64>>,
            workspace: &mut Workspace,
        ) -> Result<()> {
            let lent = theria_contract::reborrow_saved::<Host, f64>(&mut saved);
            Dense::new().forward_kernel(problem, inputs, Primal(lent), workspace)?;
            if saved.rest.is_some() || !self.keeps_rests {
                (self.mistake)(saved.output);
            }
            Ok(())
        }
    }

    fn measured(mistake: fn(TensorViewMut<'_, f64>), shape: [usize; 4]) -> Measured {
        measured_of(&Mistaken { mistake, keeps_rests: false }, shape)
    }

    fn measured_of(backend: &Mistaken, shape: [usize; 4]) -> Measured {
        let task = Task {
            backend: Backend::Dense,
            problem: Shape::causal(shape).problem(DType::F64).unwrap(),
            rule: Rule::Forward,
            plan: Plan { runs: 3, patience: Duration::from_secs(1) },
            seed: 5,
        };
        Measure { task: &task, peers: None }.visit(backend).unwrap()
    }

    #[test]
    fn what_is_right_is_timed_and_what_is_wrong_or_not_written_has_no_time() {
        // The first and the last head are held against the oracle, and every element must be there.
        let small = [1, 3, 32, 8];
        let right = measured(|_| {}, small);
        assert!(right.checked.passed() && right.times.unwrap().count() == 3);
        let mistakes: [fn(TensorViewMut<'_, f64>); 2] = [
            |mut out| out.set([0, 2, 31, 7], 1e-3 + out.at([0, 2, 31, 7])),
            |mut out| out.set([0, 0, 0, 0], 1e-3 + out.at([0, 0, 0, 0])),
        ];
        for mistake in mistakes {
            let wrong = measured(mistake, small);
            assert!(!wrong.checked.passed() && wrong.times.is_none() && wrong.checked.error < 1.0);
        }
        let missing = measured(|mut out| out.set([0, 1, 3, 0], f64::NAN), small);
        assert!(missing.checked.error.is_infinite() && missing.times.is_none());
    }

    #[test]
    fn of_a_long_sequence_the_first_and_the_last_rows_are_held_against_the_oracle() {
        let long = [1, 1, 1100, 4];
        assert!(measured(|_| {}, long).checked.passed());
        let mistakes: [fn(TensorViewMut<'_, f64>); 2] = [
            |mut out| out.set([0, 0, 1040, 1], 0.5 + out.at([0, 0, 1040, 1])),
            |mut out| out.set([0, 0, 60, 1], 0.5 + out.at([0, 0, 60, 1])),
        ];
        for mistake in mistakes {
            let wrong = measured(mistake, long);
            assert!(!wrong.checked.passed() && wrong.times.is_none());
        }
    }

    #[test]
    fn a_forward_that_can_keep_rests_is_timed_without_and_with_them_and_both_must_be_right() {
        let measured = |mistake, keeps_rests| measured_of(&Mistaken { mistake, keeps_rests }, [1, 3, 32, 8]);
        let right = measured(|_| {}, true);
        assert!(right.checked.passed() && right.times.is_some() && right.with_rest.unwrap().count() == 3);
        assert!(measured(|_| {}, false).with_rest.is_none());
        let wrong = measured(|mut out| out.set([0, 2, 31, 7], 1e-3 + out.at([0, 2, 31, 7])), true);
        assert!(!wrong.checked.passed() && wrong.times.is_none() && wrong.with_rest.is_none());
    }

    #[test]
    fn peers_are_measured_once_between_two_rounds() {
        let task = Task {
            backend: Backend::Streaming,
            problem: Shape::plain([1, 1, 16, 8]).problem(DType::F32).unwrap(),
            rule: Rule::SecondOrder,
            plan: Plan { runs: 4, patience: Duration::from_secs(1) },
            seed: 1,
        };
        let mut asked = 0;
        let mut peers = || {
            asked += 1;
            vec![Peer::failed("nobody", "is here")]
        };
        let measured = measure(&task, Some(&mut peers)).unwrap();
        assert_eq!((asked, measured.peers.len(), measured.times.unwrap().count()), (1, 1, 8));
        assert!(measured.drift >= 1.0);
    }
}
