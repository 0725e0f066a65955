// dx = dy·σ(x)·(1 + x·(1 − σ(x)))
//
// x:       f32 (fp16 with INPUT_F16), any shape
// dy, dx:  f32, of as many numbers; dx may be dy
// Sizes: n numbers.
//
// Grid ⌈n/256⌉, block 256, no shared memory.
// Computes in f32. dx is written.
//
// INPUT_F16  1: x is fp16; 0: f32.
// Sets: INPUT_F16 0 1
// Limits: n below 2³¹.
#include "include/activation.cuh"
#include "include/device.cuh"
#include "include/vector.cuh"

#if !defined(INPUT_F16)
#error "silu_backward needs INPUT_F16"
#endif

#if INPUT_F16
typedef h16 Input;
#else
typedef float Input;
#endif

KERNEL void LAUNCH_BOUNDS(256, 4) silu_backward(const Input* x, const float* dy, float* dx, int n) {
    const int64_t i = (int64_t)blockIdx.x * 256 + threadIdx.x;
    if (i < n) {
        const float v = load1(x + i), s = sigmoid(v);
        dx[i] = dy[i] * s * (1.0f + v * (1.0f - s));
    }
}
REGISTER_KERNEL(silu_backward)
