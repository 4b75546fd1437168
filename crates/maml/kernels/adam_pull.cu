// The pull-back of a step of Adam (optimiser.rs):
//
//     μ ← μ - α λ/(c₁ D)       ν ← ν + α λ (m⁺/c₁)/(2 c₂ s D²)
//     γ = (1-β₁) μ + 2 (1-β₂) g ν                μ ← β₁ μ       ν ← β₂ ν
#include "adam.cuh"

using namespace theria;

struct AdamPull : Adam {
    static constexpr int STATE = 3, READ = 4;
    using Adam::Adam;

    template <class R> THERIA_DEVICE void operator()(R *state, const R *read) const {
        R lambda = read[0], g = read[1], mean = read[2] / R(c1), root = root_of(read[3] / R(c2));
        R below = root + R(epsilon);
        R of_mean = state[1] - R(rate) * lambda / (R(c1) * below);
        R of_square = state[2];
        if (root > R(0)) {
            of_square = of_square + R(rate) * lambda * mean / (R(2) * R(c2) * root * below * below);
        }
        state[0] = (R(1) - R(first)) * of_mean + R(2) * (R(1) - R(second)) * g * of_square;
        state[1] = R(first) * of_mean;
        state[2] = R(second) * of_square;
    }
};

THERIA_ELEMENTS(AdamPull)
