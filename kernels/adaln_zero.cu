// x_out = x + gate·y;  out = LN(x_out)·(1 + scale) + shift,  LN over the width without affine
//
// x:      the residual stream, f32 (fp16 with stream_f16), (B, N, D)
// y:      a branch's output, fp16 (B, N, D); null: no residual, x_out is x
// gate, shift, scale: f32, D numbers per image, image b's at b·table_stride from the pointer: columns of a
//         table of modulation vectors; table_stride 0 where all images share a row. gate null: x_out = x + y
// x_out:  as x, may be x itself; null where y is null (it is not written then)
// out:    fp16 (B, N, D)
// stats:  f32 (B, N, 2), receives mean and 1/σ of each row; may be null
// Sizes: rows = B·N, tokens = N, table_stride in numbers, stream_f16 0 or 1; eps = ε, under the root.
//
// Launch: grid ⌈B·N/4⌉, B·N where WIDTH > 2048; block 128
// A warp has a row, above a WIDTH of 2048 a block.
// Statistics in f32 and in two passes over the row, which stays in registers.
// x_out, out and stats are written.
//
// WIDTH  D, a multiple of 8 up to 8192.
// Sets: WIDTH 64 384 1024 2048 4096 8192
// Limits: all pointers aligned to 16 bytes; table_stride a multiple of 4.
#include "include/device.cuh"
#include "include/vector.cuh"

#if !defined(WIDTH)
#error "adaln_zero needs WIDTH"
#endif

const int THREADS = 128;
const int ROW_WARPS = WIDTH > 2048 ? THREADS / 32 : 1;
const int ROW_THREADS = 32 * ROW_WARPS;
const int ROWS = THREADS / ROW_THREADS;
const int VECTORS = (WIDTH + 8 * ROW_THREADS - 1) / (8 * ROW_THREADS);

static_assert(WIDTH > 0 && WIDTH % 8 == 0 && WIDTH <= 8192, "WIDTH is a multiple of 8 up to 8192");

// The sum over all threads of a row. `scratch`: shared memory for one use.
DEVICE float row_sum(float value, float (&scratch)[ROW_WARPS]) {
    if constexpr (ROW_WARPS == 1) return warp_sum(value);
    else return block_sum<ROW_WARPS>(value, scratch);
}

KERNEL void LAUNCH_BOUNDS(THREADS, VECTORS > 4 ? 2 : VECTORS > 2 ? 4 : 10)
adaln_zero(const void* x, const h16* __restrict__ y, const float* __restrict__ gate,
           const float* __restrict__ shift, const float* __restrict__ scale, void* x_out, h16* __restrict__ out,
           float* stats, int rows, int tokens, int table_stride, int stream_f16, float eps) {
    SHARED(float, scratch[2][ROW_WARPS]);
    const int row = blockIdx.x * ROWS + threadIdx.x / ROW_THREADS;
    if (row >= rows) return;
    const int first = threadIdx.x % ROW_THREADS * 8;
    const int64_t at = (int64_t)row * WIDTH + first, table = (int64_t)(row / tokens) * table_stride + first;

    auto work = [&](auto* x, auto* x_out) {
        // Columns first, first + 8·ROW_THREADS, …; those past the end are left out.
        float v[VECTORS][8];
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            const int column = i * 8 * ROW_THREADS;
            if (first + column < WIDTH) load8(x + at + column, v[i]);
        }
        if (y) {
#pragma unroll
            for (int i = 0; i < VECTORS; ++i) {
                const int column = i * 8 * ROW_THREADS;
                if (first + column >= WIDTH) continue;
                float branch[8], factor[8] = {1, 1, 1, 1, 1, 1, 1, 1};
                load8_streaming(y + at + column, branch);
                if (gate) load8(gate + table + column, factor);
#pragma unroll
                for (int e = 0; e < 8; ++e) v[i][e] += factor[e] * branch[e];
                store8(x_out + at + column, v[i]);
            }
        }
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            if (first + i * 8 * ROW_THREADS >= WIDTH) continue;
#pragma unroll
            for (int e = 0; e < 8; ++e) sum += v[i][e];
        }
        const float mean = row_sum(sum, scratch[0]) * (1.0f / WIDTH);

        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            if (first + i * 8 * ROW_THREADS >= WIDTH) continue;
#pragma unroll
            for (int e = 0; e < 8; ++e) squares += (v[i][e] - mean) * (v[i][e] - mean);
        }
        const float inverse = rsqrt_accurate(row_sum(squares, scratch[1]) * (1.0f / WIDTH) + eps);
        if (stats && first == 0) stats[2 * (int64_t)row] = mean, stats[2 * (int64_t)row + 1] = inverse;

#pragma unroll
        for (int i = 0; i < VECTORS; ++i) {
            const int column = i * 8 * ROW_THREADS;
            if (first + column >= WIDTH) continue;
            float factor[8], offset[8];
            load8(scale + table + column, factor);
            load8(shift + table + column, offset);
#pragma unroll
            for (int e = 0; e < 8; ++e) v[i][e] = (v[i][e] - mean) * inverse * (1.0f + factor[e]) + offset[e];
            store8(out + at + column, v[i]);
        }
    };
    if (stream_f16) work(static_cast<const h16*>(x), static_cast<h16*>(x_out));
    else work(static_cast<const float*>(x), static_cast<float*>(x_out));
}
REGISTER_KERNEL(adaln_zero)
