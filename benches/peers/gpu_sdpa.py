#!/usr/bin/env python3
"""PyTorch's attention, and others that have derivatives, measured for `theria bench --peers`.

A process that reads one JSON request on each line of stdin and answers it on one line of stdout:

    {"hello": true, "device": "cuda"}
    {"ceiling": true, "device": "cuda"}
    {"rule": "forward", "shape": {"batch": 4, "heads_q": 16, "heads_kv": 16, "t": 4096, "m": 4096,
     "d": 128, "dv": 128}, "dtype": "bf16", "causal": false, "device": "cuda", "runs": 100,
     "seconds": 10, "seed": 0, "backends": ["cudnn", "flash", "efficient", "math"]}

Backends are those of PyTorch, "jax" (gpu_jax.py), and "jvp_flash_attention", which is left out where it is not installed.

An answer to a rule is {"peers": [{"name", "version", "p50_us", "p90_us", "p99_us", "method",
"peak_extra_bytes", "error"}]}; to anything that cannot be done, {"error": "why"}. A backend that cannot
do something has its exception as `error` and the others go on.

Times are taken as theria takes its own: CUDA events around each call, a replay of twenty captured
calls for calls below 200 µs ("graph"), the clock on the CPU; operands rotate through more than a cache.
A longer call that a replay shows to wait for Python is replayed too: a peer is not to lose by its host.
What a call is, by rule:

    forward       scaled_dot_product_attention without a graph of derivatives
    backward      torch.autograd.grad on a recorded output
    jvp           torch.func.jvp; forward and tangent together
    second-order  the derivative of the recorded backward along a direction: by the symmetry of the
                  second derivative the tangent of the gradients

`peak_extra_bytes` is the largest allocation beyond operands, less the results of a call. What a rule
needs recorded (the output, or the weights of the MATH backend) is in it.
"""

import importlib.util
import json
import os
import statistics
import sys
import time

BEYOND_CACHE = 128 << 20
MOST_SETS = 16
SHORT_US = 200.0
CAPTURED_BELOW_US = 1000.0
HOST_BOUND = 1.05
CAPTURED = 20
FEWEST_RUNS = 3
# Backends of torch.nn.attention.SDPBackend, and their names here.
BACKENDS = {
    "cudnn": "CUDNN_ATTENTION",
    "flash": "FLASH_ATTENTION",
    "efficient": "EFFICIENT_ATTENTION",
    "math": "MATH",
}
JVP_FLASH = "jvp_flash_attention"
# What has no chance is not asked for by default: fused kernels have no derivative of theirs.
USUAL = {
    ("cuda", "jvp"): ["math", "jax", JVP_FLASH],
    ("cuda", "second-order"): ["math", "jax"],
    ("cuda", "forward"): ["cudnn", "flash", "efficient", "math"],
    ("cuda", "backward"): ["cudnn", "flash", "efficient", "math"],
    ("cpu", "forward"): ["flash", "math"],
    ("cpu", "backward"): ["flash", "math"],
}


class Unable(Exception):
    """Something that this machine or this PyTorch cannot do, in words for the user."""


def torch_on(device):
    """The module, once it is sure that it serves the device."""
    try:
        import torch
    except ImportError as error:
        raise Unable(f"this Python has no torch ({error})") from error
    if device == "cuda" and not torch.cuda.is_available():
        raise Unable(f"torch {torch.__version__} sees no CUDA device")
    if device not in ("cuda", "cpu"):
        raise Unable(f"unknown device '{device}'; known: cuda, cpu")
    return torch


def number_type(torch, name):
    kinds = {"f64": torch.float64, "f32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
    if name not in kinds:
        raise Unable(f"unknown element type '{name}'; known: {', '.join(kinds)}")
    return kinds[name]


# --- operands -----------------------------------------------------------------------------------


class Operands:
    """Random operands of one call: q, k, v, their directions, the cotangent of the output."""

    def __init__(self, torch, request, device, generator):
        s = request["shape"]
        kind = number_type(torch, request["dtype"])

        def draw(heads, rows, columns):
            shape = (s["batch"], heads, rows, columns)
            return torch.randn(shape, generator=generator, device=device, dtype=torch.float32).to(kind)

        def three():
            return (
                draw(s["heads_q"], s["t"], s["d"]),
                draw(s["heads_kv"], s["m"], s["d"]),
                draw(s["heads_kv"], s["m"], s["dv"]),
            )

        self.qkv = three()
        rule = request["rule"]
        self.direction = three() if rule in ("jvp", "second-order") else ()
        wants_cotangent = rule in ("backward", "second-order")
        self.cotangent = draw(s["heads_q"], s["t"], s["dv"]) if wants_cotangent else None
        self.causal = bool(request.get("causal", False))
        self.grouped = s["heads_q"] != s["heads_kv"]
        self.library = request.get("library")

    def bytes(self):
        cotangent = () if self.cotangent is None else (self.cotangent,)
        return sum(x.numel() * x.element_size() for x in (*self.qkv, *self.direction, *cotangent))


def attention(torch, operands):
    """The function of q, k, v."""
    if operands.library == JVP_FLASH:
        from jvp_flash_attention.jvp_attention import JVPAttn

        return lambda q, k, v: JVPAttn.fwd_dual(q, k, v, causal=operands.causal)
    options = {"is_causal": operands.causal}
    if operands.grouped:
        options["enable_gqa"] = True

    def call(q, k, v):
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, **options)

    return call


# --- rules: each makes the call that is timed ---------------------------------------------------


def forward(torch, operands):
    function = attention(torch, operands)

    def call():
        with torch.no_grad():
            return function(*operands.qkv)

    return call


def backward(torch, operands):
    qkv = [x.detach().requires_grad_(True) for x in operands.qkv]
    out = attention(torch, operands)(*qkv)
    return lambda: torch.autograd.grad(out, qkv, operands.cotangent, retain_graph=True)


def jvp(torch, operands):
    function = attention(torch, operands)
    return lambda: torch.func.jvp(function, operands.qkv, operands.direction)


def second_order(torch, operands):
    qkv = [x.detach().requires_grad_(True) for x in operands.qkv]
    out = attention(torch, operands)(*qkv)
    gradients = torch.autograd.grad(out, qkv, operands.cotangent, create_graph=True)
    return lambda: torch.autograd.grad(gradients, qkv, operands.direction, retain_graph=True)


RULES = {"forward": forward, "backward": backward, "jvp": jvp, "second-order": second_order}


# --- time ---------------------------------------------------------------------------------------


def percentiles(samples):
    samples = sorted(samples)
    at = lambda share: round(samples[round((len(samples) - 1) * share)], 3)
    return {"p50_us": at(0.5), "p90_us": at(0.9), "p99_us": at(0.99)}


def runs_that_fit(request, call_us):
    fit = int(float(request.get("seconds", 10.0)) * 1e6 / max(call_us, 1e-3))
    asked = max(1, int(request.get("runs", 100)))
    return max(min(asked, fit), min(asked, FEWEST_RUNS))


def by_clock(calls, request):
    def timed(number):
        start = time.perf_counter()
        calls[number % len(calls)]()
        return (time.perf_counter() - start) * 1e6

    timed(0)
    return [timed(number) for number in range(runs_that_fit(request, timed(1)))], "clock"


def by_events(torch, run, runs):
    """Microseconds of run(0), run(1), …, by events of the device."""
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(runs)]
    for number, (before, after) in enumerate(marks):
        before.record()
        run(number)
        after.record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) * 1e3 for before, after in marks]


def captured(torch, calls, stream):
    """A graph of twenty calls; none where a call cannot be captured."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            for number in range(CAPTURED):
                calls[number % len(calls)]()
    except Exception as error:
        print(f"no graph: {error}", file=sys.stderr)
        torch.cuda.synchronize()
        return None
    return graph


def on_device(torch, calls, request, stream):
    def run(number):
        calls[number % len(calls)]()

    for number in range(max(5, len(calls))):
        run(number)
    probe = statistics.median(by_events(torch, run, 5))
    if probe < CAPTURED_BELOW_US:  # Python is slow to ask: what looks long may be short
        graph = captured(torch, calls, stream)
        if graph is not None:
            graph.replay()
            replay = statistics.median(by_events(torch, lambda _: graph.replay(), 5)) / CAPTURED
            if replay < SHORT_US or probe > HOST_BOUND * replay:
                runs = runs_that_fit(request, replay * CAPTURED)
                times = by_events(torch, lambda _: graph.replay(), runs)
                return [us / CAPTURED for us in times], "graph"
    return by_events(torch, run, runs_that_fit(request, probe)), "events"


# --- one row ------------------------------------------------------------------------------------


def flat(results):
    if isinstance(results, (tuple, list)):
        return [x for result in results for x in flat(result)]
    return [results]


def measure(torch, request, device):
    """Times and memory of a backend that is already chosen."""
    rule = RULES[request["rule"]]
    generator = torch.Generator(device=device).manual_seed(int(request.get("seed", 0)))
    first = Operands(torch, request, device, generator)
    sets = min(MOST_SETS, max(1, -(-BEYOND_CACHE // max(1, first.bytes()))))
    if device == "cpu":
        operands = [first] + [Operands(torch, request, device, generator) for _ in range(sets - 1)]
        samples, method = by_clock([rule(torch, x) for x in operands], request)
        return percentiles(samples) | {"method": method, "peak_extra_bytes": None}

    # Derivatives run on the stream of what they derive, so all of it is on the one that is captured.
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda.synchronize()
        warm = rule(torch, first)
        warm()  # libraries get their workspaces
        del warm
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call = rule(torch, first)
        results = flat(call())
        torch.cuda.synchronize()
        made = sum(x.numel() * x.element_size() for x in results)
        peak = max(0, torch.cuda.max_memory_allocated() - before - made)
        wrong = [x for x in results if not bool(torch.isfinite(x).all())]
        if wrong:
            raise Unable(f"{len(wrong)} of {len(results)} results have elements that are not finite")
        del results
        calls = [call]
        for _ in range(sets - 1):
            calls.append(rule(torch, Operands(torch, request, device, generator)))
        samples, method = on_device(torch, calls, request, stream)
        torch.cuda.synchronize()
    return percentiles(samples) | {"method": method, "peak_extra_bytes": peak}


def sentence(error):
    """An exception in a line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if isinstance(error, Unable) else f"{type(error).__name__}: {text[:600]}"


def version(torch, backend, device):
    text = torch.__version__.split("+")[0]
    if backend == "cudnn" and device == "cuda" and torch.backends.cudnn.version():
        text += f", cuDNN {torch.backends.cudnn.version()}"
    return text


def peer(torch, request, device, backend):
    from torch.nn.attention import SDPBackend, sdpa_kernel

    foreign = backend in ("jax", JVP_FLASH)
    answer = {
        "name": backend if foreign else f"pytorch {backend}",
        "version": None if foreign else version(torch, backend, device),
        "p50_us": None,
        "p90_us": None,
        "p99_us": None,
        "method": None,
        "peak_extra_bytes": None,
        "error": None,
    }
    try:
        if backend == "jax":
            import gpu_jax

            return answer | gpu_jax.measure(request, runs_that_fit, percentiles)
        if backend == JVP_FLASH:
            from importlib.metadata import version as installed

            answer["version"] = installed(JVP_FLASH)
            return answer | measure(torch, request | {"library": JVP_FLASH}, device)
        if backend not in BACKENDS:
            raise Unable(f"unknown backend '{backend}'; known: {', '.join(BACKENDS)}")
        if not hasattr(SDPBackend, BACKENDS[backend]):
            raise Unable("this PyTorch does not have it")
        with sdpa_kernel(getattr(SDPBackend, BACKENDS[backend])):
            answer |= measure(torch, request, device)
    except Exception as error:  # whatever a peer cannot do is its error
        answer["error"] = sentence(error)
    if device == "cuda":
        try:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        except Exception as error:  # a lost device: every later row will say so
            answer["error"] = answer["error"] or sentence(error)
    return answer


def rule(request, device):
    if request["rule"] not in RULES:
        raise Unable(f"unknown rule '{request['rule']}'; known: {', '.join(RULES)}")
    torch = torch_on(device)
    number_type(torch, request["dtype"])
    usual = USUAL.get((device, request["rule"]), ["math"])
    usual = [backend for backend in usual if backend != JVP_FLASH or importlib.util.find_spec(JVP_FLASH)]
    backends = request.get("backends") or usual
    return {"peers": [peer(torch, request, device, backend) for backend in backends]}


# --- ceilings -----------------------------------------------------------------------------------


def ceiling(request, device):
    """A large product (bf16 on a device, f32 on the CPU) and a large copy, bytes read and written."""
    torch = torch_on(device)
    side = int(request.get("side", 8192 if device == "cuda" else 1024))
    count = int(request.get("bytes", (4 << 30) if device == "cuda" else (256 << 20)))
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    a, b = (torch.randn(side, side, device=device).to(kind) for _ in range(2))
    source = torch.randint(0, 256, (count,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def median(call):
        for _ in range(5):
            call()
        if device == "cuda":
            torch.cuda.synchronize()
            return statistics.median(by_events(torch, lambda _: call(), 30))
        return statistics.median(by_clock([call], {"runs": 10, "seconds": 2})[0])

    product = torch.empty_like(a)
    matmul_us = median(lambda: torch.matmul(a, b, out=product))
    copy_us = median(lambda: target.copy_(source))
    del a, b, product, source, target
    if device == "cuda":
        torch.cuda.empty_cache()
    return {"matmul_tflops": 2 * side**3 / matmul_us * 1e-6, "copy_gbps": 2 * count / copy_us * 1e-3}


def hello(_, device):
    torch = torch_on(device)
    name = torch.cuda.get_device_name() if device == "cuda" else "cpu"
    return {"torch": torch.__version__, "device": name, "cuda": torch.version.cuda}


# --- the process --------------------------------------------------------------------------------


def answered(line):
    try:
        request = json.loads(line)
        if not isinstance(request, dict):
            raise Unable("a request is a JSON object")
        device = request.get("device", "cuda")
        for key, answer in (("hello", hello), ("ceiling", ceiling), ("rule", rule)):
            if request.get(key):
                return answer(request, device)
        raise Unable("a request has one of: hello, ceiling, rule")
    except json.JSONDecodeError as error:
        return {"error": f"the request is no JSON: {error}"}
    except KeyError as error:
        return {"error": f"the request has no {error}"}
    except Exception as error:
        return {"error": sentence(error)}


def main():
    # Libraries print; the answers have stdout for themselves.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        if line.strip():
            answers.write(json.dumps(answered(line)) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
