// x ← a·x + b·output
//
// x:       f32, any shape, updated in place
// output:  fp16, of as many numbers: what the network returned; null: x ← a·x
// Sizes: n numbers; factors a and b.
//
// Launch: grid ⌈n/2048⌉; block 256
// Computes in f32. x is written.
//
// Defines: none.
// Limits: x and output aligned to 16 bytes; n below 2³¹.
#include "include/device.cuh"
#include "include/vector.cuh"

KERNEL void LAUNCH_BOUNDS(256, 6) inversion_step(float* x, const h16* output, int n, float a, float b) {
    const int64_t i = ((int64_t)blockIdx.x * 256 + threadIdx.x) * 8;
    if (i + 8 <= n) {
        float v[8], step[8] = {};
        load8(x + i, v);
        if (output) load8_streaming(output + i, step);
#pragma unroll
        for (int e = 0; e < 8; ++e) v[e] = a * v[e] + b * step[e];
        store8(x + i, v);
    } else {
        for (int64_t j = i; j < n; ++j) x[j] = a * x[j] + (output ? b * to_f32(output[j]) : 0.0f);
    }
}
REGISTER_KERNEL(inversion_step)
