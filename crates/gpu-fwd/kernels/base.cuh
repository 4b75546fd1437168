// What every kernel stands on: element types, views of tensors, and the arithmetic of bits.
//
// No header of the CUDA toolkit is included anywhere: a kernel compiles wherever NVRTC is.
#pragma once

#define THERIA_DEVICE __device__ __forceinline__

namespace theria {

constexpr int WARP = 32;
constexpr unsigned FULL_WARP = 0xFFFFFFFFu;

THERIA_DEVICE float infinity() { return __int_as_float(0x7F800000); }
THERIA_DEVICE float not_a_number() { return __int_as_float(0x7FC00000); }

// Launches overlap where the hardware can (sm_90 and later): a kernel is started while the one ahead of it in the
// stream still runs. Every kernel lets the next one start, works out where its own data is, and waits before it
// touches any memory that another kernel could: then all that was launched before has ended.
THERIA_DEVICE void let_next_launch_start() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;");
#endif
}
THERIA_DEVICE void await_launches_ahead() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// The same when these addresses have been worked out. The compiler would do that after the wait; a store to
// shared memory that no real address allows holds it to the order.
THERIA_DEVICE void await_launches_ahead(unsigned shared, const void *a, const void *b, const void *c) {
#if __CUDA_ARCH__ >= 900
    using Bits = unsigned long long;
    Bits all = reinterpret_cast<Bits>(a) | reinterpret_cast<Bits>(b) | reinterpret_cast<Bits>(c);
    asm volatile("{\n"
                 ".reg .pred none;\n"
                 "setp.eq.u64 none, %1, 0;\n"
                 "@none st.shared.u64 [%0], %1;\n"
                 "}" ::"r"(shared),
                 "l"(all));
#endif
    await_launches_ahead();
}

THERIA_DEVICE int min_of(int a, int b) { return a < b ? a : b; }
THERIA_DEVICE int max_of(int a, int b) { return a > b ? a : b; }

// A number to divide by, prepared on the host (`Divisor::new` in parameters.rs): a division in hardware that has
// none costs more than the start of a short kernel has to spare. Dividends are below 2^31.
struct Divisor {
    unsigned number, multiplier, shift;

    THERIA_DEVICE unsigned quotient(unsigned n) const { return (__umulhi(n, multiplier) + n) >> shift; }
    THERIA_DEVICE unsigned remainder(unsigned n) const { return n - quotient(n) * number; }
};

// IEEE binary16 and bfloat16, as bits.
struct f16 {
    unsigned short bits;
};
struct bf16 {
    unsigned short bits;
};

// Element<E>: the type of sums over E, and the way there and back.
template <class E> struct Element;

template <> struct Element<double> {
    using Acc = double;
    static THERIA_DEVICE double to_acc(double x) { return x; }
    static THERIA_DEVICE double from_acc(double x) { return x; }
};

template <> struct Element<float> {
    using Acc = float;
    static THERIA_DEVICE float to_acc(float x) { return x; }
    static THERIA_DEVICE float from_acc(float x) { return x; }
};

template <> struct Element<f16> {
    using Acc = float;
    static THERIA_DEVICE float to_acc(f16 x) {
        float y;
        asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(x.bits));
        return y;
    }
    static THERIA_DEVICE f16 from_acc(float x) {
        f16 y;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
        return y;
    }
};

template <> struct Element<bf16> {
    using Acc = float;
    static THERIA_DEVICE float to_acc(bf16 x) { return __uint_as_float(unsigned(x.bits) << 16); }
    static THERIA_DEVICE bf16 from_acc(float x) {
        bf16 y;
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y.bits) : "f"(x));
        return y;
    }
};

// What rounding takes from a sum, rounded in its turn.
template <class E> THERIA_DEVICE E rest_of(typename Element<E>::Acc x) {
    return Element<E>::from_acc(x - Element<E>::to_acc(Element<E>::from_acc(x)));
}

// exp, log and infinity in the type of sums.
THERIA_DEVICE float exp_of(float x) { return expf(x); }
THERIA_DEVICE double exp_of(double x) { return exp(x); }
THERIA_DEVICE float log_of(float x) { return logf(x); }
THERIA_DEVICE double log_of(double x) { return log(x); }

template <class A> THERIA_DEVICE A minus_infinity() { return A(-infinity()); }

// A tensor [B, H, rows, columns] whose last axis is contiguous; strides count elements.
struct View {
    void *data;
    long long batch, head, row;

    template <class E> THERIA_DEVICE E *at(int b, int h, int i) const {
        return static_cast<E *>(data) + (b * batch + h * head + i * row);
    }
};

// A tensor that broadcasts to [B, H, T, M]: an axis of length 1 has stride 0. `data` is null where the
// problem has none.
struct Broadcast {
    void *data;
    long long batch, head, row, column;

    THERIA_DEVICE long long offset(int b, int h, int i, int j) const {
        return b * batch + h * head + i * row + j * column;
    }
};

} // namespace theria
