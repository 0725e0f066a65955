// loss[b] = w[b]·mean((p − target)²) over image b, target = a[b]·x0 + s[b]·noise, and dp = slope[b]·(p − target)
//
// p:          the prediction, fp16 (B, …)
// x0:         fp16 (B, …)
// noise:      f32 (B, …)
// a, s, w, slope:  f32 (B)
// loss:       f32 (B)
// dp:         fp16 (B, …); may be null
// Sizes: size = numbers of an image, of which the first 8·eights are taken by eights.
//
// Launch: grid B; block 512
// A block per image.
// Computes and accumulates in f32, in an order that depends on size and eights alone. loss and dp are written.
//
// Defines: none.
// Limits: size at least 1; with `eights` above 0 size a multiple of 8, and p, x0, noise and dp aligned to 16 bytes.
#include "include/device.cuh"
#include "include/vector.cuh"

const int WARPS = 16;
const int THREADS = 32 * WARPS;

KERNEL void LAUNCH_BOUNDS(THREADS, 2)
denoising_loss(const h16* p, const h16* x0, const float* noise, const float* a, const float* s,
               const float* w, const float* slope, float* loss, h16* dp, int size, int eights) {
    SHARED(float, scratch[WARPS]);
    const float signal = a[blockIdx.x], spread = s[blockIdx.x], factor = slope[blockIdx.x];
    const int64_t image = (int64_t)blockIdx.x * size;
    float squares = 0.0f;
#pragma unroll 2
    for (int i = threadIdx.x; i < eights; i += THREADS) {
        const int64_t at = image + 8 * i;
        float difference[8], target[8], n[8];
        load8_streaming(p + at, difference);
        load8_streaming(x0 + at, target);
        load8_streaming(noise + at, n);
#pragma unroll
        for (int e = 0; e < 8; ++e) {
            difference[e] -= signal * target[e] + spread * n[e];
            squares += difference[e] * difference[e];
            difference[e] *= factor;
        }
        if (dp) store8(dp + at, difference);
    }
    for (int i = 8 * eights + threadIdx.x; i < size; i += THREADS) {
        const int64_t at = image + i;
        const float difference = to_f32(p[at]) - (signal * to_f32(x0[at]) + spread * noise[at]);
        squares += difference * difference;
        if (dp) dp[at] = to_h16(factor * difference);
    }
    const float sum = block_sum<WARPS>(squares, scratch);
    if (threadIdx.x == 0) loss[blockIdx.x] = w[blockIdx.x] * (sum / size);
}
REGISTER_KERNEL(denoising_loss)
