// map[b, p] = √(max(0, ‖y‖² − Σ_k (v[p, k]·y)²)),  y = x[b, p] − mean[p]
//
// The distance to a Gaussian of each position, of covariance I and a part of low rank.
// x:        f32 (fp16 with x_f16), (B, P, C)
// mean:     f32 (P, C)
// vectors:  f32 (P, K, C), v
// map:      f32 (B, P); NaN or infinity where a row of x has one or its squares overflow
// Sizes: images = B, positions = P, rank = K, channels = C; x_f16 0 or 1.
//
// Launch: grid ⌈P·⌈B/2⌉/8⌉; block 256
// A warp per position and two images.
// Accumulates in f32, in an order that depends on C and K alone. map is written.
//
// Defines: none.
// Limits: C a multiple of 8; x, mean and vectors aligned to 16 bytes; P·⌈B/2⌉ below 2³¹.
//
// Warps of a position are neighbours, which find its vectors in L1. 8 lanes share the channels of a row out; the
// four such groups multiply four vectors at a time, in four steps.
#include "include/device.cuh"
#include "include/vector.cuh"

const int IMAGES = 2;
const int PARTS = 8;
const int GROUPS = 32 / PARTS;
const int STEPS = 4;

// Over the lanes of a group.
DEVICE float group_sum(float v) {
#pragma unroll
    for (int distance = PARTS / 2; distance > 0; distance /= 2) v += __shfl_xor_sync(~0u, v, distance);
    return v;
}

KERNEL void LAUNCH_BOUNDS(256, 2)
mahalanobis(const void* x, const float* mean, const float* vectors, float* map, int images, int positions, int rank,
            int channels, int x_f16) {
    const int warp = blockIdx.x * 8 + threadIdx.x / 32, lane = threadIdx.x % 32;
    const int pairs = (images - 1) / IMAGES + 1, position = warp / pairs;
    if (position >= positions) return;
    const int image = warp % pairs * IMAGES, group = lane / PARTS, part = lane % PARTS * 8;
    const int64_t image_size = (int64_t)positions * channels, row = (int64_t)position * channels;
    mean += row;
    vectors += row * rank;

    float squares[IMAGES] = {}, explained[IMAGES] = {};
    typed(x, x_f16, [&](auto* x) {
        x += image * image_size + row;
        int first = 0;
        // Once where there are no vectors.
        do {
            float products[STEPS][IMAGES] = {};
            for (int c = part; c < channels; c += 8 * PARTS) {
                float center[8], y[IMAGES][8];
                load8(mean + c, center);
#pragma unroll
                for (int i = 0; i < IMAGES; ++i) {
                    // The last of an odd number is taken twice.
                    load8(x + (image + i < images ? i * image_size : 0) + c, y[i]);
#pragma unroll
                    for (int e = 0; e < 8; ++e) {
                        y[i][e] -= center[e];
                        if (first == 0) squares[i] += y[i][e] * y[i][e];
                    }
                }
#pragma unroll
                for (int s = 0; s < STEPS; ++s) {
                    const int k = first + s * GROUPS + group;
                    if (k >= rank) break;
                    float v[8];
                    load8(vectors + (int64_t)k * channels + c, v);
#pragma unroll
                    for (int i = 0; i < IMAGES; ++i) {
#pragma unroll
                        for (int e = 0; e < 8; ++e) products[s][i] += v[e] * y[i][e];
                    }
                }
            }
#pragma unroll
            for (int s = 0; s < STEPS; ++s) {
#pragma unroll
                for (int i = 0; i < IMAGES; ++i) {
                    const float product = group_sum(products[s][i]);
                    explained[i] += product * product;
                }
            }
            first += STEPS * GROUPS;
        } while (first < rank);
    });
#pragma unroll
    for (int i = 0; i < IMAGES; ++i) {
#pragma unroll
        for (int distance = PARTS; distance < 32; distance *= 2)
            explained[i] += __shfl_xor_sync(~0u, explained[i], distance);
        const float square = group_sum(squares[i]) - explained[i];
        // Below zero by rounding is zero; NaN stays, and −∞ becomes one.
        const bool below = square < 0.0f && square - square == 0.0f;
        if (lane == 0 && image + i < images)
            map[(int64_t)(image + i) * positions + position] = below ? 0.0f : sqrtf(square);
    }
}
REGISTER_KERNEL(mahalanobis)
