// out[b, i, h] = Σ_j p_j · v[b, j, h],  p = softmax_j(scale · q[b, i, h] · k[b, j, h]),
// for at most 256 tokens
//
// qkv:  fp16 (B, N, 3, H, d), q then k then v, as a projection leaves them
// out:  fp16 (B, N, H·d)
// lse:  f32 (B, H, N), the natural logarithm of each softmax's denominator, ln Σ_j exp(scale · q·k_j);
//       may be null
// Sizes: tokens = N, heads = H, head_size = d; scale is above 0, 1/√d as a rule.
//
// Launch: grid ⌈N/64⌉, H, B; block 128; shared 32768
// Accumulates in f32; probabilities are rounded to fp16 before they multiply v, their sum is not.
// out and lse are written.
//
// TOKENS_256  1: N is 256 and d a multiple of 32; 0: any N up to 256 and any d.
// Sets: TOKENS_256 0 1
// Limits: d a multiple of 8; qkv and out aligned to 16 bytes; H and B at most 65535; N·3·H·d below 2³¹.
//
// A block owns 64 queries, a warp 16 of them. Their products with all keys stay in registers while q and k
// pass through shared memory 16 columns at a time; after the softmax v passes through it 32 columns at a time,
// and each chunk of the output is finished and stored at once. So registers do not grow with the head size.
// Chunks alternate between two slots, and a chunk is fetched while the one before is in use. For groups of keys
// that are not there, and in warps without queries, only the softmax is computed.
#include "include/device.cuh"
#include "include/softmax.cuh"

#if !defined(TOKENS_256)
#error "attention needs TOKENS_256"
#endif

const int KEYS = 256;
const int QUERIES = 64;
const int THREADS = 128;
const int K_WIDTH = 16;
const int V_WIDTH = 32;
const int SLOT = KEYS * V_WIDTH;
const bool MASKED = !TOKENS_256;
// To a multiprocessor; they leave 168 registers, which suffices.
const int BLOCKS = 3;

static_assert((KEYS + QUERIES) * K_WIDTH <= SLOT, "a chunk of k and q fits a slot");

KERNEL void LAUNCH_BOUNDS(THREADS, BLOCKS)
attention(const h16* qkv, h16* out, float* lse, int tokens, int heads, int head_size, float scale) {
    DYNAMIC_SHARED(h16, shared);
    if (!MASKED) tokens = KEYS;
    // Twice as many chunks of q and k as of v, so that v's begin in the first slot.
    const int v_chunks = MASKED ? (head_size + V_WIDTH - 1) / V_WIDTH : head_size / V_WIDTH;
    const int k_chunks = 2 * v_chunks;
    const int first_query = blockIdx.x * QUERIES, head = blockIdx.y, image = blockIdx.z;
    const int width = heads * head_size, stride = 3 * width;
    const h16* k = qkv + (int64_t)image * tokens * stride + width + head * head_size;
    const h16* v = k + width;
    const h16* q = k - width + first_query * stride;

    // Chunk i of the sequence: q and k column by column, then v.
    auto fetch = [&](int i) {
        h16* slot = shared + (i & 1) * SLOT;
        if (i < k_chunks) {
            const int column = i * K_WIDTH, left = head_size - column;
            copy_tile_async<KEYS, K_WIDTH, THREADS, MASKED>(slot, k + column, stride, tokens, left);
            copy_tile_async<QUERIES, K_WIDTH, THREADS, MASKED>(slot + KEYS * K_WIDTH, q + column, stride,
                                                               tokens - first_query, left);
        } else if (i < k_chunks + v_chunks) {
            const int column = (i - k_chunks) * V_WIDTH;
            copy_tile_async<KEYS, V_WIDTH, THREADS, MASKED>(slot, v + column, stride, tokens,
                                                            head_size - column);
        }
        cp_async_commit();
    };

    const int warp = warp_of_block(), first_row = first_query + warp * 16;
    // Keys to compute with: none in a warp without queries.
    const int keys = !MASKED ? KEYS : first_row < tokens ? tokens : 0;
    float s[KEYS / 8][4];
    clear(s);
    fetch(0);
#pragma unroll 1
    for (int i = 0; i < k_chunks; ++i) {
        cp_async_wait<0>();
        __syncthreads();
        fetch(i + 1);
        const h16* slot = shared + (i & 1) * SLOT;
        multiply_transposed<K_WIDTH>(s, slot + KEYS * K_WIDTH, warp * 16, slot, keys);
    }

    if (MASKED) mask_columns(s, tokens);
    uint32_t p[KEYS / 16][4];
    const float scale_log2 = scale * LOG2_E;
    const float top[2] = {largest(s, 0), largest(s, 1)};
    const float offset[2] = {top[0] * scale_log2, top[1] * scale_log2};
    float sum[2] = {0.0f, 0.0f}, inverse[2];
    exponentials(p, sum, s, scale_log2, offset);
    if (lse) lse += ((int64_t)image * heads + head) * tokens;
    finish_rows(inverse, lse, top, sum, scale, first_row, tokens);

    h16* to = out + ((int64_t)image * tokens + first_row) * width + head * head_size;
#pragma unroll 1
    for (int i = k_chunks; i < k_chunks + v_chunks; ++i) {
        cp_async_wait<0>();
        __syncthreads();
        fetch(i + 1);
        float o[V_WIDTH / 8][4];
        clear(o);
        multiply<V_WIDTH>(o, p, shared + (i & 1) * SLOT, keys);
        const int column = (i - k_chunks) * V_WIDTH;
        store_16x32(to + column, width, o, 0, inverse, tokens - first_row, head_size - column);
    }
}
REGISTER_KERNEL(attention)
