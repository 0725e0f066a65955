// dw_s += Σ_B dscale'_s·(1 + scale_s), db_s += Σ_B dshift'_s·(1 + scale_s),
// dscale_s = dscale'_s·w_s + dshift'_s·b_s; the gradients of shift and gate are those of shift' and gate'
//
// table:    f32 (B, 3S − 1, D): of each site s its shift, its scale and, but for the last, its gate
// affine:   f32 (S, 2, D): w_s and b_s of each site's LayerNorm
// dtable:   f32, as table: on entry the gradient of what fold_affine has written, on return that of table
// daffine:  f32, as affine
// Sizes: images B, sites S, width D.
//
// Launch: grid ⌈D/256⌉, S; block 256
// Computes in f32. dtable is written, daffine accumulated.
//
// Defines: none.
// Limits: B·(3S − 1)·D below 2³¹; S at most 65535.
#include "include/device.cuh"

KERNEL void LAUNCH_BOUNDS(256, 6)
fold_affine_backward(const float* table, const float* affine, float* dtable, float* daffine, int images,
                     int sites, int width) {
    const int d = blockIdx.x * 256 + threadIdx.x, s = blockIdx.y;
    if (d >= width) return;
    const int at_w = 2 * s * width + d, at_b = at_w + width;
    const float w = affine[at_w], b = affine[at_b];
    float dw = 0.0f, db = 0.0f;
    for (int image = 0; image < images; ++image) {
        const int64_t at = ((int64_t)image * (3 * sites - 1) + 3 * s) * width + d;
        const float factor = 1.0f + table[at + width];
        const float dshift = dtable[at], dscale = dtable[at + width];
        dw += dscale * factor;
        db += dshift * factor;
        dtable[at + width] = dscale * w + dshift * b;
    }
    daffine[at_w] += dw;
    daffine[at_b] += db;
}
REGISTER_KERNEL(fold_affine_backward)
