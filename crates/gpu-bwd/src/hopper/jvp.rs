//! The JVP: `hopper_jvp.cu`.

use theria_contract::{DType, Problem};
use theria_gpu_fwd::forward::parameters::Grid;
use theria_gpu_fwd::forward::{Masking, element_name, hopper};
use theria_gpu_fwd::{Architecture, KernelSpec, Mapped, Spec};

use super::WIDTHS;
use crate::parameters::Rules;
use crate::sources::HOPPER_JVP;

/// As in the source: queries of a block, and of a warpgroup, which is what boxes have.
const ROWS: u32 = 128;
const BOX: u32 = 64;
const STAGES: u32 = 2;
/// A width, keys of a step, and how many keys there may be in all: the first that fits is taken. Long steps are a little
/// faster where there are many keys, and the last one has more that is not there. Longer ones still would be at D = 64, and
/// its registers would not hold them.
const CUTS: [(u32, u32, usize); 3] = [(64, 64, 1024), (64, 96, usize::MAX), (128, 64, usize::MAX)];

/// An instance of `hopper_jvp.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct HopperJvp {
    dtype: DType,
    d: u32,
    /// Keys of a step.
    keys: u32,
}

impl HopperJvp {
    /// That for a problem, wherever its tensors lie.
    pub(super) fn of(problem: &Problem, architecture: Architecture) -> Option<Self> {
        let shape = problem.shape();
        let fits = |&(width, _, most): &(u32, u32, usize)| shape.d == width as usize && shape.m <= most;
        let (d, keys, _) = CUTS.into_iter().find(fits)?;
        hopper::suits(problem, architecture, &WIDTHS).then(|| Self { dtype: problem.dtype(), d, keys })
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        [DType::Bf16, DType::F16]
            .into_iter()
            .flat_map(|dtype| CUTS.map(|(d, keys, _)| Self { dtype, d, keys }))
    }

    /// Rows of boxes of what has queries, and of what has keys.
    pub(super) fn boxes(&self) -> [u32; 2] {
        [BOX, self.keys]
    }

    /// The tiles of a problem, and how many blocks take them. Tiles of one length are handed out to as many blocks as
    /// run at once; others to whichever block is done, the longest first.
    pub(super) fn grid(problem: &Problem, multiprocessors: u32) -> (Grid, usize) {
        let intervals = Masking::of(problem, true) == Masking::Intervals;
        let grid = Grid::of_queries(problem, ROWS as usize, if intervals { 16 } else { 1 });
        let tiles = grid.blocks();
        (grid, if intervals { tiles } else { tiles.min(multiprocessors as usize) })
    }

    /// Q and Q′ stay; K, K′, V, V′ pass; columns of ones; barriers.
    fn shared_bytes(&self) -> u32 {
        2 * ROWS * self.d * 2 + STAGES * 4 * self.keys * self.d * 2 + 4096 + 256
    }
}

// SAFETY: ten maps and `Rules` are the struct of the source, and the kernel touches what they name, after it waited for
// the launches ahead.
#[allow(unsafe_code)]
unsafe impl Spec for HopperJvp {
    type Parameters = Mapped<10, Rules>;

    fn kernel(&self) -> KernelSpec {
        let Self { dtype, d, keys } = *self;
        KernelSpec {
            name: format!("hopper-jvp-{dtype}-{d}-k{keys}"),
            source: HOPPER_JVP,
            defines: vec![
                ("THERIA_ELEMENT", element_name(dtype).to_owned()),
                ("THERIA_D", d.to_string()),
                ("THERIA_KEYS", keys.to_string()),
            ],
            threads: 384,
            shared: self.shared_bytes(),
        }
    }
}
