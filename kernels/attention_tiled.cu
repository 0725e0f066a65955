// out[b, i, h] = Σ_j p_j · v[b, j, h],  p = softmax_j(scale · q[b, i, h] · k[b, j, h]),
// for any number of tokens
//
// qkv:  fp16 (B, N, 3, H, d), q then k then v, as a projection leaves them
// out:  fp16 (B, N, H·d)
// lse:  f32 (B, H, N), the natural logarithm of each softmax's denominator, ln Σ_j exp(scale · q·k_j);
//       may be null
// Sizes: tokens = N, heads = H, head_size = d; scale is above 0, 1/√d as a rule.
//
// Launch: grid ⌈N/64⌉, H, B; block 128; shared 2·HEAD_SIZE·(64 + 2·keys), keys 32 where HEAD_SIZE > 128, else 64
// Accumulates in f32; probabilities are rounded to fp16 before they multiply v, their sum is not.
// out and lse are written.
//
// HEAD_SIZE  32, 64, 96, 128, 192 or 256: d, or the next of them above it.
// Sets: HEAD_SIZE 32 64 96 128 192 256
// Limits: d a multiple of 8; qkv and out aligned to 16 bytes; H and B at most 65535; N·3·H·d below 2³¹.
//
// A block owns 64 queries, a warp 16 of them. Keys and values pass by in tiles of KEYS rows (Dao et al.,
// FlashAttention, 2022): after each tile of keys the output so far is scaled to the new maximum. Tiles
// alternate between two slots, and a tile is fetched while the one before is in use.
#include "include/device.cuh"
#include "include/softmax.cuh"

#if !defined(HEAD_SIZE)
#error "attention_tiled needs HEAD_SIZE"
#endif

const int KEYS = HEAD_SIZE > 128 ? 32 : 64;
const int QUERIES = 64;
const int THREADS = 128;
const int SLOT = KEYS * HEAD_SIZE;
const int BLOCKS = HEAD_SIZE > 64 ? 2 : 3;

static_assert(HEAD_SIZE % 32 == 0 && HEAD_SIZE <= 256, "HEAD_SIZE is a multiple of 32 up to 256");

KERNEL void LAUNCH_BOUNDS(THREADS, BLOCKS)
attention_tiled(const h16* qkv, h16* out, float* lse, int tokens, int heads, int head_size, float scale) {
    DYNAMIC_SHARED(h16, q_tile);
    h16* slots = q_tile + QUERIES * HEAD_SIZE;
    const int first_query = blockIdx.x * QUERIES, head = blockIdx.y, image = blockIdx.z;
    const int width = heads * head_size, stride = 3 * width;
    const h16* q = qkv + (int64_t)image * tokens * stride + head * head_size;
    const h16* k = q + width;

    // Tile i of the sequence: keys and values of the first KEYS tokens, of the next, …
    const int tiles = 2 * ((tokens + KEYS - 1) / KEYS);
    auto fetch = [&](int i) {
        if (i < tiles) {
            const int first_key = (i >> 1) * KEYS;
            const h16* source = k + (int64_t)first_key * stride + (i & 1) * width;
            copy_tile_async<KEYS, HEAD_SIZE, THREADS, true>(slots + (i & 1) * SLOT, source, stride,
                                                            tokens - first_key, head_size);
        }
        cp_async_commit();
    };

    const int warp = warp_of_block();
    const float scale_log2 = scale * LOG2_E;
    float o[HEAD_SIZE / 8][4], top[2] = {LOWEST, LOWEST}, sum[2] = {0.0f, 0.0f};
    clear(o);
    copy_tile_async<QUERIES, HEAD_SIZE, THREADS, true>(q_tile, q + (int64_t)first_query * stride, stride,
                                                       tokens - first_query, head_size);
    fetch(0);
#pragma unroll 1
    for (int i = 0; i < tiles; i += 2) {
        cp_async_wait<0>();
        __syncthreads();
        fetch(i + 1);
        float s[KEYS / 8][4];
        clear(s);
        multiply_transposed<HEAD_SIZE>(s, q_tile, warp * 16, slots);

        const int left = tokens - i / 2 * KEYS;
        if (left < KEYS) mask_columns(s, left);
        uint32_t p[KEYS / 16][4];
        float offset[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float highest = fmaxf(top[half], largest(s, half));
            const float shrink = exp2_approx((top[half] - highest) * scale_log2);
            offset[half] = highest * scale_log2;
            top[half] = highest;
            sum[half] *= shrink;
#pragma unroll
            for (int j = 0; j < HEAD_SIZE / 8; ++j) o[j][2 * half] *= shrink, o[j][2 * half + 1] *= shrink;
        }
        exponentials(p, sum, s, scale_log2, offset);

        cp_async_wait<0>();
        __syncthreads();
        fetch(i + 2);
        multiply<HEAD_SIZE>(o, p, slots + SLOT);
    }

    const int first_row = first_query + warp * 16;
    float inverse[2];
    if (lse) lse += ((int64_t)image * heads + head) * tokens;
    finish_rows(inverse, lse, top, sum, scale, first_row, tokens);
    h16* to = out + ((int64_t)image * tokens + first_row) * width + head * head_size;
#pragma unroll
    for (int j = 0; j < HEAD_SIZE / 32; ++j) {
        store_16x32(to + j * 32, width, o, 4 * j, inverse, tokens - first_row, head_size - j * 32);
    }
}
REGISTER_KERNEL(attention_tiled)
