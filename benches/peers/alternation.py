"""Both sides in one run: rounds of theria and of its peers alternate, so that drift hits all of them."""

import statistics
import time

from bench_rows import theria

FAMILIES = ("into", "allocating")


def timed(call, seconds):
    """Microseconds of single calls after a warm-up: for `seconds`, and three at least."""
    call()
    samples, start = [], time.perf_counter()
    while len(samples) < 3 or time.perf_counter() - start < seconds:
        before = time.perf_counter()
        call()
        samples.append((time.perf_counter() - before) * 1e6)
    return samples


def percentile(samples, share):
    return sorted(samples)[round((len(samples) - 1) * share)]


def summary(samples):
    return {f"p{int(100 * share)}_us": round(percentile(samples, share), 2) for share in (0.5, 0.9, 0.99)}


def measure(program, options, peers, flops, settings):
    """The rows of both families of theria, each with its peers: {name: call}.

    theria writes to memory of the caller first, then the peers run, then theria allocates.
    """
    options = [*options, "--seconds", settings.seconds, "--samples", "--no-memory"]
    samples = {name: [] for name in (*FAMILIES, *peers)}
    ratios = {(family, name): [] for family in FAMILIES for name in peers}
    for _ in range(settings.rounds):
        into = theria(program, *options)["rows"][0]
        theirs = {name: timed(call, settings.seconds) for name, call in peers.items()}
        allocating = theria(program, *options, "--allocate")["rows"][0]
        for name, times in theirs.items():
            samples[name] += times
        for row in (into, allocating):
            samples[row["family"]] += row["samples_us"]
            for name, times in theirs.items():
                ratios[row["family"], name].append(statistics.median(times) / row["p50_us"])
    rows = []
    for template in (into, allocating):
        family = template["family"]
        times = summary(samples[family])
        row = {key: value for key, value in template.items() if key != "samples_us"} | times
        row["tflops"] = round(flops / times["p50_us"] * 1e-6, 4)
        row["peers"] = []
        for name in peers:
            p50 = summary(samples[name])["p50_us"]
            found = ratios[family, name]
            row["peers"].append(
                {
                    "name": name,
                    "p50_us": p50,
                    "ratio": round(p50 / times["p50_us"], 3),
                    "ratio_of_rounds": [round(min(found), 3), round(max(found), 3)],
                    "tflops": round(flops / p50 * 1e-6, 4),
                    "error": None,
                }
            )
        rows.append(row)
    return rows
