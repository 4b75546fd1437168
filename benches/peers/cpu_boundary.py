#!/usr/bin/env python3
"""Finds out where PyTorch and JAX lose the derivative of attention on the CPU.

Usage, from the root of the repository:

    python3 -m venv venv && venv/bin/pip install -r benches/peers/requirements.txt
    venv/bin/python benches/peers/cpu_boundary.py              # a minute; writes docs/results/cpu_boundary.json
    venv/bin/python benches/peers/cpu_boundary.py --program target/release/theria    # theria's own boundary in it
    python3 benches/peers/cpu_boundary.py --table docs/results/cpu_boundary.json [--into docs/phase3_boundary.md]

Every implementation is asked for every mode: forward, backward, jvp, reverse over reverse (double
backward), forward over reverse (jvp of vjp), reverse over forward (vjp of jvp). What happens is one of

    exact      within rounding of the textbook in float64 (largest error over root mean square)
    wrong      nothing was raised, and the numbers are off or the result has lost its graph
    refused    an exception: its type and the first line of its message

The modes are reached through the graph of PyTorch and its dual numbers, or through function
transforms (torch.func, JAX), as the name of the implementation says. One that cannot be run here at
all (no compiler, JAX not installed) is listed under "not_available".
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path

from machine import ROOT, host
from page import insert

SHAPE = (1, 2, 16, 8)
# Largest error of what counts as exact, over the root mean square of the textbook's result.
BOUND = {"float64": 1e-12, "float32": 2e-5}
MODES = (
    "forward",
    "backward",
    "jvp",
    "reverse over reverse",
    "forward over reverse",
    "reverse over forward",
)
MESSAGE_LENGTH = 240


@dataclass(frozen=True)
class Implementation:
    name: str
    calls: object  # (operands, causal) -> a call for each mode
    around: object = contextlib.nullcontext  # in force while the calls run
    dtypes: tuple[str, ...] = ("float64", "float32")
    compiled: bool = False  # needs a compiler, and is slow


# --- PyTorch ------------------------------------------------------------------------------------


def pytorch():
    """PyTorch's implementations."""
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention
    from torch.nn.functional import scaled_dot_product_attention

    import modes_by_autograd
    import modes_by_transforms
    from opaque_backward import OnceDifferentiable, Opaque

    def composed(causal):
        hidden = torch.ones(SHAPE[2], SHAPE[2], dtype=torch.bool).triu(1)

        def attend(q, k, v):
            scores = q @ k.transpose(-1, -2) / SHAPE[3] ** 0.5
            if causal:
                scores = scores.masked_fill(hidden, -torch.inf)
            return scores.softmax(-1) @ v

        return attend

    def by_hand(causal):
        hidden = torch.ones(SHAPE[2], SHAPE[2], dtype=torch.bool).triu(1)

        def attend(q, k, v):
            scores = q @ k.transpose(-1, -2) / SHAPE[3] ** 0.5
            if causal:
                scores = scores.masked_fill(hidden, -torch.inf)
            weights = (scores - scores.detach().amax(-1, keepdim=True)).exp()
            return weights / weights.sum(-1, keepdim=True) @ v

        return attend

    def sdpa(causal):
        return lambda q, k, v: scaled_dot_product_attention(q, k, v, is_causal=causal)

    def multi_head(causal):
        """The module with identities for projections, which leaves attention alone."""
        _, heads, length, size = SHAPE
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)

        def attend(q, k, v):
            module = torch.nn.MultiheadAttention(heads * size, heads, bias=False, batch_first=True, dtype=q.dtype)
            identity = torch.eye(heads * size, dtype=q.dtype)
            with torch.no_grad():
                module.in_proj_weight.copy_(identity.repeat(3, 1))
                module.out_proj.weight.copy_(identity)
            module.requires_grad_(False)
            flat = [x.transpose(1, 2).flatten(2) for x in (q, k, v)]
            out, _ = module(*flat, need_weights=False, attn_mask=hidden if causal else None, is_causal=causal)
            return out.unflatten(2, (heads, size)).transpose(1, 2)

        return attend

    def flex(causal):
        blocks = None
        if causal:
            length = SHAPE[2]
            blocks = create_block_mask(lambda b, h, i, j: j <= i, None, None, length, length, device="cpu")
        return lambda q, k, v: flex_attention(q, k, v, block_mask=blocks)

    def custom(function):
        return lambda causal: lambda q, k, v: function.apply(q, k, v, causal)

    def tensors(operands):
        return [torch.from_numpy(x) for x in operands]

    def autograd(made):
        return lambda operands, causal: modes_by_autograd.modes(made(causal), tensors(operands))

    def transforms(made):
        def calls(operands, causal):
            return modes_by_transforms.modes(made(causal), tensors(operands), torch.func.vjp, torch.func.jvp)

        return calls

    # Without fullgraph a frame that cannot be compiled runs uncompiled, and so does all that follows.

    def compiled(made):
        return lambda causal: torch.compile(made(causal), fullgraph=True)

    def compiled_whole(made):
        def calls(operands, causal):
            calls = transforms(made)(operands, causal)
            return {mode: torch.compile(call, fullgraph=True) for mode, call in calls.items()}

        return calls

    def math():
        return sdpa_kernel(SDPBackend.MATH)

    def flash():
        return sdpa_kernel(SDPBackend.FLASH_ATTENTION)

    def undonated():
        import torch._functorch.config

        return torch._functorch.config.patch(donated_buffer=False)

    double, single = ("float64",), ("float32",)
    return [
        Implementation("composed", autograd(composed)),
        Implementation("composed, softmax by exp and sum", autograd(by_hand)),
        Implementation("composed, torch.func", transforms(composed)),
        Implementation("sdpa MATH", autograd(sdpa), math),
        Implementation("sdpa MATH, torch.func", transforms(sdpa), math),
        Implementation("sdpa FLASH_ATTENTION", autograd(sdpa), flash),
        Implementation("sdpa FLASH_ATTENTION, torch.func", transforms(sdpa), flash),
        Implementation("sdpa, default dispatch", autograd(sdpa)),
        Implementation("sdpa, default dispatch, torch.func", transforms(sdpa)),
        Implementation("MultiheadAttention", autograd(multi_head)),
        Implementation("flex_attention", autograd(flex)),
        Implementation("flex_attention, compiled (fullgraph)", autograd(compiled(flex)), dtypes=single, compiled=True),
        Implementation("composed, compiled (fullgraph)", autograd(compiled(composed)), dtypes=double, compiled=True),
        Implementation(
            "composed, compiled, donated_buffer=False (fullgraph)",
            autograd(compiled(composed)),
            undonated,
            dtypes=double,
            compiled=True,
        ),
        Implementation(
            "sdpa, default dispatch, compiled (fullgraph)", autograd(compiled(sdpa)), dtypes=double, compiled=True
        ),
        Implementation(
            "sdpa MATH, torch.func, transforms compiled (fullgraph)",
            compiled_whole(sdpa),
            math,
            dtypes=double,
            compiled=True,
        ),
        Implementation("custom Function, raw backward", autograd(custom(Opaque))),
        Implementation("custom Function, raw backward, once_differentiable", autograd(custom(OnceDifferentiable))),
    ]


def dispatch():
    """Which kernel the default dispatch takes, by the situation."""
    import torch
    from torch.nn.attention import SDPBackend

    def chosen(dtype=torch.float32, size_of_values=SHAPE[3], requires_grad=False, **options):
        q, k = (torch.zeros(SHAPE, dtype=dtype, requires_grad=requires_grad) for _ in range(2))
        v = torch.zeros(*SHAPE[:3], size_of_values, dtype=dtype, requires_grad=requires_grad)
        return SDPBackend(torch._fused_sdp_choice(q, k, v, **options)).name

    square = (SHAPE[2], SHAPE[2])
    return {
        "float32": chosen(),
        "float32, requires_grad": chosen(requires_grad=True),
        "float64, requires_grad": chosen(dtype=torch.float64, requires_grad=True),
        "causal, requires_grad": chosen(requires_grad=True, is_causal=True),
        "values wider than keys": chosen(size_of_values=2 * SHAPE[3]),
        "dropout": chosen(dropout_p=0.1),
        "bias": chosen(attn_mask=torch.zeros(square)),
        "bias that requires_grad": chosen(attn_mask=torch.zeros(square, requires_grad=True)),
    }


def gradient_checks(operands):
    """What the checks of torch.autograd say of the custom Functions, and what a careless `grad` returns."""
    import torch

    from opaque_backward import OnceDifferentiable, Opaque

    inputs = [torch.from_numpy(x[:, :1, :4, :3].copy()).requires_grad_(True) for x in operands[:3]]
    rows = []
    for name, function in (("raw backward", Opaque), ("raw backward, once_differentiable", OnceDifferentiable)):
        for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
            row = {"implementation": f"PyTorch custom Function, {name}", "check": check.__name__}
            try:
                check(function.apply, (*inputs, False))
                rows.append(row | {"passed": True, "message": ""})
            except Exception as error:  # whatever it raises is the finding
                rows.append(row | {"passed": False, "message": first_line(error)})
    q, k, v = inputs
    gradients = torch.autograd.grad(OnceDifferentiable.apply(q, k, v, False).square().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(x.sum() for x in gradients), inputs, allow_unused=True)
    lost = all(x is None for x in second)
    message = "None for every input: the guard is pruned and never speaks" if lost else "gradients"
    row = {"implementation": rows[-1]["implementation"], "check": "grad of the gradients, allow_unused=True"}
    return [*rows, row | {"passed": not lost, "message": message}]


# --- JAX ----------------------------------------------------------------------------------------


def jax_implementations():
    import jax
    import jax.numpy as jnp

    import modes_by_transforms

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_enable_x64", True)

    def composed(causal):
        def attend(q, k, v):
            scores = q @ jnp.swapaxes(k, -1, -2) / SHAPE[3] ** 0.5
            if causal:
                scores = jnp.where(jnp.tri(SHAPE[2], dtype=bool), scores, -jnp.inf)
            return jax.nn.softmax(scores, axis=-1) @ v

        return attend

    def fused(implementation):
        def made(causal):
            def attend(q, k, v):
                turned = [jnp.swapaxes(x, 1, 2) for x in (q, k, v)]
                out = jax.nn.dot_product_attention(*turned, is_causal=causal, implementation=implementation)
                return jnp.swapaxes(out, 1, 2)

            return attend

        return made

    def transforms(made):
        def calls(operands, causal):
            calls = modes_by_transforms.modes(made(causal), [jnp.asarray(x) for x in operands], jax.vjp, jax.jvp)
            return {mode: jax.jit(call) for mode, call in calls.items()}

        return calls

    return [
        Implementation("composed", transforms(composed)),
        Implementation("dot_product_attention 'xla'", transforms(fused("xla"))),
        Implementation("dot_product_attention 'cudnn'", transforms(fused("cudnn"))),
    ]


# --- outcomes -----------------------------------------------------------------------------------


def first_line(error):
    """Type and first line, without the paths of this machine."""
    lines = str(error).strip().splitlines() or [""]
    text = re.sub(r"(?<![\w.:])/[\w.\-+/]+", "…", lines[0]).strip()
    text = text if len(text) <= MESSAGE_LENGTH else text[: MESSAGE_LENGTH - 1] + "…"
    return f"{type(error).__name__}: {text}"


def judged(results, expected, dtype):
    """(outcome, error, message) of results that came back."""
    import numpy as np

    from textbook import errors

    unused = [place for place, x in enumerate(results) if x is None]
    arrays = []
    for x, y in zip(results, expected, strict=True):
        x = x.detach() if hasattr(x, "detach") else x
        arrays.append(np.zeros_like(y) if x is None else np.asarray(x))
    error = max(errors(arrays, expected))
    if error <= BOUND[dtype]:
        return "exact", error, ""
    if dtype == "float64" and error <= BOUND["float32"]:
        return "exact", error, "to the rounding of float32, though everything given is float64"
    zero = sum(not x.any() for x in arrays)
    if zero:
        how = f", {len(unused)} of them without an edge in the graph" if unused else ""
        return "wrong", error, f"{zero} of {len(arrays)} results are zero{how}"
    return "wrong", error, "off, and nothing was raised"


def outcome(call, expected, dtype, fresh):
    """What becomes of one call; `fresh` forgets what a compiler remembers of the calls before."""
    try:
        fresh()
        return judged(call(), expected, dtype)
    except Exception as error:  # whatever a peer raises is the finding
        if type(error).__name__ == "Detached":
            return "wrong", None, str(error)
        return "refused", None, first_line(error)


def measure(library, implementations, fresh, failed_compiler=None):
    """Rows of one library."""
    import textbook

    rows = []
    for implementation in implementations:
        if implementation.compiled and failed_compiler:
            continue
        for dtype in implementation.dtypes:
            operands = textbook.operands(SHAPE, dtype)
            for mask in ("none", "causal"):
                expected = textbook.modes(operands, mask)
                with implementation.around():
                    calls = implementation.calls(list(operands.values()), mask == "causal")
                    for mode in MODES:
                        result, error, message = outcome(calls[mode], expected[mode], dtype, fresh)
                        rows.append(
                            {
                                "implementation": f"{library} {implementation.name}",
                                "mask": mask,
                                "mode": mode,
                                "dtype": dtype,
                                "outcome": result,
                                "error": error,
                                "message": message,
                            }
                        )
        print(f"{library} {implementation.name}: {len(rows)} rows", file=sys.stderr)
    return rows


def broken_compiler():
    """Why torch.compile cannot be used here; None when it can."""
    import torch

    try:
        torch.compile(lambda x: x.sin() + 1.0)(torch.ones(8))
    except Exception as error:  # whatever is missing
        return first_line(error)
    return None


def boundary_of(program):
    """`theria boundary --json`, as it is; None without a program."""
    if program is None:
        return None
    done = subprocess.run([program, "boundary", "--json"], check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)


def run(settings):
    import numpy
    import torch

    import textbook

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    versions = {"torch": torch.__version__.split("+")[0], "numpy": numpy.__version__}
    missing = broken_compiler()
    implementations = pytorch()
    not_available = [
        {"implementation": f"PyTorch {one.name}", "reason": missing}
        for one in implementations
        if one.compiled and missing
    ]
    rows = measure("PyTorch", implementations, torch.compiler.reset, missing)
    checks = gradient_checks(list(textbook.operands(SHAPE, "float64").values()))
    try:
        import jax

        versions["jax"] = jax.__version__
    except ImportError as error:
        not_available.append({"implementation": "JAX", "reason": first_line(error)})
    else:
        rows += measure("JAX", jax_implementations(), lambda: None)
    result = {
        "schema": 1,
        "host": host(),
        "versions": versions,
        "shape": SHAPE,
        "bounds": BOUND,
        "rows": rows,
        "checks": checks,
        "dispatch": dispatch(),
        "not_available": not_available,
        "theria": boundary_of(settings.program),
    }
    Path(settings.output).write_text(json.dumps(result, indent=1) + "\n")
    print(table(result))


# --- the table ----------------------------------------------------------------------------------


def table(result):
    """One line for each implementation, its masks and types together; messages below, each once."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    shape = ",".join(map(str, result["shape"]))
    text = [
        f"Measured at `{result['host']['git']}` with {versions}, on (B,H,T,D) = ({shape}), with and without a",
        "causal mask. Numbers are the largest error over the root mean square, in float64 (in float32 where",
        "there is no float64).",
        "",
        "| implementation | " + " | ".join(MODES) + " |",
        "|---|" + "---|" * len(MODES),
    ]
    notes = []

    def note(message):
        if message not in notes:
            notes.append(message)
        return f" [{notes.index(message) + 1}]"

    def cell(rows):
        parts = {}
        for row in rows:
            parts.setdefault((row["outcome"], row["message"]), []).append(row)
        texts = []
        for (result_of, message), same in parts.items():
            worst = "" if same[0]["error"] is None else f" {max(row['error'] for row in same):.0e}"
            shown = f"**{result_of}**" if result_of == "wrong" else result_of
            here = ""
            if len(parts) > 1:
                here = " (" + ", ".join(dict.fromkeys(row["mask"] for row in same)) + ")"
            texts.append(f"{shown}{worst}{here}{note(message) if message else ''}")
        return "; ".join(texts)

    names = dict.fromkeys(row["implementation"] for row in result["rows"])
    for name in names:
        own = [row for row in result["rows"] if row["implementation"] == name]
        dtype = own[0]["dtype"]
        cells = [cell([row for row in own if row["mode"] == mode and row["dtype"] == dtype]) for mode in MODES]
        text.append(f"| {name} | " + " | ".join(cells) + " |")
    text.append("")
    text += [f"{place}. {plain(message)}" for place, message in enumerate(notes, start=1)]
    changed = differing(result["rows"])
    text += ["", "Outcomes in float32: " + ("the same." if not changed else "; ".join(changed) + ".")]
    text += ["", "What PyTorch's own checks say of the custom Functions:", "", "| implementation | check | says |"]
    text.append("|---|---|---|")
    for row in result["checks"]:
        says = "passes" if row["passed"] else plain(row["message"])
        text.append(f"| {row['implementation']} | {row['check']} | {says} |")
    text += ["", "What the default dispatch of PyTorch's sdpa takes:", "", "| situation | kernel |", "|---|---|"]
    text += [f"| {situation} | {kernel} |" for situation, kernel in result["dispatch"].items()]
    for row in result["not_available"]:
        text += ["", f"Not available here: {row['implementation']} ({plain(row['reason'])})."]
    return "\n".join(text)


def plain(message):
    """A message as code where it is an exception's."""
    return f"`{message}`" if re.match(r"\w+: ", message) else message


def differing(rows):
    """Implementations and modes whose outcome is another one in float32."""
    seen = {}
    for row in rows:
        key = (row["implementation"], row["mode"], row["mask"])
        seen.setdefault(key, {})[row["dtype"]] = row["outcome"]
    return [
        f"{name}, {mode}, mask {mask}: {outcomes['float32']} instead of {outcomes['float64']}"
        for (name, mode, mask), outcomes in seen.items()
        if len(outcomes) == 2 and outcomes["float32"] != outcomes["float64"]
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", default=str(ROOT / "docs/results/cpu_boundary.json"))
    parser.add_argument("--program", help="a theria that is already built: its own boundary is stored too")
    parser.add_argument("--table", metavar="JSON", help="print the tables of a run and measure nothing")
    parser.add_argument("--into", metavar="PAGE", help="with --table: replace the tables between the page's markers")
    settings = parser.parse_args()
    if settings.table:
        text = table(json.loads(Path(settings.table).read_text()))
        if settings.into:
            insert(Path(settings.into), "peers boundary", text)
        else:
            print(text)
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
        run(settings)


if __name__ == "__main__":
    main()
