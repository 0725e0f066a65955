// dx = dy·σ(x)·(1 + x·(1 − σ(x)))
//
// x:       f32 (fp16 with x_f16), any shape
// dy, dx:  f32, of as many numbers; dx may be dy
// Sizes: n numbers; x_f16 0 or 1.
//
// Launch: grid ⌈n/256⌉; block 256
// Computes in f32. dx is written.
//
// Defines: none.
// Limits: n below 2³¹.
#include "include/activation.cuh"
#include "include/device.cuh"
#include "include/vector.cuh"

KERNEL void LAUNCH_BOUNDS(256, 6)
silu_backward(const void* x, const float* dy, float* dx, int n, int x_f16) {
    const int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i >= n) return;
    typed(x, x_f16, [&](auto* x) {
        const float v = load1(x + i), s = sigmoid(v);
        dx[i] = dy[i] * s * (1.0f + v * (1.0f - s));
    });
}
REGISTER_KERNEL(silu_backward)
