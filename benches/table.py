"""The table of a bench file, in Markdown: python3 benches/table.py docs/results/cuda_forward.json

Medians, TFLOP/s by units, and how many times as long each peer takes: above 1 theria is faster.
"""

import json
import sys


def microseconds(us):
    return f"{us:.1f} µs" if us < 1000 else f"{us / 1000:.2f} ms"


def main(path):
    with open(path, encoding="utf-8") as file:
        bench = json.load(file)
    host, ceiling = bench["host"], bench["ceiling"]
    peers = list(dict.fromkeys(peer["name"] for row in bench["rows"] for peer in row["peers"]))
    kept = any(row.get("p50_us_with_rest") for row in bench["rows"])
    rules = len({row["rule"] for row in bench["rows"]}) > 1
    print(f"{host['device']}, driver {host['driver']}, CUDA {host['cuda']}, commit `{host['git'][:12]}`; product of two", end=" ")
    print(f"8192×8192 matrices {ceiling['matmul_tflops']:.0f} TFLOP/s, copy {ceiling['copy_gbps']:.0f} GB/s.")
    print()
    columns = [*(["rule"] if rules else []), "B,H,T,D", "median", *(["that keeps the rest"] if kept else []), "TFLOP/s", *(f"{name} takes" for name in peers)]
    print("|", " | ".join(columns), "|")
    print("|---" * len(columns) + "|")
    for row in bench["rows"]:
        shape = row["shape"]
        name = ",".join(str(shape[key]) for key in ("batch", "heads_q", "t", "d"))
        name += " causal" if row["mask"] == "causal" else ""
        found = {peer["name"]: peer for peer in row["peers"]}
        ratios = [f"{found[peer]['ratio']:.2f}×" if found.get(peer, {}).get("ratio") else "–" for peer in peers]
        rest = row.get("p50_us_with_rest")
        with_rest = [microseconds(rest) if rest else ""] if kept else []
        rule = [row["rule"]] if rules else []
        print("|", " | ".join([*rule, name, microseconds(row["p50_us"]), *with_rest, f"{row['tflops']:.0f}", *ratios]), "|")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(sys.argv[1])
