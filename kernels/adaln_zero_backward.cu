// dx += (g − mean(g) − x̂·mean(g·x̂))/σ with g = dout·(1 + scale), x̂ = (x − μ)/σ;  dy = gate·dx;
// and of the rows of a slab the sums of dout (dshift), dout·x̂ (dscale) and dx·y (dgate)
//
// x:      the residual stream after the residual, f32 (fp16 with x_f16), (B, N, D)
// stats:  f32 (B, N, 2), mean μ and 1/σ of each row
// y:      the branch's output, fp16 (B, N, D); null: no residual, and neither gate, dy nor dgate
// gate, scale:  f32, D numbers per image, image b's at b·table_stride from the pointer; table_stride 0 where all
//         images share a row
// dout:   fp16 (B, N, D)
// dx:     f32 (B, N, D), on entry the gradient that reaches x by other ways
// dy:     fp16 (B, N, D); null where y is null
// sums:   f32 (B, slabs, 3, D): dshift, dscale, dgate; dgate is not written where y is null
// Sizes: tokens = N; slab: rows of a slab, fewer in an image's last; x_f16 0 or 1.
//
// Launch: grid slabs of an image, B; block 32·⌈WIDTH/256⌉
// Computes and accumulates in f32, in an order that depends on the sizes alone. dx is read and written, dy and sums
// are written.
//
// WIDTH  D, a multiple of 8 up to 4096.
// Sets: WIDTH 64 384 1024 2048 4096
// Limits: all pointers but stats aligned to 16 bytes; table_stride a multiple of 4; B at most 65535.
//
// A thread has eight columns and keeps their three sums in registers; rows follow one another, with one barrier each,
// and a row is fetched while the one before is worked on.
#include "include/device.cuh"
#include "include/vector.cuh"

#if !defined(WIDTH)
#error "adaln_zero_backward needs WIDTH"
#endif

const int WARPS = (WIDTH + 255) / 256;

static_assert(WIDTH > 0 && WIDTH % 8 == 0 && WIDTH <= 4096, "WIDTH is a multiple of 8 up to 4096");

// What a thread has of a row.
struct Row {
    float mean, inverse, x[8], dx[8];
    vec4u dout, y;
};

KERNEL void LAUNCH_BOUNDS(32 * WARPS, WARPS > 8 ? 1 : 16 / WARPS)
adaln_zero_backward(const void* __restrict__ x, const float* __restrict__ stats, const h16* __restrict__ y,
                    const float* __restrict__ gate, const float* __restrict__ scale,
                    const h16* __restrict__ dout, float* dx, h16* dy, float* sums, int tokens, int slab,
                    int table_stride, int x_f16) {
    // Two, so that one barrier for each row is enough.
    SHARED(float, partial[2][WARPS][2]);
    const int warp = threadIdx.x / 32, column = threadIdx.x * 8;
    const bool active = column < WIDTH;
    const int first = blockIdx.x * slab, end = tokens - first < slab ? tokens : first + slab;
    float factor[8] = {}, branch_factor[8] = {}, dshift[8] = {}, dscale[8] = {}, dgate[8] = {};
    if (active) {
        const int64_t table = (int64_t)blockIdx.y * table_stride + column;
        load8(scale + table, factor);
#pragma unroll
        for (int e = 0; e < 8; ++e) factor[e] += 1.0f;
        if (y) load8(gate + table, branch_factor);
    }
    typed(x, x_f16, [&](auto* x) {
        Row next;
        auto fetch = [&](int token) {
            const int64_t row = (int64_t)blockIdx.y * tokens + token, at = row * WIDTH + column;
            next.mean = stats[2 * row], next.inverse = stats[2 * row + 1];
            load8_streaming(x + at, next.x);
            next.dout = load16_streaming(dout + at);
            load8(dx + at, next.dx);
            if (y) next.y = load16_streaming(y + at);
        };
        if (active) fetch(first);
#pragma unroll 1
        for (int token = first; token < end; ++token) {
            Row row = next;
            if (active && token + 1 < end) fetch(token + 1);
            float g[8] = {}, sum = 0.0f, product = 0.0f;
            if (active) {
                unpack8(row.dout, g);
#pragma unroll
                for (int e = 0; e < 8; ++e) {
                    row.x[e] = (row.x[e] - row.mean) * row.inverse;
                    dshift[e] += g[e];
                    dscale[e] += g[e] * row.x[e];
                    g[e] *= factor[e];
                    sum += g[e];
                    product += g[e] * row.x[e];
                }
            }
            sum = warp_sum(sum);
            product = warp_sum(product);
            float(&of_row)[WARPS][2] = partial[token & 1];
            if (threadIdx.x % 32 == 0) of_row[warp][0] = sum, of_row[warp][1] = product;
            __syncthreads();
            sum = product = 0.0f;
#pragma unroll
            for (int i = 0; i < WARPS; ++i) sum += of_row[i][0], product += of_row[i][1];
            sum *= 1.0f / WIDTH;
            product *= 1.0f / WIDTH;
            if (!active) continue;
            const int64_t at = ((int64_t)blockIdx.y * tokens + token) * WIDTH + column;
            float(&d)[8] = row.dx;
#pragma unroll
            for (int e = 0; e < 8; ++e) d[e] += row.inverse * (g[e] - sum - row.x[e] * product);
            store8(dx + at, d);
            if (!y) continue;
            float branch[8];
            unpack8(row.y, branch);
#pragma unroll
            for (int e = 0; e < 8; ++e) {
                dgate[e] += d[e] * branch[e];
                d[e] *= branch_factor[e];
            }
            store8(dy + at, d);
        }
    });
    if (!active) return;
    float* to = sums + ((int64_t)blockIdx.y * gridDim.x + blockIdx.x) * 3 * WIDTH + column;
    store8(to, dshift);
    store8(to + WIDTH, dscale);
    if (y) store8(to + 2 * WIDTH, dgate);
}
REGISTER_KERNEL(adaln_zero_backward)
