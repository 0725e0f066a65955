// y = x·σ(x)
//
// x:  f32 (fp16 with x_f16), any shape
// y:  fp16, of as many numbers
// Sizes: n numbers; x_f16 0 or 1.
//
// Launch: grid ⌈n/2048⌉; block 256
// Computes in f32. y is written.
//
// Defines: none.
// Limits: n below 2³¹; both pointers aligned to 16 bytes.
#include "include/activation.cuh"
#include "include/device.cuh"
#include "include/vector.cuh"

KERNEL void LAUNCH_BOUNDS(256, 4) silu(const void* x, h16* y, int n, int x_f16) {
    const int64_t i = ((int64_t)blockIdx.x * 256 + threadIdx.x) * 8;
    if (i >= n) return;
    typed(x, x_f16, [&](auto* x) {
        float v[8];
        load_some(x + i, n - i, v);
#pragma unroll
        for (int e = 0; e < 8; ++e) v[e] *= sigmoid(v[e]);
        store_some(y + i, n - i, v);
    });
}
REGISTER_KERNEL(silu)
