// γ = υ - α λ, υ ← β γ (optimiser.rs).
#include "elements.cuh"

using namespace theria;

struct MomentumPull {
    static constexpr int STATE = 2, READ = 2;
    double rate, decay;

    explicit THERIA_DEVICE MomentumPull(const double *constants) : rate(constants[0]), decay(constants[1]) {}

    template <class R> THERIA_DEVICE void operator()(R *state, const R *read) const {
        state[0] = state[1] - R(rate) * read[0];
        state[1] = R(decay) * state[0];
    }
};

THERIA_ELEMENTS(MomentumPull)
