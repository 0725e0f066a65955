// y[s] = Σ of the rows of slab s of a matrix, or y[s] += that sum, for up to three matrices side by side
//
// x:  f32 (fp16 with x_f16), rows that begin `stride` numbers apart, of `columns` numbers for each matrix
// y0, y1, y2:  f32, of each matrix a row of `columns` numbers for each slab, which begin `y_stride` numbers apart
// Sizes: rows of x in all; slab: rows of a slab, fewer in the last; accumulate and x_f16 0 or 1.
//
// Launch: grid ⌈columns/32⌉, slabs, matrices; block 256
// Accumulates in f32, in an order that depends on the sizes alone. As many of y0, y1 and y2 as there are matrices
// are written, or with `accumulate` added to.
//
// Defines: none.
// Limits: at most 65535 slabs.
//
// A warp reads 32 neighbouring columns of every eighth row.
#include "include/device.cuh"
#include "include/vector.cuh"

const int WARPS = 8;

KERNEL void LAUNCH_BOUNDS(32 * WARPS, 6)
column_sums(const void* x, float* y0, float* y1, float* y2, int rows, int columns, int stride, int slab,
            int y_stride, int accumulate, int x_f16) {
    SHARED(float, sums[WARPS][32]);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, column = blockIdx.x * 32 + lane;
    const int first = blockIdx.y * slab, end = rows - first < slab ? rows : first + slab;
    float sum = 0.0f;
    if (column < columns) {
        typed(x, x_f16, [&](auto* x) {
            x += blockIdx.z * columns + column;
#pragma unroll 4
            for (int row = first + warp; row < end; row += WARPS) sum += load1(x + (int64_t)row * stride);
        });
    }
    sums[warp][lane] = sum;
    __syncthreads();
    if (warp > 0 || column >= columns) return;
    float total = 0.0f;
#pragma unroll
    for (int i = 0; i < WARPS; ++i) total += sums[i][lane];
    float* y = blockIdx.z == 0 ? y0 : blockIdx.z == 1 ? y1 : y2;
    float* to = y + (int64_t)blockIdx.y * y_stride + column;
    *to = accumulate ? *to + total : total;
}
REGISTER_KERNEL(column_sums)
