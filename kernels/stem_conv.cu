// y = activation(Σ weight · x̂ + bias),  a 3 × 3 convolution at stride 2 of x̂ = rgb · factor + offset
//
// The first layer of an image network, from bytes: x̂[c] = (rgb[c]/255 − mean[c])/std[c] with
// factor = 1/(255·std), offset = −mean/std; or x̂ = rgb of numbers that are normalised. Outside the image x̂ is 0.
// rgb:        u8 (f32 with normalised), (B, H, W, 3)
// normalise:  f32 (6), the three factors, then the three offsets
// weight:     f32 (3, 3, 3, O): kernel row, kernel column, input channel, output channel
// bias:       f32 (O)
// y:          fp16 (B, H', W', O)
// Sizes: height = H, width = W, out_height = H', out_width = W', out_channels = O, and what pads the image
// above (top) and to its left (left); what lies past its other sides follows from H' and W'.
// activation: 0 none; 1 ReLU6; 2 SiLU, v·σ(v). normalised: 0 or 1.
//
// Launch: grid ⌈⌈W'/4⌉·(O/8)/128⌉, H', B; block 128; shared 112·O
// Accumulates in f32. y is written.
//
// Defines: none.
// Limits: O a multiple of 8 up to 256; weight, bias and y aligned to 16 bytes; H' and B at most 65535.
//
// A thread computes 8 channels of 4 neighbouring pixels.
#include "include/activation.cuh"
#include "include/device.cuh"
#include "include/vector.cuh"

const int THREADS = 128;
const int PIXELS = 4;

DEVICE float pixel(uint8_t v, float factor, float offset) { return v * factor + offset; }
DEVICE float pixel(float v, float, float) { return v; }

KERNEL void LAUNCH_BOUNDS(THREADS, 4)
stem_conv(const void* rgb, const float* normalise, const float* weight, const float* bias, h16* y,
          int height, int width, int out_height, int out_width, int out_channels, int top, int left,
          int activation, int normalised) {
    DYNAMIC_SHARED(float, weights);
    for (int i = threadIdx.x; i < 28 * out_channels; i += THREADS) {
        weights[i] = i < 27 * out_channels ? weight[i] : bias[i - 27 * out_channels];
    }
    __syncthreads();

    const int groups = out_channels / 8, i = blockIdx.x * THREADS + threadIdx.x;
    const int channel = i % groups * 8, column = i / groups * PIXELS, row = blockIdx.y;
    if (column >= out_width) return;
    const float factors[3] = {normalise[0], normalise[1], normalise[2]};
    const float offsets[3] = {normalise[3], normalise[4], normalise[5]};

    float sums[PIXELS][8];
#pragma unroll
    for (int p = 0; p < PIXELS; ++p) load8(weights + 27 * out_channels + channel, sums[p]);
    const auto convolve = [&](auto* image) {
#pragma unroll
        for (int ky = 0; ky < 3; ++ky) {
            const int in_row = 2 * row + ky - top;
            if (in_row < 0 || in_row >= height) continue;
            const auto* line = image + ((int64_t)blockIdx.z * height + in_row) * width * 3;
#pragma unroll
            for (int kx = 0; kx < 3; ++kx) {
#pragma unroll
                for (int c = 0; c < 3; ++c) {
                    float w[8];
                    load8(weights + ((ky * 3 + kx) * 3 + c) * out_channels + channel, w);
#pragma unroll
                    for (int p = 0; p < PIXELS; ++p) {
                        const int in_column = 2 * (column + p) + kx - left;
                        const bool inside = in_column >= 0 && in_column < width;
                        const float v = inside ? pixel(line[in_column * 3 + c], factors[c], offsets[c]) : 0.0f;
#pragma unroll
                        for (int e = 0; e < 8; ++e) sums[p][e] += v * w[e];
                    }
                }
            }
        }
    };
    if (normalised) convolve(static_cast<const float*>(rgb));
    else convolve(static_cast<const uint8_t*>(rgb));
    h16* to = y + (((int64_t)blockIdx.z * out_height + row) * out_width + column) * out_channels + channel;
    with_activation(activation, [&](auto activate) {
#pragma unroll
        for (int p = 0; p < PIXELS; ++p) {
            if (column + p >= out_width) break;
#pragma unroll
            for (int e = 0; e < 8; ++e) sums[p][e] = activate(sums[p][e]);
            store8(to + p * out_channels, sums[p]);
        }
    });
}
REGISTER_KERNEL(stem_conv)
