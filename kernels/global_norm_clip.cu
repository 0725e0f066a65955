// norm[0] = √(Σ sums)·u;  norm[1] = u·min(1, max_norm/(norm[0] + 1e-6)), or NaN where norm[0] is not finite
//
// sums:  f32, `count` sums of squares
// u:     f32, one number: 1 over the loss scale
// norm:  f32 (2)
//
// Launch: grid 1; block 256
// Computes and accumulates in f64, in an order that depends on `count` alone. norm is written.
//
// Defines: none.
#include "include/device.cuh"

const int THREADS = 256;

KERNEL void LAUNCH_BOUNDS(THREADS, 1)
global_norm_clip(const float* sums, const float* u, float* norm, int count, double max_norm) {
    SHARED(double, partial[THREADS]);
    double sum = 0.0;
    for (int i = threadIdx.x; i < count; i += THREADS) sum += sums[i];
    partial[threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.x > 0) return;
    double total = 0.0;
    for (int i = 0; i < THREADS; ++i) total += partial[i];
    const double unscale = *u, length = sqrt(total) * unscale, clip = max_norm / (length + 1e-6);
    norm[0] = (float)length;
    const bool finite = (__float_as_uint(norm[0]) & 0x7f800000u) != 0x7f800000u;
    norm[1] = finite ? (float)((clip < 1.0 ? clip : 1.0) * unscale) : __uint_as_float(0x7fffffffu);
}
REGISTER_KERNEL(global_norm_clip)
