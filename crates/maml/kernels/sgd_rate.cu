// What an element adds to the gradient of the rate: -λ g (optimiser.rs).
#include "elements.cuh"

using namespace theria;

struct SgdRate {
    static constexpr int STATE = 1, READ = 2;

    explicit THERIA_DEVICE SgdRate(const double *) {}

    template <class R> THERIA_DEVICE void operator()(R *state, const R *read) const {
        state[0] = -(read[0] * read[1]);
    }
};

THERIA_ELEMENTS(SgdRate)
