// patches[b, token, ·] = the patch × patch cells of a grid that the token stands for
//
// grid:     f32 (fp16 with grid_f16), (B, G, G, C)
// patches:  fp16 (B, (G/p)², C·p²); within a token (C, p, p), or (p, p, C) with channels_last
// Sizes: side = G, patch = p, channels = C, channels_last and grid_f16 0 or 1.
//
// Launch: grid B·(G/p)²; block 128
// A block per token.
// Rounds to fp16. patches is written.
//
// Defines: none.
// Limits: G a multiple of p.
#include "include/device.cuh"
#include "include/vector.cuh"

KERNEL void LAUNCH_BOUNDS(128, 8)
patchify(const void* grid, h16* patches, int side, int patch, int channels, int channels_last, int grid_f16) {
    const int across = side / patch, area = patch * patch;
    // Rows of tokens of all images are numbered through, as rows of cells are.
    const int token_row = blockIdx.x / across, token_column = blockIdx.x % across;
    const int64_t corner = ((int64_t)token_row * patch * side + token_column * patch) * channels;
    h16* to = patches + (int64_t)blockIdx.x * area * channels;
    typed(grid, grid_f16, [&](auto* grid) {
        for (int i = threadIdx.x; i < area * channels; i += 128) {
            const int cell = channels_last ? i / channels : i % area;
            const int channel = channels_last ? i % channels : i / area;
            const int row = cell / patch, column = cell % patch;
            to[i] = to_h16(load1(grid + corner + ((int64_t)row * side + column) * channels + channel));
        }
    });
}
REGISTER_KERNEL(patchify)
