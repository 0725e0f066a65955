// x[b] = tokens[b] + position, which begins the residual stream
//
// tokens:    fp16 (B, N, D), embedded patches
// position:  f32 (N, D)
// x:         f32 (fp16 with STREAM_F16), (B, N, D)
// Sizes: size = N·D.
//
// Grid (⌈size/2048⌉, B), block 256, no shared memory.
// Computes in f32. x is written.
//
// STREAM_F16  1: x is fp16; 0: f32.
// Sets: STREAM_F16 0 1
// Limits: D a multiple of 8; all pointers aligned to 16 bytes; B at most 65535.
#include "include/device.cuh"
#include "include/vector.cuh"

#if !defined(STREAM_F16)
#error "add_position needs STREAM_F16"
#endif

#if STREAM_F16
typedef h16 Stream;
#else
typedef float Stream;
#endif

KERNEL void LAUNCH_BOUNDS(256, 4)
add_position(const h16* tokens, const float* position, Stream* x, int size) {
    const int i = (blockIdx.x * 256 + threadIdx.x) * 8;
    if (i >= size) return;
    const int64_t at = (int64_t)blockIdx.y * size + i;
    float v[8], p[8];
    load8_streaming(tokens + at, v);
    load8(position + i, p);
#pragma unroll
    for (int e = 0; e < 8; ++e) v[e] += p[e];
    store8(x + at, v);
}
REGISTER_KERNEL(add_position)
