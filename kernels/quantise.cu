// codes = encode(x / scale), scale = max(max |x| / 127, 2⁻¹²⁶) of each row, encode rounding to the nearest integer,
// of two the even one
//
// x:       f32 or fp16 (rows, K)
// codes:   int8 (rows, K), from −127 to 127
// scales:  f32 (rows)
// Sizes: columns = K; x_f16 0 or 1.
//
// Launch: grid rows; block 256
// A scale is 1 of zeros alone, and NaN where a number is not finite. codes and scales are written.
//
// Defines: none.
// Limits: K a multiple of 8; x aligned to 16 bytes, codes to 8.
#include "include/device.cuh"
#include "include/vector.cuh"

const int WARPS = 8;

DEVICE uint32_t encode(float x) {
    // A code without its scale says nothing: of NaN it is whatever the conversion gives.
    return (uint32_t)(int)fminf(fmaxf(rintf(x), -127.0f), 127.0f) & 0xff;
}

KERNEL void LAUNCH_BOUNDS(32 * WARPS, 4) quantise(const void* x, uint8_t* codes, float* scales, int columns, int x_f16) {
    SHARED(uint32_t, largest_of_warp[WARPS]);
    const int64_t first = (int64_t)blockIdx.x * columns;
    typed(x, x_f16, [&](auto* x) {
        // Of what is not negative, the order of the bits is that of the numbers, and NaN is above all.
        uint32_t bits = 0;
        float v[8];
        for (int i = threadIdx.x * 8; i < columns; i += 32 * WARPS * 8) {
            load8(x + first + i, v);
#pragma unroll
            for (int e = 0; e < 8; ++e) {
                const uint32_t magnitude = __float_as_uint(v[e]) & 0x7fffffff;
                bits = bits > magnitude ? bits : magnitude;
            }
        }
        for (int distance = 16; distance > 0; distance /= 2) {
            const uint32_t other = __shfl_xor_sync(~0u, bits, distance);
            bits = bits > other ? bits : other;
        }
        if (threadIdx.x % 32 == 0) largest_of_warp[threadIdx.x / 32] = bits;
        __syncthreads();
        for (int warp = 0; warp < WARPS; ++warp) bits = bits > largest_of_warp[warp] ? bits : largest_of_warp[warp];
        const float largest = __uint_as_float(bits);
        float scale = fmaxf(largest / 127.0f, 1.17549435e-38f);
        if (bits == 0) scale = 1.0f;
        if (bits >= 0x7f800000) scale = __uint_as_float(0x7fc00000);
        if (threadIdx.x == 0) scales[blockIdx.x] = scale;
        for (int i = threadIdx.x * 8; i < columns; i += 32 * WARPS * 8) {
            load8(x + first + i, v);
            uint64_t packed = 0;
#pragma unroll
            for (int e = 0; e < 8; ++e) packed |= (uint64_t)encode(v[e] / scale) << (8 * e);
            *reinterpret_cast<uint64_t*>(codes + first + i) = packed;
        }
    });
}
REGISTER_KERNEL(quantise)
