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

DEVICE void unpack8(vec4u low, vec4u high, float (&v)[8]) {
    const uint32_t bits[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = __uint_as_float(bits[i]);
}

DEVICE void load8(const h16* from, float (&v)[8]) { unpack8(load16(from), v); }
DEVICE void load8(const float* from, float (&v)[8]) { unpack8(load16(from), load16(from + 4), v); }

// For memory that is read once and that no thread of the same launch writes.
DEVICE void load8_streaming(const h16* from, float (&v)[8]) { unpack8(load16_streaming(from), v); }
DEVICE void load8_streaming(const float* from, float (&v)[8]) {
    unpack8(load16_streaming(from), load16_streaming(from + 4), v);
}

DEVICE void store8(h16* to, const float (&v)[8]) {
    store16(to, vec4u{pack(v[0], v[1]), pack(v[2], v[3]), pack(v[4], v[5]), pack(v[6], v[7])});
}

DEVICE void store8(float* to, const float (&v)[8]) {
    uint32_t bits[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) bits[i] = __float_as_uint(v[i]);
    store16(to, vec4u{bits[0], bits[1], bits[2], bits[3]});
    store16(to + 4, vec4u{bits[4], bits[5], bits[6], bits[7]});
}

// One number, whatever its type in memory.
DEVICE float load1(const float* from) { return *from; }
DEVICE float load1(const h16* from) { return to_f32(*from); }
DEVICE void store1(float* to, float v) { *to = v; }
DEVICE void store1(h16* to, float v) { *to = to_h16(v); }

// Calls `work` with an address of fp16 numbers, or of f32 ones. The choice is the whole launch's: one branch, with
// code for each type behind it.
template <class Work>
DEVICE void typed(const void* numbers, bool is_f16, Work work) {
    if (is_f16) work(static_cast<const h16*>(numbers));
    else work(static_cast<const float*>(numbers));
}

template <class Work>
DEVICE void typed(void* numbers, bool is_f16, Work work) {
    if (is_f16) work(static_cast<h16*>(numbers));
    else work(static_cast<float*>(numbers));
}

// The first `count` of eight numbers; the others are 0, or are not stored. Where not `aligned` the address is any.
template <class T>
DEVICE void load_some(const T* from, int64_t count, float (&v)[8], bool aligned = true) {
    if (aligned && count >= 8) return load8(from, v);
#pragma unroll
    for (int e = 0; e < 8; ++e) v[e] = e < count ? load1(from + e) : 0.0f;
}

template <class T>
DEVICE void store_some(T* to, int64_t count, const float (&v)[8], bool aligned = true) {
    if (aligned && count >= 8) return store8(to, v);
#pragma unroll
    for (int e = 0; e < 8; ++e)
        if (e < count) store1(to + e, v[e]);
}
