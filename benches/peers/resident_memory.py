"""Peak memory as the system saw it: how far the resident set of a fresh process rises in one call. Linux only."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path


def status(key):
    """A size in /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) * 1024
    return None


def available():
    """Bytes that the machine could still hand out."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def growth(call):
    """(growth of the resident set during the call, its results); None where the system cannot tell."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the high-water mark is back at the present size
    except OSError:
        return None, call()
    before = status("VmRSS:")
    results = call()
    return status("VmHWM:") - before, results


def limit_further(size):
    """Lets this process map `size` more bytes than it does now; beyond them an allocation fails."""
    most = status("VmSize:") + size
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def in_fresh_process(script, *arguments):
    """What `script --peak [arguments]` prints, as JSON."""
    command = [sys.executable, script, "--peak", json.dumps(arguments)]
    # Freed memory goes back to the system at once, so that the call cannot reuse it unseen.
    prompt = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=os.environ | prompt)
    return json.loads(done.stdout)
