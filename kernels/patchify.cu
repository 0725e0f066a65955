// patches[b, token, ·] = the patch × patch cells of a grid that the token stands for
//
// grid:     f32 (fp16 with GRID_F16), (B, G, G, C)
// patches:  fp16 (B, (G/p)², C·p²); within a token (C, p, p), or (p, p, C) with channels_last
// Sizes: side = G, patch = p, channels = C, channels_last 0 or 1.
//
// Grid B·(G/p)², block 128, a block per token, no shared memory.
// Rounds to fp16. patches is written.
//
// GRID_F16  1: grid is fp16; 0: f32.
// Sets: GRID_F16 0 1
// Limits: G a multiple of p.
#include "include/device.cuh"
#include "include/vector.cuh"

#if !defined(GRID_F16)
#error "patchify needs GRID_F16"
#endif

#if GRID_F16
typedef h16 Grid;
#else
typedef float Grid;
#endif

KERNEL void LAUNCH_BOUNDS(128, 8)
patchify(const Grid* grid, h16* patches, int side, int patch, int channels, int channels_last) {
    const int across = side / patch, area = patch * patch;
    // Rows of tokens of all images are numbered through, as rows of cells are.
    const int token_row = blockIdx.x / across, token_column = blockIdx.x % across;
    const Grid* corner = grid + ((int64_t)token_row * patch * side + token_column * patch) * channels;
    h16* to = patches + (int64_t)blockIdx.x * area * channels;
    for (int i = threadIdx.x; i < area * channels; i += 128) {
        const int cell = channels_last ? i / channels : i % area;
        const int channel = channels_last ? i % channels : i / area;
        const int row = cell / patch, column = cell % patch;
        to[i] = to_h16(load1(corner + ((int64_t)row * side + column) * channels + channel));
    }
}
REGISTER_KERNEL(patchify)
