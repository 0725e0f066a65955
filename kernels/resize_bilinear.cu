// y[b, i, j, c]: x interpolated linearly at ((i + ½)·h/H − ½, (j + ½)·w/W − ½), coordinates clamped to the
// image
//
// x:  f32 (B, h, w, C)
// y:  f32 (B, H, W, C)
// Sizes: height = h, width = w, channels = C, out_height = H, out_width = W. A map of scores has C = 1.
//
// Launch: grid ⌈W·C/256⌉, H, B; block 256
// Computes in f32. y is written.
//
// Defines: none.
// Limits: h and w at least 1; H and B at most 65535; W·C below 2³¹.
#include "include/device.cuh"
#include "include/resize.cuh"

KERNEL void LAUNCH_BOUNDS(256, 6)
resize_bilinear(const float* x, float* y, int height, int width, int channels, int out_height,
                int out_width) {
    const int i = blockIdx.x * 256 + threadIdx.x, row = blockIdx.y;
    if (i >= out_width * channels) return;
    const int column = i / channels, channel = i % channels;
    const Tap down = tap(row, height, out_height), across = tap(column, width, out_width);
    const float* image = x + (int64_t)blockIdx.z * height * width * channels + channel;
    const float* above = image + (int64_t)down.first * width * channels;
    const float* below = image + (int64_t)down.second * width * channels;
    const int left = across.first * channels, right = across.second * channels;
    const float near = blend(above[left], below[left], down.weight);
    const float far = blend(above[right], below[right], down.weight);
    y[((int64_t)blockIdx.z * out_height + row) * out_width * channels + i] = blend(near, far, across.weight);
}
REGISTER_KERNEL(resize_bilinear)
