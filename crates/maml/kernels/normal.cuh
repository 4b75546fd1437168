// The normal distribution Φ and its density φ, which share what is expensive.
#pragma once

#include "number.cuh"

namespace theria {

// φ(x), and Φ(x): what lies below x.
template <class N> struct Normal {
    N density, below;
};

// 1 - Φ(t), of t ≥ 0. In f64 by the library; in f32 φ(t) is at hand, and the quotient of both is (t + 4)⁻¹ times a
// polynomial in (t - 4)/(t + 4), which is off by 2e-8 of it at most up to t = 14. Beyond that φ(t) is 0.
THERIA_DEVICE double tail_of(double t, double) { return 0.5 * erfc(t * 0.70710678118654752440); }
THERIA_DEVICE float tail_of(float t, float density) {
    t = fminf(t, 14.0f);
    float inverse = __fdividef(1.0f, t + 4.0f), u = (t - 4.0f) * inverse;
    float shape = -0.000301257618f;
    shape = shape * u + 0.000504488344f;
    shape = shape * u + 0.00394121645f;
    shape = shape * u - 0.00883883176f;
    shape = shape * u - 0.0188730327f;
    shape = shape * u + 0.151417114f;
    shape = shape * u - 0.467543036f;
    shape = shape * u + 0.970407758f;
    shape = shape * u - 1.52377085f;
    shape = shape * u + 1.89321908f;
    return density * (shape * inverse);
}

// e^x of x ≤ 0, which in f32 is off by 2e-7 (1 - x) of it.
THERIA_DEVICE double power_of(double x) { return exp(x); }
THERIA_DEVICE float power_of(float x) { return __expf(x); }

// Φ(x) and φ(x).
template <class R> THERIA_DEVICE Normal<R> normal_of(R x) {
    R density = R(0.39894228040143267794) * power_of(x * x * R(-0.5));
    R tail = tail_of(x < R(0) ? -x : x, density);
    return {density, x < R(0) ? tail : R(1) - tail};
}
// Φ′ = φ x′, and φ′ = -x φ x′.
template <class R> THERIA_DEVICE Normal<Dual<R>> normal_of(Dual<R> x) {
    Normal<R> at = normal_of(x.value);
    R slope = at.density * x.tangent;
    return {{at.density, -(x.value * slope)}, {at.below, slope}};
}

} // namespace theria
