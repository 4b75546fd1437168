// What sm_90a has and CUDA C++ does not say: barriers in shared memory that count bytes, tiles that the copy engine
// brings and takes away, products of a warpgroup, registers that warps hand to each other.
//
// A tile in shared memory is made of panels of 64 columns of 16-bit elements: 128 bytes a row, and eight rows are 1024
// bytes, in which the sixteen-byte chunk c of row r lies at chunk c ^ (r % 8). The copy engine writes that order, and
// products read it. Panels begin on 1024 bytes. A product takes a panel in either of two ways:
//
//     by rows      its columns are the axis that is summed over: Q, K in Q·Kᵀ
//     by columns   its rows are: V in P·V
//
// A warpgroup is four warps, 128 threads. A product of one has 64 rows and N columns, and each thread has N / 2 sums
// of it: x[4 n + 2 half + c] is row 16 warp + 8 half + lane / 4, column 8 n + 2 (lane % 4) + c, as in a `Piece`. What it
// takes from registers it takes in the same places: two neighbours in a word, words `first row, columns 8 n ..`,
// `second row, the same`, then those of columns 8 n + 8.
#pragma once
#include "tile.cuh"

namespace theria {

constexpr int WARPGROUP = 128;
constexpr int PANEL = 64;     // columns of a panel
constexpr int PANEL_ROW = 128; // bytes of a row of one

// A tensor as the copy engine knows it: made by the driver (`TensorMap::new` in tensor_map.rs). Axes: columns, rows,
// heads, batch entries. What lies outside is zero when it is read, and is not written.
struct alignas(64) TensorMap {
    unsigned long long words[16];
};

// A barrier in shared memory. A phase ends when as many threads as it was made for have arrived and all bytes that were
// announced have come; `parity` is that of the phase that is waited for.
struct Barrier {
    unsigned address;

    THERIA_DEVICE void make(unsigned arrivals) const {
        asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(address), "r"(arrivals) : "memory");
    }
    THERIA_DEVICE void arrive() const {
        asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(address) : "memory");
    }
    THERIA_DEVICE void arrive_and_expect(unsigned bytes) const {
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(address), "r"(bytes) : "memory");
    }
    THERIA_DEVICE bool has_passed(unsigned parity) const {
        unsigned passed;
        asm volatile("{\n"
                     ".reg .pred p;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, p;\n"
                     "}"
                     : "=r"(passed)
                     : "r"(address), "r"(parity)
                     : "memory");
        return passed;
    }
    THERIA_DEVICE void await(unsigned parity) const {
        while (!has_passed(parity)) {
        }
    }
};

// A place in a ring of COUNT slots, and the parity of the barriers there: full ones when data is waited for, the other
// one when room is.
template <int COUNT> struct Slot {
    int index = 0;
    unsigned parity = 0;

    THERIA_DEVICE void advance() {
        if (++index == COUNT) {
            index = 0;
            parity ^= 1;
        }
    }
};

// Barriers that were made are seen by the copy engine.
THERIA_DEVICE void publish_barriers() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

// Ordinary stores to shared memory are seen by the copy engine and by products that begin later. Every thread that stored
// asks for it, and then meets those that go on.
THERIA_DEVICE void publish_stores() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Threads of some warps meet. Barrier 0 is that of __syncthreads.
THERIA_DEVICE void meet(int barrier, int threads) {
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}
// One side says that it was here, and does not wait for the other.
THERIA_DEVICE void pass(int barrier, int threads) {
    asm volatile("bar.arrive %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

// Registers of the warps of a warpgroup from here on. All of them ask together. With blocks of 384 threads there are 168
// for each at first: 24 and twice 240 fit.
template <int COUNT> THERIA_DEVICE void give_registers_back() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
}
template <int COUNT> THERIA_DEVICE void take_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
}

// One lane of a warp whose lanes are all here.
THERIA_DEVICE bool is_elected() {
    unsigned elected;
    asm volatile("{\n"
                 ".reg .pred p;\n"
                 "elect.sync _|p, 0xFFFFFFFF;\n"
                 "selp.u32 %0, 1, 0, p;\n"
                 "}"
                 : "=r"(elected));
    return elected;
}

// ---- The copy engine. One thread asks. ----

THERIA_DEVICE void prefetch(const TensorMap &map) {
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
// Brings a box whose first element is (column, row, head, entry).
THERIA_DEVICE void bring(unsigned to, const TensorMap &map, Barrier full, int column, int row, int head, int entry) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5, %6}], "
                 "[%2];" ::"r"(to),
                 "l"(&map), "r"(full.address), "r"(column), "r"(row), "r"(head), "r"(entry)
                 : "memory");
}
// Brings a box as far as the cache: it will be wanted soon.
THERIA_DEVICE void bring_near(const TensorMap &map, int column, int row, int head, int entry) {
    asm volatile("cp.async.bulk.prefetch.tensor.4d.L2.global.tile [%0, {%1, %2, %3, %4}];" ::"l"(&map), "r"(column), "r"(row),
                 "r"(head), "r"(entry)
                 : "memory");
}
// Brings bytes that lie one after the other: whole sixteens, on sixteen.
THERIA_DEVICE void bring(unsigned to, const void *from, Barrier full, unsigned bytes) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(to), "l"(from),
                 "r"(bytes), "r"(full.address)
                 : "memory");
}
THERIA_DEVICE void take_away(const TensorMap &map, unsigned from, int column, int row, int head, int entry) {
    asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(&map), "r"(from),
                 "r"(column), "r"(row), "r"(head), "r"(entry)
                 : "memory");
}
// Adds f32 numbers to those in memory. Each is added once, in no order among themselves.
THERIA_DEVICE void add_to(void *to, unsigned from, unsigned bytes) {
    asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(to), "r"(from), "r"(bytes)
                 : "memory");
}
THERIA_DEVICE void take_away(void *to, unsigned from, unsigned bytes) {
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(from), "r"(bytes) : "memory");
}
THERIA_DEVICE void commit_taken() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
// Waits until what was taken away has left shared memory, but for the last PENDING groups of this thread.
template <int PENDING> THERIA_DEVICE void await_left() {
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(PENDING) : "memory");
}
// The same until it has arrived.
template <int PENDING> THERIA_DEVICE void await_taken() {
    asm volatile("cp.async.bulk.wait_group %0;" ::"n"(PENDING) : "memory");
}

// ---- Products of a warpgroup. ----

// A panel that a product reads. By rows, `next` is not used. By columns, `next` is the distance in bytes of the panel
// with the next 64 columns. Sixteen elements further along the axis of the sum: 32 bytes by rows, 2048 by columns.
THERIA_DEVICE unsigned long long panel(unsigned address, unsigned next = 16) {
    constexpr unsigned long long SWIZZLE = 1ull << 62, EIGHT_ROWS = 1024 >> 4;
    return SWIZZLE | EIGHT_ROWS << 32 | (unsigned long long)(next >> 4) << 16 | (unsigned long long)(address >> 4 & 0x3FFF);
}
// So many bytes further.
THERIA_DEVICE unsigned long long ahead(unsigned long long panel, unsigned bytes) { return panel + (bytes >> 4); }

// Registers that products read or write are in order from here.
THERIA_DEVICE void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
THERIA_DEVICE void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most PENDING of the committed groups are under way.
template <int PENDING> THERIA_DEVICE void await_products() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory");
}
// The compiler neither moves nor copies these registers across this place.
template <int N> THERIA_DEVICE void hold(float (&x)[N]) {
#pragma unroll
    for (int n = 0; n < N; ++n)
        asm volatile("" : "+f"(x[n])::"memory");
}
template <int N> THERIA_DEVICE void hold(unsigned (&x)[N]) {
#pragma unroll
    for (int n = 0; n < N; ++n)
        asm volatile("" : "+r"(x[n])::"memory");
}

// sums (+)= A·B over sixteen elements of the axis of the sum. A by rows from shared memory, or transposed, or from
// registers; B by rows, or transposed: by columns.
template <int N, class E> struct Product;

// Sums of a product as operands, and their names. What comes after them is named by its number: P0 to P6.
#define THERIA_SUMS_4(x) "+f"(x[0]), "+f"(x[1]), "+f"(x[2]), "+f"(x[3])
#define THERIA_NAMES_4 "%0, %1, %2, %3"
#define THERIA_8(x, n)                                                                                                       \
    "+f"(x[n]), "+f"(x[n + 1]), "+f"(x[n + 2]), "+f"(x[n + 3]), "+f"(x[n + 4]), "+f"(x[n + 5]), "+f"(x[n + 6]), "+f"(x[n + 7])
#define THERIA_SUMS_8(x) THERIA_8(x, 0)
#define THERIA_SUMS_16(x) THERIA_SUMS_8(x), THERIA_8(x, 8)
#define THERIA_SUMS_24(x) THERIA_SUMS_16(x), THERIA_8(x, 16)
#define THERIA_SUMS_32(x) THERIA_SUMS_24(x), THERIA_8(x, 24)
#define THERIA_SUMS_36(x) THERIA_SUMS_32(x), "+f"(x[32]), "+f"(x[33]), "+f"(x[34]), "+f"(x[35])
#define THERIA_SUMS_40(x) THERIA_SUMS_32(x), THERIA_8(x, 32)
#define THERIA_SUMS_48(x) THERIA_SUMS_40(x), THERIA_8(x, 40)
#define THERIA_SUMS_56(x) THERIA_SUMS_48(x), THERIA_8(x, 48)
#define THERIA_SUMS_64(x) THERIA_SUMS_56(x), THERIA_8(x, 56)
#define THERIA_SUMS_72(x) THERIA_SUMS_64(x), THERIA_8(x, 64)
#define THERIA_SUMS_80(x) THERIA_SUMS_72(x), THERIA_8(x, 72)
#define THERIA_SUMS_88(x) THERIA_SUMS_80(x), THERIA_8(x, 80)
#define THERIA_SUMS_96(x) THERIA_SUMS_88(x), THERIA_8(x, 88)
#define THERIA_SUMS_128(x) THERIA_SUMS_96(x), THERIA_8(x, 96), THERIA_8(x, 104), THERIA_8(x, 112), THERIA_8(x, 120)
#define THERIA_NAMES_8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define THERIA_NAMES_16 THERIA_NAMES_8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define THERIA_NAMES_24 THERIA_NAMES_16 ", %16, %17, %18, %19, %20, %21, %22, %23"
#define THERIA_NAMES_32 THERIA_NAMES_24 ", %24, %25, %26, %27, %28, %29, %30, %31"
#define THERIA_NAMES_36 THERIA_NAMES_32 ", %32, %33, %34, %35"
#define THERIA_NAMES_40 THERIA_NAMES_32 ", %32, %33, %34, %35, %36, %37, %38, %39"
#define THERIA_NAMES_48 THERIA_NAMES_40 ", %40, %41, %42, %43, %44, %45, %46, %47"
#define THERIA_NAMES_56 THERIA_NAMES_48 ", %48, %49, %50, %51, %52, %53, %54, %55"
#define THERIA_NAMES_64 THERIA_NAMES_56 ", %56, %57, %58, %59, %60, %61, %62, %63"
#define THERIA_NAMES_72 THERIA_NAMES_64 ", %64, %65, %66, %67, %68, %69, %70, %71"
#define THERIA_NAMES_80 THERIA_NAMES_72 ", %72, %73, %74, %75, %76, %77, %78, %79"
#define THERIA_NAMES_88 THERIA_NAMES_80 ", %80, %81, %82, %83, %84, %85, %86, %87"
#define THERIA_NAMES_96 THERIA_NAMES_88 ", %88, %89, %90, %91, %92, %93, %94, %95"
#define THERIA_NAMES_128                                                                                                     \
    THERIA_NAMES_96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
                    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"

#define THERIA_PRODUCT(N, E, TYPES, NAMES, SUMS, P0, P1, P2, P3, P4, P5, P6)                                                 \
    template <> struct Product<N, E> {                                                                                       \
        template <bool A_BY_COLUMNS, bool B_BY_COLUMNS>                                                                      \
        static THERIA_DEVICE void add(float (&x)[N / 2], unsigned long long a, unsigned long long b, bool adds) {            \
            asm volatile("{\n"                                                                                               \
                         ".reg .pred p;\n"                                                                                   \
                         "setp.ne.b32 p, " P2 ", 0;\n"                                                                       \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPES " {" NAMES "}, " P0 ", " P1                 \
                         ", p, 1, 1, " P3 ", " P4 ";\n"                                                                      \
                         "}"                                                                                                 \
                         : SUMS(x)                                                                                           \
                         : "l"(a), "l"(b), "r"(int(adds)), "n"(int(A_BY_COLUMNS)), "n"(int(B_BY_COLUMNS)));                  \
        }                                                                                                                    \
        template <bool B_BY_COLUMNS>                                                                                         \
        static THERIA_DEVICE void add(float (&x)[N / 2], const unsigned (&a)[4], unsigned long long b, bool adds) {          \
            asm volatile("{\n"                                                                                               \
                         ".reg .pred p;\n"                                                                                   \
                         "setp.ne.b32 p, " P5 ", 0;\n"                                                                       \
                         "wgmma.mma_async.sync.aligned.m64n" #N "k16.f32." TYPES " {" NAMES "}, {" P0 ", " P1 ", " P2 ", " P3 \
                         "}, " P4 ", p, 1, 1, " P6 ";\n"                                                                     \
                         "}"                                                                                                 \
                         : SUMS(x)                                                                                           \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(int(adds)), "n"(int(B_BY_COLUMNS)));      \
        }                                                                                                                    \
    };
#define THERIA_PRODUCTS(N, NAMES, SUMS, P0, P1, P2, P3, P4, P5, P6)                                                          \
    THERIA_PRODUCT(N, bf16, "bf16.bf16", NAMES, SUMS, P0, P1, P2, P3, P4, P5, P6)                                            \
    THERIA_PRODUCT(N, f16, "f16.f16", NAMES, SUMS, P0, P1, P2, P3, P4, P5, P6)

THERIA_PRODUCTS(8, THERIA_NAMES_4, THERIA_SUMS_4, "%4", "%5", "%6", "%7", "%8", "%9", "%10")
THERIA_PRODUCTS(16, THERIA_NAMES_8, THERIA_SUMS_8, "%8", "%9", "%10", "%11", "%12", "%13", "%14")
THERIA_PRODUCTS(32, THERIA_NAMES_16, THERIA_SUMS_16, "%16", "%17", "%18", "%19", "%20", "%21", "%22")
THERIA_PRODUCTS(48, THERIA_NAMES_24, THERIA_SUMS_24, "%24", "%25", "%26", "%27", "%28", "%29", "%30")
THERIA_PRODUCTS(64, THERIA_NAMES_32, THERIA_SUMS_32, "%32", "%33", "%34", "%35", "%36", "%37", "%38")
THERIA_PRODUCTS(72, THERIA_NAMES_36, THERIA_SUMS_36, "%36", "%37", "%38", "%39", "%40", "%41", "%42")
THERIA_PRODUCTS(80, THERIA_NAMES_40, THERIA_SUMS_40, "%40", "%41", "%42", "%43", "%44", "%45", "%46")
THERIA_PRODUCTS(96, THERIA_NAMES_48, THERIA_SUMS_48, "%48", "%49", "%50", "%51", "%52", "%53", "%54")
THERIA_PRODUCTS(112, THERIA_NAMES_56, THERIA_SUMS_56, "%56", "%57", "%58", "%59", "%60", "%61", "%62")
THERIA_PRODUCTS(128, THERIA_NAMES_64, THERIA_SUMS_64, "%64", "%65", "%66", "%67", "%68", "%69", "%70")
THERIA_PRODUCTS(144, THERIA_NAMES_72, THERIA_SUMS_72, "%72", "%73", "%74", "%75", "%76", "%77", "%78")
THERIA_PRODUCTS(160, THERIA_NAMES_80, THERIA_SUMS_80, "%80", "%81", "%82", "%83", "%84", "%85", "%86")
THERIA_PRODUCTS(176, THERIA_NAMES_88, THERIA_SUMS_88, "%88", "%89", "%90", "%91", "%92", "%93", "%94")
THERIA_PRODUCTS(192, THERIA_NAMES_96, THERIA_SUMS_96, "%96", "%97", "%98", "%99", "%100", "%101", "%102")
THERIA_PRODUCTS(256, THERIA_NAMES_128, THERIA_SUMS_128, "%128", "%129", "%130", "%131", "%132", "%133", "%134")

#undef THERIA_PRODUCTS
#undef THERIA_PRODUCT

} // namespace theria
