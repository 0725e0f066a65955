// dx[b, p, q, c] = the sum of the numbers that gather_patches has read from there, or dx += that sum
//
// dpatches:  fp16 (B, H'·W', 9·C), of each place of the kernel what its nine cells have for gradients
// dx:        f32 (fp16 with dx_f16), (B, H, W, C)
// Sizes: height H, width W, channels C, rows H', columns W'; stride 1 or 2; copies 1 or 2; accumulate and dx_f16 0 or 1.
//
// Launch: grid ⌈H·W·(C/8)/128⌉, B; block 128
// Accumulates in f32, in the order of rows and columns. dx is written, or with `accumulate` added to.
//
// Defines: none.
// Limits: C a multiple of 8; H·W·C and 9·C below 2³¹; both pointers aligned to 16 bytes; B at most 65535.
//
// A thread has eight channels of a cell and looks for the places that read it; each number of dpatches is read once. Its
// floor is the bandwidth of that: 18·C bytes a place.
#include "include/device.cuh"
#include "include/vector.cuh"

KERNEL void LAUNCH_BOUNDS(128, 8)
gather_patches_backward(const h16* __restrict__ dpatches, void* dx, int height, int width, int channels,
                        int rows, int columns, int stride, int copies, int accumulate, int dx_f16) {
    const int eights = channels / 8, at = blockIdx.x * 128 + threadIdx.x;
    if (at >= height * width * eights) return;
    const int cell = at / eights, c = at % eights * 8;
    const int top = cell / width * copies, left = cell % width * copies;
    dpatches += (int64_t)blockIdx.y * rows * columns * 9 * channels + c;
    float sum[8] = {};
    // Whether there is a place whose tap k reads row or column `at`, and which.
    auto reads = [&](int at, int k, int places, int& i) {
        const int start = at + 1 - k;
        i = start / stride;
        return start >= 0 && start % stride == 0 && i < places;
    };
    for (int y = 0; y < 3 * copies; ++y) {
        int i, j;
        const int k = y % 3;
        if (!reads(top + y / 3, k, rows, i)) continue;
        for (int x = 0; x < 3 * copies; ++x) {
            const int l = x % 3;
            if (!reads(left + x / 3, l, columns, j)) continue;
            float v[8];
            load8_streaming(dpatches + (((int64_t)i * columns + j) * 9 + k * 3 + l) * channels, v);
#pragma unroll
            for (int e = 0; e < 8; ++e) sum[e] += v[e];
        }
    }
    typed(dx, dx_f16, [&](auto* dx) {
        dx += (int64_t)blockIdx.y * height * width * channels + (int64_t)at * 8;
        float v[8] = {};
        if (accumulate) load8(dx, v);
#pragma unroll
        for (int e = 0; e < 8; ++e) v[e] += sum[e];
        store8(dx, v);
    });
}
REGISTER_KERNEL(gather_patches_backward)
