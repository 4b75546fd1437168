//! Which block of a launch takes which rows and columns of a function of rows.

use super::rows::THREADS;
use crate::machine::{Columns, Follow};

/// Elements that sums of blocks have room for.
pub(super) const SUMS: usize = 2 << 20;
/// Counters of blocks that have left their sums.
pub(super) const TICKETS: usize = 1 << 16;
/// Numbers that one block adds up by itself: of more, the last blocks of parts add up theirs before.
const ALONE: usize = 1 << 15;
/// Threads side by side on rows that are added up: a line of memory.
const SIDE: usize = 8;
const WARP: usize = 32;
/// Blocks that keep a device busy: four for each of its multiprocessors, fewer where each holds rows and leaves sums.
const ENOUGH: usize = 528;
const ENOUGH_SUMMED: usize = 512;
const ENOUGH_HELD: usize = 264;

/// How a function sees rows, as in `rows.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Way {
    Columns,
    Held,
    Streamed,
}

/// How threads take rows, as in `rows.cuh`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Vectors {
    /// Numbers of a vector.
    pub(super) length: usize,
    /// Vectors at most that a thread has of a row that is held.
    pub(super) held: usize,
}

impl Way {
    /// Those that a function has.
    pub(super) fn of(columns: Columns) -> &'static [Self] {
        match columns {
            Columns::Apart => &[Self::Columns],
            Columns::Alike => &[Self::Held, Self::Streamed],
            Columns::Named => &[Self::Streamed],
        }
    }

    /// That of rows of a width, which are held only if the first operand and the result share none.
    pub(super) fn new(columns: Columns, own: bool, width: usize, vectors: Vectors) -> Self {
        match columns {
            Columns::Apart => Self::Columns,
            Columns::Alike if own && width <= THREADS * vectors.held * vectors.length => Self::Held,
            Columns::Alike | Columns::Named => Self::Streamed,
        }
    }

    /// In the name of an instance, and in its text.
    pub(super) fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Columns => ("", "theria::COLUMNS"),
            Self::Held => ("held-", "theria::HELD"),
            Self::Streamed => ("", "theria::STREAMED"),
        }
    }
}

/// The part of `Rows` of `shares.cuh` that says which block takes what.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Division {
    groups: i32,
    members: i32,
    cyclic: i32,
    length: i32,
    chunks: i32,
    parts: i32,
    lanes: i32,
    deep: i32,
    steps: i32,
    slots: i32,
    fans: i32,
    fan: i32,
    pub(super) whole: i32,
}

/// Rounds up to a power of two, which is at most another one, and says which.
fn bits(wanted: usize, most: u32) -> u32 {
    wanted.max(1).next_power_of_two().ilog2().min(most)
}

/// Of how many blocks the last one adds up what all of them left, as a power of two: of all where that is little, or of
/// about as many as leave their sums to the very last one.
fn fan(chunks: usize, left: usize) -> u32 {
    let all = bits(chunks, usize::BITS - 1);
    if chunks * left <= ALONE { all } else { all.div_ceil(2) }
}

/// Places for sums of a group that so many blocks have chunks of, and counters.
fn levels(chunks: usize, fan: u32) -> (usize, usize) {
    let (mut slots, mut fans, mut count) = (0, 0, chunks);
    while count > 1 {
        slots += count;
        count = count.div_ceil(1 << fan);
        fans += count;
    }
    (slots, fans)
}

impl Division {
    /// Of rows of which some are shared in one way, where something is summed, with the widest row and its vectors; and
    /// the widest of those that are summed and how wide all of them are together.
    pub(super) fn new(
        way: Way,
        rows: usize,
        shared: Option<Follow>,
        (width, Vectors { length, held }): (usize, Vectors),
        (widest_sum, summed): (Option<usize>, usize),
    ) -> Self {
        // Rows that share nothing are one group.
        let follow = shared.unwrap_or(Follow::Shared(rows.max(1)));
        let (groups, members, cyclic) = match follow {
            Follow::Shared(n) => (rows.div_ceil(n), n.min(rows), 0),
            Follow::Cyclic(n) => (n.min(rows), rows.div_ceil(n), 1),
        };
        let (vectors, most) = (width.div_ceil(length), THREADS.ilog2());
        let lanes = match way {
            Way::Columns if summed > 0 => bits(vectors, SIDE.ilog2()),
            Way::Columns => bits(vectors, most),
            Way::Held if vectors <= WARP => bits(vectors, most),
            Way::Held => bits(vectors.div_ceil(held), most).max(WARP.ilog2()),
            // One team adds up in memory.
            Way::Streamed if widest_sum.is_some_and(|width| width > 1) => most,
            Way::Streamed => bits(width.div_ceil(4), most),
        };
        let deep = bits(members, most - lanes);
        // A group of several blocks has whole blocks.
        let teams = THREADS >> (lanes + deep);
        let parts = if way == Way::Columns { vectors.div_ceil(1 << lanes).max(1) } else { 1 };
        let enough = match way {
            _ if summed == 0 => ENOUGH,
            Way::Held => ENOUGH_HELD,
            Way::Columns | Way::Streamed => ENOUGH_SUMMED,
        };
        // A chunk has whole steps: fewer may have all rows than were asked for.
        let length = |chunks: usize| members.div_ceil(chunks).next_multiple_of(1 << deep).max(1);
        let taken = |chunks: usize| members.div_ceil(length(chunks)).max(1);
        let left = summed.div_ceil(parts);
        // Sums of blocks, and those that blocks make of them, have room; and every chunk has a row.
        let fits = |chunks: usize| {
            let (slots, fans) = levels(chunks, fan(chunks, left));
            let within = groups * slots * summed <= SUMS && groups * parts * fans <= TICKETS;
            summed == 0 || chunks == 1 || (rows == groups * members && within)
        };
        let mut chunks = (enough / (groups * parts).max(1)).clamp(1, members.div_ceil(1 << deep).max(1));
        if teams > 1 {
            chunks = 1;
        }
        while !fits(taken(chunks)) {
            chunks /= 2;
        }
        let (length, chunks) = (length(chunks), taken(chunks));
        let fan = fan(chunks, left);
        let (slots, fans) = if summed > 0 { levels(chunks, fan) } else { (0, 0) };
        let number = |n: usize| n as i32;
        Self {
            groups: number(groups),
            members: number(members),
            cyclic,
            length: number(length),
            chunks: number(chunks),
            parts: number(parts),
            lanes: lanes as i32,
            deep: deep as i32,
            steps: number(length >> deep),
            slots: number(slots),
            fans: number(fans),
            fan: fan as i32,
            whole: 0,
        }
    }

    /// Rows of sums that blocks leave.
    pub(super) fn left(&self) -> usize {
        self.groups as usize * self.slots as usize
    }

    /// How many blocks that makes.
    pub(super) fn blocks(&self) -> usize {
        let teams = THREADS >> (self.lanes + self.deep);
        (self.groups as usize).div_ceil(teams) * self.chunks as usize * self.parts as usize
    }
}
