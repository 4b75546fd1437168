//! Backward of heads with few keys: `hopper_heads.cu`. One launch, and no scratch.

use theria_contract::{DType, Problem};
use theria_gpu_fwd::forward::parameters::Grid;
use theria_gpu_fwd::forward::{Masking, element_name, hopper};
use theria_gpu_fwd::{Architecture, KernelSpec, Mapped, Spec};

use crate::parameters::Rules;
use crate::sources::HOPPER_HEADS;

/// As in the source: the head dimension, queries of a tile, and the rows of a box of dK and dV.
const D: u32 = 64;
const QUERIES: u32 = 64;
const WRITTEN: u32 = 64;
/// Keys of a block, which are all of a head.
const KEYS: [u32; 2] = [128, 256];

/// An instance of `hopper_heads.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Heads {
    dtype: DType,
    keys: u32,
    /// Whether there are causal masks or windows.
    intervals: bool,
}

impl Heads {
    /// That for a problem, wherever its tensors lie.
    pub(super) fn of(problem: &Problem, architecture: Architecture) -> Option<Self> {
        if !hopper::suits(problem, architecture, &[D]) {
            return None;
        }
        let keys = KEYS.into_iter().find(|keys| problem.shape().m <= *keys as usize)?;
        let intervals = Masking::of(problem, true) == Masking::Intervals;
        Some(Self { dtype: problem.dtype(), keys, intervals })
    }

    pub(super) fn all() -> impl Iterator<Item = Self> {
        [DType::Bf16, DType::F16].into_iter().flat_map(|dtype| {
            KEYS.into_iter()
                .flat_map(move |keys| [false, true].map(|intervals| Self { dtype, keys, intervals }))
        })
    }

    /// Rows of the boxes of Q, G, O, its rest and dQ, of K and V, of dK and dV.
    pub(super) fn boxes(self) -> [u32; 3] {
        [QUERIES, self.keys, WRITTEN]
    }

    /// The heads of keys, and how many blocks take them: as many as run at once.
    pub(super) fn grid(self, problem: &Problem, multiprocessors: u32) -> (Grid, usize) {
        let grid = Grid::of_keys(problem, self.keys as usize, 1);
        (grid, grid.heads.min(multiprocessors.max(1) as usize))
    }

    /// K and V, twice; stages of Q and G; O and its rest; dS; dQ; records; barriers.
    fn shared_bytes(self) -> u32 {
        let row = 2 * D;
        (4 * self.keys + 4 * QUERIES + 2 * QUERIES + self.keys + QUERIES) * row + 2 * 8 * QUERIES + 8 * 21
    }
}

// SAFETY: nine maps and `Rules` are the struct of the source, and the kernel touches what they name after it waited for
// the launches ahead.
#[allow(unsafe_code)]
unsafe impl Spec for Heads {
    type Parameters = Mapped<9, Rules>;

    fn kernel(&self) -> KernelSpec {
        let Self { dtype, keys, intervals } = *self;
        let masking = if intervals { "-intervals" } else { "" };
        KernelSpec {
            name: format!("hopper-heads-{dtype}-{D}{masking}-k{keys}"),
            source: HOPPER_HEADS,
            defines: vec![
                ("THERIA_ELEMENT", element_name(dtype).to_owned()),
                ("THERIA_KEYS", keys.to_string()),
                ("THERIA_INTERVALS", u32::from(intervals).to_string()),
            ],
            threads: 384,
            shared: self.shared_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_with_few_keys_are_whole_in_a_block() {
        let of = |d, m| {
            let problem = Problem::builder(DType::Bf16).heads(200, 100).lengths(1000, m).head_dims(d, d);
            let problem = problem.build().unwrap();
            Heads::of(&problem, Architecture::SM_90A).map(|heads| (heads.keys, heads.grid(&problem, 132)))
        };
        for (m, keys) in [(1, 128), (128, 128), (129, 256), (256, 256)] {
            let (found, (grid, blocks)) = of(64, m).unwrap();
            assert_eq!((found, grid.blocks(), blocks), (keys, 100, 100), "{m}");
        }
        assert_eq!(of(64, 257), None);
        assert_eq!(of(128, 100), None);
    }
}
