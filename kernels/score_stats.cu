// stats[b] = (max, min, max − min, mean of the 5 largest, ½·Σ map²) of map[b]
//
// map:    f32 (B, N), the norm of each token of a latent; not negative
// stats:  f32 (B, 5); all NaN where the image's map has a NaN. Where N < 5 the mean is over N
// Sizes: tokens = N.
//
// Launch: grid B; block 32
// A warp per image.
// Accumulates in f32, in an order that depends on N alone. stats is written.
//
// Defines: none.
// Limits: N at least 1.
#include "include/device.cuh"

const int TOP = 5;

// Inserts into numbers that descend and drops the last.
DEVICE void insert(float (&top)[TOP], float value) {
#pragma unroll
    for (int k = 0; k < TOP; ++k) {
        const float larger = fmaxf(top[k], value);
        value = fminf(top[k], value);
        top[k] = larger;
    }
}

KERNEL void LAUNCH_BOUNDS(32, 16) score_stats(const float* map, float* stats, int tokens) {
    map += (int64_t)blockIdx.x * tokens;
    stats += (int64_t)blockIdx.x * 5;
    // Norms are not negative: −1 is below them all.
    float top[TOP] = {-1, -1, -1, -1, -1}, lowest = map[0], squares = 0.0f;
    for (int i = threadIdx.x; i < tokens; i += 32) {
        const float v = map[i];
        insert(top, v);
        lowest = fminf(lowest, v);
        squares += v * v;
    }
    lowest = warp_min(lowest);
    squares = warp_sum(squares);
    // Pairs of lanes exchange their lists, then pairs of pairs, …: no number is ever counted twice.
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
        float other[TOP];
#pragma unroll
        for (int k = 0; k < TOP; ++k) other[k] = __shfl_xor_sync(~0u, top[k], step);
#pragma unroll
        for (int k = 0; k < TOP; ++k) insert(top, other[k]);
    }
    if (threadIdx.x != 0) return;
    float sum = 0.0f;
    const int count = tokens < TOP ? tokens : TOP;
#pragma unroll
    for (int k = 0; k < TOP; ++k) sum += k < count ? top[k] : 0.0f;
    // A NaN in the map is one in the sum of squares, and adds itself to every number.
    const float nan = squares != squares ? squares : 0.0f;
    stats[0] = top[0] + nan;
    stats[1] = lowest + nan;
    stats[2] = top[0] - lowest + nan;
    stats[3] = sum / count + nan;
    stats[4] = 0.5f * squares;
}
REGISTER_KERNEL(score_stats)
