//! The CUDA device of this process, and the backends on it.
//!
//! Every build has the CUDA backends. Where no device opens they refuse, with the reason and what to
//! do about it.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use theria_contract::{Checks, Problem, Refusal, Rule};
use theria_gpu_bwd::CudaFused;
use theria_gpu_fwd::forward::{CudaFast, ReferenceForward};
use theria_gpu_fwd::{Compiler, Cuda, Device, Error, Spec as _};

/// The device of this process, opened when it is first asked for.
pub fn device() -> Result<&'static Device, &'static Error> {
    static DEVICE: OnceLock<Result<Device, Error>> = OnceLock::new();
    DEVICE.get_or_init(|| Device::open(0)).as_ref()
}

/// The same, where kernels can be compiled for it too.
pub(crate) fn ready() -> Result<&'static Device, &'static Error> {
    static COMPILER: OnceLock<Result<(), Error>> = OnceLock::new();
    let device = device()?;
    COMPILER.get_or_init(|| Compiler::open().map(drop)).as_ref()?;
    Ok(device)
}

/// Backends by what makes them, and checks.
type Backends = HashMap<(TypeId, Checks), Arc<dyn Any + Send + Sync>>;

/// A backend on the device of this process. One is kept for each setting of the checks: its kernels
/// are loaded once.
pub(crate) fn kept<A: Any + Send + Sync, F: Fn(Cuda, Checks) -> A + 'static>(
    checks: Checks,
    make: F,
) -> Result<Arc<A>, Refusal> {
    static BACKENDS: Mutex<Option<Backends>> = Mutex::new(None);
    let device = ready().map_err(|error| Refusal::Unavailable(error.to_string()))?;
    let mut backends = BACKENDS.lock().unwrap_or_else(PoisonError::into_inner);
    let made = backends
        .get_or_insert_default()
        .entry((TypeId::of::<F>(), checks))
        .or_insert_with(|| Arc::new(make(Cuda::new(device.clone()), checks)));
    Ok(Arc::clone(made).downcast().expect("one function makes one type"))
}

/// The kernels that would serve a problem on a device: backend, rule, and names of instances in the order of their
/// launches. Of the other rules than the forward those of `cuda-fused`, without the one that makes row statistics.
pub fn serving_kernels(device: &Device, problem: &Problem) -> Vec<(&'static str, Rule, String)> {
    let cuda = || Cuda::new(device.clone());
    let fused = CudaFused::new(cuda());
    let by_rule =
        Rule::ALL.into_iter().map(|rule| ("cuda-fused", rule, fused.kernels(problem, rule).join(", ")));
    let fast =
        CudaFast::new(cuda()).choice(problem).map(|parts| parts.map(|part| part.kernel().name).join(", "));
    let reference = Some(ReferenceForward::of(problem).kernel().name);
    let others = [("cuda-fast", fast), ("cuda-ref", reference)];
    let others = others.into_iter().filter_map(|(backend, kernel)| Some((backend, Rule::Forward, kernel?)));
    by_rule.filter(|(_, _, kernels)| !kernels.is_empty()).chain(others).collect()
}

/// The newest CUDA that the driver serves: `13.0`.
pub fn version(device: &Device) -> String {
    format!("{}.{}", device.driver() / 1000, device.driver() % 1000 / 10)
}
