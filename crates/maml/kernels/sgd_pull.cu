// γ = -α λ (optimiser.rs).
#include "elements.cuh"

using namespace theria;

struct SgdPull {
    static constexpr int STATE = 1, READ = 1;
    double rate;

    explicit THERIA_DEVICE SgdPull(const double *constants) : rate(constants[0]) {}

    template <class R> THERIA_DEVICE void operator()(R *state, const R *read) const {
        state[0] = -(R(rate) * read[0]);
    }
};

THERIA_ELEMENTS(SgdPull)
