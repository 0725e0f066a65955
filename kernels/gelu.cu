// y = GELU(x): with erf x·½(1 + erf(x/√2)), else x·σ(2u), u = √(2/π)(x + 0.044715x³), the tanh form
//
// x:  fp16, any shape
// y:  fp16, of as many numbers; may be x itself
// Sizes: n numbers; erf 0 or 1.
//
// Launch: grid ⌈n/2048⌉; block 256
// Computes in f32. y is written.
//
// Defines: none.
// Limits: n a multiple of 8, below 2³¹; both pointers aligned to 16 bytes.
#include "include/activation.cuh"
#include "include/device.cuh"
#include "include/vector.cuh"

KERNEL void LAUNCH_BOUNDS(256, 4) gelu(const h16* x, h16* y, int n, int erf) {
    const int64_t i = ((int64_t)blockIdx.x * 256 + threadIdx.x) * 8;
    if (i >= n) return;
    float v[8];
    load8(x + i, v);
    if (erf) {
        // Of negative numbers 1 + erf would cancel.
#pragma unroll
        for (int e = 0; e < 8; ++e) v[e] *= 0.5f * erfcf(-0.70710678f * v[e]);
    } else {
#pragma unroll
        for (int e = 0; e < 8; ++e) v[e] = gelu_tanh(v[e]);
    }
    store8(y + i, v);
}
REGISTER_KERNEL(gelu)
