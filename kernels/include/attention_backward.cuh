// What the kernels of attention's gradient share. A block of 128 threads owns 64 rows, queries or keys, and meets
// all rows of the other kind, 256 at a time.
#pragma once
#include "device.cuh"
#include "tile.cuh"
#include "vector.cuh"

const int THREADS = 128;
const int OWN = 64;
const int TILE = 256;
// Columns of a chunk.
const int WIDTH = 32;
const int SLOT = (TILE + OWN) * WIDTH;
const float LOG2_E = 1.44269504f;

// Rows of two matrices, of which the first give the scores and the second the scores' gradients.
struct Rows {
    const h16 *first, *second;
    int first_stride, second_stride, count;
};

// What passes through shared memory, for every tile of rows in 3·chunks chunks of 32 columns: the first matrices'
// of tile and block, column by column, the second's, and the tile's first again. Chunks alternate between two
// slots, and a chunk is fetched while the one before is in use.
struct Passage {
    h16* slots;
    Rows all, own;
    int columns, chunks;
    // Of the tile: its first row, and the slot of its first chunk.
    int first_row = 0, parity = 0;
};

// Starts copying chunk i, which may be the next tile's first.
DEVICE void fetch(const Passage& p, int i) {
    h16* slot = p.slots + ((p.parity ^ i) & 1) * SLOT;
    int row = p.first_row;
    if (i == 3 * p.chunks) i = 0, row += TILE;
    if (row < p.all.count) {
        const bool second = i >= p.chunks && i < 2 * p.chunks;
        int column = i * WIDTH;
        if (i >= p.chunks) column -= p.chunks * WIDTH;
        if (i >= 2 * p.chunks) column -= p.chunks * WIDTH;
        const int columns = p.columns - column;
        const int stride = second ? p.all.second_stride : p.all.first_stride;
        const h16* from = (second ? p.all.second : p.all.first) + row * stride + column;
        copy_tile_async<TILE, WIDTH, THREADS, true, true>(slot, from, stride, p.all.count - row, columns);
        if (i < 2 * p.chunks) {
            const int stride = second ? p.own.second_stride : p.own.first_stride;
            const h16* from = (second ? p.own.second : p.own.first) + column;
            copy_tile_async<OWN, WIDTH, THREADS, true, true>(slot + TILE * WIDTH, from, stride, p.own.count,
                                                             columns);
        }
    }
    cp_async_commit();
}

// Chunk i, when it is there: a tile's rows, then the block's. The next is under way.
DEVICE const h16* await(const Passage& p, int i) {
    cp_async_wait<0>();
    __syncthreads();
    fetch(p, i + 1);
    return p.slots + ((p.parity ^ i) & 1) * SLOT;
}

DEVICE void next_tile(Passage& p) {
    p.first_row += TILE;
    p.parity ^= p.chunks;
}

// This lane's part of the product of two rows, of the four lanes that hold a row of an accumulator.
DEVICE float quarter_of_product(const h16* a, const h16* b, int columns) {
    float sum = 0.0f;
    for (int column = (lane_of_warp() & 3) * 8; column < columns; column += 32) {
        float x[8], y[8];
        load8(a + column, x);
        load8(b + column, y);
#pragma unroll
        for (int i = 0; i < 8; ++i) sum += x[i] * y[i];
    }
    return sum;
}

// p ← p ∘ factor, of an accumulator that has been packed in pairs.
template <int STEPS>
DEVICE void multiply_packed(uint32_t (&p)[STEPS][4], const float (&factor)[2 * STEPS][4]) {
#pragma unroll
    for (int j = 0; j < 2 * STEPS; ++j) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            uint32_t& pair = p[j / 2][(j & 1) * 2 + half];
            float a, b;
            unpack(pair, a, b);
            pair = pack(a * factor[j][2 * half], b * factor[j][2 * half + 1]);
        }
    }
}

// Where this thread keeps its part of chunk i of `chunks`, f32 (B, H, blocks of an image's head, chunks, 2048).
DEVICE float* kept(float* sums, int i, int chunks) {
    const int64_t block = ((int64_t)blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    return sums + ((block * chunks + i) * (WIDTH / 8) * THREADS + threadIdx.x) * 4;
}

DEVICE void keep(const float (&v)[WIDTH / 8][4], float* sums, int i, int chunks) {
    float* to = kept(sums, i, chunks);
#pragma unroll
    for (int j = 0; j < WIDTH / 8; ++j) {
        store16(to + j * 4 * THREADS, vec4u{__float_as_uint(v[j][0]), __float_as_uint(v[j][1]),
                                            __float_as_uint(v[j][2]), __float_as_uint(v[j][3])});
    }
}

// What it has kept.
DEVICE void take(float (&v)[WIDTH / 8][4], float* sums, int i, int chunks) {
    const float* from = kept(sums, i, chunks);
#pragma unroll
    for (int j = 0; j < WIDTH / 8; ++j) {
        const vec4u bits = load16(from + j * 4 * THREADS);
        v[j][0] = __uint_as_float(bits.x), v[j][1] = __uint_as_float(bits.y);
        v[j][2] = __uint_as_float(bits.z), v[j][3] = __uint_as_float(bits.w);
    }
}
