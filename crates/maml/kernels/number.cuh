// Numbers that functions are written for: a real one, or one with a tangent. The same as number.rs, line by line.
#pragma once

#include "base.cuh"

namespace theria {

template <bool FIRST, class A, class B> struct Choose {
    using Type = A;
};
template <class A, class B> struct Choose<false, A, B> {
    using Type = B;
};

// x, and x'. What is made of it has its derivative along x' beside it.
template <class R> struct Dual {
    R value, tangent;

    THERIA_DEVICE Dual() {}
    THERIA_DEVICE Dual(R value, R tangent) : value(value), tangent(tangent) {}
    // A constant: its tangent is zero.
    explicit THERIA_DEVICE Dual(double constant) : value(R(constant)), tangent(R(0)) {}

    friend THERIA_DEVICE Dual operator+(Dual a, Dual b) { return {a.value + b.value, a.tangent + b.tangent}; }
    friend THERIA_DEVICE Dual operator-(Dual a, Dual b) { return {a.value - b.value, a.tangent - b.tangent}; }
    friend THERIA_DEVICE Dual operator-(Dual a) { return {-a.value, -a.tangent}; }
    friend THERIA_DEVICE Dual operator*(Dual a, Dual b) {
        return {a.value * b.value, a.tangent * b.value + a.value * b.tangent};
    }
    friend THERIA_DEVICE Dual operator/(Dual a, Dual b) {
        R value = a.value / b.value;
        return {value, (a.tangent - value * b.tangent) / b.value};
    }
};

// What a number is without its tangent, and its tangent: that of a real number is of no account.
template <class R> THERIA_DEVICE R value_of(Dual<R> x) { return x.value; }
THERIA_DEVICE float value_of(float x) { return x; }
THERIA_DEVICE double value_of(double x) { return x; }

template <class R> THERIA_DEVICE Dual<R> exp_of(Dual<R> x) {
    R value = exp_of(x.value);
    return {value, value * x.tangent};
}
template <class R> THERIA_DEVICE Dual<R> log_of(Dual<R> x) {
    return {log_of(x.value), R(1) / x.value * x.tangent};
}
THERIA_DEVICE float root_of(float x) { return sqrtf(x); }
THERIA_DEVICE double root_of(double x) { return sqrt(x); }
template <class R> THERIA_DEVICE Dual<R> root_of(Dual<R> x) {
    R value = root_of(x.value);
    return {value, R(0.5) / value * x.tangent};
}
// From lane to lane of a warp.
template <class R> THERIA_DEVICE R across(R x, int lanes) { return __shfl_xor_sync(FULL_WARP, x, lanes); }
template <class R> THERIA_DEVICE Dual<R> across(Dual<R> x, int lanes) {
    return {across(x.value, lanes), across(x.tangent, lanes)};
}

} // namespace theria
