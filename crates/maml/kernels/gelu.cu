// x Φ(x), Φ being the normal distribution (units.rs).
#include "normal.cuh"
#include "rows.cuh"

using namespace theria;

struct Gelu {
    explicit THERIA_DEVICE Gelu(const double *) {}

    template <class N, class X, class Y> THERIA_DEVICE void value(Row row, X x, Y y) const {
        row.each(row.width(0), [&](int n) { y.add(n, x(0, n) * normal_of(x(0, n)).below); });
    }
    template <class N, class X, class G, class I> THERIA_DEVICE void pull(Row row, X x, G g, I into) const {
        row.each(row.width(0), [&](int n) {
            N at = x(0, n);
            Normal<N> normal = normal_of(at);
            into.add(0, n, g(n) * (normal.below + at * normal.density));
        });
    }
};

THERIA_ROWS(Gelu)
