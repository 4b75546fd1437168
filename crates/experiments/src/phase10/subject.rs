//! What meta-gradients are made with: backends in the types that they serve, and what is wrong on purpose.

use theria_contract::{DType, Precision, Rule, bound};
use theria_jvp_hvp::variant::{Variant, Varied};
use theria_maml::Host;

use super::{Result, timings};
use crate::backend::Backend;
use crate::maml::{Attending, Visit, with_machine};

/// What attends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Attends {
    Backend(Attending),
    /// An operator that is wrong on purpose.
    Variant(Variant),
}

/// What meta-gradients are made with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Subject {
    attends: Attends,
    /// In what.
    pub dtype: DType,
}

/// The types that backends serve.
const SERVED: [(Backend, [DType; 2]); 4] = [
    (Backend::Dense, [DType::F64, DType::F32]),
    (Backend::Streaming, [DType::F64, DType::F32]),
    (Backend::CudaRef, [DType::F64, DType::F32]),
    (Backend::CudaFused, [DType::F32, DType::Bf16]),
];

impl Subject {
    /// What the others are held against: matrices, as the formulas have them, in f64.
    pub const REFERENCE: Self = Self {
        attends: Attends::Backend(Attending { backend: Backend::Dense, opaque: false }),
        dtype: DType::F64,
    };

    /// What is wrong on purpose: a backward that takes its statistics for constants, and one that can be called and not be
    /// differentiated, as a kernel has it that a framework knows the first derivative of.
    pub const WRONG: [Self; 2] = [Self::wrong(Variant::FrozenBoth), Self::wrong(Variant::OnceDifferentiable)];

    const fn wrong(variant: Variant) -> Self {
        Self { attends: Attends::Variant(variant), dtype: DType::F64 }
    }

    /// A backend in a type.
    pub fn of(backend: Backend, dtype: DType) -> Self {
        Self { attends: Attends::Backend(backend.into()), dtype }
    }

    /// Backends in all types that they serve.
    pub fn all(backends: &[Backend]) -> Vec<Self> {
        let asked = SERVED.iter().filter(|(backend, _)| backends.contains(backend));
        asked.flat_map(|(backend, types)| types.map(|dtype| Self::of(*backend, dtype))).collect()
    }

    /// The same without rules beyond the backward; none of what is no backend.
    pub fn opaque(self) -> Option<Self> {
        match self.attends {
            Attends::Backend(attending) => {
                Some(Self { attends: Attends::Backend(Attending { opaque: true, ..attending }), ..self })
            }
            Attends::Variant(_) => None,
        }
    }

    /// The name in rows.
    pub fn name(self) -> String {
        match self.attends {
            Attends::Backend(attending) => attending.to_string(),
            Attends::Variant(variant) => variant.name().to_owned(),
        }
    }

    /// Whether it is wrong on purpose.
    pub fn is_wrong(self) -> bool {
        matches!(self.attends, Attends::Variant(_))
    }

    /// Whether it computes on the device.
    pub fn is_cuda(self) -> bool {
        matches!(self.attends, Attends::Backend(attending) if attending.backend.is_cuda())
    }

    /// The largest error of one second-order product, by the table of bounds.
    pub fn bound(self) -> f64 {
        bound(Precision::of(self.dtype), Rule::SecondOrder)
    }

    /// Bytes that a meta-gradient of the large transformer holds; of a device only in a process that did nothing else on it.
    pub fn bytes_of_large(self) -> Result<Option<i64>> {
        timings::bytes_of_large(self)
    }

    /// Makes its machine and hands it to a visitor.
    pub fn visit<V: Visit>(self, visitor: V) -> Result<V::Output> {
        match self.attends {
            Attends::Backend(attending) => Ok(with_machine(attending, self.dtype, visitor)?),
            Attends::Variant(variant) => Ok(visitor.visit(&Host::<_, f64>::new(Varied::new(variant)))),
        }
    }
}
