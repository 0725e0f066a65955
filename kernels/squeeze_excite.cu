// gate[b, c] = Σ_r expand[r, c] · SiLU(Σ_c' reduce[r, c'] · mean[b, c'] + reduce_bias[r]) + expand_bias[c],
// mean[b, c] = Σ_s sums[b, s, c] / pixels: squeeze-excite between depthwise_conv2d, which leaves the sums, and channel_gate
//
// sums:         f32 (B, S, M)
// reduce:       f32 (R, M)
// reduce_bias:  f32 (R)
// expand:       f32 (R, M)
// expand_bias:  f32 (M)
// gate:         fp16 (B, M), before the sigmoid
// Sizes: count = S, pixels, channels = M, reduced = R.
//
// Launch: grid B; block 512; shared 4·(max(1, ⌊16/⌈M/32⌉⌋)·M + R)
// Accumulates in f32, in an order that depends on the sizes alone. gate is written.
//
// Defines: none.
// Limits: M + R at most 12288 − 512, so that shared memory suffices everywhere.
//
// A warp sums 32 channels; where there are fewer than 16 such parts, they share the sums out as well.
#include "include/activation.cuh"
#include "include/device.cuh"
#include "include/reduce.cuh"

const int THREADS = 512;
const int WARPS = THREADS / 32;

KERNEL void LAUNCH_BOUNDS(THREADS, 2)
squeeze_excite(const float* sums, const float* reduce, const float* reduce_bias, const float* expand,
               const float* expand_bias, h16* gate, int count, int pixels, int channels, int reduced) {
    DYNAMIC_SHARED(float, memory);
    const int tiles = (channels + 31) / 32, parts = tiles < WARPS ? WARPS / tiles : 1;
    float* mean = memory;
    float* hidden = memory + parts * channels;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    const float* image = sums + (int64_t)blockIdx.x * count * channels;
    for (int i = warp; i < tiles * parts; i += WARPS) {
        const int channel = i % tiles * 32 + lane, part = i / tiles;
        if (channel >= channels) continue;
        float sum = 0.0f;
#pragma unroll 8
        for (int s = part; s < count; s += parts) sum += image[(int64_t)s * channels + channel];
        memory[part * channels + channel] = sum;
    }
    __syncthreads();
    for (int c = threadIdx.x; c < channels; c += THREADS) {
        float sum = 0.0f;
        for (int part = 0; part < parts; ++part) sum += memory[part * channels + c];
        mean[c] = sum / pixels;
    }
    __syncthreads();
    for (int r = warp; r < reduced; r += WARPS) {
        float sum = 0.0f;
        for (int c = lane; c < channels; c += 32) sum += reduce[(int64_t)r * channels + c] * mean[c];
        sum = warp_sum(sum) + reduce_bias[r];
        if (lane == 0) hidden[r] = sum * sigmoid(sum);
    }
    __syncthreads();
    for (int c = threadIdx.x; c < channels; c += THREADS) {
        float sum = expand_bias[c];
        for (int r = 0; r < reduced; ++r) sum += hidden[r] * expand[(int64_t)r * channels + c];
        gate[(int64_t)blockIdx.x * channels + c] = to_h16(sum);
    }
}
REGISTER_KERNEL(squeeze_excite)
