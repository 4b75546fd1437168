"""The rows of `--example device_rows` by PyTorch: a meta-gradient through a transformer whose attention is unfused, because
no fused kernel of it has a second derivative, with `create_graph=True` through all inner steps.

python3 benches/peers/gpu_maml.py [tokens] [inner steps] [layers] [width] [heads]      prints a JSON object for each precision
"""

import json
import math
import sys
import time

import torch
import torch.nn.functional as F

RUNS = 5
RATE = 0.05


def parameters(layers, width, dtype):
    made = {}

    def linear(name, rows, columns):
        made[f"{name}.weight"] = torch.randn(rows, columns, device="cuda", dtype=dtype) / math.sqrt(rows)
        made[f"{name}.bias"] = torch.zeros(columns, device="cuda", dtype=dtype)

    def normal(name):
        made[f"{name}.gain"] = torch.ones(width, device="cuda", dtype=dtype)
        made[f"{name}.shift"] = torch.zeros(width, device="cuda", dtype=dtype)

    for n in range(layers):
        for name in "qkvo":
            linear(f"{n}.{name}", width, width)
        linear(f"{n}.in", width, 4 * width)
        linear(f"{n}.out", 4 * width, width)
        normal(f"{n}.first")
        normal(f"{n}.second")
    normal("last")
    return {name: p.requires_grad_() for name, p in made.items()}


def forward(p, x, layers, heads):
    tokens, width = x.shape

    def normal(name, h):
        return F.layer_norm(h, (width,), p[f"{name}.gain"], p[f"{name}.shift"], 1e-5)

    def linear(name, h):
        return torch.addmm(p[f"{name}.bias"], h, p[f"{name}.weight"])

    def split(h):
        return h.view(tokens, heads, width // heads).transpose(0, 1)

    h = x
    for n in range(layers):
        u = normal(f"{n}.first", h)
        q, k, v = (split(linear(f"{n}.{name}", u)) for name in "qkv")
        weights = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(width // heads), -1)
        h = h + linear(f"{n}.o", (weights @ v).transpose(0, 1).reshape(tokens, width))
        h = h + linear(f"{n}.out", F.gelu(linear(f"{n}.in", normal(f"{n}.second", h))))
    return normal("last", h)


def meta_gradient(start, data, steps, layers, heads, autocast):
    def loss(p, x, target):
        with torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            y = forward(p, x, layers, heads)
        return F.mse_loss(y.float(), target.float())

    names, theta = list(start), list(start.values())
    for _ in range(steps):
        gradients = torch.autograd.grad(loss(dict(zip(names, theta)), *data[0]), theta, create_graph=True)
        theta = [p - RATE * g for p, g in zip(theta, gradients)]
    after = loss(dict(zip(names, theta)), *data[1])
    return torch.autograd.grad(after, list(start.values()))


def measure(name, dtype, autocast, tf32, tokens, steps, layers, width, heads):
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = tf32
    row = {"machine": name, "tokens": tokens, "steps": steps, "layers": layers, "width": width, "heads": heads}
    try:
        start = parameters(layers, width, dtype)
        data = [[torch.randn(tokens, width, device="cuda", dtype=dtype) for _ in range(2)] for _ in range(2)]
        torch.cuda.reset_peak_memory_stats()
        times = []
        for _ in range(RUNS + 2):
            torch.cuda.synchronize()
            begin = time.perf_counter()
            made = meta_gradient(start, data, steps, layers, heads, autocast)
            torch.cuda.synchronize()
            times.append(1e3 * (time.perf_counter() - begin))
        assert all(torch.isfinite(g).all() for g in made)
        times = sorted(times[2:])
        row |= {"median_ms": times[RUNS // 2], "fastest_ms": times[0], "mib": torch.cuda.max_memory_allocated() / 2**20}
    except torch.OutOfMemoryError as error:
        row |= {"error": str(error).split(". ")[0]}
    print(json.dumps(row), flush=True)


def main():
    given = [int(word) for word in sys.argv[1:]]
    sizes = given + [2048, 5, 4, 512, 8][len(given) :]
    name = f"PyTorch {torch.__version__}, unfused"
    for precision in [("f32", torch.float32, False, False), ("TF32", torch.float32, False, True), ("bf16 autocast, TF32", torch.float32, True, True), ("bf16", torch.bfloat16, False, True)]:
        measure(f"{name}, {precision[0]}", *precision[1:], *sizes)
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
