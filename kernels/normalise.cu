// y = rgb · factor + offset, channel by channel
//
// Bytes of images as networks take them: (v/255 − mean)/std with factor = 1/(255·std), offset = −mean/std.
// rgb:  u8 (…, 3)
// y:    f32 (fp16 with y_f16), of as many numbers
// Sizes: n numbers; y_f16 0 or 1.
//
// Launch: grid ⌈n/2048⌉; block 256
// Computes in f32. y is written.
//
// Defines: none.
// Limits: n a multiple of 3, below 2³¹; y aligned to 16 bytes.
#include "include/device.cuh"
#include "include/vector.cuh"

KERNEL void LAUNCH_BOUNDS(256, 6)
normalise(const uint8_t* rgb, void* y, int n, float red_factor, float green_factor, float blue_factor,
          float red_offset, float green_offset, float blue_offset, int y_f16) {
    const int64_t i = ((int64_t)blockIdx.x * 256 + threadIdx.x) * 8;
    if (i >= n) return;
    const int first = i % 3;
    float v[8];
#pragma unroll
    for (int e = 0; e < 8; ++e) {
        const int c = (first + e) % 3;
        const float factor = c == 0 ? red_factor : c == 1 ? green_factor : blue_factor;
        const float offset = c == 0 ? red_offset : c == 1 ? green_offset : blue_offset;
        v[e] = i + e < n ? rgb[i + e] * factor + offset : 0.0f;
    }
    typed(y, y_f16, [&](auto* y) { store_some(y + i, n - i, v); });
}
REGISTER_KERNEL(normalise)
