// map[b, p] = ‖z‖₂ over channels,  z = a·x[b, p] + b·output[b, p]
//
// The last step of an inversion and the norm of the latent it leads to; z itself is not stored.
// x:       f32 (B, N, C)
// output:  fp16 (B, N, C), what the network returned; null: z = a·x
// map:     f32 (B, N)
// Sizes: tokens = B·N, channels = C; factors a and b.
//
// Launch: grid ⌈tokens/8⌉; block 256
// A warp per token.
// Accumulates in f32, in an order that depends on the channels alone. map is written.
//
// Defines: none.
// Limits: tokens below 2³¹.
#include "include/device.cuh"

KERNEL void LAUNCH_BOUNDS(256, 6)
score(const float* x, const h16* output, float* map, int tokens, int channels, float a, float b) {
    const int token = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    if (token >= tokens) return;
    const int64_t row = (int64_t)token * channels;
    float squares = 0.0f;
#pragma unroll 4
    for (int c = lane; c < channels; c += 32) {
        float z = a * x[row + c];
        if (output) z += b * to_f32(output[row + c]);
        squares += z * z;
    }
    squares = warp_sum(squares);
    if (lane == 0) map[token] = sqrtf(squares);
}
REGISTER_KERNEL(score)
