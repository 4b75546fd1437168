"""theria's side: its example program `bench_rows`, which prints bench files as JSON."""

import json
import subprocess
import sys

from machine import ROOT


def build():
    """Builds the program, in whatever crate it lives; its path."""
    command = ["cargo", "build", "--release", "--workspace", "--example", "bench_rows"]
    lines = subprocess.run(
        command + ["--message-format", "json"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.splitlines()
    for line in lines:
        message = json.loads(line)
        if message.get("target", {}).get("name") == "bench_rows" and message.get("executable"):
            return message["executable"]
    sys.exit("error: cargo built no bench_rows")


def theria(program, *options):
    done = subprocess.run([program, *map(str, options)], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        sys.exit(f"error: bench_rows {' '.join(map(str, options))} failed")
    return json.loads(done.stdout)


def described(shape, rule, dtype, mask, threads):
    lengths = ",".join(map(str, shape))
    return ["--shape", lengths, "--rule", rule, "--dtype", dtype, "--policy", mask, "--threads", threads]


def ceilings(program, seconds):
    """A result file without rows: host, and the ceiling of one and of two threads."""
    by_threads = {}
    for threads in (1, 2):
        options = ["--ceiling", "--threads", threads, "--seconds", seconds, "--no-memory"]
        result = theria(program, *options, "--shape", "1,1,16,16", "--rule", "forward")
        by_threads[threads] = result["ceiling"]
    result["ceiling"] = by_threads[2] | {"matmul_tflops_1_thread": by_threads[1]["matmul_tflops"]}
    result["rows"] = []
    return result


def shape_object(shape):
    b, h, t, d = shape
    return {"batch": b, "heads_q": h, "heads_kv": h, "t": t, "m": t, "d": d, "dv": d}


def named(row):
    """Shape, type and mask of a row, for a table."""
    shape = row["shape"]
    lengths = f"{shape['batch']},{shape['heads_q']},{shape['t']},{shape['d']}"
    extra = "" if row["mask"] == "none" else f" {row['mask']}"
    return f"{lengths} {row['dtype']}{extra}"


def mebibytes(size):
    return "–" if size is None else f"{size / 2**20:.2f}"
