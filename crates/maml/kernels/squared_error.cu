// weight · Σ (y - target)² (losses.rs).
#include "rows.cuh"

using namespace theria;

struct SquaredError {
    double weight;

    explicit THERIA_DEVICE SquaredError(const double *constants) : weight(constants[0]) {}

    template <class N, class X, class Y> THERIA_DEVICE void value(Row row, X x, Y y) const {
        N squares = row.sum<N>(row.width(0), [&](int n) { return (x(0, n) - x(1, n)) * (x(0, n) - x(1, n)); });
        row.once([&] { y.add(0, N(weight) * squares); });
    }
    template <class N, class X, class G, class I> THERIA_DEVICE void pull(Row row, X x, G g, I into) const {
        N slope = N(2 * weight) * g(0);
        row.each(row.width(0), [&](int n) {
            into.add(0, n, slope * (x(0, n) - x(1, n)));
            into.add(1, n, -slope * (x(0, n) - x(1, n)));
        });
    }
};

THERIA_ROWS(SquaredError)
