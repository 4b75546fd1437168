//! One row of a bench file.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use theria_contract::{Attention, DType, Element, Host, Tensor};
use theria_jvp_hvp::{Dense, Streaming};

use crate::Failure;
use crate::arguments::{Arguments, Backend, Call, Made, Memory, Rules};
use crate::call::{Operands, Results};
use crate::memory;

/// Calls timed at least, however long they take.
const FEWEST_SAMPLES: usize = 3;

/// Times the row, and has a fresh process measure its memory.
pub(crate) fn measure(arguments: &Arguments, shape: [usize; 4], rules: Rules) -> Result<Value, Failure> {
    match (arguments.dtype, arguments.backend) {
        (DType::F64, Backend::Streaming) => time::<f64, _>(&Streaming::new(), arguments, shape, rules),
        (DType::F64, Backend::Dense) => time::<f64, _>(&Dense::new(), arguments, shape, rules),
        (_, Backend::Streaming) => time::<f32, _>(&Streaming::new(), arguments, shape, rules),
        (_, Backend::Dense) => time::<f32, _>(&Dense::new(), arguments, shape, rules),
    }
}

/// Memory that one call adds to the operands and outputs, as the system saw it in this process.
pub(crate) fn peak_extra_bytes(
    arguments: &Arguments,
    shape: [usize; 4],
    rules: Rules,
) -> Result<Option<u64>, Failure> {
    match (arguments.dtype, arguments.backend) {
        (DType::F64, Backend::Streaming) => watch::<f64, _>(&Streaming::new(), arguments, shape, rules),
        (DType::F64, Backend::Dense) => watch::<f64, _>(&Dense::new(), arguments, shape, rules),
        (_, Backend::Streaming) => watch::<f32, _>(&Streaming::new(), arguments, shape, rules),
        (_, Backend::Dense) => watch::<f32, _>(&Dense::new(), arguments, shape, rules),
    }
}

fn time<E: Element, B: Attention<E, Storage = Host>>(
    backend: &B,
    arguments: &Arguments,
    shape: [usize; 4],
    rules: Rules,
) -> Result<Value, Failure> {
    let (policy_name, policy) = arguments.policy;
    let mut operands = Operands::<E>::random(policy.problem::<E>(shape)?)?;
    if let Some(path) = &arguments.inputs {
        read(path, &mut operands, rules)?;
    }
    let mut results = Results::new(backend, &operands.problem)?;
    // What the rules read: `Saved`, and its tangent.
    results.forward_into(backend, &operands)?;
    if rules.directed() {
        results.jvp_into(backend, &operands)?;
    }

    let mut call = || run(backend, &operands, &mut results, rules, arguments.allocate);
    call()?;
    let mut samples = Vec::new();
    let start = Instant::now();
    while samples.len() < FEWEST_SAMPLES || start.elapsed().as_secs_f64() < arguments.seconds {
        let start = Instant::now();
        call()?;
        samples.push(start.elapsed().as_secs_f64() * 1e6);
    }
    let unsorted = samples.clone();
    samples.sort_by(f64::total_cmp);
    let percentile = |share: f64| samples[((samples.len() - 1) as f64 * share).round() as usize];
    let p50 = percentile(0.5);

    if let Some(path) = &arguments.outputs {
        write(path, &results, rules)?;
    }
    let sizes = operands.problem.shape();
    let flops = rules.units * policy.share() * sizes.unit_flops();
    let mut row = json!({
        "rule": rules.name,
        "backend": backend.name(),
        "family": if arguments.allocate { "allocating" } else { "into" },
        "shape": { "batch": sizes.batch, "heads_q": sizes.heads_q, "heads_kv": sizes.heads_kv,
                   "t": sizes.t, "m": sizes.m, "d": sizes.d, "dv": sizes.dv },
        "dtype": E::DTYPE.to_string(),
        "mask": policy_name,
        "threads": arguments.threads,
        "p50_us": p50,
        "p90_us": percentile(0.9),
        "p99_us": percentile(0.99),
        "tflops": flops / p50 * 1e-6,
        "peak_extra_bytes": if arguments.memory == Memory::Beside { memory::of_row(arguments, shape, rules)? } else { None },
        "method": "clock",
        "peers": [],
    });
    if arguments.samples {
        row["samples_us"] = json!(unsorted);
    }
    Ok(row)
}

fn watch<E: Element, B: Attention<E, Storage = Host>>(
    backend: &B,
    arguments: &Arguments,
    shape: [usize; 4],
    rules: Rules,
) -> Result<Option<u64>, Failure> {
    let operands = Operands::<E>::random(arguments.policy.1.problem::<E>(shape)?)?;
    let mut results = Results::new(backend, &operands.problem)?;
    results.forward_into(backend, &operands)?;
    if rules.directed() {
        results.jvp_into(backend, &operands)?;
    }
    // Fresh zeros may not be backed by memory yet: outputs are written, scratch is left to the call.
    let Results { saved, gradients, saved_tangent, gradient_tangents, .. } = &mut results;
    let tensors = gradients.as_mut().named().chain(gradient_tangents.as_mut().named());
    for output in tensors.map(|(_, tensor)| tensor) {
        output.data_mut().fill(E::from_f64(1.0));
    }
    for saved in [saved, saved_tangent] {
        for x in saved.output.data_mut() {
            *x = E::from_f64(x.to_f64() + 1.0);
        }
    }
    results.forget_scratch(backend, &operands.problem);
    memory::growth(|| run(backend, &operands, &mut results, rules, false))
}

fn run<E: Element, B: Attention<E, Storage = Host>>(
    backend: &B,
    operands: &Operands<E>,
    results: &mut Results<E>,
    rules: Rules,
    allocate: bool,
) -> theria_contract::Result<()> {
    for call in rules.calls {
        match (*call, allocate) {
            (Call::Forward, true) => results.forward(backend, operands)?,
            (Call::Forward, false) => results.forward_into(backend, operands)?,
            (Call::Backward, true) => results.backward(backend, operands)?,
            (Call::Backward, false) => results.backward_into(backend, operands)?,
            (Call::Jvp, true) => results.jvp(backend, operands)?,
            (Call::Jvp, false) => results.jvp_into(backend, operands)?,
            (Call::SecondOrder { with_g_tangent, with_first }, true) => {
                results.second_order(backend, operands, with_g_tangent, with_first)?;
            }
            (Call::SecondOrder { with_g_tangent, with_first }, false) => {
                results.second_order_into(backend, operands, with_g_tangent, with_first)?;
            }
        }
    }
    Ok(())
}

fn read<E: Element>(path: &Path, operands: &mut Operands<E>, rules: Rules) -> Result<(), Failure> {
    let bytes = fs::read(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    let tensors = &mut operands.tensors[..if rules.directed() { 8 } else { 4 }];
    let needed: usize = tensors.iter().map(|tensor| size_of_val(tensor.data())).sum();
    if bytes.len() != needed {
        let (path, given) = (path.display(), bytes.len());
        return Err(format!("{path} has {given} bytes, the inputs of {} need {needed}", rules.name).into());
    }
    let mut rest = &bytes[..];
    for tensor in tensors {
        let target: &mut [u8] = bytemuck::cast_slice_mut(tensor.data_mut());
        let (this, next) = rest.split_at(target.len());
        target.copy_from_slice(this);
        rest = next;
    }
    Ok(())
}

fn write<E: Element>(path: &Path, results: &Results<E>, rules: Rules) -> Result<(), Failure> {
    let of = |made: &Made| match made {
        Made::Output => vec![&results.saved.output],
        Made::OutputTangent => vec![&results.saved_tangent.output],
        Made::Gradients => results.gradients.as_ref().named().map(|(_, tensor)| tensor).collect(),
        Made::GradientTangents => {
            results.gradient_tangents.as_ref().named().map(|(_, tensor)| tensor).collect()
        }
    };
    let bytes: Vec<u8> = rules.results.iter().flat_map(of).flat_map(Tensor::bytes).copied().collect();
    fs::write(path, bytes).map_err(|error| format!("cannot write {}: {error}", path.display()).into())
}
