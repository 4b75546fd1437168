"""JAX's attention through XLA, measured for gpu_sdpa.py: the derivatives that PyTorch's fused kernels refuse.

`jax.nn.dot_product_attention(implementation="xla")` on operands in JAX's own order, (batch, rows, heads, columns). What a
call is, by rule:

    jvp           jax.jvp; forward and tangent together
    second-order  jax.jvp of jax.vjp: forward, backward, and the tangent of both, in one compiled function

Times are by the clock around a call that is waited for: both rules take milliseconds. `peak_extra_bytes` is what the
compiler says that the function needs beside operands and results.
"""

import os
import time

RULES = ("jvp", "second-order")


def operands(jax, request):
    import jax.numpy as jnp

    s = request["shape"]
    kind = {"f32": jnp.float32, "f16": jnp.float16, "bf16": jnp.bfloat16}[request["dtype"]]
    q = (s["batch"], s["t"], s["heads_q"], s["d"])
    k = (s["batch"], s["m"], s["heads_kv"], s["d"])
    v = (s["batch"], s["m"], s["heads_kv"], s["dv"])
    out = (s["batch"], s["t"], s["heads_q"], s["dv"])
    keys = jax.random.split(jax.random.key(int(request.get("seed", 0))), 7)
    return [jax.random.normal(key, shape, kind) for key, shape in zip(keys, (q, k, v, q, k, v, out))]


def function(jax, request):
    causal = bool(request.get("causal", False))

    def attention(q, k, v):
        return jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation="xla")

    def gradients(q, k, v, g):
        return jax.vjp(attention, q, k, v)[1](g)

    def jvp(q, k, v, qt, kt, vt, _):
        return jax.jvp(attention, (q, k, v), (qt, kt, vt))

    def second_order(q, k, v, qt, kt, vt, g):
        return jax.jvp(lambda *qkv: gradients(*qkv, g), (q, k, v), (qt, kt, vt))

    return jvp if request["rule"] == "jvp" else second_order


def measure(request, runs_that_fit, percentiles):
    """Times and memory; an exception where JAX cannot do it."""
    # JAX would take three quarters of the device's memory for itself.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    import jax

    if jax.default_backend() != "gpu":
        raise RuntimeError(f"JAX {jax.__version__} sees no GPU")
    if request["rule"] not in RULES:
        raise RuntimeError(f"no call for {request['rule']}")
    given = operands(jax, request)
    call = jax.jit(function(jax, request)).lower(*given).compile()

    def timed():
        start = time.perf_counter()
        results = jax.block_until_ready(call(*given))
        return (time.perf_counter() - start) * 1e6, results

    timed()
    once, results = timed()
    if not all(bool(jax.numpy.isfinite(x).all()) for x in jax.tree.leaves(results)):
        raise RuntimeError("results that are not finite")
    del results
    samples = [timed()[0] for _ in range(runs_that_fit(request, once))]
    memory = call.memory_analysis()
    peak = None if memory is None else memory.temp_size_in_bytes
    return percentiles(samples) | {"method": "clock", "peak_extra_bytes": peak, "version": jax.__version__}
