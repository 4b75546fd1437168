// What becomes of the scores of a row in the forward kernels for Hopper.
//
// P is 2^(S·factor - r), with factor = scale·log2 e and r = top·factor for a reference `top` near the row's maximum. A
// reference moves only when a row's maximum is ROOM above it: then what was summed against it is multiplied by
// `shrink_of`, which is rare.
#pragma once
#include "hopper.cuh"

namespace theria {

constexpr float LOG2_E = 1.4426950408889634f, LN_2 = 0.6931471805599453f;
// How far above its reference a row's maximum may be, as an exponent of 2. Probabilities are at most 256 then, which
// both types can tell apart as well as others, and sums of them are far from the end of f32.
constexpr float ROOM = 8;
// From here on S·factor - r is not taken in one instruction: see `Reference` in warp.cuh.
constexpr float LARGE = 1 << 24;

// What is the same in all lanes of a warp, and the compiler knows it.
THERIA_DEVICE int uniform(int x) { return __shfl_sync(FULL_WARP, x, 0); }

THERIA_DEVICE void store(unsigned at, float x, float y, float z, float w) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};" ::"r"(at), "f"(x), "f"(y), "f"(z), "f"(w) : "memory");
}
THERIA_DEVICE float4 load(unsigned at) {
    float4 x;
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];"
                 : "=f"(x.x), "=f"(x.y), "=f"(x.z), "=f"(x.w)
                 : "r"(at)
                 : "memory");
    return x;
}

THERIA_DEVICE bool is_large(float x) { return !(fabsf(x) < LARGE); }

// What stands in exponents for the reference.
THERIA_DEVICE float reference(float top, float factor) { return top == -infinity() ? 0 : top * factor; }

// What sums against one reference are multiplied by to stand against another.
THERIA_DEVICE float shrink_of(float from, float to, float factor) {
    if (from == to)
        return 1;
    float old = from * factor, now = reference(to, factor);
    if (is_large(now))
        return exp2_of(is_large(old) ? (from - to) * factor : fmaf(-to, factor, old));
    return exp2_of(is_large(old) ? fmaf(from, factor, -now) : old - now);
}

// lse of a row from its reference and the sum of its weights.
THERIA_DEVICE float lse_of(float top, float sum, float factor) {
    float against = reference(top, factor);
    return is_large(against) ? fmaf(top, factor * LN_2, log2_of(sum) * LN_2) : (against + log2_of(sum)) * LN_2;
}

// Scores against a large reference are lowered by it, and nothing is subtracted from their exponents.
template <int N> THERIA_DEVICE void lower(float (&s)[N], const float (&top)[2], float (&against)[2]) {
    if (!is_large(against[0]) && !is_large(against[1]))
        return;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float less = is_large(against[half]) ? top[half] : 0;
        against[half] = is_large(against[half]) ? 0 : against[half];
#pragma unroll
        for (int n = 0; n < N / 4; ++n) {
            s[4 * n + 2 * half] -= less;
            s[4 * n + 2 * half + 1] -= less;
        }
    }
}

// Scores that do not count are -inf. `row` is the first of this thread, `key0` the key of the first column. Without
// INTERVALS all keys up to `length` are seen, and the last column is before it.
template <bool INTERVALS, int N>
THERIA_DEVICE void look(float (&s)[N], const Score &score, int row, int key0, int length) {
    int column = key0 + threadIdx.x % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        int first = (INTERVALS ? score.first_key(row + 8 * half, length) : 0) - column;
        int end = INTERVALS ? score.end_key(row + 8 * half, length) - column : 2 * N;
#pragma unroll
        for (int n = 0; n < N / 4; ++n)
#pragma unroll
            for (int c = 0; c < 2; ++c)
                if (8 * n + c < first || (INTERVALS && 8 * n + c >= end))
                    s[4 * n + 2 * half + c] = -infinity();
    }
}

// What became of two numbers that were rounded.
THERIA_DEVICE float2 unpack(unsigned pair, bf16) {
    return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000)};
}
THERIA_DEVICE float2 unpack(unsigned pair, f16) {
    float2 x;
    asm("{\n"
        ".reg .b16 first, second;\n"
        "mov.b32 {first, second}, %2;\n"
        "cvt.f32.f16 %0, first;\n"
        "cvt.f32.f16 %1, second;\n"
        "}"
        : "=f"(x.x), "=f"(x.y)
        : "r"(pair));
    return x;
}

// The compiler would await products first, and take exponentials when nothing is left that they could hide. It does not
// know that no sum of weights is negative.
THERIA_DEVICE void finish(float sum) {
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "setp.lt.f32 p, %0, 0f00000000;\n"
                 "@p nanosleep.u32 0;\n"
                 "}" ::"f"(sum)
                 : "memory");
}

} // namespace theria
