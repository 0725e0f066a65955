// out[b, i, h] = Σ_j p_j · v[b, j, h],  p = softmax_j(scale · q[b, i, h] · k[b, j, h]),
// for at most 256 tokens
//
// qkv:  fp16 (B, N, 3, H, d), q then k then v, as a projection leaves them
// out:  fp16 (B, N, H·d)
// lse:  f32 (B, H, N), the natural logarithm of each softmax's denominator, ln Σ_j exp(scale · q·k_j);
//       may be null
// Sizes: tokens = N, heads = H, head_size = d; scale is above 0, 1/√d as a rule.
//
// Grid (⌈N/64⌉, H, B), block 128, dynamic shared memory 32768 bytes.
// Accumulates in f32; probabilities are rounded to fp16 before they multiply v, their sum is not.
// out and lse are written.
//
// HEAD_SIZE   32, 64, 96, 128, 192 or 256: d, or the next of them above it.
// TOKENS_256  1: N is 256 and d is HEAD_SIZE; 0: any N up to 256 and any d up to HEAD_SIZE.
// Limits: d a multiple of 8; qkv and out aligned to 16 bytes; H and B at most 65535; N·3·H·d below 2³¹.
//
// A block owns 64 queries, a warp 16 of them. Their products with all keys stay in registers while q and k
// pass through shared memory 16 columns at a time; after the softmax v passes through it 32 columns at a time,
// and each chunk of the output is finished and stored at once. So registers do not grow with the head size.
// Chunks alternate between two slots, and a chunk is fetched while the one before is in use.
#include "include/device.cuh"
#include "include/tile.cuh"

#if !defined(HEAD_SIZE) || !defined(TOKENS_256)
#error "attention needs HEAD_SIZE and TOKENS_256"
#endif

const int KEYS = 256;
const int QUERIES = 64;
const int THREADS = 128;
const int K_WIDTH = 16;
const int V_WIDTH = 32;
const int K_CHUNKS = HEAD_SIZE / K_WIDTH;
const int V_CHUNKS = HEAD_SIZE / V_WIDTH;
const int SLOT = KEYS * V_WIDTH;
const bool MASKED = !TOKENS_256;
// Three blocks to a multiprocessor leave 168 registers, which suffices without masks.
const int BLOCKS = TOKENS_256 && HEAD_SIZE >= 128 ? 3 : 2;
const float LOG2_E = 1.44269504f;

static_assert(HEAD_SIZE % 32 == 0 && HEAD_SIZE <= 256, "HEAD_SIZE is a multiple of 32 up to 256");
static_assert((KEYS + QUERIES) * K_WIDTH <= SLOT, "a chunk of k and q fits a slot");

KERNEL void LAUNCH_BOUNDS(THREADS, BLOCKS)
attention(const h16* qkv, h16* out, float* lse, int tokens, int heads, int head_size, float scale) {
    DYNAMIC_SHARED(h16, shared);
    if (!MASKED) tokens = KEYS, head_size = HEAD_SIZE;
    const int first_query = blockIdx.x * QUERIES, head = blockIdx.y, image = blockIdx.z;
    const int width = heads * head_size, stride = 3 * width;
    const h16* k = qkv + (int64_t)image * tokens * stride + width + head * head_size;
    const h16* v = k + width;
    const h16* q = k - width + first_query * stride;

    // Chunk i of the sequence: q and k column by column, then v.
    auto fetch = [&](int i) {
        h16* slot = shared + (i & 1) * SLOT;
        if (i < K_CHUNKS) {
            const int column = i * K_WIDTH, left = head_size - column;
            copy_tile_async<KEYS, K_WIDTH, THREADS, MASKED>(slot, k + column, stride, tokens, left);
            copy_tile_async<QUERIES, K_WIDTH, THREADS, MASKED>(slot + KEYS * K_WIDTH, q + column, stride,
                                                               tokens - first_query, left);
        } else if (i < K_CHUNKS + V_CHUNKS) {
            const int column = (i - K_CHUNKS) * V_WIDTH;
            copy_tile_async<KEYS, V_WIDTH, THREADS, MASKED>(slot, v + column, stride, tokens,
                                                            head_size - column);
        }
        cp_async_commit();
    };

    const int warp = warp_of_block(), group = lane_of_warp() >> 2, quarter = lane_of_warp() & 3;
    float s[KEYS / 8][4];
    clear(s);
    fetch(0);
#pragma unroll 1
    for (int i = 0; i < K_CHUNKS; ++i) {
        cp_async_wait<0>();
        __syncthreads();
        fetch(i + 1);
        const h16* slot = shared + (i & 1) * SLOT;
        multiply_transposed<K_WIDTH>(s, slot + KEYS * K_WIDTH, warp * 16, slot);
    }

    float top[2] = {-1e30f, -1e30f}, sum[2] = {0.0f, 0.0f};
#pragma unroll
    for (int j = 0; j < KEYS / 8; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            if (MASKED && j * 8 + quarter * 2 + (e & 1) >= tokens) s[j][e] = -1e30f;
            top[e >> 1] = fmaxf(top[e >> 1], s[j][e]);
        }
    }
    const float scale_log2 = scale * LOG2_E;
    top[0] = row_max(top[0]);
    top[1] = row_max(top[1]);
    // Packed in pairs, accumulators of a product are the left operand of the next.
    uint32_t p[KEYS / 16][4];
#pragma unroll
    for (int j = 0; j < KEYS / 8; ++j) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float a = exp2_approx(s[j][2 * half] * scale_log2 - top[half] * scale_log2);
            const float b = exp2_approx(s[j][2 * half + 1] * scale_log2 - top[half] * scale_log2);
            sum[half] += a + b;
            p[j / 2][(j & 1) * 2 + half] = pack(a, b);
        }
    }
    const int first_row = first_query + warp * 16;
    float inverse[2];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        sum[half] = row_sum(sum[half]);
        inverse[half] = 1.0f / sum[half];
        const int row = first_row + group + 8 * half;
        if (lse && quarter == 0 && row < tokens) {
            lse[((int64_t)image * heads + head) * tokens + row] = top[half] * scale + logf(sum[half]);
        }
    }

    h16* to = out + ((int64_t)image * tokens + first_row) * width + head * head_size;
#pragma unroll 1
    for (int i = K_CHUNKS; i < K_CHUNKS + V_CHUNKS; ++i) {
        cp_async_wait<0>();
        __syncthreads();
        fetch(i + 1);
        float o[V_WIDTH / 8][4];
        clear(o);
        multiply<V_WIDTH>(o, p, shared + (i & 1) * SLOT);
        const int column = (i - K_CHUNKS) * V_WIDTH;
        store_16x32(to + column, width, o, 0, inverse, tokens - first_row, head_size - column);
    }
}
REGISTER_KERNEL(attention)
