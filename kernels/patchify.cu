// patches[b, token, ·] = the patch × patch cells of a grid that the token stands for
//
// grid:     f32 (fp16 with grid_f16), (B, H, W, C)
// patches:  fp16 (B, H/p · W/p, C·p²); within a token (C, p, p), or (p, p, C) with channels_last
// Sizes: width = W, patch = p, channels = C, channels_last and grid_f16 0 or 1.
//
// Launch: grid B·H/p·W/p; block 128
// A block per token.
// Rounds to fp16. patches is written.
//
// Defines: none.
// Limits: H and W multiples of p.
#include "include/device.cuh"
#include "include/vector.cuh"

KERNEL void LAUNCH_BOUNDS(128, 8)
patchify(const void* grid, h16* patches, int width, int patch, int channels, int channels_last, int grid_f16) {
    const int across = width / patch, area = patch * patch;
    // Rows of tokens of all images are numbered through, as rows of cells are.
    const int token_row = blockIdx.x / across, token_column = blockIdx.x % across;
    const int64_t corner = ((int64_t)token_row * patch * width + token_column * patch) * channels;
    h16* to = patches + (int64_t)blockIdx.x * area * channels;
    typed(grid, grid_f16, [&](auto* grid) {
        for (int i = threadIdx.x; i < area * channels; i += 128) {
            const int cell = channels_last ? i / channels : i % area;
            const int channel = channels_last ? i % channels : i / area;
            const int row = cell / patch, column = cell % patch;
            to[i] = to_h16(load1(grid + corner + ((int64_t)row * width + column) * channels + channel));
        }
    });
}
REGISTER_KERNEL(patchify)
