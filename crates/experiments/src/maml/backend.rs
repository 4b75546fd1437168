//! Backends by name as machines that a model lives on: the one place that knows which are served.

use std::fmt;
use std::str::FromStr;

use half::bf16;
use theria_contract::{Attention, DType, Error, Host as Memory};
use theria_gpu_bwd::{CudaFused, CudaRef};
use theria_gpu_fwd::Cuda;
use theria_jvp_hvp::{Dense, Opaque, Streaming};
use theria_maml::machine::{Attended, Precision};
use theria_maml::number::Number;
use theria_maml::{Gpu, Host, Machine};
use theria_reference::Real;

use super::{MamlError, Result};
use crate::backend::Backend;

/// What attends: a backend, or one whose rules beyond the backward are taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attending {
    /// The backend.
    pub backend: Backend,
    /// Whether its JVP and its second order are taken away.
    pub opaque: bool,
}

impl Attending {
    /// Backends that have all rules, and so can be asked for every mode.
    pub const BACKENDS: [Backend; 4] =
        [Backend::Streaming, Backend::Dense, Backend::CudaRef, Backend::CudaFused];
}

impl From<Backend> for Attending {
    fn from(backend: Backend) -> Self {
        Self { backend, opaque: false }
    }
}

impl fmt::Display for Attending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.opaque { write!(f, "opaque({})", self.backend) } else { self.backend.fmt(f) }
    }
}

impl FromStr for Attending {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        let inner = name.strip_prefix("opaque(").and_then(|rest| rest.strip_suffix(')'));
        let backend = Backend::named(inner.unwrap_or(name)).filter(|it| Self::BACKENDS.contains(it));
        let attending = backend.map(|backend| Self { backend, opaque: inner.is_some() });
        attending.ok_or_else(|| Error::UnknownName {
            what: "backend for meta-learning",
            given: name.into(),
            allowed: "streaming, dense, cuda-ref, cuda-fused, and opaque(…) around one of them",
        })
    }
}

/// Something done on a machine, whichever it is.
pub trait Visit {
    /// What comes of it.
    type Output;
    /// Does it.
    fn visit<M: Machine + 'static>(self, machine: &M) -> Self::Output;
}

/// Makes the machine and hands it to the visitor. A device computes attention and factors of products in bf16, with everything
/// else in f32, where that is the type.
pub fn with_machine<V: Visit>(attending: Attending, dtype: DType, visitor: V) -> Result<V::Output> {
    let Attending { backend, .. } = attending;
    match (backend, dtype) {
        (Backend::Streaming | Backend::Dense, DType::F64) => Ok(on_host_in::<f64, V>(attending, visitor)),
        (Backend::Streaming | Backend::Dense, DType::F32) => Ok(on_host_in::<f32, V>(attending, visitor)),
        (Backend::CudaRef, DType::F64) => {
            on_device::<f64, f64, _, V>(CudaRef::new(cuda()?), Precision::F32, attending, visitor)
        }
        (Backend::CudaRef, DType::F32) => {
            on_device::<f32, f32, _, V>(CudaRef::new(cuda()?), Precision::F32, attending, visitor)
        }
        (Backend::CudaFused, DType::F32) => {
            on_device::<f32, f32, _, V>(CudaFused::new(cuda()?), Precision::F32, attending, visitor)
        }
        (Backend::CudaFused, DType::Bf16) => {
            on_device::<f32, bf16, _, V>(CudaFused::new(cuda()?), Precision::Bf16, attending, visitor)
        }
        _ => Err(MamlError::NotServed { backend, dtype }),
    }
}

/// The memory of the device of this process.
fn cuda() -> Result<Cuda> {
    let device = crate::cuda::ready();
    Ok(Cuda::new(device.map_err(|error| MamlError::NoDevice { reason: error.to_string() })?.clone()))
}

fn on_device<R, E, A, V>(
    attention: A,
    products: Precision,
    attending: Attending,
    visitor: V,
) -> Result<V::Output>
where
    R: Real + Number,
    E: Attended<R>,
    A: Attention<E, Storage = Cuda> + Sync + 'static,
    V: Visit,
{
    if attending.opaque {
        let machine = Gpu::<_, R, E>::new(Opaque::new(attention)).map_err(MamlError::Learning)?;
        Ok(visitor.visit(&machine.with_products(products)))
    } else {
        let machine = Gpu::<_, R, E>::new(attention).map_err(MamlError::Learning)?;
        Ok(visitor.visit(&machine.with_products(products)))
    }
}

fn on_host_in<R, V: Visit>(Attending { backend, opaque }: Attending, visitor: V) -> V::Output
where
    R: Real + Number,
    Streaming: Attention<R, Storage = Memory>,
    Dense: Attention<R, Storage = Memory>,
{
    match backend {
        Backend::Dense => on_host::<R, _, V>(Dense::new(), opaque, visitor),
        _ => on_host::<R, _, V>(Streaming::new(), opaque, visitor),
    }
}

fn on_host<R, A, V>(attention: A, opaque: bool, visitor: V) -> V::Output
where
    R: Real + Number,
    A: Attention<R, Storage = Memory> + Sync + 'static,
    V: Visit,
{
    if opaque {
        visitor.visit(&Host::<_, R>::new(Opaque::new(attention)))
    } else {
        visitor.visit(&Host::<_, R>::new(attention))
    }
}

#[cfg(test)]
mod tests {
    use theria_contract::{Element, Problem, Rule};

    use super::*;

    struct Ask;

    impl Visit for Ask {
        type Output = (DType, bool);

        fn visit<M: Machine + 'static>(self, machine: &M) -> Self::Output {
            let dtype = <M::Attended as Element>::DTYPE;
            let problem = Problem::builder(dtype).build().unwrap();
            (dtype, machine.attention().support(&problem, Rule::SecondOrder).is_exact())
        }
    }

    #[test]
    fn a_name_becomes_a_machine_of_its_type_with_the_rules_it_has() {
        for (name, second_order) in
            [("streaming", true), ("dense", true), ("opaque(streaming)", false), ("opaque(dense)", false)]
        {
            let attending: Attending = name.parse().unwrap();
            assert_eq!(attending.to_string(), name);
            for dtype in [DType::F64, DType::F32] {
                assert_eq!(with_machine(attending, dtype, Ask).unwrap(), (dtype, second_order));
            }
            assert!(with_machine(attending, DType::Bf16, Ask).is_err());
        }
        for wrong in ["auto", "cuda-fast", "opaque(opaque(dense))", "opaque(dense"] {
            assert!(wrong.parse::<Attending>().unwrap_err().to_string().contains(wrong));
        }
    }
}
