"""Write a case for theria: attention inputs, a cotangent and a direction.

    pip install numpy safetensors
    python write_case.py case.safetensors
    python write_case.py case.safetensors --type float16 --queries 64 --keys 96 --causal bottom-right

Then, from the root of the workspace:

    cargo run --release -- eval --input case.safetensors --output out.safetensors
    python write_case.py case.safetensors --show out.safetensors
"""

import argparse

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file


def make_case(arguments):
    """The tensors of a case; names and shapes are those that theria reads."""
    generator = np.random.default_rng(arguments.seed)
    batch, heads, shared = arguments.batch, arguments.heads, arguments.shared_heads
    queries, keys, dim = arguments.queries, arguments.keys, arguments.dim

    def draw(*shape):
        return generator.standard_normal(shape).astype(arguments.type)

    tensors = {
        "q": draw(batch, heads, queries, dim),
        "k": draw(batch, shared, keys, dim),
        "v": draw(batch, shared, keys, dim),
        # The cotangent of the output: with it, dq, dk and dv are computed.
        "dout": draw(batch, heads, queries, dim),
    }
    # A direction: with it, the JVP, and with dout the second order.
    for name in ("q", "k", "v"):
        tensors[f"{name}_tangent"] = draw(*tensors[name].shape)
    # Broadcast to [batch, heads, queries, keys]; nonzero is visible.
    tensors["mask"] = generator.random((batch, 1, 1, keys)) < 0.9
    return tensors


def show(path):
    """Print what theria wrote."""
    with safe_open(path, framework="numpy") as file:
        for key, value in sorted((file.metadata() or {}).items()):
            print(f"{key:12} {value}")
    for name, tensor in load_file(path).items():
        print(f"{name:12} {tensor.dtype} {list(tensor.shape)}, largest {np.abs(tensor).max(initial=0):.4g}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", help="where the case goes")
    parser.add_argument("--show", metavar="RESULTS", help="print a result file instead of writing a case")
    parser.add_argument("--type", choices=["float64", "float32", "float16"], default="float32")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4, help="query heads")
    parser.add_argument("--shared-heads", type=int, default=2, help="key/value heads; divides --heads")
    parser.add_argument("--queries", type=int, default=128)
    parser.add_argument("--keys", type=int, default=128)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--causal", choices=["none", "top-left", "bottom-right"], default="none")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.show:
        show(arguments.show)
        return
    # Metadata values are strings; what is left out has its default.
    save_file(make_case(arguments), arguments.path, metadata={"causal": arguments.causal})
    print(f"wrote {arguments.path}")


if __name__ == "__main__":
    main()
