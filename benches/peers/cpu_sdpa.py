#!/usr/bin/env python3
"""Measures theria against PyTorch's scaled_dot_product_attention on the CPU.

Usage, from the root of the repository:

    python3 -m venv venv && venv/bin/pip install -r benches/peers/requirements.txt
    venv/bin/python benches/peers/cpu_sdpa.py                     # measure, write docs/results/cpu_sdpa.json
    venv/bin/python benches/peers/cpu_sdpa.py --quick --output quick.json   # about two minutes
    python3 benches/peers/cpu_sdpa.py --table docs/results/cpu_sdpa.json [--into docs/performance.md]

Both sides run in the same run: for every row and number of threads, rounds of theria and PyTorch
alternate, so that clock drift and neighbours hit both. Both get the same inputs. Before a row is
timed, its results are compared with attention computed by PyTorch in float64 on these inputs, and
the run exits with an error, after its report, when either side is off. The ratio is PyTorch's median
over theria's.

theria is measured twice: into memory that the caller owns (family "into"), as a training loop would
use it, and allocating its results in each call (family "allocating"), as PyTorch does. PyTorch's
backward is torch.autograd.grad alone, on a graph that is kept.

Memory: a fresh process for each row touches its operands, resets the high-water mark of its
resident set, makes one call, and reads the mark. PyTorch's process first makes a tiny call, so that
loading its libraries is not counted, and its results are subtracted; theria's process counts
everything. Linux only.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path

from alternation import measure, timed
from bench_rows import build, ceilings, described, mebibytes, named, shape_object, theria
from machine import ROOT, machine
from page import insert
from resident_memory import growth, in_fresh_process

UNITS = {"forward": 2, "backward": 5, "forward+backward": 7}
# (B, H, T, D), dtype, mask
ROWS = [
    ((1, 8, 1024, 64), "f32", "none"),
    ((1, 8, 2048, 64), "f32", "none"),
    ((8, 12, 197, 64), "f32", "none"),
    ((1, 8, 1024, 64), "f32", "causal"),
    ((1, 8, 1024, 64), "f64", "none"),
]
# Measured for theria alone: what masks, bias and dropout cost.
POLICIES = ["bias", "mask", "dropout"]
LENGTHS = [1024, 2048, 4096, 8192, 16384, 32768]
# Largest accepted error, over the root mean square of the float64 result.
BOUND = {"f32": 2e-5, "f64": 1e-12}


# --- PyTorch ------------------------------------------------------------------------------------


def operands(shape, dtype):
    import torch

    torch.manual_seed(0)
    kind = {"f32": torch.float32, "f64": torch.float64}[dtype]
    return [torch.randn(shape, dtype=torch.float64).to(kind) for _ in range(4)]


def sdpa(q, k, v, mask):
    import torch

    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=mask == "causal")


def torch_call(tensors, rule, mask):
    """A call to be timed."""
    import torch

    *qkv, g = tensors
    if rule == "forward":

        def forward():
            with torch.no_grad():
                return sdpa(*qkv, mask)

        return forward
    qkv = [x.detach().clone().requires_grad_(True) for x in qkv]
    if rule == "backward":
        out = sdpa(*qkv, mask)
        return lambda: torch.autograd.grad(out, qkv, g, retain_graph=True)
    return lambda: torch.autograd.grad(sdpa(*qkv, mask), qkv, g)


def torch_results(tensors, mask):
    import torch

    *qkv, g = tensors
    qkv = [x.detach().clone().requires_grad_(True) for x in qkv]
    out = sdpa(*qkv, mask)
    return [x.detach() for x in (out, *torch.autograd.grad(out, qkv, g))]


def oracle(tensors, mask):
    """out, dq, dk, dv by the textbook in float64, one head after the other, shared by both sides."""
    import torch

    *qkv, g = [x.double() for x in tensors]
    q, k, v = [x.requires_grad_(True) for x in qkv]
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    if mask == "causal":
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        scores = scores.masked_fill(hidden, -math.inf)
    out = scores.softmax(-1) @ v
    return [x.detach() for x in (out, *torch.autograd.grad(out, (q, k, v), g))]


# --- rows ---------------------------------------------------------------------------------------


def errors(given, expected):
    """Largest error of each tensor, over the root mean square of what is expected."""
    return [float((x.double() - y).abs().max() / y.square().mean().sqrt()) for x, y in zip(given, expected)]


def compare(program, tensors, shape, dtype, mask, folder):
    """Errors of theria and of PyTorch against float64: [out, dq, dk, dv] each."""
    import numpy
    import torch

    inputs, outputs = folder / "inputs", folder / "outputs"
    inputs.write_bytes(b"".join(x.contiguous().numpy().tobytes() for x in tensors))
    options = described(shape, "forward+backward", dtype, mask, 2)
    theria(program, *options, "--seconds", 0, "--no-memory", "--inputs", inputs, "--outputs", outputs)
    values = numpy.fromfile(outputs, dtype={"f32": "float32", "f64": "float64"}[dtype])
    ours = torch.from_numpy(values).reshape(4, *shape)
    expected = oracle(tensors, mask)
    return inputs, errors(ours, expected), errors(torch_results(tensors, mask), expected)


def measure_row(program, shape, dtype, mask, rule, threads, settings, checked, tensors):
    import torch

    inputs, our_errors, their_errors = checked
    own = slice(0, 1) if rule == "forward" else slice(1, 4) if rule == "backward" else slice(0, 4)
    torch.set_num_threads(threads)
    options = described(shape, rule, dtype, mask, threads)
    b, h, t, d = shape
    flops = UNITS[rule] * 2 * b * h * t * t * d * (0.5 if mask == "causal" else 1)
    peers = {"pytorch": torch_call(tensors, rule, mask)}
    rows = measure(program, [*options, "--inputs", inputs], peers, flops, settings)
    peak = theria(program, *options, "--only-memory")
    their_peak = in_fresh_process(__file__, shape, rule, dtype, mask, threads)
    for row in rows:
        row["peak_extra_bytes"] = peak
        row["max_error"] = max(our_errors[own])
        (peer,) = row["peers"]
        peer["version"] = torch.__version__.split("+")[0]
        peer["peak_extra_bytes"] = their_peak
        peer["max_error"] = max(their_errors[own])
    return rows


# --- memory -------------------------------------------------------------------------------------


def peak_here(shape, rule, dtype, mask, threads):
    """Growth of this process's resident set in one call, less the results."""
    import torch

    torch.set_num_threads(threads)
    torch_call(operands((1, threads, 64, shape[3]), dtype), rule, mask)()
    tensors = operands(shape, dtype)
    grown, results = growth(torch_call(tensors, rule, mask))
    results = [results] if rule == "forward" else results
    return grown and max(0, grown - sum(x.numel() * x.element_size() for x in results))


def measure_memory(program, lengths):
    rows = []
    for t in lengths:
        for rule in ("forward", "backward"):
            shape = (1, 8, t, 64)
            ours = theria(program, *described(shape, rule, "f32", "none", 2), "--only-memory")
            rows.append(
                {
                    "shape": shape_object(shape),
                    "rule": rule,
                    "dtype": "f32",
                    "threads": 2,
                    "operand_bytes": 4 * 8 * t * 64,
                    "peak_extra_bytes": ours,
                    "pytorch_peak_extra_bytes": in_fresh_process(__file__, shape, rule, "f32", "none", 2),
                }
            )
            print(f"memory T={t} {rule}: {ours} bytes", file=sys.stderr)
    return rows


# --- the run ------------------------------------------------------------------------------------


def torch_ceiling(seconds):
    import torch

    a = torch.randn(2048, 2048)
    result = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        result[threads] = 2 * 2048**3 / statistics.median(timed(lambda: a @ a, seconds)) * 1e-6
    return result


def run(settings):
    program = settings.program or build()
    result = ceilings(program, settings.seconds)
    theirs = torch_ceiling(settings.seconds)
    result["ceiling"]["pytorch_matmul_tflops"] = theirs[2]
    result["ceiling"]["pytorch_matmul_tflops_1_thread"] = theirs[1]
    result["host"]["machine"] = machine()
    result["method"] = {"rounds": settings.rounds, "seconds_each": settings.seconds}
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for shape, dtype, mask in ROWS:
            tensors = operands(shape, dtype)
            checked = compare(program, tensors, shape, dtype, mask, Path(folder))
            for name, side in (("theria", checked[1]), ("pytorch", checked[2])):
                if not max(side) <= BOUND[dtype]:
                    failed.append(f"{name} {shape} {dtype} {mask}: errors {side}")
            for rule in UNITS:
                for threads in (1, 2):
                    result["rows"] += measure_row(
                        program, shape, dtype, mask, rule, threads, settings, checked, tensors
                    )
                    row = result["rows"][-2]
                    print(
                        f"{shape} {dtype} {mask} {rule} {threads} threads: {1e3 * row['tflops']:.0f} GFLOP/s, "
                        f"PyTorch {1e3 * row['peers'][0]['tflops']:.0f}",
                        file=sys.stderr,
                    )
    for policy in POLICIES:
        for rule in ("forward", "backward"):
            options = described((1, 8, 1024, 64), rule, "f32", policy, 2)
            result["rows"] += theria(program, *options, "--seconds", settings.seconds)["rows"]
    result["memory"] = measure_memory(program, LENGTHS[:2] if settings.quick else LENGTHS)
    Path(settings.output).write_text(json.dumps(result, indent=1) + "\n")
    print(tables(result))
    if failed:
        sys.exit("error: results are off\n" + "\n".join(failed))


# --- tables -------------------------------------------------------------------------------------


def tables(result):
    host, ceiling = result["host"], result["ceiling"]
    text = [
        f"Measured at `{host['git']}`, {result['method']['rounds']} alternating rounds of "
        f"{result['method']['seconds_each']} s a side.",
        "",
        "| B,H,T,D | rule | threads | theria, GFLOP/s | allocating | PyTorch "
        + next((p["version"] for r in result["rows"] for p in r["peers"]), "")
        + " | **ratio** | ratio, allocating | rounds | error theria / PyTorch |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    with_peer = [row for row in result["rows"] if row["peers"]]
    for into, allocating in zip(with_peer[::2], with_peer[1::2]):
        peer, other = into["peers"][0], allocating["peers"][0]
        low, high = peer["ratio_of_rounds"]
        text.append(
            f"| {named(into)} | {into['rule']} | {into['threads']} | {1e3 * into['tflops']:.0f} "
            f"| {1e3 * allocating['tflops']:.0f} | {1e3 * peer['tflops']:.0f} | **{peer['ratio']:.2f}** "
            f"| {other['ratio']:.2f} | {low:.2f}–{high:.2f} | {into['max_error']:.1e} / {peer['max_error']:.1e} |"
        )
    text += ["", "Ceiling, the product of two 2048 × 2048 matrices in f32 (GFLOP/s):", ""]
    text += ["| | 1 thread | 2 threads |", "|---|---|---|"]
    for name, key in (("faer", "matmul_tflops"), ("PyTorch", "pytorch_matmul_tflops")):
        text.append(f"| {name} | {1e3 * ceiling[key + '_1_thread']:.0f} | {1e3 * ceiling[key]:.0f} |")
    text += ["", f"Copy, bytes read and written, 2 threads: {ceiling['copy_gbps']:.1f} GB/s.", ""]
    text += ["Score policies, (1,8,1024,64) f32, 2 threads, into memory that exists (GFLOP/s):", ""]
    text += ["| policy | forward | backward |", "|---|---|---|"]
    policies = {}
    for row in result["rows"]:
        sizes = row["shape"]
        same = (sizes["batch"], sizes["t"], row["dtype"], row["threads"]) == (1, 1024, "f32", 2)
        if same and row["family"] == "into":
            policies.setdefault(row["mask"], {})[row["rule"]] = row["tflops"]
    for policy, rate in policies.items():
        text.append(f"| {policy} | {1e3 * rate['forward']:.0f} | {1e3 * rate['backward']:.0f} |")
    text += ["", "Peak memory beyond operands and results, (1,8,T,64) f32, 2 threads:", ""]
    text += [
        "| T | rule | one operand, MiB | theria, MiB | theria, bytes / T | PyTorch, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for row in result["memory"]:
        t, peak = row["shape"]["t"], row["peak_extra_bytes"]
        text.append(
            f"| {t} | {row['rule']} | {mebibytes(row['operand_bytes'])} | {mebibytes(peak)} "
            f"| {'–' if peak is None else round(peak / t)} | {mebibytes(row['pytorch_peak_extra_bytes'])} |"
        )
    return "\n".join(text)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="for each side in each round")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that it works")
    parser.add_argument("--output", default=str(ROOT / "docs/results/cpu_sdpa.json"))
    parser.add_argument("--program", help="a bench_rows that is already built")
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
            insert(Path(settings.into), "cpu_sdpa", text)
        else:
            print(text)
    else:
        run(settings)


if __name__ == "__main__":
    main()
