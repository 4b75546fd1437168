// state = read (optimiser.rs).
#include "elements.cuh"

using namespace theria;

struct Assign {
    static constexpr int STATE = 1, READ = 1;

    explicit THERIA_DEVICE Assign(const double *) {}

    template <class R> THERIA_DEVICE void operator()(R *state, const R *read) const { state[0] = read[0]; }
};

THERIA_ELEMENTS(Assign)
