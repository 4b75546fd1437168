//! What the choice of a sweep depends on.

use std::fmt;

use serde::{Deserialize, Serialize};
use theria_contract::Rule;
use theria_gpu_fwd::forward::{Choice, FusedForward, Masking, Occasion, Products, ROOMS, Situation, Tiling};
use theria_gpu_fwd::{Architecture, KernelSpec, Source, Spec as _};

use super::choice::shipped;
use super::{FusedSweep, Makes};
use crate::part::{Order, Part};
use crate::sources::{FUSED_BIAS, FUSED_JVP, FUSED_KEYS, FUSED_QUERIES};

/// Launches that one choice serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SweepOccasion {
    /// Which launch.
    #[serde(flatten)]
    pub part: Part,
    /// What the problem is to it.
    #[serde(flatten)]
    pub occasion: Occasion,
}

impl SweepOccasion {
    /// What an occasion of the forward is to a sweep: registers do not hold what a kernel needs that looks at some
    /// scores only beside two operands for one and wide heads, or beside the widest sums.
    pub fn of(part: Part, occasion: Occasion) -> Self {
        let Occasion { products, room, masking, .. } = occasion;
        let narrowest = if part == Part::Keys(Order::Second) { 96 } else { 128 };
        let split = products == Products::Split && room >= narrowest;
        let widest = part == Part::Jvp && room > 192;
        let looks = split || widest || matches!(part, Part::Bias(_));
        let masking = if looks { Masking::Everything } else { masking };
        Self { part, occasion: Occasion { masking, ..occasion } }
    }

    /// Every one there is.
    pub(super) fn all() -> impl Iterator<Item = Self> {
        let served = Occasion::all().filter(|occasion| occasion.products != Products::Tf32);
        served.flat_map(|occasion| {
            let parts = Rule::ALL.into_iter().flat_map(Part::sweeps_of);
            parts.map(move |part| Self::of(*part, occasion))
        })
    }

    /// The sweeps of a launch by a choice, one after the other; none where it does not fit the device.
    pub(super) fn sweeps_by(self, choice: Choice, architecture: Architecture) -> Option<Vec<FusedSweep>> {
        self.fits(&choice, architecture).then(|| self.sweeps(choice.tiling))
    }

    pub(super) fn sweeps(self, tiling: Tiling) -> Vec<FusedSweep> {
        self.makes().iter().map(|makes| self.sweep(*makes, tiling)).collect()
    }

    fn sweep(self, makes: Makes, tiling: Tiling) -> FusedSweep {
        let Self { part, occasion: Occasion { products, room, masking, .. } } = self;
        FusedSweep { part, makes, cut: FusedForward { products, d: room, dv: room, masking, tiling } }
    }

    /// Bytes of shared memory of a block, whatever it makes.
    pub(super) fn shared_bytes(self, tiling: Tiling) -> u32 {
        self.sweep(Makes::Both, tiling).shared_bytes()
    }

    /// Registers do not hold both sums of wide heads.
    pub(super) fn makes(self) -> &'static [Makes] {
        let Occasion { products, room, masking, .. } = self.occasion;
        let both = match self.part {
            Part::Keys(Order::First) if products.element() == 2 && masking == Masking::Lengths => room <= 192,
            Part::Keys(_) => room <= 128,
            _ => true,
        };
        if both { &[Makes::Both] } else { &[Makes::Keys, Makes::Values] }
    }

    /// Whether there is a sweep for it, whatever the choice.
    fn is_swept(self) -> bool {
        let Self { part, occasion } = self;
        !matches!(part, Part::Statistics(_))
            && occasion.products != Products::Tf32
            && ROOMS.contains(&occasion.room)
            && Self::of(part, occasion) == self
    }
}

impl Situation for SweepOccasion {
    const LIST: &'static str = "sweeps";
    const SUFFIX: &'static str = "-sweeps";
    const SOURCES: &'static [Source] = &[FUSED_JVP, FUSED_QUERIES, FUSED_KEYS, FUSED_BIAS];

    fn shipped(self, architecture: Architecture) -> Choice {
        shipped(self, architecture)
    }

    fn fits(self, choice: &Choice, architecture: Architecture) -> bool {
        let Tiling { row_tiles, row_warps, key_groups, keys, step, stages, q_in_registers, blocks } =
            choice.tiling;
        let vectors = self.occasion.room * self.occasion.products.element() / 16;
        // A stage is a tile of the bias; the ring is of two, and nothing stays.
        let tile = keys == step && stages == 2 && !q_in_registers;
        self.is_swept()
            && (1..=2).contains(&row_tiles)
            && (1..=8).contains(&row_warps)
            && choice.tiling.rows() <= 128
            && key_groups == 1
            && (16..=128).contains(&step)
            && step.is_multiple_of(16)
            && (step..=128).contains(&keys)
            && keys.is_multiple_of(step)
            && (2..=4).contains(&stages)
            && (tile || !matches!(self.part, Part::Bias(_)))
            && (1..=8).contains(&blocks)
            && (1..=65_536).contains(&choice.section)
            && vectors <= choice.tiling.threads()
            && self.shared_bytes(choice.tiling) <= architecture.shared_memory()
    }

    fn kernels(self, choice: Choice) -> Vec<KernelSpec> {
        self.sweeps(choice.tiling).iter().map(FusedSweep::kernel).collect()
    }
}

impl fmt::Display for SweepOccasion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.part, self.occasion)
    }
}

#[cfg(test)]
mod tests {
    use theria_gpu_fwd::forward::{Load, Table};

    use super::*;

    const DEVICE: &str = "A device";

    fn occasion() -> SweepOccasion {
        let (products, room, masking, load) = (Products::Bf16, 64, Masking::Intervals, Load::Long);
        SweepOccasion::of(Part::Queries(Order::Second), Occasion { products, room, masking, load })
    }

    fn shipped_for(occasion: SweepOccasion) -> Choice {
        occasion.shipped(Architecture::SM_90A)
    }

    fn fits(occasion: SweepOccasion, choice: Choice) -> bool {
        occasion.fits(&choice, Architecture::SM_90A)
    }

    #[test]
    fn what_is_shipped_fits_every_architecture_with_memory_for_any_sweep() {
        for architecture in [Architecture::SM_80, Architecture::SM_89, Architecture::SM_90A] {
            for occasion in SweepOccasion::all() {
                let choice = occasion.shipped(architecture);
                let smallest = Tiling { row_tiles: 1, row_warps: 2, keys: 16, step: 16, ..choice.tiling };
                let memory = occasion.shared_bytes(smallest) <= architecture.shared_memory();
                assert_eq!(occasion.fits(&choice, architecture), memory, "{architecture}: {occasion}");
            }
        }
    }

    #[test]
    fn what_no_sweep_is_written_for_does_not_fit() {
        let good = shipped_for(occasion());
        assert!(fits(occasion(), good));
        let tilings = [
            Tiling { row_tiles: 0, ..good.tiling },
            Tiling { row_tiles: 2, row_warps: 8, ..good.tiling },
            Tiling { key_groups: 2, ..good.tiling },
            Tiling { step: 24, keys: 48, ..good.tiling },
            Tiling { step: 32, keys: 48, ..good.tiling },
            Tiling { step: 32, keys: 160, ..good.tiling },
            Tiling { stages: 1, ..good.tiling },
            Tiling { blocks: 0, ..good.tiling },
        ];
        for tiling in tilings {
            assert!(!fits(occasion(), Choice { tiling, ..good }), "{tiling:?}");
        }
        assert!(!fits(occasion(), Choice { section: 0, ..good }));
        let wide = Occasion { room: 256, ..occasion().occasion };
        let large = Tiling { row_warps: 8, keys: 128, ..good.tiling };
        assert!(!fits(SweepOccasion::of(occasion().part, wide), Choice { tiling: large, ..good }));
    }

    #[test]
    fn the_bias_has_two_stages_of_one_step_and_keeps_nothing() {
        let bias = SweepOccasion::of(Part::Bias(Order::First), occasion().occasion);
        let good = shipped_for(bias);
        assert!(fits(bias, good));
        for tiling in [
            Tiling { stages: 3, ..good.tiling },
            Tiling { keys: 2 * good.tiling.step, ..good.tiling },
            Tiling { q_in_registers: true, ..good.tiling },
        ] {
            assert!(!fits(bias, Choice { tiling, ..good }), "{tiling:?}");
        }
    }

    #[test]
    fn where_nothing_sweeps_nothing_fits() {
        let (good, SweepOccasion { part, occasion }) = (shipped_for(occasion()), occasion());
        let not_swept = [
            SweepOccasion { part: Part::Statistics(Order::Second), occasion },
            SweepOccasion { part: Part::Jvp, occasion: Occasion { room: 256, ..occasion } },
            SweepOccasion { part, occasion: Occasion { products: Products::Tf32, ..occasion } },
            SweepOccasion { part, occasion: Occasion { room: 65, ..occasion } },
        ];
        for occasion in not_swept {
            assert!(!fits(occasion, good), "{occasion}");
            assert!(occasion.sweeps_by(good, Architecture::SM_90A).is_none(), "{occasion}");
        }
    }

    #[test]
    fn measured_choices_of_every_sweep_are_read_as_they_were_written() {
        let swept = || SweepOccasion::all().filter(|occasion| fits(*occasion, shipped_for(*occasion)));
        let other = |occasion| Choice { section: 7, ..shipped_for(occasion) };
        let mut table = Table::default();
        for occasion in swept() {
            table.insert(occasion, other(occasion));
        }
        let read = Table::parse(&table.text(DEVICE).unwrap(), DEVICE, Architecture::SM_90A).unwrap();
        assert_eq!(read.len(), table.len());
        for occasion in swept() {
            assert_eq!(read.choice(occasion, Architecture::SM_90A), other(occasion), "{occasion}");
        }
    }

    #[test]
    fn a_file_that_is_damaged_foreign_or_of_other_kernels_is_no_advice() {
        let mut table = Table::default();
        table.insert(occasion(), shipped_for(occasion()));
        let good = table.text(DEVICE).unwrap();
        let parse = |text: &str| Table::<SweepOccasion>::parse(text, DEVICE, Architecture::SM_90A);
        assert!(parse(&good).is_ok());
        assert!(Table::<SweepOccasion>::parse(&good, "another device", Architecture::SM_90A).is_err());
        for (from, to) in [
            ("step = 32", "step = 31"),
            ("step = 32", "step = \"x\""),
            ("key_groups = 1", "key_groups = 2"),
            ("room = 64", "room = 65"),
            ("bf16", "tf32"),
            ("queries", "statistics"),
            ("second", "third"),
            ("order = \"second\"\n", ""),
            ("[[sweeps]]", "[[sweeps"),
            ("sweeps", "forward"),
            ("kernels = \"", "kernels = \"0"),
        ] {
            let bad = good.replace(from, to);
            assert_ne!(bad, good, "{from} is in {good}");
            assert!(parse(&bad).is_err(), "{bad}");
        }
        let forward = Table::<Occasion>::default().text(DEVICE).unwrap();
        assert!(parse(&forward).is_err(), "choices for other kernels");
    }
}
