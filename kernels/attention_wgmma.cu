// out[b, i, h] = Σ_j p_j · v[b, j, h],  p = softmax_j(scale · q[b, i, h] · k[b, j, h]),
// for at most 256 tokens, by the products of Hopper's warpgroups
//
// qkv:  fp16 (B, N, 3, H, d), q then k then v, as a projection leaves them
// out:  fp16 (B, N, H·d)
// lse:  f32 (B, H, N), the natural logarithm of each softmax's denominator, ln Σ_j exp(scale · q·k_j);
//       may be null
// Sizes: tokens = N, heads = H, head_size = d; tiles = B·H·⌈N/128⌉; scale is above 0, 1/√d as a rule.
//
// Launch: grid at most a block to each tile; block 256; shared 197632
// Accumulates in f32; probabilities are rounded to fp16 before they multiply v, their sum is not.
// out and lse are written.
//
// TOKENS_256  1: N is 256 and d a multiple of 64; 0: any N up to 256 and any d.
// Sets: TOKENS_256 0 1
// Architecture: 90
// Limits: d a multiple of 8 up to 256; qkv and out aligned to 16 bytes; B·H·⌈N/128⌉ + the grid and N·3·H·d below 2³¹.
//
// A tile is 128 queries of a head; a block takes every gridDim.x-th, each of its warpgroups 64 of the queries. Their
// products with all keys stay in registers while q and k pass through shared memory 64 columns at a time; after the
// softmax v does so, and each 64 columns of the output are finished and stored at once. So registers do not grow with
// the head size. What passes takes four slots in turn, the next tile's after the last of this one: three are under way
// while one is in use. Every product is with 256 keys, of which those that are not there are zeros.
#include "include/device.cuh"
#include "include/softmax.cuh"
#include "include/wgmma.cuh"

#if !defined(TOKENS_256)
#error "attention_wgmma needs TOKENS_256"
#endif

const int KEYS = 256;
const int QUERIES = 128;
// Of a warpgroup.
const int OWN = 64;
const int THREADS = 256;
const int WIDTH = 64;
const int SLOT = (KEYS + QUERIES) * WIDTH;
const int SLOTS = 4;
const bool MASKED = !TOKENS_256;

static_assert(SLOT * 2 % 1024 == 0 && KEYS * WIDTH * 2 % 1024 == 0, "tiles begin at multiples of 1024 bytes");
static_assert(SLOTS * SLOT * 2 + 1024 == 197632, "the slots and what aligns them");

// Where a tile's queries are.
struct Tile {
    int64_t image;
    int head, first_query;
};

DEVICE Tile tile_of(int index, int heads, int tokens) {
    const int blocks = (tokens + QUERIES - 1) / QUERIES;
    return Tile{index / blocks / heads, index / blocks % heads, index % blocks * QUERIES};
}

KERNEL void LAUNCH_BOUNDS(THREADS, 1)
attention_wgmma(const h16* qkv, h16* out, float* lse, int tokens, int heads, int head_size, int tiles, float scale) {
    DYNAMIC_SHARED(unsigned char, bytes);
    h16* shared = first_tile(bytes);
    if (!MASKED) tokens = KEYS;
    const int width = heads * head_size, stride = 3 * width;
    const int chunks = (head_size + WIDTH - 1) / WIDTH;

    // Of what passes next: its tile, which of the tile's chunks, those of q and k and then v's, and its slot.
    int coming = blockIdx.x, coming_chunk = 0, coming_slot = 0;
    auto fetch = [&]() {
        if (coming < tiles) {
            h16* slot = shared + coming_slot * SLOT;
            const Tile tile = tile_of(coming, heads, tokens);
            const bool is_v = coming_chunk >= chunks;
            const int column = (is_v ? coming_chunk - chunks : coming_chunk) * WIDTH, left = head_size - column;
            const h16* q = qkv + tile.image * tokens * stride + tile.head * head_size + column;
            copy_tile_async<KEYS, WIDTH, THREADS, MASKED, true>(slot, q + (is_v ? 2 : 1) * width, stride, tokens, left);
            if (!is_v) {
                copy_tile_async<QUERIES, WIDTH, THREADS, MASKED, true>(
                    slot + KEYS * WIDTH, q + tile.first_query * stride, stride, tokens - tile.first_query, left);
            }
        }
        cp_async_commit();
        if (++coming_chunk == 2 * chunks) coming_chunk = 0, coming += gridDim.x;
        if (++coming_slot == SLOTS) coming_slot = 0;
    };
    int next_slot = 0;
    // The next chunk, when it is there. Another is fetched to where the one before was.
    auto await = [&]() -> const h16* {
        cp_async_wait<SLOTS - 2>();
        fence_proxy_async();
        __syncthreads();
        fetch();
        const h16* slot = shared + next_slot * SLOT;
        if (++next_slot == SLOTS) next_slot = 0;
        return slot;
    };
#pragma unroll
    for (int i = 0; i < SLOTS - 1; ++i) fetch();

    const int warp = warp_of_block(), group = warp / 4;
    const float scale_log2 = scale * LOG2_E;
#pragma unroll 1
    for (int index = blockIdx.x; index < tiles; index += gridDim.x) {
        const Tile tile = tile_of(index, heads, tokens);
        const int first_row = tile.first_query + warp * 16;
        float s[KEYS / 8][4];
        int i = 0;
// There is a chunk: a loop that might not run would copy s to where it would then be.
#pragma unroll 1
        do {
            const h16* slot = await();
            const uint64_t k = tile_descriptor(slot), q = tile_descriptor(slot + (KEYS + group * OWN) * WIDTH);
            begin_products(s);
#pragma unroll
            for (int j = 0; j < WIDTH / 16; ++j)
                wgmma_m64n256k16(s, q + j * COLUMNS_16, k + j * COLUMNS_16, i > 0 || j > 0);
            finish_products(s);
        } while (++i < chunks);

        if (MASKED) mask_columns(s, tokens);
        uint32_t p[KEYS / 16][4];
        const float top[2] = {largest(s, 0), largest(s, 1)};
        const float offset[2] = {top[0] * scale_log2, top[1] * scale_log2};
        float sum[2] = {0.0f, 0.0f}, inverse[2];
        exponentials(p, sum, s, scale_log2, offset);
        float* to_lse = lse ? lse + (tile.image * heads + tile.head) * tokens : nullptr;
        finish_rows(inverse, to_lse, top, sum, scale, first_row, tokens);

        h16* to = out + (tile.image * tokens + first_row) * width + tile.head * head_size;
        i = 0;
#pragma unroll 1
        do {
            const uint64_t v = tile_descriptor(await());
            float o[WIDTH / 8][4];
            begin_products(o);
#pragma unroll
            for (int j = 0; j < KEYS / 16; ++j) wgmma_m64n64k16(o, p[j], v + j * ROWS_16, j > 0);
            finish_products(o);
            const int column = i * WIDTH, rows = tokens - first_row, left = head_size - column;
            store_16x32(to + column, width, o, 0, inverse, rows, left);
            store_16x32(to + column + 32, width, o, 4, inverse, rows, left - 32);
        } while (++i < chunks);
    }
}
REGISTER_KERNEL(attention_wgmma)
