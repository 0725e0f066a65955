// features[b, i, j, first_channel + c] = x[b, ·, ·, c] interpolated at ((i + ½)·h/G − ½, (j + ½)·w/G − ½)
//
// A block's output, resized bilinearly to the grid of features, into its channels of the concatenated map.
// x:         fp16 (B, h, w, C)
// features:  fp16 (f32 with FEATURES_F16 0), (B, G, G, F); other channels are left as they are
// Sizes: height = h, width = w, channels = C, grid = G, features_channels = F, first_channel.
//
// Grid (⌈G·(C/8)/128⌉, G, B), block 128, no shared memory.
// Computes in f32. features is written.
//
// FEATURES_F16  1: features are fp16; 0: f32.
// Sets: FEATURES_F16 0 1
// Limits: C, F and first_channel multiples of 8; x and features aligned to 16 bytes; G and B at most 65535;
// h·w·C below 2³¹.
#include "include/device.cuh"
#include "include/resize.cuh"
#include "include/vector.cuh"

#if !defined(FEATURES_F16)
#error "gather_features needs FEATURES_F16"
#endif

#if FEATURES_F16
typedef h16 Feature;
#else
typedef float Feature;
#endif

KERNEL void LAUNCH_BOUNDS(128, 4)
gather_features(const h16* x, Feature* features, int height, int width, int channels, int grid,
                int features_channels, int first_channel) {
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
    store8(features + cell * features_channels + first_channel + channel, v);
}
REGISTER_KERNEL(gather_features)
