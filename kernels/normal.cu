// out = standard normal numbers: 4i to 4i + 3 from the words of block i, by Box and Muller
//
// out:  f32, any shape
// The words of block i are Philox4x32-10 of the counter (i, step, stream), i in two words, low first, and the
// key (key_low, key_high).
// Sizes: n numbers.
//
// Launch: grid ⌈n/1024⌉; block 256
// Words and numbers are bit for bit those of src/cpu/random.rs: products and sums are not fused, division and
// root correctly rounded. out is written.
//
// Defines: none.
// Limits: n below 2³¹.
#include "include/device.cuh"
#include "include/philox.cuh"

KERNEL void LAUNCH_BOUNDS(256, 4)
normal(float* out, int n, int key_low, int key_high, int stream, int step) {
    const uint32_t block = blockIdx.x * 256 + threadIdx.x;
    const int64_t i = (int64_t)block * 4;
    if (i >= n) return;
    uint32_t words[4] = {block, 0, (uint32_t)step, (uint32_t)stream};
    philox(words, key_low, key_high);
#pragma unroll
    for (int p = 0; p < 2; ++p) {
        float pair[2];
        normal_pair(words[2 * p], words[2 * p + 1], pair);
        if (i + 2 * p < n) out[i + 2 * p] = pair[0];
        if (i + 2 * p + 1 < n) out[i + 2 * p + 1] = pair[1];
    }
}
REGISTER_KERNEL(normal)
