//! Tuning the forward on the device at hand.

use std::time::Duration;

use theria_contract::{Attention as _, Element, Problem, Result, Rule, SavedTensor, saved_mut};

use super::choice::tiling;
use super::{Choice, CudaFused, Load, Masking, Occasion, Tiling};
use crate::forward::tuning::{Operands, Trial, Tuned, median_time, numbers, search};
use crate::{Architecture, Cuda, KernelSpec};

/// Tilings worth a try. What does not fit the device or spills is passed over later.
fn candidates(occasion: Occasion, architecture: Architecture) -> Vec<Choice> {
    let mut tilings: Vec<Tiling> = Vec::new();
    let few = occasion.load == Load::Few;
    let key_groups: &[u32] = if few { &[1, 2, 4] } else { &[1] };
    for (row_tiles, row_warps) in [(2, 4), (1, 4), (1, 8), (2, 2)] {
        for (keys, step) in [(64, 64), (32, 32), (64, 32), (48, 48), (128, 64), (32, 16), (16, 16)] {
            for &key_groups in key_groups {
                for stages in [1, 2, 3, 4] {
                    for q_in_registers in [true, false] {
                        for blocks in 1..=4 {
                            let numbers = [row_tiles, row_warps, key_groups, keys, step, stages];
                            tilings.push(tiling(numbers, q_in_registers, blocks));
                        }
                    }
                }
            }
        }
    }
    let sections: &[u32] = if occasion.masking == Masking::Intervals { &[1, 4, 16, 64] } else { &[1] };
    let choices = tilings
        .into_iter()
        .flat_map(|tiling| sections.iter().map(move |&section| Choice { tiling, section }));
    choices
        .filter(|choice| choice.fits(occasion, architecture) && plausible(occasion, choice.tiling))
        .collect()
}

/// Whether the registers of a multiprocessor could hold the sums, scores and queries of as many blocks.
fn plausible(occasion: Occasion, tiling: Tiling) -> bool {
    let sums = tiling.row_tiles * (occasion.room + tiling.step) / 2;
    let queries = if tiling.q_in_registers {
        tiling.row_tiles * occasion.room * occasion.products.element() / 8
    } else {
        0
    };
    let needed = sums + queries + 40;
    let given = (65_536 / (tiling.threads() * tiling.blocks)).min(255);
    needed <= given
        && (tiling.blocks == 1 || needed * 4 > given)
        && (tiling.key_groups == 1 || tiling.threads() <= 512)
}

impl CudaFused {
    /// Measures choices for a problem, on operands of its own, and takes the fastest into its table. `progress`
    /// is told how many of how many were tried.
    pub fn tune<E: Element>(
        &mut self,
        problem: &Problem,
        progress: impl FnMut(usize, usize),
    ) -> Result<Tuned<Occasion>> {
        theria_contract::Attention::<E>::require(self, problem, Rule::Forward)?;
        let Some(occasion) = self.packed_occasion(problem) else { unreachable!("a problem that is served") };
        let mut trial = ForwardTrial {
            backend: self,
            problem,
            occasion,
            operands: Operands::<E>::new(&self.cuda, problem)?,
            made: self.allocate_saved(problem)?,
        };
        let tuned = search(occasion, trial.architecture(), &mut trial, progress)?;
        self.table.insert(occasion, tuned.best.0);
        Ok(tuned)
    }
}

/// The forward of a problem.
struct ForwardTrial<'a, E: Element> {
    backend: &'a CudaFused,
    problem: &'a Problem,
    occasion: Occasion,
    operands: Operands<E>,
    made: SavedTensor<Cuda, E>,
}

impl<E: Element> ForwardTrial<'_, E> {
    fn architecture(&self) -> Architecture {
        self.backend.cuda.device().architecture()
    }
}

impl<E: Element> Trial for ForwardTrial<'_, E> {
    fn candidates(&self) -> Vec<Choice> {
        candidates(self.occasion, self.architecture())
    }

    fn prepare(&mut self, kernels: &[KernelSpec]) {
        self.backend.cuda.device().compile_all(kernels);
    }

    fn time(&mut self, choice: Choice) -> Result<Option<Duration>> {
        let (backend, occasion) = (self.backend, self.occasion);
        if backend.kernels.spills(choice.instance(occasion))? {
            return Ok(None);
        }
        // Zero: a kernel that writes nothing has another result.
        self.made = backend.allocate_saved(self.problem)?;
        let inputs = self.operands.inputs();
        let time = median_time(backend.cuda.device(), || {
            let saved = saved_mut::<Cuda, E>(&mut self.made);
            backend.launch(self.problem, &inputs, &saved, occasion, choice)
        });
        Ok(Some(time?))
    }

    fn results(&mut self) -> Result<Vec<Vec<f32>>> {
        let cuda = &self.backend.cuda;
        Ok(vec![numbers(cuda, &self.made.output)?, numbers(cuda, &self.made.lse)?])
    }
}
