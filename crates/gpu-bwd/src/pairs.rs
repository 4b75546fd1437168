//! Kernels on plain arithmetic units: one query and one key at a time.

use theria_contract::{DType, Problem};
use theria_gpu_fwd::forward::element_name;
use theria_gpu_fwd::forward::parameters::Grid;
use theria_gpu_fwd::{KernelSpec, Spec};

use crate::parameters::Rules;
use crate::part::{Order, Part};
use crate::sources::{REFERENCE_BIAS, REFERENCE_JVP, REFERENCE_KEYS, REFERENCE_QUERIES, STATISTICS};

/// As in the sources: warps of a block, of which each has a query or a key.
const WARPS: usize = 4;
const WARP: usize = 32;
/// Queries of a block that makes statistics: `ROWS` of each warp.
const STATISTICS_ROWS: usize = 8 * WARPS;

/// An instance of a kernel that takes pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PairKernel {
    /// Which launch.
    pub(crate) part: Part,
    /// The element type.
    pub(crate) dtype: DType,
    /// Whether records have a factor.
    pub(crate) factored: bool,
    /// Which queries sweep for their statistics.
    pub(crate) sweep: Sweep,
}

/// Which queries sweep along the keys for their statistics, where others take them from O and O′.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Sweep {
    /// None.
    Never,
    /// Those whose lse is so large that its rounding shows.
    Large,
    /// All.
    Always,
}

impl PairKernel {
    /// What its blocks go over; none for the bias, whose blocks go over entries.
    pub(crate) fn grid(self, problem: &Problem, padded: usize) -> Grid {
        match self.part {
            Part::Keys(_) => Grid::of_keys(problem, WARPS, 1),
            Part::Statistics(_) => Grid { rows: padded, ..Grid::of_queries(problem, STATISTICS_ROWS, 1) },
            Part::Jvp | Part::Queries(_) | Part::Bias(_) => Grid::of_queries(problem, WARPS, 1),
        }
    }

    /// Every instance.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        let orders = [Order::First, Order::Second];
        let parts = orders.into_iter().flat_map(|order| {
            [Part::Statistics(order), Part::Queries(order), Part::Keys(order), Part::Bias(order)]
        });
        parts.chain([Part::Jvp]).flat_map(|part| {
            DType::ALL.into_iter().flat_map(move |dtype| {
                let half = matches!(dtype, DType::F16 | DType::Bf16);
                let sweep = |sweep| Self { part, dtype, factored: true, sweep };
                let fused = Self {
                    part,
                    dtype,
                    factored: !half,
                    sweep: if half { Sweep::Never } else { Sweep::Large },
                };
                let mut all = vec![sweep(if half { Sweep::Always } else { Sweep::Large })];
                if !all.contains(&fused) {
                    all.push(fused);
                }
                all
            })
        })
    }
}

// SAFETY: `Rules` is the struct of rules.cuh, and the kernels touch what its views name, after they waited for the
// launches ahead.
#[allow(unsafe_code)]
unsafe impl Spec for PairKernel {
    type Parameters = Rules;

    fn kernel(&self) -> KernelSpec {
        let Self { part, dtype, factored, sweep } = *self;
        let (name, source, order) = match part {
            Part::Jvp => ("jvp", REFERENCE_JVP, Order::Second),
            Part::Statistics(order) => ("statistics", STATISTICS, order),
            Part::Queries(order) => ("queries", REFERENCE_QUERIES, order),
            Part::Keys(order) => ("keys", REFERENCE_KEYS, order),
            Part::Bias(order) => ("bias", REFERENCE_BIAS, order),
        };
        let mut defines = vec![
            ("THERIA_ELEMENT", element_name(dtype).to_owned()),
            ("THERIA_ORDER", order.number().to_string()),
            ("THERIA_FACTORED", u32::from(factored).to_string()),
        ];
        let mut name = format!("reference-{name}-{}-{dtype}-f{}", order.number(), u32::from(factored));
        if matches!(part, Part::Statistics(_)) {
            defines.push(("THERIA_SWEEP", (sweep as u32).to_string()));
            name = format!("{name}-s{}", sweep as u32);
        }
        KernelSpec { name, source, defines, threads: (WARPS * WARP) as u32, shared: 0 }
    }
}
