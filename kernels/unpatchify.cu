// grid cells = the numbers of the tokens that stand for them: the inverse of patchify
//
// patches:  fp16 (B, H/p · W/p, C·p²); within a token (C, p, p), or (p, p, C) with channels_last
// grid:     fp16 (B, H, W, C)
// Sizes: width = W, patch = p, channels = C, channels_last 0 or 1.
//
// Launch: grid B·H/p·W/p; block 128
// A block per token.
// Nothing is computed. grid is written.
//
// Defines: none.
// Limits: H and W multiples of p.
#include "include/device.cuh"

KERNEL void LAUNCH_BOUNDS(128, 8)
unpatchify(const h16* patches, h16* grid, int width, int patch, int channels, int channels_last) {
    const int across = width / patch, area = patch * patch;
    // Rows of tokens of all images are numbered through, as rows of cells are.
    const int token_row = blockIdx.x / across, token_column = blockIdx.x % across;
    h16* corner = grid + ((int64_t)token_row * patch * width + token_column * patch) * channels;
    const h16* from = patches + (int64_t)blockIdx.x * area * channels;
    // In the order of the grid, so that neighbouring threads write to neighbouring numbers.
    for (int i = threadIdx.x; i < area * channels; i += 128) {
        const int cell = i / channels, channel = i % channels, row = cell / patch, column = cell % patch;
        const int at = channels_last ? i : channel * area + cell;
        corner[((int64_t)row * width + column) * channels + channel] = from[at];
    }
}
REGISTER_KERNEL(unpatchify)
