// out[b, i, h] = Σ_j p_j · v[b, j, h],  p = softmax_j(scale · q[b, i, h] · k[b, j, h]),
// for at most 256 tokens and so few heads and images that every block has a multiprocessor to itself
//
// qkv:  fp16 (B, N, 3, H, d), q then k then v, as a projection leaves them
// out:  fp16 (B, N, H·d)
// lse:  f32 (B, H, N), the natural logarithm of each softmax's denominator, ln Σ_j exp(scale · q·k_j);
//       may be null
// Sizes: tokens = N, heads = H, head_size = d; scale is above 0, 1/√d as a rule.
//
// Launch: grid ⌈N/32⌉, H, B; block 256; shared 92160
// Accumulates in f32, over quarters of the keys and then over the quarters; probabilities are rounded to fp16
// before they multiply v, their sum is not.
// out and lse are written.
//
// HEAD_SIZE  32, 64, 96, 128, 192 or 256: d, or the next of them above it.
// Sets: HEAD_SIZE 32 64 96 128 192 256
// Limits: d a multiple of 8; qkv and out aligned to 16 bytes; H and B at most 65535; N·3·H·d below 2³¹.
//
// A block owns 32 queries; a warp has 16 of them and a quarter of the keys, so that what takes a warp long, the
// products, is done by four at once. Columns of q and k, then of v, pass through shared memory 32 at a time, most
// of them under way together. The quarters' outputs meet in shared memory at the end.
#include "include/device.cuh"
#include "include/softmax.cuh"
#include "include/vector.cuh"

#if !defined(HEAD_SIZE)
#error "attention_split needs HEAD_SIZE"
#endif

const int KEYS = 256;
const int QUARTER = KEYS / 4;
const int QUERIES = 32;
const int THREADS = 256;
const int WIDTH = 32;
const int CHUNKS = HEAD_SIZE / WIDTH;
const int SLOT = (KEYS + QUERIES) * WIDTH;
const int SLOTS = 5;
// Columns of the output that meet at once. Rows are a quarter of all banks apart.
const int MEETING = HEAD_SIZE < 128 ? HEAD_SIZE : HEAD_SIZE % 128 == 0 ? 128 : 96;
const int ROW = MEETING + 8;

static_assert(HEAD_SIZE % 32 == 0 && HEAD_SIZE <= 256, "HEAD_SIZE is a multiple of 32 up to 256");
static_assert(HEAD_SIZE % MEETING == 0, "the output meets in equal parts");
static_assert(4 * QUERIES * ROW * 4 <= SLOTS * SLOT * 2, "four outputs fit where chunks were");

KERNEL void LAUNCH_BOUNDS(THREADS, 1)
attention_split(const h16* qkv, h16* out, float* lse, int tokens, int heads, int head_size, float scale) {
    DYNAMIC_SHARED(h16, shared);
    SHARED(float, tops[4][QUERIES]);
    SHARED(float, sums[4][QUERIES]);
    const int first_query = blockIdx.x * QUERIES, head = blockIdx.y, image = blockIdx.z;
    const int width = heads * head_size, stride = 3 * width;
    const h16* k = qkv + (int64_t)image * tokens * stride + width + head * head_size;
    const h16* v = k + width;
    const h16* q = k - width + first_query * stride;
    const int queries = tokens - first_query;

    // Chunk i of the sequence: q and k column by column, then v.
    auto fetch = [&](int i) {
        h16* slot = shared + i % SLOTS * SLOT;
        const int column = (i < CHUNKS ? i : i - CHUNKS) * WIDTH, left = head_size - column;
        if (i < 2 * CHUNKS) {
            const h16* source = (i < CHUNKS ? k : v) + column;
            copy_tile_async<KEYS, WIDTH, THREADS, true>(slot, source, stride, tokens, left);
        }
        if (i < CHUNKS && threadIdx.x < 4 * QUERIES) {
            copy_tile_async<QUERIES, WIDTH, 4 * QUERIES, true>(slot + KEYS * WIDTH, q + column, stride, queries,
                                                              left);
        }
        cp_async_commit();
    };

    const int row = (warp_of_block() & 1) * 16, quarter = warp_of_block() >> 1;
    const int group = lane_of_warp() >> 2, first_key = quarter * QUARTER;
    // Of the four lanes that hold a row.
    const bool is_first = (lane_of_warp() & 3) == 0;
    const int keys = row < queries ? tokens - first_key : 0;
#pragma unroll
    for (int i = 0; i < SLOTS - 1; ++i) fetch(i);
    float s[QUARTER / 8][4];
    clear(s);
#pragma unroll
    for (int i = 0; i < CHUNKS; ++i) {
        cp_async_wait<SLOTS - 2>();
        __syncthreads();
        fetch(i + SLOTS - 1);
        const h16* slot = shared + i % SLOTS * SLOT;
        multiply_transposed<WIDTH>(s, slot + KEYS * WIDTH, row, slot + first_key * WIDTH, keys);
    }

    if (tokens - first_key < QUARTER) mask_columns(s, tokens - first_key);
    const float scale_log2 = scale * LOG2_E;
    float top[2], offset[2], sum[2] = {0.0f, 0.0f};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        top[half] = largest(s, half);
        if (is_first) tops[quarter][row + group + 8 * half] = top[half];
    }
    __syncthreads();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
#pragma unroll
        for (int i = 0; i < 4; ++i) top[half] = fmaxf(top[half], tops[i][row + group + 8 * half]);
        offset[half] = top[half] * scale_log2;
    }
    uint32_t p[QUARTER / 16][4];
    exponentials(p, sum, s, scale_log2, offset);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        sum[half] = row_sum(sum[half]);
        if (is_first) sums[quarter][row + group + 8 * half] = sum[half];
    }

    float o[CHUNKS][WIDTH / 8][4];
#pragma unroll
    for (int i = CHUNKS; i < 2 * CHUNKS; ++i) {
        cp_async_wait<SLOTS - 2>();
        __syncthreads();
        fetch(i + SLOTS - 1);
        clear(o[i - CHUNKS]);
        multiply<WIDTH>(o[i - CHUNKS], p, shared + i % SLOTS * SLOT + first_key * WIDTH, keys);
    }

    if (lse && quarter == 0 && is_first) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int at = row + group + 8 * half;
            const float total = sums[0][at] + sums[1][at] + sums[2][at] + sums[3][at];
            const int64_t to = ((int64_t)image * heads + head) * tokens + first_query + at;
            if (at < queries) lse[to] = top[half] * scale + logf(total);
        }
    }
    float* parts = reinterpret_cast<float*>(shared);
    h16* to = out + ((int64_t)image * tokens + first_query) * width + head * head_size;
#pragma unroll
    for (int first = 0; first < HEAD_SIZE; first += MEETING) {
        __syncthreads();
#pragma unroll
        for (int j = 0; j < MEETING / 8; ++j) {
            const float(&block)[4] = o[(first / 8 + j) / 4][(first / 8 + j) % 4];
            float* part = parts + (quarter * QUERIES + row + group) * ROW + j * 8 + (lane_of_warp() & 3) * 2;
            part[0] = block[0], part[1] = block[1];
            part[8 * ROW] = block[2], part[8 * ROW + 1] = block[3];
        }
        __syncthreads();
#pragma unroll 1
        for (int i = threadIdx.x; i < QUERIES * MEETING / 8; i += THREADS) {
            const int at = i / (MEETING / 8), column = i % (MEETING / 8) * 8;
            if (at >= queries || first + column >= head_size) continue;
            float whole[8], quarter[8];
            load8(parts + at * ROW + column, whole);
#pragma unroll
            for (int j = 1; j < 4; ++j) {
                load8(parts + (j * QUERIES + at) * ROW + column, quarter);
#pragma unroll
                for (int e = 0; e < 8; ++e) whole[e] += quarter[e];
            }
            const float inverse = 1.0f / (sums[0][at] + sums[1][at] + sums[2][at] + sums[3][at]);
#pragma unroll
            for (int e = 0; e < 8; ++e) whole[e] *= inverse;
            store8(to + (int64_t)at * width + first + column, whole);
        }
    }
}
REGISTER_KERNEL(attention_split)
