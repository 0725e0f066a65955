// Linear layers on tensor cores: y[m, n] = activation(scaled(Σ_k x[m, k]·w[n, k]) + bias[n] + skip[m, n]).
//
// A tile of y is TILE x TILE, of which each of four warps has a quarter. A block takes every gridDim.x-th. Slabs of 64
// bytes of the rows of both sides pass through shared memory, in a ring of slots, those of the next tile after the last of
// this one: all but one are under way while that is in use. Products are added in one order, whatever the tile and the place
// in it: the bits of a number depend on its rows of x and w alone.
#pragma once
#include "activation.cuh"
#include "device.cuh"
#include "tile.cuh"
#include "vector.cuh"

#ifndef TILE
#error "TILE: rows and columns of a tile, 64 or 128"
#endif

const int OWN = TILE / 2;
const int THREADS = 128;
// Of a slab, in halves; bytes are two to a half, so that a fragment of 32 bytes of a row is one of 16 halves.
const int WIDTH = 32;
const int SLOT = 2 * TILE * WIDTH;
const int SHARED_BYTES = 49152;
const int SLOTS = SHARED_BYTES / (2 * SLOT);
// Tiles below one another that are taken before the next ones beside them, so that what they read is still in L2.
const int TALL = 16;

struct Tile {
    int row, column;
};

DEVICE Tile tile_of(int index, int down, int across) {
    const int band = index / (TALL * across), first = band * TALL, within = index - band * TALL * across;
    const int height = down - first < TALL ? down - first : TALL;
    return Tile{(first + within % height) * TILE, within / height * TILE};
}

// What follows the sums. All are like y, of rows of `columns` numbers; without bias, skip or kept these are null.
struct Layer {
    const void* bias;
    const void* skip;
    // What the activation is applied to.
    void* kept;
    void* y;
    int y_f16, gelu;
};

// Whether rows of `columns` numbers of any type, eight at a time, begin at multiples of 16 bytes.
DEVICE bool whole_vectors(int columns, const void* a, const void* b, const void* c = nullptr, const void* d = nullptr) {
    const uint64_t addresses = reinterpret_cast<uint64_t>(a) | reinterpret_cast<uint64_t>(b) |
                               reinterpret_cast<uint64_t>(c) | reinterpret_cast<uint64_t>(d);
    return columns % 8 == 0 && addresses % 16 == 0;
}

// Eight neighbours of a row of y, of which `count` are there, from their sums on.
template <class T>
DEVICE void finish(const Layer& layer, T* y, int64_t at, int column, int count, bool aligned, float (&v)[8]) {
    auto add = [&](const void* from, int64_t at) {
        float added[8];
        load_some(static_cast<const T*>(from) + at, count, added, aligned);
#pragma unroll
        for (int e = 0; e < 8; ++e) v[e] += added[e];
    };
    if (layer.bias) add(layer.bias, column);
    if (layer.skip) add(layer.skip, at);
    if (layer.kept) store_some(static_cast<T*>(layer.kept) + at, count, v, aligned);
    if (layer.gelu) {
#pragma unroll
        for (int e = 0; e < 8; ++e) v[e] = gelu_tanh(v[e]);
    }
    store_some(y + at, count, v, aligned);
}

// All tiles of a block. `stride`: halves from a row of x or w to the next. `multiply(d, a, b)`: d, of Sums, += a·b of
// 16 x 16 and 16 x 8 halves. `scale(row, column, count, v)`: of eight sums in a row of y, of which `count` are there.
// With ANY rows of x and w may have any number of halves and begin anywhere.
template <class Sum, bool ANY, class Multiply, class Scale>
DEVICE void linear_tiles(const h16* x, const h16* w, int rows, int columns, int stride, const Layer& layer,
                         Multiply multiply, Scale scale) {
    DYNAMIC_SHARED(h16, shared);
    const int down = (rows + TILE - 1) / TILE, across = (columns + TILE - 1) / TILE, tiles = down * across;
    const int steps = (stride + WIDTH - 1) / WIDTH;
    const bool copied_whole = !ANY || whole_vectors(stride, x, w);

    // Of what passes next: its tile, which of the tile's steps, and its slot.
    int coming = blockIdx.x, coming_step = 0, coming_slot = 0;
    auto fetch = [&]() {
        if (coming < tiles) {
            const Tile tile = tile_of(coming, down, across);
            h16* slot = shared + coming_slot * SLOT;
            const int first = coming_step * WIDTH, left = stride - first;
            const h16* from_x = x + (int64_t)tile.row * stride + first;
            const h16* from_w = w + (int64_t)tile.column * stride + first;
            const int x_rows = rows - tile.row, w_rows = columns - tile.column;
            if (copied_whole) {
                copy_tile_async<TILE, WIDTH, THREADS, true, true>(slot, from_x, stride, x_rows, left);
                copy_tile_async<TILE, WIDTH, THREADS, true, true>(slot + TILE * WIDTH, from_w, stride, w_rows, left);
            } else {
                copy_tile<TILE, WIDTH, THREADS>(slot, from_x, stride, x_rows, left);
                copy_tile<TILE, WIDTH, THREADS>(slot + TILE * WIDTH, from_w, stride, w_rows, left);
            }
        }
        cp_async_commit();
        if (++coming_step == steps) coming_step = 0, coming += gridDim.x;
        if (++coming_slot == SLOTS) coming_slot = 0;
    };
#pragma unroll
    for (int i = 0; i < SLOTS - 1; ++i) fetch();

    int next_slot = 0;
    const int lane = lane_of_warp(), own_row = warp_of_block() % 2 * OWN, own_column = warp_of_block() / 2 * OWN;
    const bool aligned = whole_vectors(columns, layer.bias, layer.skip, layer.kept, layer.y);
#pragma unroll 1
    for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
        const Tile tile = tile_of(index, down, across);
        Sum d[OWN / 16][OWN / 8][4];
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
                        multiply(d[i][2 * j], a[i], {b[j][0], b[j][1]});
                        multiply(d[i][2 * j + 1], a[i], {b[j][2], b[j][3]});
                    }
                }
            }
        }

        typed(layer.y, layer.y_f16, [&](auto* y) {
#pragma unroll
            for (int i = 0; i < OWN / 16; ++i) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    const int row = tile.row + own_row + i * 16 + half * 8 + (lane >> 2);
#pragma unroll
                    for (int j = 0; j < OWN / 8; j += 4) {
                        // Of four blocks each lane of a row has two neighbours; now it gets the eight of one block.
                        uint32_t words[2][4];
#pragma unroll
                        for (int e = 0; e < 2; ++e) {
#pragma unroll
                            for (int block = 0; block < 4; ++block)
                                words[e][block] = __float_as_uint((float)d[i][j + block][2 * half + e]);
                            transpose_row(words[e]);
                        }
                        const int column = tile.column + own_column + j * 8 + (lane & 3) * 8;
                        if (row >= rows || column >= columns) continue;
                        float v[8];
#pragma unroll
                        for (int e = 0; e < 8; ++e) v[e] = __uint_as_float(words[e % 2][e / 2]);
                        const int count = columns - column;
                        scale(row, column, count, v);
                        finish(layer, y, (int64_t)row * columns + column, column, count, aligned, v);
                    }
                }
            }
        });
    }
}
