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
// Defines: none.
// Limits: K a multiple of 16, up to 133144; x and w aligned to 16 bytes; M·N below 2³¹, tiles and the grid together as well.
//
// A tile of y is 128 x 128, of which each of four warps has 64 x 64. A block takes every gridDim.x-th. 64 terms of both
// sides pass through shared memory at a time, in three slots, those of the next tile after the last of this one: two are
// under way while one is in use. Bytes lie in tiles of halves, two to a half: a fragment of 32 bytes of a row is one of 16
// halves.
#include "include/activation.cuh"
#include "include/device.cuh"
#include "include/tile.cuh"
#include "include/vector.cuh"

const int TILE = 128;
const int OWN = 64;
const int THREADS = 128;
// Of a slab, in halves.
const int WIDTH = 32;
const int SLOT = 2 * TILE * WIDTH;
const int SLOTS = 3;
// Tiles below one another that are taken before the next ones beside them, so that what they read is still in L2.
const int TALL = 16;

static_assert(SLOTS * SLOT * 2 == 49152, "the launch asks for as much");

struct Tile {
    int row, column;
};

DEVICE Tile tile_of(int index, int down, int across) {
    const int band = index / (TALL * across), first = band * TALL, within = index - band * TALL * across;
    const int height = down - first < TALL ? down - first : TALL;
    return Tile{(first + within % height) * TILE, within / height * TILE};
}

KERNEL void LAUNCH_BOUNDS(THREADS, 2)
linear_quantised(const uint8_t* x, const float* x_scales, const uint8_t* w, const float* w_scales, const void* bias,
                 const void* skip, void* y, int rows, int columns, int terms, int y_f16, int gelu) {
    DYNAMIC_SHARED(h16, shared);
    const int down = (rows + TILE - 1) / TILE, across = (columns + TILE - 1) / TILE, tiles = down * across;
    const int stride = terms / 2, steps = (stride + WIDTH - 1) / WIDTH;

    // Of what passes next: its tile, which of the tile's steps, and its slot.
    int coming = blockIdx.x, coming_step = 0, coming_slot = 0;
    auto fetch = [&]() {
        if (coming < tiles) {
            const Tile tile = tile_of(coming, down, across);
            h16* slot = shared + coming_slot * SLOT;
            const int first = coming_step * WIDTH, left = stride - first;
            const h16* from_x = reinterpret_cast<const h16*>(x) + (int64_t)tile.row * stride + first;
            const h16* from_w = reinterpret_cast<const h16*>(w) + (int64_t)tile.column * stride + first;
            copy_tile_async<TILE, WIDTH, THREADS, true, true>(slot, from_x, stride, rows - tile.row, left);
            copy_tile_async<TILE, WIDTH, THREADS, true, true>(slot + TILE * WIDTH, from_w, stride, columns - tile.column,
                                                              left);
        }
        cp_async_commit();
        if (++coming_step == steps) coming_step = 0, coming += gridDim.x;
        if (++coming_slot == SLOTS) coming_slot = 0;
    };
#pragma unroll
    for (int i = 0; i < SLOTS - 1; ++i) fetch();

    int next_slot = 0;
    const int lane = lane_of_warp(), own_row = warp_of_block() % 2 * OWN, own_column = warp_of_block() / 2 * OWN;
#pragma unroll 1
    for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
        const Tile tile = tile_of(index, down, across);
        int32_t d[OWN / 16][OWN / 8][4];
#pragma unroll
        for (int i = 0; i < OWN / 16; ++i) {
#pragma unroll
            for (int j = 0; j < OWN / 8; ++j) {
#pragma unroll
                for (int e = 0; e < 4; ++e) d[i][j][e] = 0;
            }
        }
#pragma unroll 1
        for (int step = 0; step < steps; ++step) {
            cp_async_wait<SLOTS - 2>();
            __syncthreads();
            fetch();
            const h16* left = shared + next_slot * SLOT;
            const h16* right = left + TILE * WIDTH;
            if (++next_slot == SLOTS) next_slot = 0;
#pragma unroll
            for (int k = 0; k < WIDTH / 16; ++k) {
                uint32_t a[OWN / 16][4], b[OWN / 16][4];
#pragma unroll
                for (int i = 0; i < OWN / 16; ++i) {
                    const int row = own_row + i * 16 + (lane & 15);
                    ldmatrix_x4(a[i], left + tile_at<WIDTH>(row, k * 2 + (lane >> 4)));
                    const int column = own_column + i * 16 + (lane & 7) + ((lane >> 4) << 3);
                    ldmatrix_x4(b[i], right + tile_at<WIDTH>(column, k * 2 + ((lane >> 3) & 1)));
                }
#pragma unroll
                for (int i = 0; i < OWN / 16; ++i) {
#pragma unroll
                    for (int j = 0; j < OWN / 16; ++j) {
                        mma_m16n8k32_s8(d[i][2 * j], a[i], {b[j][0], b[j][1]});
                        mma_m16n8k32_s8(d[i][2 * j + 1], a[i], {b[j][2], b[j][3]});
                    }
                }
            }
        }

        typed(y, y_f16, [&](auto* y) {
            auto* offset = static_cast<decltype(y)>(const_cast<void*>(bias));
            auto* added = static_cast<decltype(y)>(const_cast<void*>(skip));
#pragma unroll
            for (int i = 0; i < OWN / 16; ++i) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int row = tile.row + own_row + i * 16 + half * 8 + (lane >> 2);
                    if (row >= rows) continue;
                    const float scale = x_scales[row];
#pragma unroll
                    for (int j = 0; j < OWN / 8; ++j) {
#pragma unroll
                        for (int e = 0; e < 2; ++e) {
                            const int column = tile.column + own_column + j * 8 + (lane & 3) * 2 + e;
                            if (column >= columns) continue;
                            const int64_t at = (int64_t)row * columns + column;
                            float v = (float)d[i][j][2 * half + e] * (scale * w_scales[column]);
                            if (offset) v += load1(offset + column);
                            if (added) v += load1(added + at);
                            if (gelu) v = gelu_tanh(v);
                            store1(y + at, v);
                        }
                    }
                }
            }
        });
    }
}
REGISTER_KERNEL(linear_quantised)
