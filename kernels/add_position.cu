// x[b] = tokens[b] + position, which begins the residual stream; of the first rows position alone
//
// tokens:    fp16 (B, T, D), T ≤ N, embedded patches; they belong to the last T of the N positions
// position:  f32 (N, D)
// x:         f32 (fp16 with x_f16), (B, N, D)
// Sizes: size = N·D; before = (N − T)·D; x_f16 0 or 1.
//
// Launch: grid ⌈size/2048⌉, B; block 256
// Computes in f32. x is written.
//
// Defines: none.
// Limits: D a multiple of 8; all pointers aligned to 16 bytes; B at most 65535.
#include "include/device.cuh"
#include "include/vector.cuh"

KERNEL void LAUNCH_BOUNDS(256, 4)
add_position(const h16* tokens, const float* position, void* x, int size, int before, int x_f16) {
    const int i = (blockIdx.x * 256 + threadIdx.x) * 8;
    if (i >= size) return;
    const int64_t at = (int64_t)blockIdx.y * size + i;
    float v[8], p[8];
    load8(position + i, p);
    if (i >= before) {
        load8_streaming(tokens + (int64_t)blockIdx.y * (size - before) + i - before, v);
#pragma unroll
        for (int e = 0; e < 8; ++e) p[e] += v[e];
    }
    typed(x, x_f16, [&](auto* x) { store8(x + at, p); });
}
REGISTER_KERNEL(add_position)
