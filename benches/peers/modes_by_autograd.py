"""The modes of differentiation by PyTorch's graph (`torch.autograd.grad`) and its dual numbers."""

import torch
from torch.autograd import forward_ad, grad


class Detached(Exception):
    """A derivative that comes back without its edge: nothing was raised, the next order is lost."""


def leaves(tensors):
    return [x.detach().clone().requires_grad_(True) for x in tensors]


def differentiable(results, what):
    """Passes `results` on where they still depend on something."""
    without = [x for x in results if x is None or not x.requires_grad]
    if len(without) == len(results):
        raise Detached(f"silently detached: the {what} with requires_grad=False")
    return results


def tangent_of(x):
    tangent = forward_ad.unpack_dual(x).tangent
    if tangent is None:
        raise Detached("silently detached: the result has no tangent")
    return tangent


def gradients_of(scalar, inputs):
    """By `backward`, which runs the whole graph: `grad` prunes what does not lead to its inputs."""
    scalar.backward()
    return tuple(x.grad for x in inputs)


def inner(left, right):
    return sum((x * y).sum() for x, y in zip(left, right, strict=True))


def modes(attend, operands):
    """A call for each mode; results in the order of `textbook.modes`. None stands for an unused input."""
    q, k, v, g, *tangents, g_tangent = operands

    def forward():
        with torch.no_grad():
            return (attend(q, k, v),)

    def backward():
        inputs = leaves((q, k, v))
        (out,) = differentiable([attend(*inputs)], "output comes back")
        return grad(out, inputs, g)

    def pushed():
        with forward_ad.dual_level():
            return (tangent_of(attend(*map(forward_ad.make_dual, (q, k, v), tangents))),)

    def reverse_over_reverse():
        *inputs, upstream = leaves((q, k, v, g))
        gradients = grad(attend(*inputs), inputs, upstream, create_graph=True)
        differentiable(gradients, "gradients come back")
        return gradients_of(inner(gradients, tangents), (upstream, *inputs))

    def forward_over_reverse():
        inputs = leaves((q, k, v))
        with forward_ad.dual_level():
            duals = list(map(forward_ad.make_dual, inputs, tangents))
            upstream = forward_ad.make_dual(g, g_tangent)
            return tuple(map(tangent_of, grad(attend(*duals), duals, upstream)))

    def reverse_over_forward():
        inputs, directions = leaves((q, k, v)), leaves(tangents)
        with forward_ad.dual_level():
            out = attend(*map(forward_ad.make_dual, inputs, directions))
            both = (forward_ad.unpack_dual(out).primal, tangent_of(out))
            differentiable(both[1:], "tangent comes back")
            return gradients_of(inner(both, (g_tangent, g)), (*inputs, *directions))

    return {
        "forward": forward,
        "backward": backward,
        "jvp": pushed,
        "reverse over reverse": reverse_over_reverse,
        "forward over reverse": forward_over_reverse,
        "reverse over forward": reverse_over_forward,
    }
