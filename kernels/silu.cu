// y = x·σ(x)
//
// x:  f32 (fp16 with INPUT_F16), any shape
// y:  fp16, of as many numbers
// Sizes: n numbers.
//
// Grid ⌈n/256⌉, block 256, no shared memory.
// Computes in f32. y is written.
//
// INPUT_F16  1: x is fp16; 0: f32.
// Sets: INPUT_F16 0 1
// Limits: n below 2³¹.
#include "include/activation.cuh"
#include "include/device.cuh"
#include "include/vector.cuh"

#if !defined(INPUT_F16)
#error "silu needs INPUT_F16"
#endif

#if INPUT_F16
typedef h16 Input;
#else
typedef float Input;
#endif

KERNEL void LAUNCH_BOUNDS(256, 4) silu(const Input* x, h16* y, int n) {
    const int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i < n) {
        const float v = load1(x + i);
        y[i] = to_h16(v * sigmoid(v));
    }
}
REGISTER_KERNEL(silu)
