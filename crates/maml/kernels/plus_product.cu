// state += a ∘ b (element_rates.rs).
#include "elements.cuh"

using namespace theria;

struct PlusProduct {
    static constexpr int STATE = 1, READ = 2;

    explicit THERIA_DEVICE PlusProduct(const double *) {}

    template <class R> THERIA_DEVICE void operator()(R *state, const R *read) const {
        state[0] = state[0] + read[0] * read[1];
    }
};

THERIA_ELEMENTS(PlusProduct)
