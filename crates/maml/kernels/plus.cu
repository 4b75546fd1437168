// state += weight · read (optimiser.rs).
#include "elements.cuh"

using namespace theria;

struct Plus {
    static constexpr int STATE = 1, READ = 1;
    double weight;

    explicit THERIA_DEVICE Plus(const double *constants) : weight(constants[0]) {}

    template <class R> THERIA_DEVICE void operator()(R *state, const R *read) const {
        state[0] = state[0] + R(weight) * read[0];
    }
};

THERIA_ELEMENTS(Plus)
