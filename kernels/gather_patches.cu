// patches[b, (i, j), (k, l, c)] = x̄[b, i·stride + k − 1, j·stride + l − 1, c], the rows that a 3×3 convolution's weight
// is multiplied with; x̄ is x with each cell `copies` times along both axes, and zero outside
//
// x:        f32 (fp16 with x_f16), (B, H, W, C)
// patches:  fp16 (B, H'·W', 9·C), H' and W' as many as there are places for the kernel
// Sizes: height H, width W, channels C, columns W'; stride 1 or 2; copies 1 or 2; x_f16 0 or 1.
//
// Launch: grid H'·W', ⌈9·(C/8)/128⌉, B; block 128
// Moves numbers, rounded if they are f32. patches is written.
//
// Defines: none.
// Limits: C a multiple of 8; 9·C below 2³¹; both pointers aligned to 16 bytes; B and the second grid at most 65535.
//
// Its floor is the bandwidth of what it writes: 18·C bytes for each place. That comes to less time than the product that
// reads them takes: with weights for O channels the product has 18·C·O operations a place, and where places are few
// (16 or 4 of an image, 2048 channels) it takes as long as reading its 18·C·O bytes of weights.
#include "include/device.cuh"
#include "include/vector.cuh"

KERNEL void LAUNCH_BOUNDS(128, 12)
gather_patches(const void* x, h16* patches, int height, int width, int channels, int columns, int stride,
               int copies, int x_f16) {
    const int eights = channels / 8, at = blockIdx.y * 128 + threadIdx.x;
    if (at >= 9 * eights) return;
    const int tap = at / eights, place = blockIdx.x;
    const int top = place / columns * stride + tap / 3 - 1, left = place % columns * stride + tap % 3 - 1;
    const int i = top / copies, j = left / copies;
    float v[8] = {};
    if (top >= 0 && left >= 0 && i < height && j < width) {
        const int64_t cell = ((int64_t)blockIdx.z * height + i) * width + j;
        typed(x, x_f16, [&](auto* x) { load8(x + cell * channels + at % eights * 8, v); });
    }
    store8(patches + ((int64_t)blockIdx.z * gridDim.x + place) * 9 * channels + (int64_t)at * 8, v);
}
REGISTER_KERNEL(gather_patches)
