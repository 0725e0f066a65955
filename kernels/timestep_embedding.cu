// out[b] = (cos(t_b·f), sin(t_b·f)) with n frequencies f
//
// t:            f32 (B), timesteps
// frequencies:  f32 (n)
// out:          fp16 (B, 2n), cosines first
//
// Launch: grid B, ⌈n/128⌉; block 128
// The products are rounded to f32, their sines and cosines are accurate over the whole range. out is written.
//
// Defines: none. Limits: none.
#include "include/device.cuh"

KERNEL void LAUNCH_BOUNDS(128, 8) timestep_embedding(const float* t, const float* frequencies, h16* out, int n) {
    const int i = blockIdx.y * 128 + threadIdx.x;
    if (i >= n) return;
    const float angle = t[blockIdx.x] * frequencies[i];
    h16* to = out + (int64_t)blockIdx.x * 2 * n + i;
    to[0] = to_h16(cosf(angle));
    to[n] = to_h16(sinf(angle));
}
REGISTER_KERNEL(timestep_embedding)
