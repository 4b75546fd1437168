// What an element adds to the gradient of the rate: -λ (m⁺/c₁) / (√(v⁺/c₂) + ε), which are read after λ and g
// (optimiser.rs).
#include "adam.cuh"

using namespace theria;

struct AdamRate : Adam {
    static constexpr int STATE = 1, READ = 4;
    using Adam::Adam;

    template <class R> THERIA_DEVICE void operator()(R *state, const R *read) const {
        R below = root_of(read[3] / R(c2)) + R(epsilon);
        state[0] = -(read[0] * (read[2] / R(c1)) / below);
    }
};

THERIA_ELEMENTS(AdamRate)
