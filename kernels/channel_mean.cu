// mean[b, c] = Σ_p x[b, p, c] / P, the squeeze of squeeze-excite
//
// x:     fp16 (B, P, C), P pixels
// mean:  fp16 (B, C)
// Sizes: pixels = P, channels = C.
//
// Launch: grid ⌈C/64⌉, B; block 256
// Accumulates in f32, in an order that depends on P alone. mean is written.
//
// Defines: none.
// Limits: C a multiple of 8; x aligned to 16 bytes; B at most 65535.
//
// 8 neighbouring threads own 8 channels each; 32 such rows of threads share the pixels out.
#include "include/device.cuh"
#include "include/vector.cuh"

KERNEL void LAUNCH_BOUNDS(256, 4) channel_mean(const h16* x, h16* mean, int pixels, int channels) {
    SHARED(float, sums[32][64]);
    const int group = threadIdx.x % 8, part = threadIdx.x / 8, channel = (blockIdx.x * 8 + group) * 8;
    float sum[8] = {};
    if (channel < channels) {
        const h16* image = x + (int64_t)blockIdx.y * pixels * channels + channel;
        for (int p = part; p < pixels; p += 32) {
            float v[8];
            load8_streaming(image + (int64_t)p * channels, v);
#pragma unroll
            for (int e = 0; e < 8; ++e) sum[e] += v[e];
        }
    }
    store8(&sums[part][group * 8], sum);
    __syncthreads();
    const int own = blockIdx.x * 64 + threadIdx.x;
    if (threadIdx.x < 64 && own < channels) {
        float total = 0.0f;
#pragma unroll
        for (int i = 0; i < 32; ++i) total += sums[i][threadIdx.x];
        mean[(int64_t)blockIdx.y * channels + own] = to_h16(total / pixels);
    }
}
REGISTER_KERNEL(channel_mean)
