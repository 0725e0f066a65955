// x[b, p, c] ← x[b, p, c] · σ(gate[b, c]), the excitation of squeeze-excite
//
// x:     fp16 (B, P, C), P pixels, updated in place
// gate:  fp16 (B, C), before the sigmoid
// Sizes: pixels = P, channels = C.
//
// Launch: grid ⌈P·C/2048⌉, B; block 256
// Computes in f32. x is written.
//
// Defines: none.
// Limits: C a multiple of 8; x and gate aligned to 16 bytes; B at most 65535; P·C below 2³¹.
#include "include/activation.cuh"
#include "include/device.cuh"
#include "include/vector.cuh"

KERNEL void LAUNCH_BOUNDS(256, 4) channel_gate(h16* x, const h16* gate, int pixels, int channels) {
    const int i = (blockIdx.x * 256 + threadIdx.x) * 8;
    if (i >= pixels * channels) return;
    h16* at = x + (int64_t)blockIdx.y * pixels * channels + i;
    float v[8], g[8];
    load8(at, v);
    load8(gate + (int64_t)blockIdx.y * channels + i % channels, g);
#pragma unroll
    for (int e = 0; e < 8; ++e) v[e] *= sigmoid(g[e]);
    store8(at, v);
}
REGISTER_KERNEL(channel_gate)
