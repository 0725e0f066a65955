// y = (a, b) row by row, or with `split` (a, b) = y
//
// a:  rows of p vectors of 16 bytes
// b:  as many rows of q vectors
// y:  as many rows of p + q vectors
// Sizes: p, q; n = rows·(p + q); split 0 or 1.
//
// Launch: grid ⌈n/256⌉; block 256
// Moves bytes of whatever type. y is written, or with `split` a and b.
//
// Defines: none.
// Limits: n below 2³¹; all pointers aligned to 16 bytes.
#include "include/device.cuh"

KERNEL void LAUNCH_BOUNDS(256, 6) concat(vec4u* a, vec4u* b, vec4u* y, int p, int q, int n, int split) {
    const int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i >= n) return;
    const int64_t row = i / (p + q), column = i % (p + q);
    vec4u* part = column < p ? a + row * p + column : b + row * q + column - p;
    if (split) store16(part, load16(y + i));
    else store16(y + i, load16(part));
}
REGISTER_KERNEL(concat)
