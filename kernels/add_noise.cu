// out[b] = a[b]·x[b] + s[b]·noise[b]
//
// x:           fp16 (B, …)
// noise, out:  f32 (B, …)
// a, s:        f32 (B)
// Sizes: size = numbers of an image.
//
// Launch: grid ⌈size/256⌉, B; block 256
// Computes in f32. out is written.
//
// Defines: none.
// Limits: B at most 65535.
#include "include/device.cuh"

KERNEL void LAUNCH_BOUNDS(256, 6)
add_noise(const h16* x, const float* noise, const float* a, const float* s, float* out, int size) {
    const int i = blockIdx.x * 256 + threadIdx.x;
    if (i >= size) return;
    const int64_t at = (int64_t)blockIdx.y * size + i;
    out[at] = a[blockIdx.y] * to_f32(x[at]) + s[blockIdx.y] * noise[at];
}
REGISTER_KERNEL(add_noise)
