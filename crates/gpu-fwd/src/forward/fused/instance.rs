//! The instances of `fused_forward.cu`.

use serde::{Deserialize, Serialize};
use theria_contract::{Causal, DType, Precision, Problem};

use crate::forward::parameters::Forward;
use crate::sources::FUSED_FORWARD;
use crate::{KernelSpec, Spec};

const WARP: u32 = 32;

/// How elements are multiplied. Sums are in f32 always.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Products {
    /// bfloat16 operands.
    Bf16,
    /// binary16 operands.
    F16,
    /// f32 operands rounded to the 19 bits of TF32.
    Tf32,
    /// f32 operands as a sum of two numbers of TF32 each, in three products: nearly f32.
    #[serde(rename = "3xtf32")]
    Split,
}

impl Products {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Bf16, Self::F16, Self::Tf32, Self::Split];

    /// Those of an element type; `None` for f64, which tensor cores of this family do not multiply.
    pub fn of(dtype: DType, precision: Precision) -> Option<Self> {
        match dtype {
            DType::F64 => None,
            DType::F32 if precision == Precision::Tf32 => Some(Self::Tf32),
            DType::F32 => Some(Self::Split),
            DType::F16 => Some(Self::F16),
            DType::Bf16 => Some(Self::Bf16),
        }
    }

    /// The name in reports and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
            Self::Tf32 => "tf32",
            Self::Split => "3xtf32",
        }
    }

    /// Bytes of an element.
    pub fn element(self) -> u32 {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::Tf32 | Self::Split => 4,
        }
    }

    /// The `Math` of tile.cuh.
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Bf16 => "theria::Half<theria::bf16>",
            Self::F16 => "theria::Half<theria::f16>",
            Self::Tf32 => "theria::Single<1>",
            Self::Split => "theria::Single<3>",
        }
    }
}

/// Which scores need a look before they count: a kernel that need not look is faster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Masking {
    /// Keys beyond the length of their batch entry alone.
    Lengths,
    /// Causal masks and windows too.
    Intervals,
    /// Bias, boolean mask, dropout, a scale that is not positive, rows that are no whole vectors.
    Everything,
}

impl Masking {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Lengths, Self::Intervals, Self::Everything];

    /// The least that serves a problem whose rows are whole vectors, or are not.
    pub fn of(problem: &Problem, vectors: bool) -> Self {
        let looked_at = problem.bias().is_some() || problem.mask().is_some() || problem.dropout().is_some();
        // Smaller scales are zero in f32, and so is their product with -inf, where it is none.
        let positive = problem.scale() as f32 >= f32::MIN_POSITIVE;
        if looked_at || !vectors || !positive {
            Self::Everything
        } else if problem.causal() != Causal::None || !problem.window().is_unbounded() {
            Self::Intervals
        } else {
            Self::Lengths
        }
    }

    /// The name in reports and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lengths => "lengths",
            Self::Intervals => "intervals",
            Self::Everything => "everything",
        }
    }
}

/// How the work of a block is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Tiling {
    /// Pieces of sixteen queries of a warp.
    pub row_tiles: u32,
    /// Warps side by side along the queries.
    pub row_warps: u32,
    /// Warps side by side along the keys.
    pub key_groups: u32,
    /// Keys of a stage for each key group.
    pub keys: u32,
    /// Keys whose scores are in registers at a time.
    pub step: u32,
    /// Stages of the ring of keys and values. With one alone, keys and values wait for each other.
    pub stages: u32,
    /// Whether queries stay in registers, or are read again for every step.
    pub q_in_registers: bool,
    /// Blocks on one multiprocessor that the registers of a thread are held to.
    pub blocks: u32,
}

impl Tiling {
    /// Queries of a block.
    pub fn rows(&self) -> u32 {
        16 * self.row_tiles * self.row_warps
    }

    /// Threads of a block.
    pub fn threads(&self) -> u32 {
        self.row_warps * self.key_groups * WARP
    }
}

/// An instance of `fused_forward.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FusedForward {
    /// How elements are multiplied.
    pub products: Products,
    /// Room for D.
    pub d: u32,
    /// Room for Dv.
    pub dv: u32,
    /// Which scores are looked at.
    pub masking: Masking,
    /// How the work is cut.
    pub tiling: Tiling,
}

impl FusedForward {
    /// Every choice, as names of kernels say it.
    pub fn choices(&self) -> String {
        let Self { products, d, dv, masking, tiling } = *self;
        let Tiling { row_tiles, row_warps, key_groups, keys, step, stages, q_in_registers, blocks } = tiling;
        let (products, masking, q) = (products.name(), masking.name(), u32::from(q_in_registers));
        format!(
            "{products}-{d}x{dv}-{masking}-r{row_tiles}x{row_warps}-g{key_groups}-k{keys}-s{step}-p{stages}-q{q}-b{blocks}"
        )
    }

    /// What warp.cuh leaves open.
    pub fn defines(&self) -> Vec<(&'static str, String)> {
        let tiling = self.tiling;
        let numbers = [
            ("THERIA_D", self.d),
            ("THERIA_DV", self.dv),
            ("THERIA_ROW_TILES", tiling.row_tiles),
            ("THERIA_ROW_WARPS", tiling.row_warps),
            ("THERIA_KEY_GROUPS", tiling.key_groups),
            ("THERIA_KEYS", tiling.keys),
            ("THERIA_STEP", tiling.step),
            ("THERIA_STAGES", tiling.stages),
            ("THERIA_Q_IN_REGISTERS", u32::from(tiling.q_in_registers)),
            ("THERIA_MASKING", self.masking as u32),
            ("THERIA_BLOCKS", tiling.blocks),
        ];
        let numbers = numbers.into_iter().map(|(name, number)| (name, number.to_string()));
        std::iter::once(("THERIA_MATH", self.products.type_name().to_owned())).chain(numbers).collect()
    }

    /// Bytes of a row of a tile in shared memory.
    pub fn row_bytes(&self, columns: u32) -> u32 {
        columns * self.products.element() + 16
    }

    /// Bytes of shared memory of a block: queries and the ring, or what the end needs in their place, sums of key
    /// groups and O.
    pub fn shared_bytes(&self) -> u32 {
        let Tiling { key_groups, keys, stages, .. } = self.tiling;
        let row = |columns| self.row_bytes(columns);
        let (rows, stage_keys) = (self.tiling.rows(), keys * key_groups);
        let work = rows * row(self.d) + stages * stage_keys * (row(self.d) + row(self.dv));
        // What each key group hands to the others, in vectors of four sums.
        let handed = if key_groups == 1 { 0 } else { (key_groups - 1) * self.dv / 8 + 2 * key_groups };
        let end = 16 * rows / 16 * WARP * handed + rows * row(self.dv);
        work.max(end)
    }
}

// SAFETY: `Forward` is the struct of forward.cuh, and the kernel touches what its views name.
#[allow(unsafe_code)]
unsafe impl Spec for FusedForward {
    type Parameters = Forward;

    fn kernel(&self) -> KernelSpec {
        KernelSpec {
            name: format!("fused-forward-{}", self.choices()),
            source: FUSED_FORWARD,
            defines: self.defines(),
            threads: self.tiling.threads(),
            shared: self.shared_bytes(),
        }
    }
}
