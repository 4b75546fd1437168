"""Every rule of softmax attention as the textbook has it: numpy, float64, whole matrices.

The formulas are those of docs/numerics.md. No framework differentiates anything here, so it can
judge all of them, and what they do with the modes of order two:

    jvp                    O' along Q', K', V'
    forward over reverse   dQ', dK', dV': the backward along Q', K', V' and G'
    reverse over reverse   Q', K', V' arrive on dQ, dK, dV: gradients by G, Q, K, V
    reverse over forward   G' arrives on O, G on O': gradients by Q, K, V and by Q', K', V'
"""

import numpy as np

# What is handed to both sides, in this order: primals, upstream cotangent, and their tangents.
OPERANDS = ("q", "k", "v", "dout", "q_tangent", "k_tangent", "v_tangent", "dout_tangent")


def operands(shape, dtype, seed=0):
    """Normal numbers of shape [B, H, T, D] under the names of OPERANDS."""
    random = np.random.default_rng(seed)
    return {name: random.standard_normal(shape).astype(dtype) for name in OPERANDS}


def transposed(x):
    return np.swapaxes(x, -1, -2)


def rowsum(x):
    return x.sum(axis=-1, keepdims=True)


def second_order(q, k, v, dout, q_tangent, k_tangent, v_tangent, dout_tangent, mask="none"):
    """Results of the four rules: out, dq, dk, dv, and the tangent of each."""
    scale = 1.0 / np.sqrt(q.shape[-1])
    s = scale * (q @ transposed(k))
    if mask == "causal":
        s = np.where(np.tri(*s.shape[-2:], dtype=bool), s, -np.inf)
    p = np.exp(s - s.max(axis=-1, keepdims=True))
    p /= rowsum(p)
    out = p @ v

    dp = dout @ transposed(v)
    delta = rowsum(dout * out)
    ds = p * (dp - delta)

    s_tangent = scale * (q_tangent @ transposed(k) + q @ transposed(k_tangent))
    p_tangent = p * (s_tangent - rowsum(p * s_tangent))
    out_tangent = p_tangent @ v + p @ v_tangent

    dp_tangent = dout_tangent @ transposed(v) + dout @ transposed(v_tangent)
    delta_tangent = rowsum(dout_tangent * out + dout * out_tangent)
    ds_tangent = p_tangent * (dp - delta) + p * (dp_tangent - delta_tangent)
    return {
        "out": out,
        "dq": scale * (ds @ k),
        "dk": scale * (transposed(ds) @ q),
        "dv": transposed(p) @ dout,
        "out_tangent": out_tangent,
        "dq_tangent": scale * (ds_tangent @ k + ds @ k_tangent),
        "dk_tangent": scale * (transposed(ds_tangent) @ q + transposed(ds) @ q_tangent),
        "dv_tangent": transposed(p_tangent) @ dout + transposed(p) @ dout_tangent,
    }


def by_head(operands, mask="none"):
    """`second_order` one head after the other, which keeps long sequences small."""
    operands = {name: x.astype(np.float64) for name, x in operands.items()}
    b, h, *_ = operands["q"].shape
    results = {}
    for place in np.ndindex(b, h):
        for name, x in second_order(**{n: x[place] for n, x in operands.items()}, mask=mask).items():
            results.setdefault(name, np.empty((b, h, *x.shape)))[place] = x
    return results


def modes(operands, mask="none"):
    """What each mode gives, as tuples in the order of its line in the description above."""
    along = by_head(operands, mask)
    still = by_head(operands | {"dout_tangent": np.zeros_like(operands["dout"])}, mask)
    gradients = ("dq", "dk", "dv")
    tangents = ("dq_tangent", "dk_tangent", "dv_tangent")
    return {
        "forward": (along["out"],),
        "backward": tuple(along[name] for name in gradients),
        "jvp": (along["out_tangent"],),
        "reverse over reverse": (along["out_tangent"], *(still[name] for name in tangents)),
        "forward over reverse": tuple(along[name] for name in tangents),
        "reverse over forward": tuple(along[name] for name in (*tangents, *gradients)),
    }


def errors(given, expected):
    """Largest error of each tensor, over the root mean square of what is expected."""
    pairs = zip(given, expected, strict=True)
    return [float(np.abs(x.astype(np.float64) - y).max() / np.sqrt(np.mean(y * y))) for x, y in pairs]
