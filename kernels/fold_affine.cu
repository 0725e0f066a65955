// shift'_s = b_s·(1 + scale_s) + shift_s, scale'_s = w_s·(1 + scale_s) − 1, gate'_s = gate_s
//
// table:   f32 (B, 3S − 1, D): of each site s its shift, its scale and, but for the last, its gate
// affine:  f32 (S, 2, D): w_s and b_s of each site's LayerNorm
// folded:  f32, as table
// Sizes: sites S, width D.
//
// Launch: grid ⌈D/256⌉, S, B; block 256
// Computes in f32. folded is written.
//
// Defines: none.
// Limits: B·(3S − 1)·D below 2³¹; S and B at most 65535.
#include "include/device.cuh"

KERNEL void LAUNCH_BOUNDS(256, 6)
fold_affine(const float* table, const float* affine, float* folded, int sites, int width) {
    const int d = blockIdx.x * 256 + threadIdx.x, s = blockIdx.y;
    if (d >= width) return;
    const int64_t at = ((int64_t)blockIdx.z * (3 * sites - 1) + 3 * s) * width + d;
    const float w = affine[2 * s * width + d], b = affine[(2 * s + 1) * width + d];
    const float factor = 1.0f + table[at + width];
    folded[at] = b * factor + table[at];
    folded[at + width] = w * factor - 1.0f;
    if (s + 1 < sites) folded[at + 2 * width] = table[at + 2 * width];
}
REGISTER_KERNEL(fold_affine)
