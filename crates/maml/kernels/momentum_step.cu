// u⁺ = β u + g, θ⁺ = θ - α u⁺ (optimiser.rs).
#include "elements.cuh"

using namespace theria;

struct MomentumStep {
    static constexpr int STATE = 2, READ = 1;
    double rate, decay;

    explicit THERIA_DEVICE MomentumStep(const double *constants) : rate(constants[0]), decay(constants[1]) {}

    template <class R> THERIA_DEVICE void operator()(R *state, const R *read) const {
        state[1] = R(decay) * state[1] + read[0];
        state[0] = state[0] - R(rate) * state[1];
    }
};

THERIA_ELEMENTS(MomentumStep)
