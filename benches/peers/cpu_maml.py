#!/usr/bin/env python3
"""The exact meta-gradient of `cargo run --release -p theria-maml --example meta_rows`, by JAX.

One head of attention between four matrices, the mean of squared errors, K steps of gradient descent; float64, one thread.
The form is the leanest that JAX has: the loop in a scan that keeps every θ, and back along it `jax.jvp` of `jax.grad`, one
product of the Hessian for a step. Needs `pip install jax`; pin it to a core (`taskset -c 0`) beside the other program.
"""

import os
import time

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"

import jax
import jax.numpy as jnp
import numpy as np

jax.config.update("jax_enable_x64", True)

RATE = 0.1
RUNS = 15


def loss(theta, x, target):
    wq, wk, wv, wo = theta
    scores = (x @ wq) @ (x @ wk).T / np.sqrt(wq.shape[1])
    y = jax.nn.softmax(scores, axis=-1) @ (x @ wv) @ wo
    return jnp.mean((y - target) ** 2)


gradient = jax.grad(loss)


def minus(theta, rate, step):
    return [a - rate * b for a, b in zip(theta, step)]


def meta_gradient(theta, support, query, steps):
    def forth(theta, _):
        return minus(theta, RATE, gradient(theta, *support)), theta

    def back(cotangent, theta):
        _, product = jax.jvp(lambda theta: gradient(theta, *support), (theta,), (cotangent,))
        return minus(cotangent, RATE, product), None

    last, way = jax.lax.scan(forth, theta, None, length=steps)
    return jax.lax.scan(back, gradient(last, *query), way, reverse=True)[0]


def main():
    print(f"jax {jax.__version__}")
    for t, d in ((64, 32), (256, 64)):
        for steps in (5, 20):
            draw = np.random.default_rng(0).standard_normal
            theta = [jnp.array(draw((d, d)) / np.sqrt(d)) for _ in range(4)]
            support, query = [[jnp.array(draw((t, d))) for _ in range(2)] for _ in range(2)]
            run = jax.jit(lambda theta: meta_gradient(theta, support, query, steps))
            jax.block_until_ready(run(theta))
            times = []
            for _ in range(RUNS):
                start = time.perf_counter()
                jax.block_until_ready(run(theta))
                times.append(1e3 * (time.perf_counter() - start))
            times.sort()
            print(f"T = {t}, d = {d}, K = {steps}: {times[RUNS // 2]:.2f} ms, the fastest {times[0]:.2f}", flush=True)


if __name__ == "__main__":
    main()
