//! What a kernel is compiled for.

use std::fmt;

/// A real architecture, by its compute capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Architecture {
    /// Ten times the major number, plus the minor one: 90 for 9.0.
    pub number: u32,
    /// Whether instructions are wanted that exist on this architecture alone (`sm_90a`: wgmma,
    /// setmaxnreg). Code for it does not run on a later one.
    pub specific: bool,
}

impl Architecture {
    /// Ampere: A100.
    pub const SM_80: Self = Self { number: 80, specific: false };
    /// Ada: L4, L40, RTX 40.
    pub const SM_89: Self = Self { number: 89, specific: false };
    /// Hopper with its own instructions: H100, H200.
    pub const SM_90A: Self = Self { number: 90, specific: true };

    /// The architecture of a device, with its own instructions where it has some (9.0 and later).
    pub fn of_capability(major: u32, minor: u32) -> Self {
        Self { number: 10 * major + minor, specific: major >= 9 }
    }

    /// Whether a kernel can be started before the one ahead of it has ended.
    pub(crate) fn overlaps_launches(self) -> bool {
        self.number >= 90
    }

    /// Bytes of shared memory that one block can have.
    pub fn shared_memory(self) -> u32 {
        1024 * match self.number {
            80 | 87 => 163,
            81..90 | 120.. => 99,
            _ => 227,
        }
    }
}

impl fmt::Display for Architecture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{}{}", self.number, if self.specific { "a" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_gets_the_code_of_its_own_architecture() {
        let names =
            [(8, 0), (8, 9), (9, 0), (10, 0)].map(|(a, b)| Architecture::of_capability(a, b).to_string());
        assert_eq!(names, ["sm_80", "sm_89", "sm_90a", "sm_100a"]);
        assert_eq!(Architecture::of_capability(9, 0), Architecture::SM_90A);
    }
}
