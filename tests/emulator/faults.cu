// Planted faults: what the emulated device has to find. With -DREPAIRED the same kernels are right.
#include "../../kernels/include/device.cuh"

#ifdef REPAIRED
#define REPAIR(code) code
#else
#define REPAIR(code)
#endif

// Right when threads run by number.
KERNEL void missing_barrier(const float* x, float* out) {
    SHARED(float, tile[256]);
    int t = threadIdx.x;
    tile[t] = x[t];
    REPAIR(__syncthreads();)
    out[t] = tile[t ? t - 1 : 0];
}
REGISTER_KERNEL(missing_barrier)

// The next round's writes overtake this round's reads.
KERNEL void missing_second_barrier(const float* x, float* out) {
    SHARED(float, tile[256]);
    int t = threadIdx.x;
    float v = x[t];
    for (int i = 0; i < 10; ++i) {
        tile[t] = v;
        __syncthreads();
        v = tile[(t + 1) % 256];
        REPAIR(__syncthreads();)
    }
    out[t] = v;
}
REGISTER_KERNEL(missing_second_barrier)

KERNEL void missing_syncwarp(const float* x, float* out) {
    SHARED(float, tile[256]);
    int t = threadIdx.x;
    tile[t] = x[t];
    REPAIR(__syncwarp();)
    out[t] = tile[t ^ 1];
}
REGISTER_KERNEL(missing_syncwarp)

KERNEL void missing_wait(const float* x, float* out) {
    DYNAMIC_SHARED(float, tile);
    int t = threadIdx.x;
    cp_async16(tile + 4 * t, x + 4 * (t % 64));
    cp_async_commit();
    REPAIR(cp_async_wait<0>();)
    __syncthreads();
    out[t] = tile[4 * ((t + 1) % 256)];
    cp_async_wait<0>();
}
REGISTER_KERNEL(missing_wait)

// The wait is there, but one thread's does not cover another's copies.
KERNEL void missing_barrier_after_wait(const float* x, float* out) {
    DYNAMIC_SHARED(float, tile);
    int t = threadIdx.x;
    cp_async16(tile + 4 * t, x + 4 * (t % 64));
    cp_async_commit();
    cp_async_wait<0>();
    REPAIR(__syncthreads();)
    out[t] = tile[4 * ((t + 255) % 256)];
}
REGISTER_KERNEL(missing_barrier_after_wait)

KERNEL void pending_copy_at_exit(const float* x, float* out) {
    DYNAMIC_SHARED(float, tile);
    int t = threadIdx.x;
    cp_async16(tile + 4 * t, x + 4 * (t % 64));
    cp_async_commit();
    REPAIR(cp_async_wait<0>();)
    out[t] = x[t];
}
REGISTER_KERNEL(pending_copy_at_exit)

KERNEL void global_overflow(const float* x, float* out) {
    int t = threadIdx.x;
    out[t + 1 REPAIR(-1)] = x[t];
}
REGISTER_KERNEL(global_overflow)

KERNEL void neighbour_added_to(const float* x, float* out) {
    int t = threadIdx.x;
    out[t + 1 REPAIR(-1)] += x[t];
}
REGISTER_KERNEL(neighbour_added_to)

KERNEL void neighbour_read(const float* x, float* out) {
    int t = threadIdx.x;
    out[t] = x[t + 1 REPAIR(-1)];
}
REGISTER_KERNEL(neighbour_read)

struct Hidden {
    float* out;
};
KERNEL void hidden_overflow(const float* x, Hidden hidden) {
    int t = threadIdx.x;
    hidden.out[t + 1 REPAIR(-1)] = x[t];
}
REGISTER_KERNEL(hidden_overflow)

KERNEL void static_shared_overflow(const float* x, float* out) {
    SHARED(float, tile[256]);
    int t = threadIdx.x;
    tile[t + 1 REPAIR(-1)] = x[t];
    __syncthreads();
    out[t] = tile[t];
}
REGISTER_KERNEL(static_shared_overflow)

KERNEL void dynamic_shared_overflow(const float* x, float* out) {
    DYNAMIC_SHARED(float, tile);
    int t = threadIdx.x;
    tile[t + 3 * 256 + 1 REPAIR(-1)] = x[t];
    __syncthreads();
    out[t] = tile[t + 3 * 256];
}
REGISTER_KERNEL(dynamic_shared_overflow)

KERNEL void misaligned_vector(const float* x, float* out) {
    int t = threadIdx.x;
    if (t < 32) store16(out + 4 * t, load16(x + 4 * t + 1 REPAIR(-1)));
}
REGISTER_KERNEL(misaligned_vector)

KERNEL void misaligned_pair(const float* x, float* out) {
    struct alignas(8) Pair {
        float a, b;
    };
    int t = threadIdx.x;
    if (t < 32) out[t] = reinterpret_cast<const Pair*>(x + 2 * t + 1 REPAIR(-1))->a;
}
REGISTER_KERNEL(misaligned_pair)

KERNEL void divergent_barriers(const float* x, float* out) {
    int t = threadIdx.x;
#ifdef REPAIRED
    __syncthreads();
#else
    if (t < 128) {
        __syncthreads();
    } else {
        __syncthreads();
    }
#endif
    out[t] = x[t];
}
REGISTER_KERNEL(divergent_barriers)

KERNEL void barrier_after_exit(const float* x, float* out) {
    int t = threadIdx.x;
    REPAIR(__syncthreads();)
    out[t] = x[t];
    if (t >= 200) return;
#ifndef REPAIRED
    __syncthreads();
#endif
}
REGISTER_KERNEL(barrier_after_exit)

// Half of a warp waits for lanes that never come.
KERNEL void divergent_shuffle(const float* x, float* out) {
    int t = threadIdx.x;
    float v = x[t];
    if (t % 32 < 16 REPAIR(|| true)) v = __shfl_xor_sync(0xffffffffu, v, 0);
    __syncthreads();
    out[t] = v;
}
REGISTER_KERNEL(divergent_shuffle)

KERNEL void plain_copy(const float* x, float* out) { out[threadIdx.x] = x[threadIdx.x]; }
REGISTER_KERNEL(plain_copy)

KERNEL void plain_add_one(float* x, float* unused) { x[threadIdx.x] += 1.0f; }
REGISTER_KERNEL(plain_add_one)
