"""The machine and the revision that a result file speaks of. Linux only."""

import json
import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def machine():
    """What lscpu says, without names and places."""
    done = subprocess.run(["lscpu", "--json"], stdout=subprocess.PIPE, text=True, env={**os.environ, "LC_ALL": "C"})
    wanted = ("Model name", "CPU(s)", "CPU family", "Model", "L1d cache", "L2 cache", "L3 cache", "Hypervisor vendor")
    found = {}

    def walk(entries):
        for entry in entries:
            key = entry["field"].rstrip(":")
            if key in wanted:
                found[key] = entry["data"]
            walk(entry.get("children", []))

    walk(json.loads(done.stdout)["lscpu"])
    return found


def host():
    """The host of a result file, as `bench_rows` of theria describes it, for a run without that program."""
    described = machine()
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    return {
        "device": "cpu",
        "driver": None,
        "cuda": None,
        "cpu": described.get("Model name"),
        "threads": os.cpu_count(),
        "git": git.stdout.strip() or None,
        "clocks": "not fixed",
        "machine": described,
    }
