// Tiles in shared memory, fragments in registers, and products on the tensor cores (sm_80 and later).
//
// A kernel is written once over a Math, which says how elements are multiplied:
//
//     Half<bf16>, Half<f16>   16-bit operands                          m16n8k16
//     Single<1>               f32 operands rounded to TF32             m16n8k8
//     Single<3>               f32 operands as a sum of two TF32 each,
//                             three products: nearly f32               m16n8k8
//
// Sums are in f32. An accumulator of 16 rows and 8 columns has, in each lane, rows `lane / 4` and
// `lane / 4 + 8`, columns `2 (lane % 4)` and the next: x[0], x[1] of the first row, x[2], x[3] of the other.
#pragma once
#include "base.cuh"

namespace theria {

// A 16-row, 8-column piece of a product.
struct Piece {
    float x[4];
};

THERIA_DEVICE unsigned shared_address(const void *at) {
    return static_cast<unsigned>(__cvta_generic_to_shared(at));
}

// Copies 16 bytes to shared memory, behind the back of the registers; zeros if there is nothing to read.
THERIA_DEVICE void copy_async(unsigned to, const void *from, bool real) {
    int bytes = real ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(bytes));
}
THERIA_DEVICE void commit_copies() { asm volatile("cp.async.commit_group;"); }
// Waits until at most PENDING of this thread's groups are under way.
template <int PENDING> THERIA_DEVICE void await_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
}

// Four 8×8 matrices of 16-bit elements, rows at the addresses of the lanes, eight lanes each.
THERIA_DEVICE void load_matrices(unsigned (&to)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address));
}
THERIA_DEVICE void load_matrices_transposed(unsigned (&to)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(address));
}

// The logarithm to base 2.
THERIA_DEVICE float log2_of(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// 2 to the power of x. Results below the smallest normal number are zero.
THERIA_DEVICE float exp2_of(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// ---- 16-bit operands ----------------------------------------------------------------------------------

template <class E> struct Half {
    using Element = E;
    static constexpr int K = 16;  // depth of one product
    static constexpr bool ROUNDED_SUMS = false; // the type is coarser than what the sums lose
    static constexpr int PAD = 8; // elements after each row of a tile: rows start in different banks

    struct A {
        unsigned x[4];
    };
    struct B {
        unsigned x[2];
    };

    static THERIA_DEVICE void multiply(Piece &to, const A &a, const B &b);
    static THERIA_DEVICE void multiply_rounded(Piece &to, const A &a, const B &b) { multiply(to, a, b); }

    // A pair of neighbours, the first one in the lower half.
    static THERIA_DEVICE unsigned pair(float first, float second);

    // Rows [0, 16) and depth [0, K) of a tile with rows of PITCH elements, `at` being its corner.
    template <int PITCH> static THERIA_DEVICE A load_a(unsigned at, int lane) {
        A a;
        load_matrices(a.x, at + ((lane % 16) * PITCH + lane / 16 * 8) * sizeof(E));
        return a;
    }

    // Columns [0, 16) and depth [0, K) of a matrix whose columns are rows of the tile: two operands.
    template <int PITCH> static THERIA_DEVICE void load_b_rows(B (&b)[2], unsigned at, int lane) {
        unsigned x[4];
        load_matrices(x, at + ((lane % 8 + lane / 16 * 8) * PITCH + lane / 8 % 2 * 8) * sizeof(E));
        b[0] = {x[0], x[1]};
        b[1] = {x[2], x[3]};
    }

    // Depth [0, K) and columns [0, 16) of a matrix that lies in the tile as it is: two operands.
    template <int PITCH> static THERIA_DEVICE void load_b_columns(B (&b)[2], unsigned at, int lane) {
        unsigned x[4];
        load_matrices_transposed(x, at + ((lane % 16) * PITCH + lane / 16 * 8) * sizeof(E));
        b[0] = {x[0], x[1]};
        b[1] = {x[2], x[3]};
    }

    // The same for an operand beside one that was loaded: `Single` knows a difference.
    template <int PITCH> static THERIA_DEVICE void load_b_matching(B (&b)[2], unsigned at, int lane) {
        load_b_columns<PITCH>(b, at, lane);
    }

    // Two neighbours as they are in memory.
    static THERIA_DEVICE float2 rounded(float first, float second) {
        unsigned both = pair(first, second);
        E x = {static_cast<unsigned short>(both)}, y = {static_cast<unsigned short>(both >> 16)};
        return {theria::Element<E>::to_acc(x), theria::Element<E>::to_acc(y)};
    }

    // Two neighbours into memory.
    static THERIA_DEVICE void write_pair(E *at, float first, float second) {
        *reinterpret_cast<unsigned *>(at) = pair(first, second);
    }

    // Two neighbours into a tile.
    static THERIA_DEVICE void store_pair(unsigned at, float first, float second) {
        asm volatile("st.shared.b32 [%0], %1;" ::"r"(at), "r"(pair(first, second)) : "memory");
    }

    // Two neighbours out of a tile.
    static THERIA_DEVICE float2 load_pair(unsigned at) {
        E x, y;
        asm volatile("ld.shared.v2.u16 {%0, %1}, [%2];" : "=h"(x.bits), "=h"(y.bits) : "r"(at));
        return {theria::Element<E>::to_acc(x), theria::Element<E>::to_acc(y)};
    }

    // K columns of accumulators as an operand: what a lane holds of one is what it must hold of the other.
    static constexpr int PIECES = 2;
    static THERIA_DEVICE A from_pieces(const Piece *s) {
        return {{pair(s[0].x[0], s[0].x[1]), pair(s[0].x[2], s[0].x[3]), pair(s[1].x[0], s[1].x[1]),
                 pair(s[1].x[2], s[1].x[3])}};
    }
};

template <> THERIA_DEVICE unsigned Half<bf16>::pair(float first, float second) {
    unsigned y;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(second), "f"(first));
    return y;
}
template <> THERIA_DEVICE unsigned Half<f16>::pair(float first, float second) {
    unsigned y;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(y) : "f"(second), "f"(first));
    return y;
}

#define THERIA_MULTIPLY(SHAPE_AND_TYPES)                                                                     \
    asm("mma.sync.aligned." SHAPE_AND_TYPES " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "      \
                 "{%0, %1, %2, %3};"                                                                        \
                 : "+f"(to.x[0]), "+f"(to.x[1]), "+f"(to.x[2]), "+f"(to.x[3])                               \
                 : "r"(a.x[0]), "r"(a.x[1]), "r"(a.x[2]), "r"(a.x[3]), "r"(b.x[0]), "r"(b.x[1]))

template <> THERIA_DEVICE void Half<bf16>::multiply(Piece &to, const A &a, const B &b) {
    THERIA_MULTIPLY("m16n8k16.row.col.f32.bf16.bf16.f32");
}
template <> THERIA_DEVICE void Half<f16>::multiply(Piece &to, const A &a, const B &b) {
    THERIA_MULTIPLY("m16n8k16.row.col.f32.f16.f16.f32");
}

// ---- 32-bit operands ----------------------------------------------------------------------------------

// TF32 has the exponent of f32 and ten bits of its fraction.
template <int TERMS> struct Single {
    static_assert(TERMS == 1 || TERMS == 3, "one product, or the three of a split that matter");
    using Element = float;
    static constexpr int K = 8;
    static constexpr bool ROUNDED_SUMS = TERMS == 3;
    static constexpr int PAD = 4;
    static constexpr int PARTS = TERMS == 1 ? 1 : 2;

    struct A {
        unsigned x[PARTS][4];
    };
    struct B {
        unsigned x[PARTS][2];
    };

    static THERIA_DEVICE unsigned round(float x) {
        unsigned y;
        asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(y) : "f"(x));
        return y;
    }

    // x as one number of TF32, or as two whose sum is x but for 2^-24 of it. The first of two is rounded and not cut
    // off: what products leave out is of either sign then, and does not add up. The difference is exact. Numbers that
    // round to infinity, the last 2^-12 of all, have none, and come to NaN.
    template <int N> static THERIA_DEVICE void split(unsigned (&to)[PARTS][N], int n, float x) {
        if (PARTS == 1) {
            to[0][n] = round(x);
            return;
        }
        float high = __uint_as_float((__float_as_uint(x) + 0x1000u) & 0xFFFFE000u);
        to[0][n] = __float_as_uint(high);
        to[PARTS - 1][n] = round(x == high ? 0 : x - high);
    }

    static THERIA_DEVICE void product(Piece &to, const unsigned (&a)[4], const unsigned (&b)[2]) {
        asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, "
                     "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                     : "+f"(to.x[0]), "+f"(to.x[1]), "+f"(to.x[2]), "+f"(to.x[3])
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
    }

    // Small terms first.
    static THERIA_DEVICE void multiply(Piece &to, const A &a, const B &b) {
        if (TERMS == 3) {
            product(to, a.x[PARTS - 1], b.x[0]);
            product(to, a.x[0], b.x[PARTS - 1]);
        }
        product(to, a.x[0], b.x[0]);
    }

    // The same into a sum of its own, which is added by an addition that rounds: tensor cores cut sums off.
    static THERIA_DEVICE void multiply_rounded(Piece &to, const A &a, const B &b) {
        if (!ROUNDED_SUMS) {
            multiply(to, a, b);
            return;
        }
        Piece part = {};
        multiply(part, a, b);
#pragma unroll
        for (int c = 0; c < 4; ++c)
            to.x[c] += part.x[c];
    }

    template <int PITCH> static THERIA_DEVICE A load_a(unsigned at, int lane) {
        unsigned x[4];
        load_matrices(x, at + ((lane % 16) * PITCH + lane / 16 * 4) * sizeof(float));
        A a;
#pragma unroll
        for (int n = 0; n < 4; ++n)
            split(a.x, n, __uint_as_float(x[n]));
        return a;
    }

    template <int PITCH> static THERIA_DEVICE void load_b_rows(B (&b)[2], unsigned at, int lane) {
        unsigned x[4];
        load_matrices(x, at + ((lane % 8 + lane / 16 * 8) * PITCH + lane / 8 % 2 * 4) * sizeof(float));
#pragma unroll
        for (int n = 0; n < 4; ++n)
            split(b[n / 2].x, n % 2, __uint_as_float(x[n]));
    }

    // Beside an operand that comes from accumulators. An accumulator has columns 2t and 2t + 1 where an
    // operand has depths t and t + 4. The depth of a product may be counted in any order, so the rows of
    // this operand are taken in that order.
    template <int PITCH> static THERIA_DEVICE void load_b_columns(B (&b)[2], unsigned at, int lane) {
        load_b<PITCH>(b, at, 2 * (lane % 4), 1, lane);
    }

    // Beside an operand that was loaded.
    template <int PITCH> static THERIA_DEVICE void load_b_matching(B (&b)[2], unsigned at, int lane) {
        load_b<PITCH>(b, at, lane % 4, 4, lane);
    }

    template <int PITCH>
    static THERIA_DEVICE void load_b(B (&b)[2], unsigned at, int first, int next, int lane) {
#pragma unroll
        for (int n = 0; n < 4; ++n) {
            float x;
            int row = first + n % 2 * next, column = lane / 4 + n / 2 * 8;
            asm volatile("ld.shared.f32 %0, [%1];" : "=f"(x) : "r"(at + (row * PITCH + column) * 4));
            split(b[n / 2].x, n % 2, x);
        }
    }

    static THERIA_DEVICE float2 rounded(float first, float second) { return {first, second}; }

    static THERIA_DEVICE void write_pair(float *at, float first, float second) {
        *reinterpret_cast<float2 *>(at) = {first, second};
    }
    static THERIA_DEVICE void store_pair(unsigned at, float first, float second) {
        asm volatile("st.shared.v2.f32 [%0], {%1, %2};" ::"r"(at), "f"(first), "f"(second) : "memory");
    }
    static THERIA_DEVICE float2 load_pair(unsigned at) {
        float2 x;
        asm volatile("ld.shared.v2.f32 {%0, %1}, [%2];" : "=f"(x.x), "=f"(x.y) : "r"(at));
        return x;
    }

    static constexpr int PIECES = 1;
    static THERIA_DEVICE A from_pieces(const Piece *s) {
        A a;
        split(a.x, 0, s[0].x[0]);
        split(a.x, 1, s[0].x[2]);
        split(a.x, 2, s[0].x[1]);
        split(a.x, 3, s[0].x[3]);
        return a;
    }
};

// ---- tiles --------------------------------------------------------------------------------------------

// ROWS rows of COLUMNS elements in shared memory, each followed by padding: the eight rows that one matrix
// load reads start in eight different groups of banks, and every address is a register plus a constant.
template <class Math, int ROWS, int COLUMNS> struct Tile {
    using E = typename Math::Element;
    static constexpr int PITCH = COLUMNS + Math::PAD;
    static constexpr int BYTES = ROWS * PITCH * int(sizeof(E));
    static constexpr int VECTOR = 16 / int(sizeof(E));
    static_assert(PITCH * sizeof(E) / 16 % 2 == 1, "rows of a tile must start in different banks");

    // The corner of the piece at (row, column).
    static THERIA_DEVICE unsigned at(unsigned tile, int row, int column) {
        return tile + (row * PITCH + column) * int(sizeof(E));
    }

    // Writes the `left` rows of a warp's own tile that exist, from row `first` on.
    static THERIA_DEVICE void write(unsigned tile, const View &to, int b, int h, int first, int left, int width,
                                    bool vectors) {
        constexpr int CHUNKS = COLUMNS / VECTOR, PASS = WARP / CHUNKS;
        int lane = threadIdx.x % WARP;
        E *corner = to.at<E>(b, h, first);
        if (vectors && PASS > 0 && PASS * CHUNKS == WARP) {
            int row = lane / CHUNKS, column = lane % CHUNKS * VECTOR;
            unsigned from = at(tile, row, column);
            E *out = corner + row * to.row + column;
            if (column < width) {
#pragma unroll
                for (int n = 0; n < ROWS; n += PASS > 0 ? PASS : 1) {
                    if (row + n < left)
                        *reinterpret_cast<uint4 *>(out) = vector(from + n * PITCH * int(sizeof(E)));
                    out += PASS * to.row;
                }
            }
        } else if (vectors) {
            for (int n = lane; n < ROWS * CHUNKS; n += WARP) {
                int row = n / CHUNKS, column = n % CHUNKS * VECTOR;
                if (row < left && column < width)
                    *reinterpret_cast<uint4 *>(corner + row * to.row + column) = vector(at(tile, row, column));
            }
        } else {
            for (int n = lane; n < ROWS * COLUMNS; n += WARP) {
                int row = n / COLUMNS, column = n % COLUMNS;
                if (row < left && column < width)
                    fetch(corner[row * to.row + column], at(tile, row, column));
            }
        }
    }

    // Brings the `left` rows that exist into a warp's own tile, from row `first` on; all else of it is zero.
    static THERIA_DEVICE void read(unsigned tile, const View &from, int b, int h, int first, int left, int width,
                                   bool vectors) {
        constexpr int CHUNKS = COLUMNS / VECTOR;
        int lane = threadIdx.x % WARP;
        const E *corner = from.at<E>(b, h, first);
        if (vectors) {
            for (int n = lane; n < ROWS * CHUNKS; n += WARP) {
                int row = n / CHUNKS, column = n % CHUNKS * VECTOR;
                bool there = row < left && column < width;
                copy_async(at(tile, row, column), there ? static_cast<const void *>(corner + row * from.row + column) : from.data,
                           there);
            }
            commit_copies();
            await_copies<0>();
        } else {
            for (int n = lane; n < ROWS * COLUMNS; n += WARP) {
                int row = n / COLUMNS, column = n % COLUMNS;
                store(at(tile, row, column), row < left && column < width ? corner[row * from.row + column] : E{});
            }
        }
        __syncwarp();
    }

    static THERIA_DEVICE uint4 vector(unsigned address) {
        uint4 x;
        asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(x.x), "=r"(x.y), "=r"(x.z), "=r"(x.w)
                     : "r"(address));
        return x;
    }
    static THERIA_DEVICE void fetch(float &to, unsigned address) {
        asm volatile("ld.shared.f32 %0, [%1];" : "=f"(to) : "r"(address));
    }
    template <class H> static THERIA_DEVICE void fetch(H &to, unsigned address) {
        asm volatile("ld.shared.u16 %0, [%1];" : "=h"(to.bits) : "r"(address));
    }
    static THERIA_DEVICE void store(unsigned address, float x) {
        asm volatile("st.shared.f32 [%0], %1;" ::"r"(address), "f"(x) : "memory");
    }
    template <class H> static THERIA_DEVICE void store(unsigned address, H x) {
        asm volatile("st.shared.u16 [%0], %1;" ::"r"(address), "h"(x.bits) : "memory");
    }
};

// Brings the tiles of a head into shared memory, one after the other. Each thread copies the same column of
// several rows, so what it needs to know of them is worked out once: a whole tile costs it a copy and an
// addition for each vector.
template <class Math, int ROWS, int COLUMNS, int THREADS> struct Loader {
    using T = Tile<Math, ROWS, COLUMNS>;
    using E = typename Math::Element;
    static constexpr int CHUNKS = COLUMNS / T::VECTOR, PASS = THREADS / CHUNKS;
    static constexpr int PASSES = (ROWS + PASS - 1) / PASS, SIZE = int(sizeof(E));
    static_assert(PASS >= 1, "a row has more vectors than a block has threads");

    const E *from; // what this thread copies first of the next tile

    static THERIA_DEVICE int row() { return threadIdx.x / CHUNKS; }
    static THERIA_DEVICE int column() { return threadIdx.x % CHUNKS * T::VECTOR; }

    // Begins at a row.
    THERIA_DEVICE Loader(const View &tensor, int b, int h, int first)
        : from(tensor.at<E>(b, h, first + row()) + column()) {}

    // Steps over rows.
    THERIA_DEVICE void skip(const View &tensor, int rows) { from += rows * tensor.row; }

    // Copies ROWS rows, of which `left` exist, and steps forward. Rows that do not exist and columns from
    // `width` on are zero and are not read.
    THERIA_DEVICE void load(unsigned tile, const View &tensor, int left, int width) {
        if (PASS * CHUNKS != THREADS && row() >= PASS)
            return;
        unsigned to = T::at(tile, row(), column());
        const E *at = from;
        bool real = column() < width;
        if (left >= ROWS) {
#pragma unroll
            for (int n = 0; n < PASSES; ++n) {
                if (n < PASSES - 1 || ROWS % PASS == 0 || row() + n * PASS < ROWS)
                    copy_async(to + n * PASS * T::PITCH * SIZE, at, real);
                at += PASS * tensor.row;
            }
        } else {
#pragma unroll
            for (int n = 0; n < PASSES; ++n) {
                if (n < PASSES - 1 || ROWS % PASS == 0 || row() + n * PASS < ROWS) {
                    bool there = real && row() + n * PASS < left;
                    copy_async(to + n * PASS * T::PITCH * SIZE, there ? static_cast<const void *>(at) : tensor.data,
                               there);
                }
                at += PASS * tensor.row;
            }
        }
        from += ROWS * tensor.row;
    }

    THERIA_DEVICE void bring(unsigned tile, const View &tensor, int left, int width, bool vectors) {
        if (vectors)
            load(tile, tensor, left, width);
        else
            load_elements(tile, tensor, left, width);
    }

    // The same, one element after the other and at once: for rows that are no whole vectors.
    THERIA_DEVICE void load_elements(unsigned tile, const View &tensor, int left, int width) {
        const E *corner = from - row() * tensor.row - column();
        for (int n = threadIdx.x; n < ROWS * COLUMNS; n += THREADS) {
            int i = n / COLUMNS, c = n % COLUMNS;
            E x = {};
            if (i < left && c < width)
                x = corner[i * tensor.row + c];
            T::store(T::at(tile, i, c), x);
        }
        from += ROWS * tensor.row;
    }
};

} // namespace theria
