// What the kernels of Adam are given, in this order (`Step::constants` in optimiser.rs).
#pragma once

#include "elements.cuh"

namespace theria {

struct Adam {
    // α, β₁, β₂, ε, c₁, c₂.
    double rate, first, second, epsilon, c1, c2;

    explicit THERIA_DEVICE Adam(const double *constants)
        : rate(constants[0]), first(constants[1]), second(constants[2]), epsilon(constants[3]), c1(constants[4]),
          c2(constants[5]) {}
};

} // namespace theria
