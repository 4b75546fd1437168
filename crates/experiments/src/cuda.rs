//! The CUDA device of this process, and the backends on it.
//!
//! Every build has the CUDA backends. Where no device opens they refuse, with the reason and what to
//! do about it.

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use theria_contract::{Checks, Problem, Refusal};
use theria_gpu_fwd::forward::{CudaFused, ReferenceForward};
use theria_gpu_fwd::{Compiler, Cuda, Device, Error, Spec as _};

/// The device of this process, opened when it is first asked for.
pub fn device() -> Result<&'static Device, &'static Error> {
    static DEVICE: OnceLock<Result<Device, Error>> = OnceLock::new();
    DEVICE.get_or_init(|| Device::open(0)).as_ref()
}

/// The same, where kernels can be compiled for it too.
fn ready() -> Result<&'static Device, &'static Error> {
    static COMPILER: OnceLock<Result<(), Error>> = OnceLock::new();
    let device = device()?;
    COMPILER.get_or_init(|| Compiler::open().map(drop)).as_ref()?;
    Ok(device)
}

/// Backends by type and checks.
type Backends = HashMap<(TypeId, Checks), Arc<dyn Any + Send + Sync>>;

/// A backend on the device of this process. One is kept for each setting of the checks: its kernels
/// are loaded once.
pub(crate) fn kept<A: Any + Send + Sync>(
    checks: Checks,
    new: fn(Cuda) -> A,
    with_checks: fn(A, Checks) -> A,
) -> Result<Arc<A>, Refusal> {
    static BACKENDS: Mutex<Option<Backends>> = Mutex::new(None);
    let device = ready().map_err(|error| Refusal::Unavailable(error.to_string()))?;
    let mut backends = BACKENDS.lock().unwrap_or_else(PoisonError::into_inner);
    let made = backends
        .get_or_insert_default()
        .entry((TypeId::of::<A>(), checks))
        .or_insert_with(|| Arc::new(with_checks(new(Cuda::new(device.clone())), checks)));
    Ok(Arc::clone(made).downcast().expect("the type is in the key"))
}

/// The kernels that would serve the forward rule of a problem on a device: backend, and name of the
/// instance.
pub fn forward_kernels(device: &Device, problem: &Problem) -> Vec<(&'static str, String)> {
    let fused = CudaFused::new(Cuda::new(device.clone())).choice(problem);
    let fused = fused.map(|instance| ("cuda-fused", instance.kernel().name));
    let reference = ("cuda-ref", ReferenceForward::of(problem).kernel().name);
    fused.into_iter().chain([reference]).collect()
}

/// The newest CUDA that the driver serves: `13.0`.
pub fn version(device: &Device) -> String {
    format!("{}.{}", device.driver() / 1000, device.driver() % 1000 / 10)
}
