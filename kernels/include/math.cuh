// Approximations by one instruction, with subnormals kept (no .ftz).
#pragma once

#ifdef __CUDACC_RTC__

// 2^x within 2 ulp; 0 for very negative x.
DEVICE float exp2_approx(float x) {
    float r;
    asm("ex2.approx.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}

DEVICE float log2_approx(float x) {
    float r;
    asm("lg2.approx.f32 %0, %1;" : "=f"(r) : "f"(x));
    return r;
}

#endif

// 1/√x, correctly rounded twice, where rsqrt.approx is 2 ulp off.
DEVICE float rsqrt_accurate(float x) { return 1.0f / sqrtf(x); }
