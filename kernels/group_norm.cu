// y = x̂·weight + bias, or SiLU of it, with x̂ = (x + shift − μ)/σ, μ and σ² = variance + eps of an image's group of channels
//
// x:       fp16 (B, N, C), N cells
// shift:   f32, C numbers per image, image b's at b·table_stride from the pointer; table_stride 0 where all images share
//          a row; null: none
// weight, bias:  f32 (C)
// y:       fp16 (B, N, C)
// stats:   f32 (B, groups, 2), μ and 1/σ
// Sizes: cells N, channels C, table_stride; silu 0 or 1. Groups of C/groups neighbouring channels.
//
// Launch: grid groups, B; block 256
// Computes and accumulates in f32, in an order that depends on the sizes alone; the variance is taken from the
// differences to the mean. y and stats are written.
//
// Defines: none.
// Limits: C a multiple of 8; C/groups at most 2048, or 256 where it is no multiple of 8; x and y aligned to 16 bytes; B
// at most 65535.
//
// A block reads its group three times, from the second time on from caches: 256 cells of 16 channels are 8 KiB. Its floor
// is the bandwidth of x and y, 4 bytes a number; of the few images of an inference it is how long reading twice from
// memory and summing up twice take, whatever the size.
#include "include/device.cuh"
#include "include/group_norm.cuh"

template <int E>
DEVICE void normalise(const Share<E>& own, const h16* x, h16* y, float* stats, int size, int cells, int channels,
                      float eps, int silu, float (&sums)[2][WARPS]) {
    const int64_t image = (int64_t)blockIdx.y * cells * channels + own.channel;
    auto sum = [&](float mean, bool squared) {
        float sum = 0.0f;
        for (int cell = own.first; cell < cells; cell += own.step) {
            float v[E];
            load_part(x + image + (int64_t)cell * channels, v);
#pragma unroll
            for (int e = 0; e < E; ++e) {
                v[e] = v[e] + own.shift[e] - mean;
                sum += squared ? v[e] * v[e] : v[e];
            }
        }
        return block_sum(sum, sums[squared]);
    };
    const float count = (float)size * (float)cells;
    const float mean = sum(0.0f, false) / count;
    const float inverse = rsqrt_accurate(sum(mean, true) / count + eps);
    if (threadIdx.x == 0) {
        float* to = stats + ((int64_t)blockIdx.y * gridDim.x + blockIdx.x) * 2;
        to[0] = mean, to[1] = inverse;
    }
    for (int cell = own.first; cell < cells; cell += own.step) {
        const int64_t at = image + (int64_t)cell * channels;
        float v[E];
        load_part(x + at, v);
#pragma unroll
        for (int e = 0; e < E; ++e) {
            v[e] = (v[e] + own.shift[e] - mean) * inverse * own.weight[e] + own.bias[e];
            if (silu) v[e] *= sigmoid(v[e]);
        }
        store_part(y + at, v);
    }
}

KERNEL void LAUNCH_BOUNDS(256, 4)
group_norm(const h16* __restrict__ x, const float* shift, const float* weight, const float* bias, h16* y, float* stats,
           int cells, int channels, int table_stride, int silu, float eps) {
    SHARED(float, sums[2][WARPS]);
    const int size = channels / gridDim.x;
    if (shift) shift += (int64_t)blockIdx.y * table_stride;
    if (size % 8 == 0)
        normalise(share<8>(size, cells, shift, weight, bias), x, y, stats, size, cells, channels, eps, silu, sums);
    else normalise(share<1>(size, cells, shift, weight, bias), x, y, stats, size, cells, channels, eps, silu, sums);
}
REGISTER_KERNEL(group_norm)
