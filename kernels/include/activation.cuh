// Activations.
#pragma once
#include "device.cuh"

DEVICE float sigmoid(float v) { return 1.0f / (1.0f + expf(-v)); }

// v·σ(2u), u = √(2/π)(v + 0.044715v³).
DEVICE float gelu_tanh(float v) {
    const float u = 0.79788456f * (v + 0.044715f * v * v * v);
    return v * sigmoid(2.0f * u);
}

// Calls `work` with an activation, 0: none; 1: ReLU6; 2: SiLU, v·σ(v). The choice is the whole launch's: one branch,
// with code for each behind it.
template <class Work>
DEVICE void with_activation(int kind, Work work) {
    if (kind == 0) work([](float v) { return v; });
    else if (kind == 1) work([](float v) { return fminf(fmaxf(v, 0.0f), 6.0f); });
    else work([](float v) { return v * sigmoid(v); });
}
