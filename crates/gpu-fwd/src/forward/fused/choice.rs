//! The dispatch table of the portable family: which tiling serves which occasion.
//!
//! The numbers were measured on an H200 (docs/performance.md). On another device they are safe: a tiling that
//! does not fit is made smaller. `theria tune` measures others and keeps what is faster, see
//! [`Table`](crate::forward::Table).

use serde::{Deserialize, Serialize};

use super::{FusedForward, Load, Masking, Occasion, Products, Tiling};
use crate::forward::Situation;
use crate::sources::FUSED_FORWARD;
use crate::{Architecture, KernelSpec, Source, Spec as _};

/// A tiling, and how many heads are worked on together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Choice {
    /// How the work of a block is cut.
    pub tiling: Tiling,
    /// Heads of a section: see `Place` in forward.cuh.
    pub section: u32,
}

impl Choice {
    /// The instance that it makes on an occasion.
    pub fn instance(&self, occasion: Occasion) -> FusedForward {
        let Occasion { products, room, masking, .. } = occasion;
        FusedForward { products, d: room, dv: room, masking, tiling: self.tiling }
    }

    /// Whether a device of this architecture can run it: the kernel's own conditions, and memory.
    pub fn fits(&self, occasion: Occasion, architecture: Architecture) -> bool {
        let instance = self.instance(occasion);
        let Tiling { row_tiles, row_warps, key_groups, keys, step, stages, blocks, .. } = self.tiling;
        let vectors = occasion.room * occasion.products.element() / 16;
        (1..=2).contains(&row_tiles)
            && (1..=8).contains(&row_warps)
            && [1, 2, 4].contains(&key_groups)
            && (16..=128).contains(&step)
            && step.is_multiple_of(16)
            && (step..=256).contains(&keys)
            && keys.is_multiple_of(step)
            && (1..=4).contains(&stages)
            && (stages > 1 || keys == step)
            && (1..=8).contains(&blocks)
            && (1..=65_536).contains(&self.section)
            && (vectors..=1024).contains(&self.tiling.threads())
            && instance.shared_bytes() <= architecture.shared_memory()
    }
}

impl Situation for Occasion {
    const LIST: &'static str = "forward";
    const SUFFIX: &'static str = "";
    const SOURCES: &'static [Source] = &[FUSED_FORWARD];

    fn shipped(self, architecture: Architecture) -> Choice {
        shipped(self, architecture)
    }

    fn fits(self, choice: &Choice, architecture: Architecture) -> bool {
        choice.fits(self, architecture)
    }

    fn kernels(self, choice: Choice) -> Vec<KernelSpec> {
        vec![choice.instance(self).kernel()]
    }
}

/// `[row tiles, row warps, key groups, keys, step, stages]`, queries in registers, blocks.
pub(super) const fn tiling(numbers: [u32; 6], q_in_registers: bool, blocks: u32) -> Tiling {
    let [row_tiles, row_warps, key_groups, keys, step, stages] = numbers;
    Tiling { row_tiles, row_warps, key_groups, keys, step, stages, q_in_registers, blocks }
}

/// The shipped choice.
fn shipped(occasion: Occasion, architecture: Architecture) -> Choice {
    let Occasion { products, room, masking, load } = occasion;
    let half = matches!(products, Products::Bf16 | Products::F16);
    let looks = masking == Masking::Everything;
    // Before Hopper the compiler needs more registers for the same.
    let scarce = architecture != Architecture::SM_90A;
    let chosen = match (half, room, looks, load) {
        (true, ..=64, true, _) => tiling([1, 4, 1, 64, 64, 2], true, 2),
        (true, ..=64, false, Load::Few) => tiling([1, 4, 2, 64, 64, 2], true, 1),
        (true, ..=32, false, _) => tiling([2, 4, 1, 64, 32, 2], false, 2),
        (true, ..=64, false, Load::Short) => tiling([2, 4, 1, 32, 32, 2], false, if scarce { 2 } else { 3 }),
        (true, ..=64, false, Load::Long) => tiling([2, 4, 1, 64, 64, 2], true, 2),
        (true, ..=96, false, Load::Long) if !scarce => tiling([2, 4, 1, 64, 64, 2], false, 2),
        (true, ..=128, true, _) => tiling([1, 4, 1, 64, 32, 2], false, 2),
        (true, ..=128, false, Load::Few) => tiling([1, 4, 1, 64, 64, 2], true, 2),
        (true, ..=128, false, _) => tiling([2, 4, 1, 32, 32, 3], false, 2),
        (true, ..=192, false, Load::Long) => tiling([1, 8, 1, 64, if scarce { 32 } else { 64 }, 2], true, 1),
        (true, 193.., false, Load::Long) if masking == Masking::Lengths => {
            tiling([1, 4, 1, 48, 48, 1], false, 2)
        }
        (true, 193.., false, Load::Long) => tiling([1, 4, 1, 64, 64, 1], false, 2),
        (true, 193.., true, _) => tiling([1, 4, 1, 32, 16, 2], false, 1),
        (true, ..) | (false, ..=64, ..) => tiling([1, 4, 1, 32, 32, 2], false, 1),
        (false, ..=128, ..) => tiling([1, 4, 1, 32, 16, 2], false, 1),
        (false, ..) => tiling([1, 4, 1, 16, 16, 2], false, 1),
    };
    let section = if masking == Masking::Intervals { 16 } else { 1 };
    // Smaller devices have less shared memory: fewer keys at a time, then fewer queries.
    let fewer_keys = Tiling { keys: chosen.step, stages: 2, ..chosen };
    let least_keys = Tiling { keys: 16, step: 16, ..fewer_keys };
    let least = Tiling { row_tiles: 1, row_warps: 2, ..least_keys };
    let choices = [chosen, fewer_keys, least_keys, least].map(|tiling| Choice { tiling, section });
    choices.into_iter().find(|choice| choice.fits(occasion, architecture)).unwrap_or(choices[3])
}

/// Every instance that the shipped table comes to.
pub(in crate::forward) fn all(architecture: Architecture) -> Vec<FusedForward> {
    let mut all = Vec::new();
    for occasion in Occasion::all() {
        let instance = shipped(occasion, architecture).instance(occasion);
        if !all.contains(&instance) {
            all.push(instance);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shipped_fits_every_architecture() {
        for architecture in [Architecture::SM_80, Architecture::SM_89, Architecture::SM_90A] {
            for occasion in Occasion::all() {
                let choice = shipped(occasion, architecture);
                assert!(choice.fits(occasion, architecture), "{architecture}: {occasion}: {choice:?}");
            }
        }
    }

    #[test]
    fn what_no_kernel_is_written_for_does_not_fit() {
        let occasion =
            Occasion { products: Products::Bf16, room: 64, masking: Masking::Lengths, load: Load::Long };
        let good = shipped(occasion, Architecture::SM_90A);
        let tilings = [
            Tiling { row_tiles: 0, ..good.tiling },
            Tiling { step: 24, ..good.tiling },
            Tiling { keys: 96, step: 64, ..good.tiling },
            Tiling { stages: 0, ..good.tiling },
            Tiling { keys: 2 * good.tiling.step, stages: 1, ..good.tiling },
            Tiling { keys: 256, stages: 4, ..good.tiling },
            Tiling { row_warps: 8, key_groups: 8, ..good.tiling },
        ];
        for tiling in tilings {
            assert!(!Choice { tiling, ..good }.fits(occasion, Architecture::SM_90A), "{tiling:?}");
        }
        assert!(!Choice { section: 0, ..good }.fits(occasion, Architecture::SM_90A));
    }
}
