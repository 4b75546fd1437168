// Layer normalisation (normalise.rs):
//
//     x̂ = (x - mean x) / σ      σ² = mean (x - mean x)² + ε      y = gain ∘ x̂ + shift
//     x̄ = (u - mean u - x̂ mean(u ∘ x̂)) / σ, where u = gain ∘ ḡ
#include "rows.cuh"

using namespace theria;

struct Normalise {
    double epsilon;

    explicit THERIA_DEVICE Normalise(const double *constants) : epsilon(constants[0]) {}

    // x̂ of an element, and what it is made of.
    template <class N> struct Unit {
        N mean, inverse;
        template <class X> THERIA_DEVICE N operator()(X x, int n) const { return (x(0, n) - mean) * inverse; }
    };
    template <class N, class X> THERIA_DEVICE Unit<N> unit(Row row, X x) const {
        int width = row.width(0);
        N count = N(double(width));
        N mean = row.sum<N>(width, [&](int n) { return x(0, n); }) / count;
        N variance = row.sum<N>(width, [&](int n) { return (x(0, n) - mean) * (x(0, n) - mean); }) / count;
        return {mean, N(1) / root_of(variance + N(epsilon))};
    }

    template <class N, class X, class Y> THERIA_DEVICE void value(Row row, X x, Y y) const {
        Unit<N> unit = this->unit<N>(row, x);
        row.each(row.width(0), [&](int n) { y.add(n, x(1, n) * unit(x, n) + x(2, n)); });
    }
    template <class N, class X, class G, class I> THERIA_DEVICE void pull(Row row, X x, G g, I into) const {
        int width = row.width(0);
        Unit<N> unit = this->unit<N>(row, x);
        if (into.wants(0)) {
            N count = N(double(width));
            N mean = row.sum<N>(width, [&](int n) { return g(n) * x(1, n); }) / count;
            N along = row.sum<N>(width, [&](int n) { return g(n) * x(1, n) * unit(x, n); }) / count;
            row.each(width, [&](int n) {
                into.add(0, n, (g(n) * x(1, n) - mean - unit(x, n) * along) * unit.inverse);
            });
        }
        row.each(width, [&](int n) {
            into.add(1, n, g(n) * unit(x, n));
            into.add(2, n, g(n));
        });
    }
};

THERIA_ROWS(Normalise)
