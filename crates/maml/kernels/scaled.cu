// state = weight · state (optimiser.rs).
#include "elements.cuh"

using namespace theria;

struct Scaled {
    static constexpr int STATE = 1, READ = 0;
    double weight;

    explicit THERIA_DEVICE Scaled(const double *constants) : weight(constants[0]) {}

    template <class R> THERIA_DEVICE void operator()(R *state, const R *) const { state[0] = R(weight) * state[0]; }
};

THERIA_ELEMENTS(Scaled)
