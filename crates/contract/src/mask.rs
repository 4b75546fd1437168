//! Which keys a query may see.
//!
//! Causal masks, windows and key lengths each leave an interval of keys, so together they leave an
//! interval: [`Visibility::keys`] is the one place that computes it. A boolean mask, if there is
//! one, removes keys inside the interval.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use crate::{Element, Error, Problem, Result, TensorView};

/// How queries and keys are ordered in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Causal {
    /// No order: every query may see every key.
    #[default]
    None,
    /// Query `i` sees key `j` when `j ≤ i`.
    TopLeft,
    /// Query `i` sees key `j` when `j ≤ i + M - T`: the last query sees every key.
    BottomRight,
}

impl Causal {
    /// The name in case files and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::TopLeft => "top-left",
            Self::BottomRight => "bottom-right",
        }
    }
}

impl fmt::Display for Causal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Causal {
    type Err = Error;
    fn from_str(name: &str) -> Result<Self> {
        [Self::None, Self::TopLeft, Self::BottomRight]
            .into_iter()
            .find(|causal| causal.name() == name)
            .ok_or_else(|| Error::UnknownName {
                what: "causal mask",
                given: name.into(),
                allowed: "none, top-left, bottom-right",
            })
    }
}

/// How far a query sees to either side of its own position; `None` is unbounded.
///
/// Key `j` is visible to query `i` when `i + o - left ≤ j ≤ i + o + right`, with `o = M - T` under
/// [`Causal::BottomRight`] and 0 otherwise. A window narrows a causal mask; both may be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Window {
    /// Keys before the query's position.
    pub left: Option<usize>,
    /// Keys after it.
    pub right: Option<usize>,
}

impl Window {
    /// A window of `left` keys before and `right` keys after.
    pub fn new(left: usize, right: usize) -> Self {
        Self { left: Some(left), right: Some(right) }
    }

    /// Whether it hides nothing.
    pub fn is_unbounded(&self) -> bool {
        self.left.is_none() && self.right.is_none()
    }
}

/// `left,right`, with -1 for an unbounded side.
impl FromStr for Window {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || Error::UnknownName {
            what: "window",
            given: text.into(),
            allowed: "left,right with -1 for an unbounded side, as in 128,0 or -1,16",
        };
        let side = |part: &str| match part.trim() {
            "-1" => Ok(None),
            number => number.parse::<u32>().map(|n| Some(n as usize)).map_err(|_| wrong()),
        };
        let (left, right) = text.split_once(',').ok_or_else(wrong)?;
        Ok(Self { left: side(left)?, right: side(right)? })
    }
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |side: Option<usize>| side.map_or("-1".to_owned(), |n| n.to_string());
        write!(f, "{},{}", side(self.left), side(self.right))
    }
}

/// The interval of keys that causal mask, window and key length leave to each query.
#[derive(Clone, Copy, Debug)]
pub struct Visibility {
    t: i64,
    m: i64,
    /// Key position of query 0.
    origin: i64,
    /// A query at position `p` sees keys from `p - back`.
    back: Option<i64>,
    /// A query at position `p` sees keys to `p + ahead`.
    ahead: Option<i64>,
}

impl Visibility {
    /// That of a problem.
    pub fn of(problem: &Problem) -> Self {
        let shape = problem.shape();
        let (t, m) = (shape.t as i64, shape.m as i64);
        let causal = problem.causal();
        let window = problem.window();
        let right = window.right.map(|n| n as i64);
        Self {
            t,
            m,
            origin: if causal == Causal::BottomRight { m - t } else { 0 },
            back: window.left.map(|n| n as i64),
            ahead: if causal == Causal::None { right } else { Some(right.map_or(0, |n| n.min(0))) },
        }
    }

    /// The keys that query `row` may see when the first `key_length` keys are real.
    #[inline]
    pub fn keys(&self, row: usize, key_length: usize) -> Range<usize> {
        let position = row as i64 + self.origin;
        let limit = self.m.min(key_length as i64);
        let start = self.back.map_or(0, |back| position - back).clamp(0, limit);
        let end = self.ahead.map_or(limit, |ahead| position + ahead + 1).clamp(start, limit);
        start as usize..end as usize
    }

    /// The keys that at least one of `rows` may see. Both ends move forward with the row, so the
    /// first and the last row bound them.
    pub fn keys_of_rows(&self, rows: Range<usize>, key_length: usize) -> Range<usize> {
        if rows.is_empty() {
            return 0..0;
        }
        let first = self.keys(rows.start, key_length);
        let last = self.keys(rows.end - 1, key_length);
        if !first.is_empty() && !last.is_empty() {
            return first.start..last.end;
        }
        // An empty interval has an arbitrary start; the union with it is the other one.
        rows.map(|row| self.keys(row, key_length))
            .filter(|keys| !keys.is_empty())
            .reduce(|union, keys| union.start..keys.end)
            .unwrap_or(0..0)
    }

    /// The queries that may see at least one of `keys`.
    pub fn rows_of_keys(&self, keys: Range<usize>, key_length: usize) -> Range<usize> {
        let keys = keys.start..keys.end.min(key_length).min(self.m as usize);
        if keys.is_empty() {
            return 0..0;
        }
        // j ≤ i + origin + ahead and j ≥ i + origin - back, for the nearest key on either side.
        let start = self.ahead.map_or(0, |ahead| keys.start as i64 - self.origin - ahead).clamp(0, self.t);
        let end = self.back.map_or(self.t, |back| keys.end as i64 - self.origin + back).clamp(start, self.t);
        start as usize..end as usize
    }
}

/// Whether a query sees at least one of `keys`: the mask leaves one, and its bias is not `-inf`. A row
/// of scores that are all `-inf` although it sees a key has overflowed, or had an infinite operand.
pub fn any_visible<E: Element>(
    keys: Range<usize>,
    [batch, head, row]: [usize; 3],
    mask: Option<TensorView<'_, u8>>,
    bias: Option<TensorView<'_, E>>,
) -> bool {
    keys.into_iter().any(|key| {
        let at = [batch, head, row, key];
        mask.is_none_or(|mask| mask.at_broadcast(at) != 0)
            && bias.is_none_or(|bias| bias.at_broadcast(at).to_f64() != f64::NEG_INFINITY)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::DType;

    /// The definition of interfaces.md, key by key.
    fn sees(problem: &Problem, i: usize, j: usize, key_length: usize) -> bool {
        let (i, j, t, m) = (i as i64, j as i64, problem.shape().t as i64, problem.shape().m as i64);
        let causal = match problem.causal() {
            Causal::None => true,
            Causal::TopLeft => j <= i,
            Causal::BottomRight => j <= i + m - t,
        };
        let o = if problem.causal() == Causal::BottomRight { m - t } else { 0 };
        let window = problem.window();
        let left = window.left.is_none_or(|left| i + o - left as i64 <= j);
        let right = window.right.is_none_or(|right| j <= i + o + right as i64);
        causal && left && right && j < key_length as i64
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn the_interval_is_exactly_the_set_of_visible_keys(
            t in 0_usize..12, m in 0_usize..12, length in 0_usize..14,
            causal in prop::sample::select(vec![Causal::None, Causal::TopLeft, Causal::BottomRight]),
            left in prop::option::of(0_usize..8), right in prop::option::of(0_usize..8),
            low in 0_usize..12, count in 0_usize..12,
        ) {
            let problem = Problem::builder(DType::F64).lengths(t, m).head_dims(2, 2)
                .causal(causal).window(Window { left, right }).build().unwrap();
            let length = length.min(m);
            let visibility = Visibility::of(&problem);
            for i in 0..t {
                let keys = visibility.keys(i, length);
                for j in 0..m {
                    prop_assert_eq!(keys.contains(&j), sees(&problem, i, j, length), "i={} j={}", i, j);
                }
            }
            let (low, high) = (low.min(t), (low + count).min(t));
            let union = visibility.keys_of_rows(low..high, length);
            for i in low..high {
                let keys = visibility.keys(i, length);
                prop_assert!(keys.is_empty() || (union.start <= keys.start && keys.end <= union.end));
            }
            let (low, high) = (low.min(m), (low + count).min(m));
            let rows = visibility.rows_of_keys(low..high, length);
            for i in 0..t {
                let any = (low..high).any(|j| sees(&problem, i, j, length));
                prop_assert!(!any || rows.contains(&i), "row {} sees a key of {:?}, rows {:?}", i, low..high, rows);
            }
        }
    }

    #[test]
    fn a_window_reads_as_it_is_written() {
        let window: Window = "128,-1".parse().unwrap();
        assert_eq!(window, Window { left: Some(128), right: None });
        assert_eq!(window.to_string(), "128,-1");
        for wrong in ["", "3", "a,b", "-2,0", "1,2,3", "99999999999,0"] {
            assert!(wrong.parse::<Window>().is_err(), "{wrong}");
        }
    }
}
