// x Φ(x), Φ being the normal distribution (units.rs).
#include "rows.cuh"

using namespace theria;

struct Gelu {
    explicit THERIA_DEVICE Gelu(const double *) {}

    template <class N> static THERIA_DEVICE N normal(N x) {
        return N(0.5) * (N(1) + erf_of(x * N(0.70710678118654752440)));
    }
    template <class N> static THERIA_DEVICE N density(N x) {
        return N(0.39894228040143267794) * exp_of(-(x * x) * N(0.5));
    }

    template <class N, class X, class Y> THERIA_DEVICE void value(Row row, X x, Y y) const {
        row.each(row.width(0), [&](int n) { y.add(n, x(0, n) * normal(x(0, n))); });
    }
    template <class N, class X, class G, class I> THERIA_DEVICE void pull(Row row, X x, G g, I into) const {
        row.each(row.width(0), [&](int n) {
            N at = x(0, n);
            into.add(0, n, g(n) * (normal(at) + at * density(at)));
        });
    }
};

THERIA_ROWS(Gelu)
