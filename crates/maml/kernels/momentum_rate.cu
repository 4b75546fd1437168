// What an element adds to the gradient of the rate: -λ u⁺, which is read after λ and g (optimiser.rs).
#include "elements.cuh"

using namespace theria;

struct MomentumRate {
    static constexpr int STATE = 1, READ = 3;

    explicit THERIA_DEVICE MomentumRate(const double *) {}

    template <class R> THERIA_DEVICE void operator()(R *state, const R *read) const {
        state[0] = -(read[0] * read[2]);
    }
};

THERIA_ELEMENTS(MomentumRate)
