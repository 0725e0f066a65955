// y = x·σ(x)
//
// x:  f32 (fp16 with x_f16), any shape
// y:  fp16, of as many numbers
// Sizes: n numbers; x_f16 0 or 1.
//
// Launch: grid ⌈n/256⌉; block 256
// Computes in f32. y is written.
//
// Defines: none.
// Limits: n below 2³¹.
#include "include/activation.cuh"
#include "include/device.cuh"
#include "include/vector.cuh"

KERNEL void LAUNCH_BOUNDS(256, 6) silu(const void* x, h16* y, int n, int x_f16) {
    const int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i >= n) return;
    typed(x, x_f16, [&](auto* x) {
        const float v = load1(x + i);
        y[i] = to_h16(v * sigmoid(v));
    });
}
REGISTER_KERNEL(silu)
