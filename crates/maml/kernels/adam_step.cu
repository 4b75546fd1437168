// m⁺ = β₁ m + (1-β₁) g, v⁺ = β₂ v + (1-β₂) g², θ⁺ = θ - α (m⁺/c₁) / (√(v⁺/c₂) + ε) (optimiser.rs).
#include "adam.cuh"

using namespace theria;

struct AdamStep : Adam {
    static constexpr int STATE = 3, READ = 1;
    using Adam::Adam;

    template <class R> THERIA_DEVICE void operator()(R *state, const R *read) const {
        R g = read[0];
        state[1] = R(first) * state[1] + (R(1) - R(first)) * g;
        state[2] = R(second) * state[2] + (R(1) - R(second)) * g * g;
        state[0] = state[0] - R(rate) * (state[1] / R(c1)) / (root_of(state[2] / R(c2)) + R(epsilon));
    }
};

THERIA_ELEMENTS(AdamStep)
