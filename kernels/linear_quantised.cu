// y[m, n] = activation(Σ_k x[m, k]·w[n, k] · (x_scales[m]·w_scales[n]) + bias[n] + skip[m, n])
//
// x:         int8 (M, K)
// x_scales:  f32 (M)
// w:         int8 (N, K)
// w_scales:  f32 (N)
// bias:      like y (N); may be null
// skip:      like y (M, N), may be y itself; may be null
// y:         f32 or fp16 (M, N)
// Sizes: rows = M, columns = N, terms = K; y_f16 0 or 1; gelu 1: the activation is GELU in its tanh form, 0: none.
//
// Launch: grid at most a block to each tile; block 128; shared 49152
// Sums of products are exact in 32 bits, what follows is f32, rounded once. A row of y does not depend on how many there are.
// y is written.
//
// Defines: TILE, rows and columns of a tile.
// Sets: TILE 64 128
// Limits: K a multiple of 16, up to 133144; x and w aligned to 16 bytes; M·N below 2³¹, tiles and the grid together as well.
#include "include/linear.cuh"

KERNEL void LAUNCH_BOUNDS(THREADS, 2)
linear_quantised(const uint8_t* x, const float* x_scales, const uint8_t* w, const float* w_scales, const void* bias,
                 const void* skip, void* y, int rows, int columns, int terms, int y_f16, int gelu) {
    const Layer layer{bias, skip, nullptr, y, y_f16, gelu};
    linear_tiles<int32_t, false>(
        reinterpret_cast<const h16*>(x), reinterpret_cast<const h16*>(w), rows, columns, terms / 2, layer,
        [](int32_t(&d)[4], const uint32_t(&a)[4], const uint32_t(&b)[2]) { mma_m16n8k32_s8(d, a, b); },
        [&](int row, int column, int count, float(&v)[8]) {
            const float of_row = x_scales[row];
#pragma unroll
            for (int e = 0; e < 8; ++e) v[e] *= of_row * (e < count ? w_scales[column + e] : 0.0f);
        });
}
REGISTER_KERNEL(linear_quantised)
