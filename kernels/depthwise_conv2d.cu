// y = activation(Σ weight · x̂ + bias),  x̂ = input_activation(x): y[b, i, j, c] sums
// x̂[b, i·stride + k − top, j·stride + l − left, c] · weight[k, l, c] over k and l, where x̂ is 0 outside the
// image
//
// x:       fp16 (B, H, W, C)
// weight:  f32 (K, K, C)
// bias:    f32 (C)
// y:       fp16 (B, H', W', C)
// totals:  f32 (B, H', S, C), or null: sums of y, before it is rounded, of which channel_mean's mean follows
// S:       ⌈⌈W'/4⌉·(C/8)/128⌉, for C above 1024 ⌈W'/4⌉
// Sizes: height = H, width = W, channels = C, out_height = H', out_width = W', and what pads the image above
// (top) and to its left (left); what lies past its other sides follows from H' and W'.
// activation: 0 none; 1 ReLU6; 2 SiLU, v·σ(v); input_activation the same for x, so that the product before can leave
// its activation to this kernel.
//
// Launch: grid ⌈⌈W'/4⌉·(C/8)/128⌉, H', B; block 128
// Accumulates in f32, totals in an order that depends on W' and C alone. y and totals are written.
//
// KERNEL_SIZE  K, 3 or 5.
// STRIDE       1 or 2.
// Sets: KERNEL_SIZE 3 5, STRIDE 1 2
// Limits: C a multiple of 8; all pointers aligned to 16 bytes; H' and B at most 65535; W·C below 2³¹.
//
// A thread computes 8 channels of 4 neighbouring pixels, which share what they read of a row. The threads of a block that
// have the same channels add up their sums: the first of them that of all.
#include "include/activation.cuh"
#include "include/device.cuh"
#include "include/vector.cuh"

#if !defined(KERNEL_SIZE) || !defined(STRIDE)
#error "depthwise_conv2d needs KERNEL_SIZE and STRIDE"
#endif

const int THREADS = 128;
const int PIXELS = 4;
const int COLUMNS = (PIXELS - 1) * STRIDE + KERNEL_SIZE;

KERNEL void LAUNCH_BOUNDS(THREADS, 4)
depthwise_conv2d(const h16* x, const float* weight, const float* bias, h16* y, int height, int width,
                 int channels, int out_height, int out_width, int top, int left, int activation,
                 int input_activation, float* totals) {
    const int groups = channels / 8, i = blockIdx.x * THREADS + threadIdx.x;
    const int channel = i % groups * 8, column = i / groups * PIXELS, row = blockIdx.y;
    const bool outside = column >= out_width;
    if (outside && !totals) return;
    const h16* image = x + (int64_t)blockIdx.z * height * width * channels + channel;

    float sums[PIXELS][8];
#pragma unroll
    for (int p = 0; p < PIXELS; ++p) load8(bias + channel, sums[p]);
    with_activation(input_activation, [&](auto activate) {
#pragma unroll 1
        for (int ky = 0; ky < KERNEL_SIZE; ++ky) {
            const int in_row = row * STRIDE + ky - top;
            if (in_row < 0 || in_row >= height) continue;
            const h16* line = image + (int64_t)in_row * width * channels;
            float w[KERNEL_SIZE][8];
#pragma unroll
            for (int kx = 0; kx < KERNEL_SIZE; ++kx) {
                load8(weight + (ky * KERNEL_SIZE + kx) * channels + channel, w[kx]);
            }
#pragma unroll
            for (int c = 0; c < COLUMNS; ++c) {
                const int in_column = column * STRIDE + c - left;
                if (in_column < 0 || in_column >= width) continue;
                float v[8];
                load8(line + in_column * channels, v);
#pragma unroll
                for (int e = 0; e < 8; ++e) v[e] = activate(v[e]);
#pragma unroll
                for (int p = 0; p < PIXELS; ++p) {
                    const int kx = c - p * STRIDE;
                    if (kx < 0 || kx >= KERNEL_SIZE) continue;
#pragma unroll
                    for (int e = 0; e < 8; ++e) sums[p][e] += v[e] * w[kx][e];
                }
            }
        }
    });
    h16* to = y + (((int64_t)blockIdx.z * out_height + row) * out_width + column) * channels + channel;
    float total[8] = {};
    with_activation(activation, [&](auto activate) {
#pragma unroll
        for (int p = 0; p < PIXELS; ++p) {
            if (column + p >= out_width) break;
#pragma unroll
            for (int e = 0; e < 8; ++e) {
                sums[p][e] = activate(sums[p][e]);
                total[e] += sums[p][e];
            }
            store8(to + p * channels, sums[p]);
        }
    });
    if (!totals) return;
    SHARED(float, each[THREADS][8]);
    store8(each[threadIdx.x], total);
    __syncthreads();
    // Either every group has a thread in every block, or every thread a group of its own.
    const bool shared = groups <= THREADS;
    if (shared ? threadIdx.x >= groups : outside) return;
    for (int other = threadIdx.x + groups; other < THREADS; other += groups) {
#pragma unroll
        for (int e = 0; e < 8; ++e) total[e] += each[other][e];
    }
    const int slots = shared ? gridDim.x : (out_width + PIXELS - 1) / PIXELS;
    const int slot = shared ? blockIdx.x : i / groups;
    store8(totals + (((int64_t)blockIdx.z * out_height + row) * slots + slot) * channels + channel, total);
}
REGISTER_KERNEL(depthwise_conv2d)
