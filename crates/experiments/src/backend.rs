//! The backends, in one table.
//!
//! A backend is a line of the table below. Everything else reaches it by name and element type,
//! through a [`Visit`] that is generic over [`Attention`].

use std::fmt;
use std::sync::Arc;

use half::{bf16, f16};
use theria_contract::{
    Attention, Checks, DType, Element, Error, Precision, Problem, Refusal, Result, Rule, Support,
};
use theria_gpu_bwd::{CudaFused, CudaRef};
use theria_gpu_fwd::forward::CudaFast;

use crate::bench::Timed;
use crate::case_file::Case;
use crate::cuda;
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
    fn visit<A: Attention<E, Storage: Timed>>(self, backend: &A) -> Self::Output;
}

/// An element type that the table serves.
pub trait Served: Element {
    /// Makes the backend and hands it to the visitor; a reason where this machine cannot run it.
    fn with_backend<V: Visit<Self>>(
        backend: Backend,
        checks: Checks,
        visitor: V,
    ) -> Result<V::Output, Refusal>;
}

/// A backend ready to be asked, or why this machine cannot run it.
type Made<A> = Result<Arc<A>, Refusal>;

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
            fn with_backend<V: Visit<Self>>(
                backend: Backend,
                checks: Checks,
                visitor: V,
            ) -> Result<V::Output, Refusal> {
                match backend {
                    $(Backend::$variant => {
                        let make: fn(Checks) -> Made<_> = $make;
                        Ok(visitor.visit(&*make(checks)?))
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
    CudaFused, "cuda-fused", Streamed, "one kernel on a CUDA device, on tensor cores; f32, f16, bf16",
        |checks| cuda::kept(checks, |cuda, checks| CudaFused::new(cuda).with_checks(checks));
    Streaming, "streaming", Streamed, "tiles on the CPU, in memory linear in the length",
        |checks| Ok(Arc::new(theria_jvp_hvp::Streaming::new().with_checks(checks)));
    CudaFast, "cuda-fast", Stored, "two kernels on a CUDA device, the weights stored between them; f32, f16, bf16",
        |checks| cuda::kept(checks, |cuda, checks| CudaFast::new(cuda).with_checks(checks));
    CudaRef, "cuda-ref", Streamed, "plain arithmetic on a CUDA device: every type; what its other kernels are held against",
        |checks| cuda::kept(checks, |cuda, checks| CudaRef::new(cuda).with_checks(checks));
    CudaFusedTf32, "cuda-fused-tf32", Streamed, "cuda-fused with f32 operands rounded to TF32: faster, three digits",
        |checks| cuda::kept(checks, |cuda, checks| CudaFused::new(cuda).with_tf32().with_checks(checks));
    CudaFastTf32, "cuda-fast-tf32", Stored, "cuda-fast with f32 operands rounded to TF32: three digits",
        |checks| cuda::kept(checks, |cuda, checks| CudaFast::new(cuda).with_tf32().with_checks(checks));
    Dense, "dense", Stored, "the textbook on the CPU: whole score matrices; the oracle",
        |checks| Ok(Arc::new(theria_jvp_hvp::Dense::new().with_checks(checks)));
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

    /// The best backend of this machine for these rules on this problem: the first that computes all
    /// of them exactly, or else the first that computes the most of them.
    pub fn best(problem: &Problem, rules: &[Rule]) -> Self {
        let exact =
            |backend: Self| rules.iter().filter(|rule| backend.support(problem, **rule).is_exact()).count();
        let mut best: Option<(Self, usize)> = None;
        for backend in Self::present() {
            let count = exact(backend);
            if best.is_none_or(|(_, most)| count > most) {
                best = Some((backend, count));
            }
        }
        best.map_or(Self::ORACLE, |(backend, _)| backend)
    }

    /// Backends that this machine can run, the best one first.
    pub fn present() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|backend| backend.availability().is_ok())
    }

    /// Whether it computes on a CUDA device.
    pub fn is_cuda(self) -> bool {
        self.name().starts_with("cuda-")
    }

    /// What its results are as accurate as, for operands of a type.
    pub fn precision(self, dtype: DType) -> Precision {
        match (self, dtype) {
            (Self::CudaFusedTf32 | Self::CudaFastTf32, DType::F32) => Precision::Tf32,
            _ => Precision::of(dtype),
        }
    }

    /// Why this machine cannot run the backend, if it cannot.
    pub fn availability(self) -> Result<(), Refusal> {
        struct Ask;
        impl Visit<f64> for Ask {
            type Output = ();
            fn visit<A: Attention<f64, Storage: Timed>>(self, _: &A) {}
        }
        f64::with_backend(self, Checks::None, Ask)
    }

    /// What the backend vouches for, here: nothing where it cannot run.
    pub fn support(self, problem: &Problem, rule: Rule) -> Support {
        struct Ask<'a>(&'a Problem, Rule);
        impl<E: Element> Visit<E> for Ask<'_> {
            type Output = Support;
            fn visit<A: Attention<E, Storage: Timed>>(self, backend: &A) -> Support {
                backend.support(self.0, self.1)
            }
        }
        with_element!(problem.dtype(), E => {
            E::with_backend(self, Checks::None, Ask(problem, rule)).unwrap_or_else(Support::Refused)
        })
    }

    /// Scratch that the backend asks for: none where it cannot run.
    pub fn workspace_bytes(self, problem: &Problem, rule: Rule) -> usize {
        struct Ask<'a>(&'a Problem, Rule);
        impl<E: Element> Visit<E> for Ask<'_> {
            type Output = usize;
            fn visit<A: Attention<E, Storage: Timed>>(self, backend: &A) -> usize {
                backend.workspace_bytes(self.0, self.1)
            }
        }
        with_element!(problem.dtype(), E => {
            E::with_backend(self, Checks::None, Ask(problem, rule)).unwrap_or(0)
        })
    }

    /// The error of a rule asked of a backend that refuses it.
    pub(crate) fn refuses(self, rule: Rule) -> impl FnOnce(Refusal) -> Error {
        move |reason| Error::Refused { backend: self.name(), rule, reason }
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
        fn visit<A: Attention<E, Storage: Timed>>(self, backend: &A) -> Self::Output {
            evaluation::evaluate(backend, self.0, self.1)
        }
    }
    let first = rules.first().copied().unwrap_or(Rule::Forward);
    E::with_backend(backend, checks, Evaluate(case, rules)).map_err(backend.refuses(first))?
}

/// The names that `--backend` takes.
pub fn names() -> Vec<&'static str> {
    std::iter::once("auto").chain(Backend::ALL.iter().map(|backend| backend.name())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(dtype: DType) -> Problem {
        Problem::builder(dtype).lengths(16, 16).head_dims(8, 8).build().unwrap()
    }

    #[test]
    fn a_backend_that_this_machine_cannot_run_refuses_every_rule_and_says_what_to_do() {
        for backend in Backend::ALL {
            let Err(reason) = backend.availability() else { continue };
            assert!(matches!(reason, Refusal::Unavailable(_)), "{backend}: {reason}");
            assert!(reason.to_string().contains("; "), "{backend}: no advice in '{reason}'");
            for rule in Rule::ALL {
                assert_eq!(backend.support(&problem(DType::F32), rule), Support::Refused(reason.clone()));
            }
            let case = Case::<f32>::random(&problem(DType::F32), 1).unwrap();
            let error = evaluate(*backend, Checks::None, &case, &[Rule::Forward]).unwrap_err();
            assert!(matches!(error, Error::Refused { reason: Refusal::Unavailable(_), .. }), "{error}");
        }
    }

    #[test]
    fn auto_is_always_a_backend_that_is_here_and_computes_what_can_be_computed() {
        for dtype in DType::ALL {
            for rules in [&Rule::ALL[..], &[Rule::Forward], &[Rule::SecondOrder], &[]] {
                let best = Backend::best(&problem(dtype), rules);
                assert!(best.availability().is_ok(), "{best}");
                assert!(rules.iter().all(|rule| best.support(&problem(dtype), *rule).is_exact()), "{best}");
            }
        }
        assert!(Backend::present().any(|backend| backend == Backend::ORACLE));
    }

    #[test]
    fn rounded_operands_are_for_those_who_ask() {
        let f32 = |backend: Backend| backend.precision(DType::F32);
        let rounded: Vec<_> =
            Backend::ALL.iter().filter(|backend| f32(**backend) == Precision::Tf32).collect();
        assert_eq!(rounded, [&Backend::CudaFusedTf32, &Backend::CudaFastTf32]);
        for rounded in rounded {
            let exact = Backend::named(rounded.name().strip_suffix("-tf32").unwrap()).unwrap();
            let place = |backend| Backend::ALL.iter().position(|other| *other == backend).unwrap();
            assert!(place(exact) < place(*rounded), "auto would take {rounded} before {exact}");
            assert_eq!(rounded.precision(DType::Bf16), Precision::Bf16);
        }
    }

    #[test]
    fn a_name_that_no_backend_has_names_none() {
        assert_eq!(Backend::named("cuda-fast-and-wrong"), None);
        assert_eq!(Backend::named("cuda-ref"), Some(Backend::CudaRef));
    }
}
