// θ⁺ = θ - α g (optimiser.rs).
#include "elements.cuh"

using namespace theria;

struct SgdStep {
    static constexpr int STATE = 1, READ = 1;
    double rate;

    explicit THERIA_DEVICE SgdStep(const double *constants) : rate(constants[0]) {}

    template <class R> THERIA_DEVICE void operator()(R *state, const R *read) const {
        state[0] = state[0] - R(rate) * read[0];
    }
};

THERIA_ELEMENTS(SgdStep)
