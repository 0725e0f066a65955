// y[m, n] = activation(Σ_k x[m, k]·w[n, k] + bias[n] + skip[m, n])
//
// x:         fp16 (M, K)
// w:         fp16 (N, K)
// bias:      like y (N); may be null
// skip:      like y (M, N), may be y itself; may be null
// kept:      like y (M, N), gets what the activation is applied to; may be null
// y:         f32 or fp16 (M, N)
// Sizes: rows = M, columns = N, terms = K; y_f16 0 or 1; gelu 1: the activation is GELU in its tanh form, 0: none.
//
// Launch: grid at most a block to each tile; block 128; shared 49152
// Sums and what follows are f32, rounded once. A row of y does not depend on how many there are, nor on TILE.
// y and kept are written.
//
// Defines: TILE, rows and columns of a tile.
// Sets: TILE 64 128
// Limits: M·N below 2³¹, tiles and the grid together as well. Copies and stores are of 16 bytes where K, N and the addresses
// are multiples of 8 and of 16 bytes, and else of single numbers.
#include "include/linear.cuh"

KERNEL void LAUNCH_BOUNDS(THREADS, 2)
linear(const h16* x, const h16* w, const void* bias, const void* skip, void* kept, void* y, int rows, int columns,
       int terms, int y_f16, int gelu) {
    const Layer layer{bias, skip, kept, y, y_f16, gelu};
    linear_tiles<float, true>(
        x, w, rows, columns, terms, layer,
        [](float(&d)[4], const uint32_t(&a)[4], const uint32_t(&b)[2]) { mma_m16n8k16(d, a, b); },
        [](int, int, int, float(&)[8]) {});
}
REGISTER_KERNEL(linear)
