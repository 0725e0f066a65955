// features[b, t, first_channel + c] = x[b, N − T + t, c]
//
// A block's tokens, without the first ones, into their channels of the features.
// x:         f32 (fp16 with x_f16), (B, N, D)
// features:  f32 (fp16 with features_f16), (B, T, F), T ≤ N; other channels are left as they are
// Sizes: tokens = N, width = D, taken = T, channels = F, first_channel; x_f16 and features_f16 0 or 1.
//
// Launch: grid ⌈T·D/2048⌉, B; block 256
// Rounds to the type of features. features is written.
//
// Defines: none.
// Limits: D, F and first_channel multiples of 8; x and features aligned to 16 bytes; B at most 65535; N·D below 2³¹.
#include "include/device.cuh"
#include "include/vector.cuh"

KERNEL void LAUNCH_BOUNDS(256, 6)
gather_tokens(const void* x, void* features, int tokens, int width, int taken, int channels, int first_channel,
              int x_f16, int features_f16) {
    const int i = (blockIdx.x * 256 + threadIdx.x) * 8, token = i / width, channel = i % width;
    if (token >= taken) return;
    const int64_t image = blockIdx.y;
    const int64_t from = (image * tokens + tokens - taken + token) * width + channel;
    const int64_t to = (image * taken + token) * channels + first_channel + channel;
    float v[8];
    typed(x, x_f16, [&](auto* x) { load8(x + from, v); });
    typed(features, features_f16, [&](auto* features) { store8(features + to, v); });
}
REGISTER_KERNEL(gather_tokens)
