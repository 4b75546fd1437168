#!/usr/bin/env python3
"""Measures theria's JVP and second order against PyTorch's attention on the CPU.

Usage, from the root of the repository:

    python3 -m venv venv && venv/bin/pip install -r benches/peers/requirements.txt
    venv/bin/python benches/peers/cpu_second_order.py              # measure, write docs/results/cpu_second_order.json
    venv/bin/python benches/peers/cpu_second_order.py --quick --output quick.json
    venv/bin/python benches/peers/cpu_second_order.py --peers-only           # PyTorch's times, nothing written
    python3 benches/peers/cpu_second_order.py --table docs/results/cpu_second_order.json [--into docs/performance.md]

PyTorch's fused kernel refuses all of this, so its side is what a user is left with: scores as whole
matrices, composed of products and a softmax, or `scaled_dot_product_attention` held to MATH. f32, no mask.

    rule             results                            how PyTorch makes them
    forward+jvp      O and O' along Q', K', V'          dual numbers, which carry both
    second-order     dQ', dK', dV' along these and G'   gradients of <dX, X'> + <O, G'>; the graph of forward and
                                                        backward is kept, and making it is not timed
    double-backward  O, dX, and the gradients of        the same, from nothing
                     <dX, X'> by G, Q, K, V

theria's second order reads what its forward and its JVP saved; the other two rules include the forward.

Rounds of theria and PyTorch alternate, inputs are the same, and results are compared with the textbook
in float64 first (textbook.py); the run exits with an error, after its report, when either side is off.
Families, ratios and memory are as in cpu_sdpa.py.

`bench_rows` reads q, k, v, G, q', k', v', G' from --inputs, packed one after the other, and writes to
--outputs, likewise: for forward+jvp O'; for second-order dQ', dK', dV'; for double-backward O' (the gradient by
G), dQ', dK', dV' under G' = 0, dQ, dK, dV.

At lengths that PyTorch's matrices do not fit, theria is measured alone. PyTorch's need is then its last
measured one, times the square of the ratio of the lengths. Its process may map --limit-gib more than
its libraries do, so that it fails and the machine does not.
"""

import argparse
import json
import sys
import tempfile
import warnings
from pathlib import Path

from alternation import measure, timed
from bench_rows import build, ceilings, described, mebibytes, named, shape_object, theria
from machine import ROOT, machine
from page import insert
from resident_memory import available, growth, in_fresh_process, limit_further

# Products of 2·B·H·T·M·D operations. Double backward: O and O' 6, second order with G' = 0 10, dQ, dK, dV 3.
UNITS = {"forward+jvp": 6, "second-order": 12, "double-backward": 19}
# What the rule writes, in this order; "still" is under G' = 0.
OUTPUTS = {
    "forward+jvp": ("out_tangent",),
    "second-order": ("dq_tangent", "dk_tangent", "dv_tangent"),
    "double-backward": ("out_tangent", "dq_tangent", "dk_tangent", "dv_tangent", "dq", "dk", "dv"),
}
SMALL = (1, 2, 128, 32)
SHAPES = [(1, 8, 1024, 64), (1, 8, 2048, 64)]
LENGTHS = [1024, 2048, 4096, 8192, 16384]
THREADS = 2
PEERS = ("composed", "MATH")
# Largest accepted error, over the root mean square of the float64 result.
BOUND = {"forward+jvp": 2e-5, "second-order": 4e-5, "double-backward": 4e-5}


# --- PyTorch ------------------------------------------------------------------------------------


def attention(peer):
    # What PyTorch will do to its own compiler is nothing that a reader of this report can change.
    warnings.filterwarnings("ignore", category=FutureWarning)
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.functional import scaled_dot_product_attention

    def composed(q, k, v):
        return (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1) @ v

    def math(q, k, v):
        with sdpa_kernel(SDPBackend.MATH):
            return scaled_dot_product_attention(q, k, v)

    torch.set_num_threads(THREADS)
    return {"composed": composed, "MATH": math}[peer]


def torch_call(peer, operands, rule):
    """A call to be timed, which returns what OUTPUTS lists."""
    import torch
    from torch.autograd import forward_ad, grad

    attend = attention(peer)
    tensors = [torch.from_numpy(x) for x in operands.values()]
    *primals, tangents, g_tangent = *tensors[:4], tensors[4:7], tensors[7]
    inner = torch.vdot

    def paired(left, right):
        return sum(inner(x.reshape(-1), y.reshape(-1)) for x, y in zip(left, right, strict=True))

    def jvp():
        with torch.no_grad(), forward_ad.dual_level():
            out = attend(*map(forward_ad.make_dual, primals[:3], tangents))
            return (forward_ad.unpack_dual(out).tangent,)

    *inputs, g = [x.detach().clone().requires_grad_(True) for x in primals]

    def double_backward():
        gradients = grad(attend(*inputs), inputs, g, create_graph=True)
        second = grad(paired(gradients, tangents), (g, *inputs))
        return *second, *(x.detach() for x in gradients)

    if rule == "forward+jvp":
        return jvp
    if rule == "double-backward":
        return double_backward
    out = attend(*inputs)
    gradients = grad(out, inputs, g, create_graph=True)

    def second_order():
        loss = paired((*gradients, out), (*tangents, g_tangent))
        return grad(loss, inputs, retain_graph=True)

    return second_order


def peak_here(peer, length, rule, limit):
    """{"bytes": growth of the resident set in one call, less the results, "error"}."""
    import textbook

    # The graph that second-order keeps counts: without it there would be nothing to differentiate.
    shape = (1, 8, length, 64)
    torch_call(peer, textbook.operands((1, THREADS, 64, 64), "float32"), rule)()
    operands = textbook.operands(shape, "float32")
    limit_further(limit)
    try:
        grown, results = growth(lambda: torch_call(peer, operands, rule)())
    except (MemoryError, RuntimeError) as error:
        text = (str(error).strip().splitlines() or ["out of memory"])[0]
        if not isinstance(error, MemoryError) and "memory" not in text:
            raise
        return {"bytes": None, "error": text.split("] ")[-1][:160]}
    return {"bytes": grown and grown - sum(x.numel() * x.element_size() for x in results), "error": None}


# --- rows ---------------------------------------------------------------------------------------


def expected_results(operands):
    """What each rule gives in float64."""
    import textbook

    along = textbook.by_head(operands)
    still = textbook.by_head(operands | {"dout_tangent": operands["dout"] * 0.0})
    return {
        rule: [(still if rule == "double-backward" else along)[name] for name in names]
        for rule, names in OUTPUTS.items()
    }


def torch_errors(operands, expected, rule):
    import textbook

    found = {}
    for peer in PEERS:
        results = [x.detach().numpy() for x in torch_call(peer, operands, rule)()]
        found[peer] = textbook.errors(results, expected[rule])
    return found


def theria_errors(program, inputs, shape, expected, rule, folder):
    import numpy

    import textbook

    outputs = folder / "outputs"
    options = described(shape, rule, "f32", "none", THREADS)
    theria(program, *options, "--seconds", 0, "--no-memory", "--inputs", inputs, "--outputs", outputs)
    results = numpy.fromfile(outputs, dtype="float32").reshape(len(OUTPUTS[rule]), *shape)
    return textbook.errors(results, expected[rule])


def beyond_bound(name, shape, rule, errors):
    return [] if max(errors) <= BOUND[rule] else [f"{name} {shape} {rule}: errors {errors}"]


def measure_shape(program, shape, settings, folder, timing=True):
    """(rows, what is off) of one shape; without timing, only the comparison."""
    import torch

    import textbook

    operands = textbook.operands(shape, "float32")
    inputs = folder / "inputs"
    inputs.write_bytes(b"".join(x.tobytes() for x in operands.values()))
    expected = expected_results(operands)
    version = torch.__version__.split("+")[0]
    rows, failed = [], []
    for rule, units in UNITS.items():
        ours = theria_errors(program, inputs, shape, expected, rule, folder)
        theirs = torch_errors(operands, expected, rule)
        failed += beyond_bound("theria", shape, rule, ours)
        for peer, errors in theirs.items():
            failed += beyond_bound(f"pytorch {peer}", shape, rule, errors)
        if not timing:
            continue
        b, h, t, d = shape
        options = [*described(shape, rule, "f32", "none", THREADS), "--inputs", inputs]
        calls = {f"pytorch {peer}": torch_call(peer, operands, rule) for peer in PEERS}
        made = measure(program, options, calls, units * 2 * b * h * t * t * d, settings)
        for row in made:
            row["max_error"] = max(ours)
            for peer in row["peers"]:
                peer["version"] = version
                peer["max_error"] = max(theirs[peer["name"].split()[-1]])
        rows += made
        print(f"{shape} {rule}: {json.dumps(made[0]['peers'])}", file=sys.stderr)
    return rows, failed


def measure_lengths(program, lengths, limit):
    """Time and memory of theria, and the memory of PyTorch as far as it runs."""
    rows, last = [], {}
    for length in lengths:
        shape = (1, 8, length, 64)
        for rule in UNITS:
            options = described(shape, rule, "f32", "none", THREADS)
            row = theria(program, *options, "--seconds", 0, "--no-memory")["rows"][0]
            peers = []
            for peer in PEERS:
                reached, known = last.get((rule, peer), (None, None))
                estimate = None if known is None else round(known * (length / reached) ** 2)
                if estimate is not None and estimate > 2 * limit:
                    found = {"bytes": None, "error": "not tried: its estimate is over twice the limit"}
                else:
                    found = in_fresh_process(__file__, peer, length, rule, limit)
                if found["bytes"] is not None:
                    last[rule, peer] = length, found["bytes"]
                peers.append(
                    {
                        "name": f"pytorch {peer}",
                        "peak_extra_bytes": found["bytes"],
                        "estimated_bytes": estimate if found["bytes"] is None else None,
                        "error": found["error"],
                    }
                )
            rows.append(
                {
                    "shape": shape_object(shape),
                    "rule": rule,
                    "dtype": "f32",
                    "threads": THREADS,
                    "operand_bytes": 4 * 8 * length * 64,
                    "p50_us": row["p50_us"],
                    "peak_extra_bytes": theria(program, *options, "--only-memory"),
                    "peers": peers,
                }
            )
            print(f"memory T={length} {rule}: {rows[-1]['peak_extra_bytes']} bytes", file=sys.stderr)
    return rows


# --- the run ------------------------------------------------------------------------------------


def run(settings):
    program = settings.program or build()
    limit = min(round(settings.limit_gib * 2**30), round(0.7 * (available() or 2**34)))
    result = ceilings(program, settings.seconds)
    result["host"]["machine"] = machine()
    result["method"] = {"rounds": settings.rounds, "seconds_each": settings.seconds, "limit_bytes": limit}
    with tempfile.TemporaryDirectory() as folder:
        _, failed = measure_shape(program, SMALL, settings, Path(folder), timing=False)
        for shape in SHAPES[:1] if settings.quick else SHAPES:
            rows, off = measure_shape(program, shape, settings, Path(folder))
            result["rows"] += rows
            failed += off
    result["memory"] = measure_lengths(program, LENGTHS[:2] if settings.quick else LENGTHS, limit)
    Path(settings.output).write_text(json.dumps(result, indent=1) + "\n")
    print(tables(result))
    if failed:
        sys.exit("error: results are off\n" + "\n".join(failed))


def peers_only(settings):
    """PyTorch's errors at the small shape, and its times and memory at the first."""
    import textbook

    operands = textbook.operands(SMALL, "float32")
    expected = expected_results(operands)
    limit = min(round(settings.limit_gib * 2**30), round(0.7 * (available() or 2**34)))
    for rule in UNITS:
        errors = {peer: f"{max(found):.1e}" for peer, found in torch_errors(operands, expected, rule).items()}
        print(f"{SMALL} {rule}: errors {errors}")
    for shape in SHAPES[:1] if settings.quick else SHAPES:
        operands = textbook.operands(shape, "float32")
        for rule in UNITS:
            for peer in PEERS:
                samples = sorted(timed(torch_call(peer, operands, rule), settings.seconds))
                peak = in_fresh_process(__file__, peer, shape[2], rule, limit)
                print(
                    f"{shape} {rule} {peer}: {samples[len(samples) // 2] / 1e3:.1f} ms, {len(samples)} calls, "
                    f"{mebibytes(peak['bytes'])} MiB"
                )


# --- tables -------------------------------------------------------------------------------------


def tables(result):
    versions = dict.fromkeys(peer["version"] for row in result["rows"] for peer in row["peers"])
    text = [
        f"Measured at `{result['host']['git']}`, PyTorch {', '.join(versions)}, {THREADS} threads, "
        f"{result['method']['rounds']} alternating rounds of {result['method']['seconds_each']} s a side.",
        "",
        "| B,H,T,D | rule | theria, ms | GFLOP/s | allocating, ms | PyTorch | ms | **ratio** | ratio, allocating "
        "| rounds | error theria / PyTorch |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for into, allocating in zip(result["rows"][::2], result["rows"][1::2], strict=True):
        for peer, other in zip(into["peers"], allocating["peers"], strict=True):
            low, high = peer["ratio_of_rounds"]
            text.append(
                f"| {named(into)} | {into['rule']} | {into['p50_us'] / 1e3:.1f} | {1e3 * into['tflops']:.0f} "
                f"| {allocating['p50_us'] / 1e3:.1f} | {peer['name'].split()[-1]} | {peer['p50_us'] / 1e3:.1f} "
                f"| **{peer['ratio']:.2f}** | {other['ratio']:.2f} | {low:.2f}–{high:.2f} "
                f"| {into['max_error']:.1e} / {peer['max_error']:.1e} |"
            )
    text += [
        "",
        "Time, and peak memory beyond operands and results, (1,8,T,64) f32; PyTorch's processes could have "
        f"{result['method']['limit_bytes'] / 2**30:.0f} GiB:",
        "",
        "| T | rule | theria, ms | theria, MiB | theria, bytes / T | "
        + " | ".join(f"PyTorch {peer}, MiB" for peer in PEERS)
        + " |",
        "|---|---|---|---|---|" + "---|" * len(PEERS),
    ]
    for row in result["memory"]:
        t, peak = row["shape"]["t"], row["peak_extra_bytes"]
        theirs = " | ".join(map(need, row["peers"]))
        text.append(
            f"| {t} | {row['rule']} | {row['p50_us'] / 1e3:.1f} | {mebibytes(peak)} "
            f"| {'–' if peak is None else round(peak / t)} | {theirs} |"
        )
    return "\n".join(text)


def need(peer):
    if peer["peak_extra_bytes"] is not None:
        return mebibytes(peer["peak_extra_bytes"])
    if peer["estimated_bytes"] is not None:
        return f"does not fit, about {peer['estimated_bytes'] / 2**20:.0f}"
    return "does not fit"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each side in each round")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    parser.add_argument("--output", default=str(ROOT / "docs/results/cpu_second_order.json"))
    parser.add_argument("--program", help="a bench_rows that is already built")
    parser.add_argument("--limit-gib", type=float, default=12.0, help="what a process of PyTorch may map [12]")
    parser.add_argument("--peers-only", action="store_true", help="print PyTorch's times and leave theria out")
    parser.add_argument("--table", metavar="JSON", help="print the tables of a run and measure nothing")
    parser.add_argument("--into", metavar="PAGE", help="with --table: replace the tables between the page's markers")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.quick:
        settings.rounds, settings.seconds = 1, 0.05
    if settings.peak:
        print(json.dumps(peak_here(*json.loads(settings.peak))))
    elif settings.table:
        text = tables(json.loads(Path(settings.table).read_text()))
        if settings.into:
            insert(Path(settings.into), "cpu_second_order", text)
        else:
            print(text)
    elif settings.peers_only:
        peers_only(settings)
    else:
        run(settings)


if __name__ == "__main__":
    main()
