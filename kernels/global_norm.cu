// sums[block] = Σ x² over the numbers of a block
//
// x:     f32, any shape
// sums:  f32, a number for each block
// Sizes: n numbers.
//
// Launch: grid ⌈n/16384⌉; block 256
// Accumulates in f32, in an order that depends on n alone. sums is written.
//
// Defines: none.
// Limits: n below 2³¹; x aligned to 16 bytes.
#include "include/device.cuh"
#include "include/vector.cuh"

const int WARPS = 8;
const int VECTORS = 8;

KERNEL void LAUNCH_BOUNDS(32 * WARPS, 6) global_norm(const float* x, float* sums, int n) {
    SHARED(float, scratch[WARPS]);
    const int64_t first = ((int64_t)blockIdx.x * VECTORS * 32 * WARPS + threadIdx.x) * 8;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < VECTORS; ++i) {
        const int64_t at = first + i * 8 * 32 * WARPS;
        if (at >= n) break;
        float v[8];
        load_some(x + at, n - at, v);
#pragma unroll
        for (int e = 0; e < 8; ++e) sum += v[e] * v[e];
    }
    sum = block_sum<WARPS>(sum, scratch);
    if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}
REGISTER_KERNEL(global_norm)
