// Random words addressed by what they are for, and normal numbers, bit for bit those of the host.
#pragma once
#include "device.cuh"

// Philox4x32-10 (Salmon et al., SC 2011) of a counter, which becomes the words.
DEVICE void philox(uint32_t (&counter)[4], uint32_t key_low, uint32_t key_high) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint64_t first = (uint64_t)counter[0] * 0xD2511F53u, second = (uint64_t)counter[2] * 0xCD9E8D57u;
        counter[0] = (uint32_t)(second >> 32) ^ counter[1] ^ key_low;
        counter[1] = (uint32_t)second;
        counter[2] = (uint32_t)(first >> 32) ^ counter[3] ^ key_high;
        counter[3] = (uint32_t)first;
        key_low += 0x9E3779B9u, key_high += 0xBB67AE85u;
    }
}

// A float whose products and sums are rounded one by one, as on the host, and not fused.
struct Rounded {
    float value;
    __device__ Rounded(float v) : value(v) {}
};
DEVICE Rounded operator+(Rounded a, Rounded b) { return __fadd_rn(a.value, b.value); }
DEVICE Rounded operator-(Rounded a, Rounded b) { return __fsub_rn(a.value, b.value); }
DEVICE Rounded operator*(Rounded a, Rounded b) { return __fmul_rn(a.value, b.value); }
DEVICE Rounded operator/(Rounded a, Rounded b) { return a.value / b.value; }

// ln x for normal x > 0, within 2 ulp: x = 2^e·m with m in [√½, √2), and ln m by its odd polynomial in
// s = (m − 1)/(m + 1).
DEVICE Rounded natural_log(float x) {
    const uint32_t bits = __float_as_uint(x);
    const int exponent = (int)(bits - 0x3f3504f3u) >> 23;
    const Rounded f = Rounded(__uint_as_float(bits - ((uint32_t)exponent << 23))) - 1.0f;
    const Rounded s = f / (2.0f + f), z = s * s, e = (float)exponent;
    const Rounded p = z * (0.6666666f + z * (0.40000096f + z * (0.28498787f + z * 0.24279079f)));
    const Rounded half = 0.5f * f * f;
    // ln 2 in two parts; e·high is exact.
    return e * 0.6931381f - ((half - (s * (half + p) + e * 9.058001e-6f)) - f);
}

// Sine and cosine of 2π·word/2³²: of what is left of the nearest quarter turn, exact as the sum of two f32.
DEVICE void sin_cos_turns(uint32_t word, Rounded& sine, Rounded& cosine) {
    const uint32_t quarter = (word + (1u << 29)) >> 30;
    const int rest = (int)(word - (quarter << 30));
    const Rounded high = (float)(rest & ~0x7f), low = (float)(rest & 0x7f);
    const Rounded turn = 1.4629181e-9f, turn_rest = -4.0709404e-17f;  // 2π/2³²
    const Rounded x = high * turn + (low * turn + high * turn_rest), z = x * x;
    const Rounded sin = x + x * z * (-0.16666666f + z * (8.333331e-3f + z * (-1.984086e-4f + z * 2.75255e-6f)));
    const Rounded cos = 1.0f - 0.5f * z +
                        z * z * (4.1666664e-2f + z * (-1.3888888e-3f + z * (2.480063e-5f + z * -2.7525e-7f)));
    const Rounded s = quarter & 1 ? cos : sin, c = quarter & 1 ? sin : cos;
    sine = quarter & 2 ? Rounded(-s.value) : s;
    cosine = (quarter + 1) & 2 ? Rounded(-c.value) : c;
}

// Two normal numbers by Box and Muller.
DEVICE void normal_pair(uint32_t radius, uint32_t angle, float (&pair)[2]) {
    const Rounded u = (Rounded((float)radius) + 0.5f) * (1.0f / 4294967296.0f);
    const Rounded r = sqrtf(fmaxf((-2.0f * natural_log(u.value)).value, 0.0f));
    Rounded sine = 0.0f, cosine = 0.0f;
    sin_cos_turns(angle, sine, cosine);
    pair[0] = (r * cosine).value;
    pair[1] = (r * sine).value;
}
