//! What a choice of instance depends on.

use std::fmt;

use serde::{Deserialize, Serialize};
use theria_contract::{Precision, Problem};

use super::{Masking, Products};

/// Rooms for D and Dv, narrowest first.
pub const ROOMS: [u32; 6] = [32, 64, 96, 128, 192, 256];

/// Room for both head dimensions.
pub fn room(problem: &Problem) -> u32 {
    let widest = problem.shape().d.max(problem.shape().dv) as u32;
    ROOMS.into_iter().find(|room| *room >= widest).unwrap_or(ROOMS[ROOMS.len() - 1])
}

/// How much work there is for the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Load {
    /// So few queries that blocks of 128 of them do not fill the device.
    Few,
    /// Enough queries, and few keys: a block begins and ends as long as it computes.
    Short,
    /// Enough queries, and many keys.
    Long,
}

impl Load {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Few, Self::Short, Self::Long];

    /// That of a problem on a device with this many multiprocessors.
    pub fn of(problem: &Problem, multiprocessors: u32) -> Self {
        /// Keys that count as few.
        const SHORT: usize = 512;
        let shape = problem.shape();
        let blocks = shape.t.div_ceil(128) * shape.batch * shape.heads_q;
        if blocks < 2 * multiprocessors as usize {
            Self::Few
        } else if shape.m <= SHORT {
            Self::Short
        } else {
            Self::Long
        }
    }

    /// The name in reports and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Few => "few",
            Self::Short => "short",
            Self::Long => "long",
        }
    }
}

/// Problems that one choice serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Occasion {
    /// How elements are multiplied.
    pub products: Products,
    /// Room for both head dimensions.
    pub room: u32,
    /// Which scores are looked at.
    pub masking: Masking,
    /// How much work there is.
    pub load: Load,
}

impl Occasion {
    /// That of a problem whose rows are whole vectors, or are not; `None` for an element type without
    /// products.
    pub fn of(problem: &Problem, vectors: bool, precision: Precision, multiprocessors: u32) -> Option<Self> {
        let (products, room) = (Products::of(problem.dtype(), precision)?, room(problem));
        let masking = if Self::looks_always(products, room) {
            Masking::Everything
        } else {
            Masking::of(problem, vectors)
        };
        Some(Self { products, room, masking, load: Load::of(problem, multiprocessors) })
    }

    /// Whether every score is looked at even where it need not be: beside two operands for one, and the widest
    /// heads, registers do not hold what a kernel needs that has both ways.
    fn looks_always(products: Products, room: u32) -> bool {
        products == Products::Split && room == ROOMS[ROOMS.len() - 1]
    }

    /// Every one there is.
    pub fn all() -> impl Iterator<Item = Self> {
        Self::combinations().filter(|occasion| {
            occasion.masking == Masking::Everything || !Self::looks_always(occasion.products, occasion.room)
        })
    }

    fn combinations() -> impl Iterator<Item = Self> {
        Products::ALL.into_iter().flat_map(|products| {
            ROOMS.into_iter().flat_map(move |room| {
                Masking::ALL.into_iter().flat_map(move |masking| {
                    Load::ALL.into_iter().map(move |load| Self { products, room, masking, load })
                })
            })
        })
    }
}

impl fmt::Display for Occasion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { products, room, masking, load } = self;
        write!(f, "{}, head dimensions to {room}, {}, {}", products.name(), masking.name(), load.name())
    }
}
