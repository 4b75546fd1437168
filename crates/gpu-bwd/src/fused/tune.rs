//! Tuning the sweeps on the device at hand.

use std::time::Duration;

use theria_contract::{Attention, Element, Problem, Result, Rule, Storage as _};
use theria_gpu_fwd::forward::tuning::{Trial, median_time, search};
use theria_gpu_fwd::forward::{Choice, Masking, Situation as _, Tiling, Tuned};
use theria_gpu_fwd::{Architecture, CudaWorkspace, KernelSpec};

use super::choice::tiling;
use super::staged::Outputs;
use super::{CudaFused, Staged, SweepOccasion};
use crate::part::{Order, Part};

/// Keys of a stage, and of a step.
const STEPS: [(u32, u32); 5] = [(16, 16), (32, 16), (32, 32), (64, 32), (64, 64)];

/// Tilings worth a try. What spills is passed over later.
fn candidates(occasion: SweepOccasion, architecture: Architecture) -> Vec<Choice> {
    let section = occasion.shipped(architecture).section;
    // Threads that have whole rows of 96 and 192 columns need fewer registers to load them.
    let warps: &[u32] = if occasion.occasion.room.is_multiple_of(96) { &[3, 4, 6, 8] } else { &[2, 4, 8] };
    let mut choices = Vec::new();
    for row_tiles in [1, 2] {
        for &row_warps in warps {
            for (keys, step) in STEPS {
                for q_in_registers in [true, false] {
                    for blocks in 1..=3 {
                        let tiling = tiling([row_tiles, row_warps, keys, step], q_in_registers, blocks);
                        choices.push(Choice { tiling, section });
                    }
                }
            }
        }
    }
    choices.retain(|choice| {
        occasion.fits(choice, architecture) && plausible(occasion, choice.tiling, architecture)
    });
    choices
}

/// What is worth a try with the best tiling: more stages, other sections.
fn refinements(occasion: SweepOccasion, architecture: Architecture, best: Choice) -> Vec<Choice> {
    let intervals = occasion.occasion.masking == Masking::Intervals;
    let sections: &[u32] = if intervals { &[1, 4, 16, 64] } else { &[1] };
    let stages = [2, 3, 4].into_iter();
    let tilings = stages.map(|stages| Tiling { stages, ..best.tiling });
    let choices = tilings.flat_map(|tiling| sections.iter().map(move |&section| Choice { tiling, section }));
    choices.filter(|choice| *choice != best && occasion.fits(choice, architecture)).collect()
}

/// Registers that a thread is held to when as many blocks share a multiprocessor, whose four parts have warps alike.
fn registers(threads: u32, blocks: u32) -> u32 {
    (65_536 / (threads.next_multiple_of(128) * blocks)).min(255)
}

/// Whether the registers and the shared memory of a multiprocessor could hold what as many blocks sum, score and keep.
fn plausible(occasion: SweepOccasion, tiling: Tiling, architecture: Architecture) -> bool {
    let SweepOccasion { part, occasion: plain } = occasion;
    let order = part.order().map_or(1, Order::number);
    let sums = match part {
        Part::Keys(_) => plain.room / occasion.makes().len() as u32,
        Part::Bias(_) => tiling.step / 2,
        _ => plain.room / 2,
    };
    let scores = order * tiling.step;
    let kept = if tiling.q_in_registers { order * plain.room * plain.products.element() / 4 } else { 0 };
    let needed = tiling.row_tiles * (sums + scores + kept) + 40;
    let Tiling { blocks, .. } = tiling;
    let given = |blocks| registers(tiling.threads(), blocks);
    let shared = blocks * occasion.shared_bytes(tiling) <= architecture.shared_memory();
    // Sixteen short rows are too few for a barrier; as many registers as for a block less are the same kernel.
    let short = tiling.keys == 16 && plain.room <= 64 && plain.products.element() == 2;
    !short && needed <= given(blocks) && (blocks == 1 || shared && given(blocks) < given(blocks - 1))
}

impl CudaFused {
    /// The sweeps of a rule that there are choices for: none where kernels that take pairs serve.
    pub fn sweeps_of<E: Element>(&self, problem: &Problem, rule: Rule) -> Result<Vec<SweepOccasion>> {
        Attention::<E>::require(self, problem, rule)?;
        let Some(occasion) = self.forward.packed_occasion(problem) else { return Ok(Vec::new()) };
        let wanted = |part: &&Part| problem.bias().is_some() || !matches!(part, Part::Bias(_));
        let sweeps =
            Part::sweeps_of(rule).iter().filter(wanted).map(|part| SweepOccasion::of(*part, occasion));
        let fits =
            |sweep: &SweepOccasion| sweep.fits(&sweep.shipped(self.architecture()), self.architecture());
        Ok(sweeps.filter(fits).collect())
    }

    /// Operands of a problem for [`CudaFused::tune_sweep`].
    pub fn stage<E: Element>(&self, problem: &Problem) -> Result<Staged<E>> {
        Staged::new(self, problem)
    }

    /// Measures choices for a portable sweep, by the time of the whole rule, and takes the fastest into its table. The other
    /// sweeps are those of the table. `progress` is told how many of how many were tried.
    pub fn tune_sweep<E: Element>(
        &mut self,
        staged: &Staged<E>,
        occasion: SweepOccasion,
        progress: impl FnMut(usize, usize),
    ) -> Result<Tuned<SweepOccasion>> {
        // Choices are those of the portable kernels: the others stand aside.
        let hopper = self.hopper.take();
        let tuned = self.tune_portable_sweep(staged, occasion, progress);
        self.hopper = hopper;
        tuned
    }

    fn tune_portable_sweep<E: Element>(
        &mut self,
        staged: &Staged<E>,
        occasion: SweepOccasion,
        progress: impl FnMut(usize, usize),
    ) -> Result<Tuned<SweepOccasion>> {
        let outputs = Outputs::new(self, staged, occasion.part)?;
        let bytes = Attention::<E>::workspace_bytes(self, staged.problem(), occasion.part.rule());
        let workspace = self.cuda.workspace(bytes)?;
        let (architecture, before) = (self.architecture(), self.table.clone());
        let mut trial = SweepTrial { backend: self, staged, occasion, outputs, workspace };
        let found = search(occasion, architecture, &mut trial, progress);
        self.table = before;
        let tuned = found?;
        self.table.insert(occasion, tuned.best.0);
        Ok(tuned)
    }
}

/// A rule whose choice for one sweep changes.
struct SweepTrial<'a, E: Element> {
    backend: &'a mut CudaFused,
    staged: &'a Staged<E>,
    occasion: SweepOccasion,
    outputs: Outputs<E>,
    workspace: CudaWorkspace,
}

impl<E: Element> Trial for SweepTrial<'_, E> {
    fn candidates(&self) -> Vec<Choice> {
        candidates(self.occasion, self.backend.architecture())
    }

    fn refinements(&self, best: Choice) -> Vec<Choice> {
        refinements(self.occasion, self.backend.architecture(), best)
    }

    fn prepare(&mut self, kernels: &[KernelSpec]) {
        self.backend.cuda.device().compile_all(kernels);
    }

    fn time(&mut self, choice: Choice) -> Result<Option<Duration>> {
        for sweep in self.occasion.sweeps(choice.tiling) {
            if self.backend.sweeps.spills(sweep)? {
                return Ok(None);
            }
        }
        self.backend.table.insert(self.occasion, choice);
        let (backend, outputs, workspace) = (&*self.backend, &mut self.outputs, &mut self.workspace);
        *outputs = Outputs::new(backend, self.staged, self.occasion.part)?;
        let call = || self.staged.call(backend, outputs, workspace);
        Ok(Some(median_time(backend.cuda.device(), call)?))
    }

    fn results(&mut self) -> Result<Vec<Vec<f32>>> {
        self.outputs.numbers(&self.backend.cuda)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const DEVICE: Architecture = Architecture::SM_90A;

    #[test]
    fn candidates_fit_and_are_few_and_no_two_are_the_same() {
        for occasion in SweepOccasion::all() {
            let all = candidates(occasion, DEVICE);
            assert!(all.len() <= 96, "{occasion}: {}", all.len());
            assert!(all.iter().all(|choice| occasion.fits(choice, DEVICE)), "{occasion}");
            assert_eq!(all.iter().collect::<HashSet<_>>().len(), all.len(), "{occasion}");
        }
    }

    #[test]
    fn what_is_shipped_is_plausible() {
        for occasion in SweepOccasion::all() {
            let shipped = occasion.shipped(DEVICE).tiling;
            let same = |blocks: &u32| {
                registers(shipped.threads(), *blocks) == registers(shipped.threads(), shipped.blocks)
            };
            let fewest = Tiling { blocks: (1..=3).find(same).unwrap(), ..shipped };
            assert!(plausible(occasion, fewest, DEVICE), "{occasion}: {shipped:?}");
            let kept = Tiling { row_tiles: 2, step: 128, q_in_registers: true, blocks: 3, ..shipped };
            assert!(!plausible(occasion, kept, DEVICE), "{occasion}");
        }
    }

    #[test]
    fn refinements_change_sections_under_intervals_and_stages_where_they_are_free() {
        let refined = |occasion: SweepOccasion| {
            let best = Choice { section: 1, tiling: tiling([1, 4, 16, 16], false, 1) };
            let all = refinements(occasion, DEVICE, best);
            assert!(all.iter().all(|choice| *choice != best && occasion.fits(choice, DEVICE)), "{occasion}");
            let count = |of: fn(&Choice) -> u32| all.iter().map(of).collect::<HashSet<_>>().len();
            (all.len(), count(|choice| choice.section), count(|choice| choice.tiling.stages))
        };
        for occasion in SweepOccasion::all().filter(|occasion| occasion.occasion.room <= 64) {
            let bias = matches!(occasion.part, Part::Bias(_));
            let expected = match occasion.occasion.masking {
                Masking::Intervals => (11, 4, 3),
                _ if bias => (0, 0, 0),
                _ => (2, 1, 2),
            };
            assert_eq!(refined(occasion), expected, "{occasion}");
        }
    }
}
