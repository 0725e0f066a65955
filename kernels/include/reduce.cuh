// Reductions in a fixed order: the same inputs give the same bits. The result is in every lane or thread.
#pragma once

DEVICE float warp_sum(float x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) x += __shfl_xor_sync(0xffffffffu, x, distance);
    return x;
}

// A NaN is passed over, as fmaxf and fminf do.
DEVICE float warp_max(float x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
    return x;
}

DEVICE float warp_min(float x) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2)
        x = fminf(x, __shfl_xor_sync(0xffffffffu, x, distance));
    return x;
}

// Of a one-dimensional block of WARPS full warps, through `scratch` in shared memory. A barrier must stand
// between two uses of the same scratch.
template <int WARPS>
DEVICE float block_sum(float x, float (&scratch)[WARPS]) {
    x = warp_sum(x);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
    __syncthreads();
    float sum = 0.0f;
#pragma unroll
    for (int warp = 0; warp < WARPS; ++warp) sum += scratch[warp];
    return sum;
}
