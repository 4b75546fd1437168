// weight · a (sums.rs).
#include "rows.cuh"

using namespace theria;

struct Weighted {
    double weight;

    explicit THERIA_DEVICE Weighted(const double *constants) : weight(constants[0]) {}

    template <class N, class X, class Y> THERIA_DEVICE void value(Row row, X x, Y y) const {
        row.each(row.width(0), [&](int n) { y.add(n, N(weight) * x(0, n)); });
    }
    template <class N, class X, class G, class I> THERIA_DEVICE void pull(Row row, X, G g, I into) const {
        row.each(row.width(0), [&](int n) { into.add(0, n, N(weight) * g(n)); });
    }
};

THERIA_ROWS(Weighted)
