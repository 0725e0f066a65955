// Activations between convolutions.
#pragma once
#include "device.cuh"

DEVICE float sigmoid(float v) { return 1.0f / (1.0f + expf(-v)); }

// 0: none; 1: ReLU6; 2: SiLU, v·σ(v).
template <int KIND>
DEVICE float activate(float v) {
    static_assert(KIND >= 0 && KIND <= 2, "an activation of this list");
    return KIND == 1 ? fminf(fmaxf(v, 0.0f), 6.0f) : KIND == 2 ? v * sigmoid(v) : v;
}
