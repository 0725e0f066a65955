// features[b, i, j, first_channel + c] = x[b, ·, ·, c] interpolated at ((i + ½)·h/G − ½, (j + ½)·w/G − ½)
//
// A block's output, resized bilinearly to the grid of features, into its channels of the concatenated map.
// x:         fp16 (B, h, w, C)
// features:  f32 (fp16 with features_f16), (B, G, G, F); other channels are left as they are
// Sizes: height = h, width = w, channels = C, grid = G, features_channels = F, first_channel; features_f16 0
// or 1.
//
// Launch: grid ⌈G·(C/8)/128⌉, G, B; block 128
// Computes in f32. features is written.
//
// Defines: none.
// Limits: C, F and first_channel multiples of 8; x and features aligned to 16 bytes; G and B at most 65535;
// h·w·C below 2³¹.
#include "include/device.cuh"
#include "include/resize.cuh"
#include "include/vector.cuh"

KERNEL void LAUNCH_BOUNDS(128, 8)
gather_features(const h16* x, void* features, int height, int width, int channels, int grid,
                int features_channels, int first_channel, int features_f16) {
    const int groups = channels / 8, i = blockIdx.x * 128 + threadIdx.x;
    const int channel = i % groups * 8, column = i / groups, row = blockIdx.y;
    if (column >= grid) return;
    const Tap down = tap(row, height, grid), across = tap(column, width, grid);
    const h16* image = x + (int64_t)blockIdx.z * height * width * channels + channel;
    float corners[2][2][8], v[8];
    load8(image + (down.first * width + across.first) * channels, corners[0][0]);
    load8(image + (down.first * width + across.second) * channels, corners[0][1]);
    load8(image + (down.second * width + across.first) * channels, corners[1][0]);
    load8(image + (down.second * width + across.second) * channels, corners[1][1]);
#pragma unroll
    for (int e = 0; e < 8; ++e) {
        const float near = blend(corners[0][0][e], corners[1][0][e], down.weight);
        const float far = blend(corners[0][1][e], corners[1][1][e], down.weight);
        v[e] = blend(near, far, across.weight);
    }
    const int64_t cell = ((int64_t)blockIdx.z * grid + row) * grid + column;
    const int64_t at = cell * features_channels + first_channel + channel;
    typed(features, features_f16, [&](auto* features) { store8(features + at, v); });
}
REGISTER_KERNEL(gather_features)
