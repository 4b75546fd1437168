// max(x, 0), whose derivative at 0 is 0 (units.rs).
#include "rows.cuh"

using namespace theria;

struct Relu {
    explicit THERIA_DEVICE Relu(const double *) {}

    // NaN passes: a loop that diverges is seen to.
    template <class N> static THERIA_DEVICE bool passes(N x) { return !(value_of(x) <= 0); }

    template <class N, class X, class Y> THERIA_DEVICE void value(Row row, X x, Y y) const {
        row.each(row.width(0), [&](int n) { y.add(n, passes(x(0, n)) ? x(0, n) : N(0)); });
    }
    template <class N, class X, class G, class I> THERIA_DEVICE void pull(Row row, X x, G g, I into) const {
        row.each(row.width(0), [&](int n) { into.add(0, n, passes(x(0, n)) ? g(n) : N(0)); });
    }
};

THERIA_ROWS(Relu)
