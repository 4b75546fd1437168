"""The modes of differentiation by function transforms, which torch.func and JAX spell alike."""


def modes(attend, operands, vjp, jvp):
    """A call for each mode; results in the order of `textbook.modes`."""
    q, k, v, g, *tangents, g_tangent = operands

    def backward(q, k, v, g):
        return vjp(attend, q, k, v)[1](g)

    def pushed(q, k, v, *tangents):
        return jvp(attend, (q, k, v), tangents)

    def reverse_over_reverse():
        by_q, by_k, by_v, by_g = vjp(backward, q, k, v, g)[1](tuple(tangents))
        return by_g, by_q, by_k, by_v

    return {
        "forward": lambda: (attend(q, k, v),),
        "backward": lambda: backward(q, k, v, g),
        "jvp": lambda: (pushed(q, k, v, *tangents)[1],),
        "reverse over reverse": reverse_over_reverse,
        "forward over reverse": lambda: jvp(backward, (q, k, v, g), (*tangents, g_tangent))[1],
        "reverse over forward": lambda: vjp(pushed, q, k, v, *tangents)[1]((g_tangent, g)),
    }
