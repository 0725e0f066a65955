// Eight neighbouring numbers at a time, fp16 or f32 in memory and f32 in registers. Addresses are
// multiples of 16 bytes.
#pragma once
#include "device.cuh"

DEVICE void unpack8(vec4u packed, float (&v)[8]) {
    unpack(packed.x, v[0], v[1]);
    unpack(packed.y, v[2], v[3]);
    unpack(packed.z, v[4], v[5]);
    unpack(packed.w, v[6], v[7]);
}

DEVICE void join8(vec4u low, vec4u high, float (&v)[8]) {
    v[0] = __uint_as_float(low.x), v[1] = __uint_as_float(low.y), v[2] = __uint_as_float(low.z), v[3] = __uint_as_float(low.w);
    v[4] = __uint_as_float(high.x), v[5] = __uint_as_float(high.y), v[6] = __uint_as_float(high.z), v[7] = __uint_as_float(high.w);
}

DEVICE void load8(const h16* from, float (&v)[8]) { unpack8(load16(from), v); }
DEVICE void load8(const float* from, float (&v)[8]) { join8(load16(from), load16(from + 4), v); }

// For memory that is read once and that no thread of the same launch writes.
DEVICE void load8_streaming(const h16* from, float (&v)[8]) { unpack8(load16_streaming(from), v); }
DEVICE void load8_streaming(const float* from, float (&v)[8]) {
    join8(load16_streaming(from), load16_streaming(from + 4), v);
}

DEVICE void store8(h16* to, const float (&v)[8]) {
    store16(to, vec4u{pack(v[0], v[1]), pack(v[2], v[3]), pack(v[4], v[5]), pack(v[6], v[7])});
}

DEVICE void store8(float* to, const float (&v)[8]) {
    store16(to, vec4u{__float_as_uint(v[0]), __float_as_uint(v[1]), __float_as_uint(v[2]), __float_as_uint(v[3])});
    store16(to + 4, vec4u{__float_as_uint(v[4]), __float_as_uint(v[5]), __float_as_uint(v[6]), __float_as_uint(v[7])});
}

// One number, whatever its type in memory.
DEVICE float load1(const float* from) { return *from; }
DEVICE float load1(const h16* from) { return to_f32(*from); }
DEVICE void store1(float* to, float v) { *to = v; }
DEVICE void store1(h16* to, float v) { *to = to_h16(v); }
