// x[b] = tokens[b] + position, which begins the residual stream
//
// tokens:    fp16 (B, N, D), embedded patches
// position:  f32 (N, D)
// x:         f32 (fp16 with x_f16), (B, N, D)
// Sizes: size = N·D; x_f16 0 or 1.
//
// Launch: grid ⌈size/2048⌉, B; block 256
// Computes in f32. x is written.
//
// Defines: none.
// Limits: D a multiple of 8; all pointers aligned to 16 bytes; B at most 65535.
#include "include/device.cuh"
#include "include/vector.cuh"

KERNEL void LAUNCH_BOUNDS(256, 4)
add_position(const h16* tokens, const float* position, void* x, int size, int x_f16) {
    const int i = (blockIdx.x * 256 + threadIdx.x) * 8;
    if (i >= size) return;
    const int64_t at = (int64_t)blockIdx.y * size + i;
    float v[8], p[8];
    load8_streaming(tokens + at, v);
    load8(position + i, p);
#pragma unroll
    for (int e = 0; e < 8; ++e) v[e] += p[e];
    typed(x, x_f16, [&](auto* x) { store8(x + at, v); });
}
REGISTER_KERNEL(add_position)
