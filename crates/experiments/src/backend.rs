//! The backends, in one table.
//!
//! A backend is a line of the table below. Everything else reaches it by name and element type,
//! through a [`Visit`] that is generic over [`Attention`].

use std::fmt;

use half::{bf16, f16};
use theria_contract::{Attention, Checks, Element, Problem, Result, Rule, Support};

use crate::case_file::Case;
use crate::evaluation::{self, Results};

/// Runs a body with `$E` standing for the type that a [`DType`] names.
macro_rules! with_element {
    ($dtype:expr, $E:ident => $body:expr) => {
        match $dtype {
            ::theria_contract::DType::F64 => {
                type $E = f64;
                $body
            }
            ::theria_contract::DType::F32 => {
                type $E = f32;
                $body
            }
            ::theria_contract::DType::F16 => {
                type $E = ::half::f16;
                $body
            }
            ::theria_contract::DType::Bf16 => {
                type $E = ::half::bf16;
                $body
            }
        }
    };
}
pub(crate) use with_element;

/// Something done with a backend, whichever it is.
pub trait Visit<E: Element> {
    /// What comes of it.
    type Output;
    /// Does it.
    fn visit<A: Attention<E>>(self, backend: &A) -> Self::Output;
}

/// An element type that the table serves.
pub trait Served: Element {
    /// Makes the backend and hands it to the visitor.
    fn with_backend<V: Visit<Self>>(backend: Backend, checks: Checks, visitor: V) -> V::Output;
}

macro_rules! backends {
    ($($variant:ident, $name:literal, $scores:ident, $summary:literal, $make:expr;)+) => {
        /// A backend of this build.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Backend {
            $(#[doc = $summary] $variant,)+
        }

        impl Backend {
            /// Every backend of this build, the best one first.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The name on the command line and in reports.
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),+ }
            }

            /// What it is, in a line.
            pub fn summary(self) -> &'static str {
                match self { $(Self::$variant => $summary),+ }
            }

            /// Whether it stores the scores, beside the workspace that it asks for.
            pub fn scores(self) -> Scores {
                match self { $(Self::$variant => Scores::$scores),+ }
            }
        }

        backends!(@served ($($variant, $make;)+) f64, f32, f16, bf16);
    };
    (@served $entries:tt $($element:ty),+) => {
        $(backends!(@one $element, $entries);)+
    };
    (@one $element:ty, ($($variant:ident, $make:expr;)+)) => {
        impl Served for $element {
            fn with_backend<V: Visit<Self>>(backend: Backend, checks: Checks, visitor: V) -> V::Output {
                match backend {
                    $(Backend::$variant => {
                        let make: fn(Checks) -> _ = $make;
                        visitor.visit(&make(checks))
                    })+
                }
            }
        }
    };
}

/// What becomes of the score matrix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scores {
    /// It exists, whole, for each head at work.
    Stored,
    /// It never exists: tiles of it do.
    Streamed,
}

backends! {
    // The best one first: `auto` takes the first that serves what is asked.
    Streaming, "streaming", Streamed, "tiles on the CPU, in memory linear in the length",
        |checks| theria_jvp_hvp::Streaming::new().with_checks(checks);
    Dense, "dense", Stored, "the textbook on the CPU: whole score matrices; the oracle",
        |checks| theria_jvp_hvp::Dense::new().with_checks(checks);
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Backend {
    /// The backend that judges the others.
    pub const ORACLE: Self = Self::Dense;

    /// The backend of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|backend| backend.name() == name)
    }

    /// The best backend for these rules on this problem: the first that computes all of them
    /// exactly, or else the first that computes the most of them.
    pub fn best(problem: &Problem, rules: &[Rule]) -> Self {
        let exact =
            |backend: Self| rules.iter().filter(|rule| backend.support(problem, **rule).is_exact()).count();
        let mut best = Self::ALL[0];
        for backend in &Self::ALL[1..] {
            if exact(*backend) > exact(best) {
                best = *backend;
            }
        }
        best
    }

    /// What the backend vouches for.
    pub fn support(self, problem: &Problem, rule: Rule) -> Support {
        struct Ask<'a>(&'a Problem, Rule);
        impl<E: Element> Visit<E> for Ask<'_> {
            type Output = Support;
            fn visit<A: Attention<E>>(self, backend: &A) -> Support {
                backend.support(self.0, self.1)
            }
        }
        with_element!(problem.dtype(), E => E::with_backend(self, Checks::None, Ask(problem, rule)))
    }

    /// Scratch that the backend asks for.
    pub fn workspace_bytes(self, problem: &Problem, rule: Rule) -> usize {
        struct Ask<'a>(&'a Problem, Rule);
        impl<E: Element> Visit<E> for Ask<'_> {
            type Output = usize;
            fn visit<A: Attention<E>>(self, backend: &A) -> usize {
                backend.workspace_bytes(self.0, self.1)
            }
        }
        with_element!(problem.dtype(), E => E::with_backend(self, Checks::None, Ask(problem, rule)))
    }
}

/// Runs `rules` of `backend` on a case.
pub fn evaluate<E: Served>(
    backend: Backend,
    checks: Checks,
    case: &Case<E>,
    rules: &[Rule],
) -> Result<Results<E>> {
    struct Evaluate<'a, E: Element>(&'a Case<E>, &'a [Rule]);
    impl<E: Element> Visit<E> for Evaluate<'_, E> {
        type Output = Result<Results<E>>;
        fn visit<A: Attention<E>>(self, backend: &A) -> Self::Output {
            evaluation::evaluate(backend, self.0, self.1)
        }
    }
    E::with_backend(backend, checks, Evaluate(case, rules))
}

/// The names that `--backend` takes.
pub fn names() -> Vec<&'static str> {
    std::iter::once("auto").chain(Backend::ALL.iter().map(|backend| backend.name())).collect()
}
