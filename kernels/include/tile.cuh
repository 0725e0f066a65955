// fp16 tiles in shared memory and their products on tensor cores, one warp to 16 rows.
//
// Accumulators are those of mma.m16n8k16: of a 16 x 8 block, lane 4g + t holds columns 2t and 2t + 1 of row g
// in [0] and [1], and of row g + 8 in [2] and [3].
#pragma once
#include "device.cuh"

DEVICE int lane_of_warp() { return threadIdx.x & 31; }
DEVICE int warp_of_block() { return threadIdx.x >> 5; }

// Where the 16-byte unit `unit` of row `row` of a tile of WIDTH columns stands, in halves. Units are permuted
// within a row so that the eight rows which ldmatrix reads at once lie in eight different groups of banks.
template <int WIDTH>
DEVICE int tile_at(int row, int unit) {
    static_assert(WIDTH == 16 || WIDTH % 32 == 0, "rows of 2 or of a multiple of 4 units");
    const int swizzle = WIDTH % 64 == 0 ? row & 7 : WIDTH % 32 == 0 ? (row >> 1) & 3 : (row >> 2) & 1;
    return row * WIDTH + ((unit ^ swizzle) << 3);
}

// Rows of a tile that are not there are left out in whole groups of so many.
const int GROUP = 64;

// Whether row `row` begins a group of which none of the first `rows` rows is a part.
DEVICE bool beyond(int row, int rows) { return row % GROUP == 0 && row >= rows; }

// Starts copying a ROWS x WIDTH tile whose rows are `stride` halves apart in global memory. With MASKED, rows
// from `rows` on and columns from `columns` on are not read: they are filled with zeros, whole groups of rows
// after the first only with WHOLE and else left as they are.
template <int ROWS, int WIDTH, int THREADS, bool MASKED, bool WHOLE = false>
DEVICE void copy_tile_async(h16* tile, const h16* source, int stride, int rows, int columns) {
    // So many that eight neighbouring threads write to eight different groups of banks.
    const int ACROSS = WIDTH % 64 == 0 ? 8 : WIDTH == 16 ? 2 : 4, DOWN = THREADS / ACROSS;
    static_assert(ROWS % DOWN == 0, "every thread copies as many units");
    const int first_row = threadIdx.x / ACROSS, first_unit = threadIdx.x % ACROSS;
    const h16* from = source + (uint32_t)(first_row * stride + first_unit * 8);
#pragma unroll
    for (int i = 0; i < ROWS / DOWN; ++i) {
        if (MASKED && !WHOLE && i > 0 && beyond(i * DOWN, rows)) break;
#pragma unroll
        for (int j = 0; j < WIDTH / (8 * ACROSS); ++j) {
            const int row = first_row + i * DOWN, unit = first_unit + j * ACROSS;
            h16* to = tile + tile_at<WIDTH>(row, unit);
            const h16* at = from + j * ACROSS * 8;
            if (MASKED) {
                const bool valid = row < rows && unit * 8 < columns;
                cp_async16_zfill(to, valid ? at : source, valid);
            } else {
                cp_async16(to, at);
            }
        }
        from += (uint32_t)(DOWN * stride);
    }
}

// The same of rows anywhere in memory, a number at a time, MASKED and WHOLE. They are there after a barrier.
template <int ROWS, int WIDTH, int THREADS>
DEVICE void copy_tile(h16* tile, const h16* source, int stride, int rows, int columns) {
#pragma unroll 2
    for (int i = threadIdx.x; i < ROWS * WIDTH; i += THREADS) {
        const int row = i / WIDTH, column = i % WIDTH;
        const bool valid = row < rows && column < columns;
        tile[tile_at<WIDTH>(row, column / 8) + column % 8] = valid ? source[(int64_t)row * stride + column] : h16();
    }
}

template <int BLOCKS>
DEVICE void clear(float (&accumulator)[BLOCKS][4]) {
#pragma unroll
    for (int j = 0; j < BLOCKS; ++j) {
#pragma unroll
        for (int i = 0; i < 4; ++i) accumulator[j][i] = 0.0f;
    }
}

// accumulator (16 x 8·BLOCKS) += a · bᵀ: a is 16 rows from `row` of a tile, b the first 8·BLOCKS rows of
// another, both WIDTH columns wide. Groups of b beyond its first `rows` rows are left out.
template <int WIDTH, int BLOCKS>
DEVICE void multiply_transposed(float (&accumulator)[BLOCKS][4], const h16* a, int row, const h16* b,
                                int rows = 8 * BLOCKS) {
    const int lane = lane_of_warp();
// Swizzles repeat every four steps; more at once would take more registers.
#pragma unroll 4
    for (int k = 0; k < WIDTH / 16; ++k) {
        uint32_t left[4];
        ldmatrix_x4(left, a + tile_at<WIDTH>(row + (lane & 15), k * 2 + (lane >> 4)));
#pragma unroll
        for (int j = 0; j < BLOCKS / 2; ++j) {
            if (beyond(j * 16, rows)) break;
            uint32_t right[4];
            const int b_row = j * 16 + (lane & 7) + ((lane >> 4) << 3);
            ldmatrix_x4(right, b + tile_at<WIDTH>(b_row, k * 2 + ((lane >> 3) & 1)));
            mma_m16n8k16(accumulator[2 * j], left, {right[0], right[1]});
            mma_m16n8k16(accumulator[2 * j + 1], left, {right[2], right[3]});
        }
    }
}

// accumulator (16 x WIDTH) += a · b: a (16 x 16·STEPS) packed in registers, b a tile of 16·STEPS rows. Groups
// of b beyond its first `rows` rows are left out.
template <int WIDTH, int STEPS>
DEVICE void multiply(float (&accumulator)[WIDTH / 8][4], const uint32_t (&a)[STEPS][4], const h16* b,
                     int rows = 16 * STEPS) {
    const int lane = lane_of_warp();
#pragma unroll
    for (int k = 0; k < STEPS; ++k) {
        if (beyond(k * 16, rows)) break;
#pragma unroll
        for (int j = 0; j < WIDTH / 16; ++j) {
            uint32_t right[4];
            ldmatrix_x4_trans(right, b + tile_at<WIDTH>(k * 16 + (lane & 15), j * 2 + (lane >> 4)));
            mma_m16n8k16(accumulator[2 * j], a[k], {right[0], right[1]});
            mma_m16n8k16(accumulator[2 * j + 1], a[k], {right[2], right[3]});
        }
    }
}

// Over the four lanes that hold a row of an accumulator.
DEVICE float row_max(float v) {
    v = fmaxf(v, __shfl_xor_sync(~0u, v, 1));
    return fmaxf(v, __shfl_xor_sync(~0u, v, 2));
}

DEVICE float row_sum(float v) {
    v += __shfl_xor_sync(~0u, v, 1);
    return v + __shfl_xor_sync(~0u, v, 2);
}

// The 4 x 4 words of the four lanes of a row, transposed: word j of lane t becomes word t of lane j.
DEVICE void transpose_row(uint32_t (&words)[4]) {
    const bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
    const uint32_t a = __shfl_xor_sync(~0u, odd ? words[0] : words[1], 1);
    const uint32_t b = __shfl_xor_sync(~0u, odd ? words[2] : words[3], 1);
    if (odd) words[0] = a, words[2] = b;
    else words[1] = a, words[3] = b;
    const uint32_t c = __shfl_xor_sync(~0u, upper ? words[0] : words[2], 2);
    const uint32_t d = __shfl_xor_sync(~0u, upper ? words[1] : words[3], 2);
    if (upper) words[0] = c, words[1] = d;
    else words[2] = c, words[3] = d;
}

// Stores four blocks of an accumulator from `first` on, 16 rows x 32 columns, as fp16: row g times scale[0],
// row g + 8 times scale[1]. `to`: the first row's first column; `stride`: halves between rows. Only the first
// `rows` rows and `columns` columns are stored.
template <int BLOCKS>
DEVICE void store_16x32(h16* to, int stride, const float (&v)[BLOCKS][4], int first, const float (&scale)[2],
                        int rows, int columns) {
    const int lane = lane_of_warp(), row = lane >> 2, column = (lane & 3) * 8;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        uint32_t words[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            const float(&block)[4] = v[first + j];
            words[j] = pack(block[2 * half] * scale[half], block[2 * half + 1] * scale[half]);
        }
        transpose_row(words);
        if (row + 8 * half < rows && column < columns) {
            h16* at = to + (uint32_t)((row + 8 * half) * stride + column);
            store16(at, vec4u{words[0], words[1], words[2], words[3]});
        }
    }
}
