//! The instances of `hopper_few.cu`, and what they serve.

use theria_contract::{Precision, Problem};

use super::cut::{Rows, TILE, WARPGROUP};
use super::suits;
use crate::forward::parameters::{Forward, Grid};
use crate::forward::{Masking, Products};
use crate::sources::HOPPER_FEW;
use crate::{Architecture, KernelSpec, Mapped, Spec};

const D: u32 = 64;
/// Warpgroups of a block, and steps in which they have all keys of a head.
const GROUPS: u32 = 2;
const STEPS: u32 = 4;
/// Keys of a step.
const KEYS: [u32; 2] = [64, 128];
/// Shared memory that no two blocks of a multiprocessor have at once. The next launch would put its blocks where those
/// of this one still are, two here and none there.
const ALONE: u32 = 116 << 10;

const _: () = assert!(size_of::<Mapped<3, Forward>>() == 832);

/// An instance of `hopper_few.cu`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HopperFew {
    products: Products,
    /// Keys of a step.
    keys: u32,
    /// Whether there are causal masks or windows.
    intervals: bool,
    /// Whether what rounding takes from O is written.
    rest: bool,
}

impl HopperFew {
    /// The instance for a problem on a device with this many multiprocessors, wherever its tensors lie.
    pub(super) fn of(
        problem: &Problem,
        rest: bool,
        architecture: Architecture,
        multiprocessors: u32,
    ) -> Option<Self> {
        let products = Products::of(problem.dtype(), Precision::F32)?;
        let keys = KEYS.into_iter().find(|keys| problem.shape().m <= (STEPS * keys) as usize)?;
        let few = suits(problem, architecture, &[D]) && Rows::of(problem, multiprocessors) == Rows::Few;
        let intervals = Masking::of(problem, true) == Masking::Intervals;
        few.then_some(Self { products, keys, intervals, rest })
    }

    /// What the boxes of Q, K and V have of rows.
    pub(super) fn boxes(self) -> [u32; 3] {
        [TILE, self.keys, self.keys]
    }

    /// The tiles of a problem, a block each.
    pub(super) fn grid(problem: &Problem) -> Grid {
        Grid::of_queries(problem, TILE as usize, 1)
    }

    /// Bytes of shared memory of a block: queries, all keys and values of a head, barriers.
    fn shared_bytes(self) -> u32 {
        let all = 2 * D * (TILE + 2 * STEPS * self.keys) + 128;
        all.max(ALONE)
    }
}

/// Every instance that a call can come to.
pub(super) fn all(architecture: Architecture) -> Vec<HopperFew> {
    let mut all = Vec::new();
    if architecture != Architecture::SM_90A {
        return all;
    }
    for products in [Products::Bf16, Products::F16] {
        for keys in KEYS {
            for (intervals, rest) in [(false, false), (false, true), (true, false), (true, true)] {
                all.push(HopperFew { products, keys, intervals, rest });
            }
        }
    }
    all
}

// SAFETY: three maps and `Forward` are the struct of the source, and the kernel touches what they name, after it waited
// for the launches ahead; what it brings near before is asked of the cache alone.
#[allow(unsafe_code)]
unsafe impl Spec for HopperFew {
    type Parameters = Mapped<3, Forward>;

    fn kernel(&self) -> KernelSpec {
        let Self { products, keys, intervals, rest } = *self;
        let numbers = [
            ("THERIA_D", D),
            ("THERIA_KEYS", keys),
            ("THERIA_INTERVALS", u32::from(intervals)),
            ("THERIA_REST", u32::from(rest)),
        ];
        let numbers = numbers.into_iter().map(|(name, number)| (name, number.to_string()));
        let math = ("THERIA_MATH", products.type_name().to_owned());
        let [masking, rests] =
            [(intervals, "-intervals"), (rest, "-rest")].map(|(is, name)| if is { name } else { "" });
        KernelSpec {
            name: format!("hopper-few-{}-{D}{masking}{rests}-k{keys}", products.name()),
            source: HOPPER_FEW,
            defines: std::iter::once(math).chain(numbers).collect(),
            threads: GROUPS * WARPGROUP,
            shared: self.shared_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use theria_contract::DType;

    use super::*;

    fn of(heads: usize, t: usize, m: usize, d: usize) -> Option<HopperFew> {
        let problem =
            Problem::builder(DType::Bf16).batch(2).heads(heads, heads).lengths(t, m).head_dims(d, d).build();
        HopperFew::of(&problem.unwrap(), true, Architecture::SM_90A, 132)
    }

    #[test]
    fn few_rows_with_few_keys_of_64_columns_are_served() {
        assert_eq!(of(8, 512, 512, 64).map(|it| it.keys), Some(128));
        assert_eq!(of(8, 512, 256, 64).map(|it| it.keys), Some(64));
        assert!(of(8, 512, 513, 64).is_none(), "more keys than shared memory has");
        assert!(of(9, 512, 512, 64).is_none(), "more blocks than run at once");
        assert!(of(8, 512, 512, 128).is_none());
    }

    #[test]
    fn every_block_is_alone_on_its_multiprocessor_and_fits() {
        let all = all(Architecture::SM_90A);
        assert!(!all.is_empty() && super::all(Architecture::SM_80).is_empty());
        let most = Architecture::SM_90A.shared_memory();
        for instance in all {
            let shared = instance.shared_bytes();
            assert!(shared <= most && 2 * shared > most, "{instance:?}");
            assert!(instance.boxes().iter().all(|rows| (1..=256).contains(rows)), "{instance:?}");
        }
    }
}
