// dx = (g − mean(g) − x̂·mean(g·x̂))/σ or dx += that, with x̂ = (x + shift − μ)/σ, g = dz·weight and dz = dy, or
// dy·SiLU′(z) at z = x̂·weight + bias; the means are an image's group's; dshift = Σ_cells of that dx; and of each image
// dbias = Σ_cells dz, dweight = Σ_cells dz·x̂
//
// x, dy:   fp16 (B, N, C), N cells
// shift:   f32, C numbers per image, image b's at b·table_stride from the pointer; table_stride 0 where all images share
//          a row; null: none
// weight, bias:  f32 (C)
// stats:   f32 (B, groups, 2), μ and 1/σ
// dx:      f32 (fp16 with dx_f16), (B, N, C)
// dshift:  f32, C numbers per image, image b's at b·dtable_stride from the pointer; null: none
// sums:    f32 (B, 2, C): dbias, dweight
// Sizes: cells N, channels C, table_stride, dtable_stride; silu, accumulate and dx_f16 0 or 1. Groups of C/groups
// neighbouring channels.
//
// Launch: grid groups, B; block 256
// Computes and accumulates in f32, in an order that depends on the sizes alone. dx is written, or with `accumulate` added
// to; dshift and sums are written.
//
// Defines: none.
// Limits: C a multiple of 8; C/groups at most 2048, or 256 where it is no multiple of 8; x, dy and dx aligned to 16
// bytes; B at most 65535.
//
// From each channel's sums over cells of dz, dz·x̂ and x̂ follow all others. A block reads its group twice, the second time
// from caches. Its floor is the bandwidth of x, dy and dx.
#include "include/device.cuh"
#include "include/group_norm.cuh"

// What a block's threads tell each other.
struct Shared {
    // Of each thread dz, dz·x̂ and x̂ for its channels.
    float sums[3][8][THREADS];
    float means[2][WARPS];
};

struct Arguments {
    const h16 *x, *dy;
    const float* stats;
    float *dshift, *sums;
    int size, cells, channels, silu;
};

template <int E, class T>
DEVICE void differentiate(const Share<E>& own, const Arguments& a, T* dx, bool accumulate, Shared& shared) {
    const int thread = threadIdx.x;
    const int64_t image = (int64_t)blockIdx.y * a.cells * a.channels + own.channel;
    const float* stats = a.stats + ((int64_t)blockIdx.y * gridDim.x + blockIdx.x) * 2;
    const float mean = stats[0], inverse = stats[1];
    // x̂ and dz of one cell.
    auto fetch = [&](int64_t at, float(&normalised)[E], float(&dz)[E]) {
        load_part(a.x + at, normalised);
        load_part(a.dy + at, dz);
#pragma unroll
        for (int e = 0; e < E; ++e) {
            normalised[e] = (normalised[e] + own.shift[e] - mean) * inverse;
            if (!a.silu) continue;
            const float z = normalised[e] * own.weight[e] + own.bias[e], s = sigmoid(z);
            dz[e] *= s * (1.0f + z * (1.0f - s));
        }
    };
    float sums[3][E] = {}, normalised[E], dz[E];
    for (int cell = own.first; cell < a.cells; cell += own.step) {
        fetch(image + (int64_t)cell * a.channels, normalised, dz);
#pragma unroll
        for (int e = 0; e < E; ++e) {
            sums[0][e] += dz[e];
            sums[1][e] += dz[e] * normalised[e];
            sums[2][e] += normalised[e];
        }
    }
    auto each = [&](auto work) {
#pragma unroll
        for (int i = 0; i < 3 * E; ++i) work(shared.sums[i / E][i % E], sums[i / E][i % E]);
    };
    each([&](float(&all)[THREADS], float& sum) { all[thread] = sum; });
    // The threads of the first cells have all in the end.
    for (int rows = own.step; rows > 1;) {
        const int half = (rows + 1) / 2;
        __syncthreads();
        if (thread < (rows - half) * own.parts)
            each([&](float(&all)[THREADS], float& sum) {
                sum += all[thread + half * own.parts];
                all[thread] = sum;
            });
        rows = half;
    }
    float of_g = 0.0f, of_product = 0.0f;
    if (thread < own.parts) {
        float* to = a.sums + (int64_t)blockIdx.y * 2 * a.channels + own.channel;
#pragma unroll
        for (int e = 0; e < E; ++e) {
            of_g += sums[0][e] * own.weight[e];
            of_product += sums[1][e] * own.weight[e];
            to[e] = sums[0][e];
            to[a.channels + e] = sums[1][e];
        }
    }
    const float count = (float)a.size * (float)a.cells;
    of_g = block_sum(of_g, shared.means[0]) / count;
    of_product = block_sum(of_product, shared.means[1]) / count;
    if (a.dshift && thread < own.parts) {
#pragma unroll
        for (int e = 0; e < E; ++e)
            a.dshift[own.channel + e] =
                inverse * (sums[0][e] * own.weight[e] - a.cells * of_g - sums[2][e] * of_product);
    }
    for (int cell = own.first; cell < a.cells; cell += own.step) {
        const int64_t at = image + (int64_t)cell * a.channels;
        fetch(at, normalised, dz);
        float d[E] = {};
        if (accumulate) load_part(dx + at, d);
#pragma unroll
        for (int e = 0; e < E; ++e)
            d[e] += inverse * (dz[e] * own.weight[e] - of_g - normalised[e] * of_product);
        store_part(dx + at, d);
    }
}

KERNEL void LAUNCH_BOUNDS(256, 2)
group_norm_backward(const h16* __restrict__ x, const float* shift, const float* weight, const float* bias,
                    const float* stats, const h16* __restrict__ dy, void* dx, float* dshift, float* sums, int cells,
                    int channels, int table_stride, int dtable_stride, int silu, int accumulate, int dx_f16) {
    SHARED(Shared, shared);
    const int size = channels / gridDim.x;
    if (shift) shift += (int64_t)blockIdx.y * table_stride;
    if (dshift) dshift += (int64_t)blockIdx.y * dtable_stride;
    const Arguments a{x, dy, stats, dshift, sums, size, cells, channels, silu};
    typed(dx, dx_f16, [&](auto* dx) {
        if (size % 8 == 0)
            differentiate(share<8>(size, cells, shift, weight, bias), a, dx, accumulate, shared);
        else differentiate(share<1>(size, cells, shift, weight, bias), a, dx, accumulate, shared);
    });
}
REGISTER_KERNEL(group_norm_backward)
