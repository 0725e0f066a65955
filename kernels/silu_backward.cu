// dx = dy·σ(x)·(1 + x·(1 − σ(x)))
//
// x:       f32 (fp16 with x_f16), any shape
// dy, dx:  f32 (fp16 with d_f16), of as many numbers; dx may be dy
// Sizes: n numbers; x_f16 and d_f16 0 or 1.
//
// Launch: grid ⌈n/2048⌉; block 256
// Computes in f32. dx is written.
//
// Defines: none.
// Limits: n below 2³¹; all pointers aligned to 16 bytes.
#include "include/activation.cuh"
#include "include/device.cuh"
#include "include/vector.cuh"

KERNEL void LAUNCH_BOUNDS(256, 4)
silu_backward(const void* x, const void* dy, void* dx, int n, int x_f16, int d_f16) {
    const int64_t i = ((int64_t)blockIdx.x * 256 + threadIdx.x) * 8;
    if (i >= n) return;
    float v[8], d[8];
    typed(x, x_f16, [&](auto* x) { load_some(x + i, n - i, v); });
    typed(dy, d_f16, [&](auto* dy) { load_some(dy + i, n - i, d); });
#pragma unroll
    for (int e = 0; e < 8; ++e) {
        const float s = sigmoid(v[e]);
        d[e] = d[e] * s * (1.0f + v[e] * (1.0f - s));
    }
    typed(dx, d_f16, [&](auto* dx) { store_some(dx + i, n - i, d); });
}
REGISTER_KERNEL(silu_backward)
