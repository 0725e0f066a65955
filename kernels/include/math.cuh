// Approximations by one instruction.
#pragma once

#ifdef __CUDACC_RTC__

// 2^x within 2 ulp; 0 where that is below 2⁻¹²⁶, which costs three instructions to keep and vanishes in fp16.
DEVICE float exp2_approx(float x) {
    float r;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}

// Subnormals are kept.
DEVICE float log2_approx(float x) {
    float r;
    asm("lg2.approx.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}

#endif

// 1/√x, correctly rounded twice, where rsqrt.approx is 2 ulp off.
DEVICE float rsqrt_accurate(float x) { return 1.0f / sqrtf(x); }
