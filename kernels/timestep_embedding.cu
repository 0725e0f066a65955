// out[b] = (cos(t_b·f), sin(t_b·f)) with 128 frequencies f
//
// t:            f32 (B), timesteps
// frequencies:  f32 (128)
// out:          fp16 (B, 256), cosines first
//
// Launch: grid B; block 128
// The products are rounded to f32, their sines and cosines are accurate over the whole range. out is written.
//
// Defines: none. Limits: none.
#include "include/device.cuh"

KERNEL void LAUNCH_BOUNDS(128, 8) timestep_embedding(const float* t, const float* frequencies, h16* out) {
    const float angle = t[blockIdx.x] * frequencies[threadIdx.x];
    h16* to = out + (int64_t)blockIdx.x * 256 + threadIdx.x;
    to[0] = to_h16(cosf(angle));
    to[128] = to_h16(sinf(angle));
}
REGISTER_KERNEL(timestep_embedding)
