// y += x
//
// x:  f32 (fp16 with x_f16), any shape
// y:  f32 (fp16 with y_f16), of as many numbers
// Sizes: n numbers; x_f16 and y_f16 0 or 1.
//
// Launch: grid ⌈n/2048⌉; block 256
// Adds in f32. y is read and written.
//
// Defines: none.
// Limits: n below 2³¹; both pointers aligned to 16 bytes.
#include "include/device.cuh"
#include "include/vector.cuh"

KERNEL void LAUNCH_BOUNDS(256, 4) add(const void* x, void* y, int n, int x_f16, int y_f16) {
    const int64_t i = ((int64_t)blockIdx.x * 256 + threadIdx.x) * 8;
    if (i >= n) return;
    float v[8], sum[8];
    typed(x, x_f16, [&](auto* x) { load_some(x + i, n - i, v); });
    typed(y, y_f16, [&](auto* y) {
        load_some(y + i, n - i, sum);
#pragma unroll
        for (int e = 0; e < 8; ++e) sum[e] += v[e];
        store_some(y + i, n - i, sum);
    });
}
REGISTER_KERNEL(add)
