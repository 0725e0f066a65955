// bfloat16, the upper half of an f32, for numbers that are kept from step to step.
#pragma once
#include "vector.cuh"

struct bf16 {
    uint16_t bits;
};

// One of the two nearest, each as likely as x is near to it: `random` has 16 random bits. x is finite.
DEVICE bf16 to_bf16(float x, uint32_t random) { return bf16{(uint16_t)((__float_as_uint(x) + random) >> 16)}; }

DEVICE float load1(const bf16* from) { return __uint_as_float((uint32_t)from->bits << 16); }

DEVICE void load8(const bf16* from, float (&v)[8]) {
    const vec4u packed = load16(from);
    const uint32_t words[4] = {packed.x, packed.y, packed.z, packed.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        v[2 * i] = __uint_as_float(words[i] << 16);
        v[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
    }
}

// The first `count` of eight numbers.
DEVICE void store_some(bf16* to, int64_t count, const bf16 (&v)[8]) {
    if (count >= 8) {
        uint32_t words[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) words[i] = v[2 * i].bits | (uint32_t)v[2 * i + 1].bits << 16;
        return store16(to, vec4u{words[0], words[1], words[2], words[3]});
    }
#pragma unroll
    for (int e = 0; e < 8; ++e)
        if (e < count) to[e] = v[e];
}
