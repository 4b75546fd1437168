//! What is measured: sizes, and whether a causal mask lies over them.

use std::fmt;
use std::str::FromStr;

use theria_contract::{Causal, DType, Problem};

/// A shape of the command line: `B,H,T,D`, or `B,H,T,D,causal`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// `[B, H, T, D]`, with as many keys as queries.
    pub sizes: [usize; 4],
    /// Whether query i sees the keys up to i alone.
    pub causal: bool,
}

impl Shape {
    /// Without a mask.
    pub const fn plain(sizes: [usize; 4]) -> Self {
        Self { sizes, causal: false }
    }

    /// With a causal mask.
    pub const fn causal(sizes: [usize; 4]) -> Self {
        Self { sizes, causal: true }
    }

    /// The problem in an element type.
    pub fn problem(self, dtype: DType) -> theria_contract::Result<Problem> {
        let [b, h, t, d] = self.sizes;
        let causal = if self.causal { Causal::TopLeft } else { Causal::None };
        Problem::builder(dtype).batch(b).heads(h, h).lengths(t, t).head_dims(d, d).causal(causal).build()
    }

    /// The mask in result files.
    pub fn mask(self) -> &'static str {
        if self.causal { "causal" } else { "none" }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [b, h, t, d] = self.sizes;
        write!(f, "{b},{h},{t},{d}{}", if self.causal { ",causal" } else { "" })
    }
}

impl FromStr for Shape {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let allowed =
            || format!("'{text}' is not a shape: give B,H,T,D or B,H,T,D,causal, as in 4,16,4096,128,causal");
        let (sizes, causal) = match text.strip_suffix(",causal") {
            Some(sizes) => (sizes, true),
            None => (text, false),
        };
        let sizes: Vec<usize> = sizes
            .split(',')
            .map(|size| size.trim().parse())
            .collect::<Result<_, _>>()
            .map_err(|_| allowed())?;
        let sizes: [usize; 4] = sizes.try_into().map_err(|_| allowed())?;
        if sizes.contains(&0) {
            return Err(format!("'{text}' has nothing to measure: every size must be at least 1"));
        }
        Ok(Self { sizes, causal })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_reads_as_it_is_written_and_anything_else_says_what_is_allowed() {
        for text in ["1,2,128,64", "4,16,4096,128,causal"] {
            assert_eq!(text.parse::<Shape>().unwrap().to_string(), text);
        }
        for text in ["", "1,2,3", "1,2,3,4,5", "1,2,3,4,windowed", "1,x,3,4", "1,2,3,-4"] {
            assert!(text.parse::<Shape>().unwrap_err().contains("B,H,T,D"), "{text}");
        }
        assert!("0,1,1,1".parse::<Shape>().unwrap_err().contains("at least 1"));
    }
}
