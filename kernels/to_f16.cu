// y = x in fp16
//
// x:  f32, any shape
// y:  fp16, of as many numbers
// Sizes: n numbers.
//
// Launch: grid ⌈n/2048⌉; block 256
// Rounds to nearest, overflows to infinity. y is written.
//
// Defines: none.
// Limits: n below 2³¹; both pointers aligned to 16 bytes.
#include "include/device.cuh"
#include "include/vector.cuh"

KERNEL void LAUNCH_BOUNDS(256, 6) to_f16(const float* x, h16* y, int n) {
    const int64_t i = ((int64_t)blockIdx.x * 256 + threadIdx.x) * 8;
    float v[8];
    if (i >= n) return;
    load_some(x + i, n - i, v);
    store_some(y + i, n - i, v);
}
REGISTER_KERNEL(to_f16)
