// Half precision: storage types and conversions. NVRTC alone has no cuda_fp16.h.
#pragma once

#ifdef __CUDACC_RTC__

typedef uint16_t h16;    // the bits of one half
typedef uint32_t h16x2;  // two halves, the first in the low bits

// Rounds to nearest even, overflows to infinity, keeps subnormals.
DEVICE h16 to_h16(float x) {
    h16 r;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(r) : "f"(x));
    return r;
}

DEVICE float to_f32(h16 x) {
    float r;
    asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(x));
    return r;
}

DEVICE h16x2 pack(float lo, float hi) {
    h16x2 r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}

DEVICE void unpack(h16x2 x, float& lo, float& hi) {
    asm("{.reg .f16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}"
        : "=f"(lo), "=f"(hi)
        : "r"(x));
}

// a·b + c for both halves, rounded once.
DEVICE h16x2 fma2(h16x2 a, h16x2 b, h16x2 c) {
    h16x2 r;
    asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
    return r;
}

#endif
