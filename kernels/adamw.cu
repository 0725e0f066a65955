// m = β₁m + (1 − β₁)g,  v = β₂v + (1 − β₂)g²,  p = p·keep − rate·m/(√v·v_scale + ε),  average += take·(p − average)
// with g = norm[1]·gradient; nothing is done where norm[1] is NaN
//
// gradient:  f32 (n)
// p:         the parameters, f32 (n)
// m, v:      the moments, f32 (bf16 with moments_bf16), (n)
// average:   f32 (n); may be null
// rounded:   fp16 (n), receives the parameters; may be null
// numbers:   f32 (11): [1/loss scale], β₁, 1 − β₁, β₂, 1 − β₂, keep, rate, v_scale, ε, take, step
// norm:      f32 (2): [norm], the gradient's factor
// Sizes: n numbers; moments_bf16 0 or 1.
//
// Launch: grid ⌈n/2048⌉; block 256
// Computes in f32. Moments in bf16 are rounded at random, without bias, by Philox of the counter (element/4, step,
// stream) and the key (key_low, key_high): the low half of word element mod 4 for m, the high half for v.
// p, m, v and average are read and written, rounded is written.
//
// Defines: none.
// Limits: n below 2³¹; all tensors of n numbers aligned to 16 bytes.
#include "include/bfloat.cuh"
#include "include/device.cuh"
#include "include/philox.cuh"
#include "include/vector.cuh"

DEVICE void store_moments(float* to, int64_t count, const float (&v)[8], const uint32_t (&)[8], int) {
    store_some(to, count, v);
}

// Rounded with the 16 bits from `shift` on of the words.
DEVICE void store_moments(bf16* to, int64_t count, const float (&v)[8], const uint32_t (&words)[8], int shift) {
    bf16 halves[8];
#pragma unroll
    for (int e = 0; e < 8; ++e) halves[e] = to_bf16(v[e], words[e] >> shift & 0xffffu);
    store_some(to, count, halves);
}

KERNEL void LAUNCH_BOUNDS(256, 3)
adamw(const float* gradient, float* p, void* m, void* v, float* average, h16* rounded, const float* numbers,
      const float* norm, int key_low, int key_high, int stream, int n, int moments_bf16) {
    const int64_t i = ((int64_t)blockIdx.x * 256 + threadIdx.x) * 8, count = n - i;
    const float factor = norm[1];
    if (count <= 0 || factor != factor) return;
    const float beta1 = numbers[1], beta1_rest = numbers[2], beta2 = numbers[3], beta2_rest = numbers[4];
    const float keep = numbers[5], rate = numbers[6], v_scale = numbers[7], eps = numbers[8];
    float parameter[8];
    load_some(p + i, count, parameter);
    auto move = [&](auto* m, auto* v, const uint32_t (&random)[8]) {
        float g[8], first[8], second[8];
        load_some(gradient + i, count, g);
        load_some(m + i, count, first);
        load_some(v + i, count, second);
#pragma unroll
        for (int e = 0; e < 8; ++e) {
            g[e] *= factor;
            first[e] = beta1 * first[e] + beta1_rest * g[e];
            second[e] = beta2 * second[e] + beta2_rest * (g[e] * g[e]);
            parameter[e] = parameter[e] * keep - rate * first[e] / (sqrtf(second[e]) * v_scale + eps);
        }
        store_moments(m + i, count, first, random, 0);
        store_moments(v + i, count, second, random, 16);
    };
    uint32_t random[8] = {};
    if (moments_bf16) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            uint32_t words[4] = {(uint32_t)(i / 4) + half, 0, (uint32_t)numbers[10], (uint32_t)stream};
            philox(words, key_low, key_high);
#pragma unroll
            for (int e = 0; e < 4; ++e) random[4 * half + e] = words[e];
        }
        move(static_cast<bf16*>(m), static_cast<bf16*>(v), random);
    } else {
        move(static_cast<float*>(m), static_cast<float*>(v), random);
    }
    store_some(p + i, count, parameter);
    if (rounded) store_some(rounded + i, count, parameter);
    if (!average) return;
    const float take = numbers[9];
    float mean[8];
    load_some(average + i, count, mean);
#pragma unroll
    for (int e = 0; e < 8; ++e) mean[e] += take * (parameter[e] - mean[e]);
    store_some(average + i, count, mean);
}
REGISTER_KERNEL(adamw)
