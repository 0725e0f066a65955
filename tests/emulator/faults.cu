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

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#include "../../kernels/include/tile.cuh"
#include "../../kernels/include/wgmma.cuh"

// Of a block of 256 threads, two warpgroups: out[t] = Σ_k tile[k][column of t], by ones times a tile of 64×64 halves. Of
// the tile row 0 is the bits of a block of x, 32 numbers, and all others are 0, so that out[t] is one of those halves.
const int TILE = 64 * 64;

DEVICE void copy_row(h16* tile, const float* x) {
    for (int i = threadIdx.x; i < 512; i += 256)
        cp_async16_zfill(tile + tile_at<64>(i / 8, i % 8), x + i % 8 * 4, i < 8);
    cp_async_commit();
}

DEVICE void add_up(float (&d)[8][4], uint64_t tile) {
    uint32_t ones[4];
    for (uint32_t& pair : ones) pair = pack(1.0f, 1.0f);
    begin_products(d);
    for (int i = 0; i < 4; ++i) wgmma_m64n64k16(d, ones, tile + i * ROWS_16, i > 0);
    finish_products(d);
}

// Number t of x, from halves 2(t mod 32) and the next of the row: lane 4g + i has columns 8j + 2i and 8j + 2i + 1.
DEVICE float own_number(const float (&d)[8][4]) {
    const int lane = threadIdx.x % 32;
    h16x2 bits = 0;
    for (int j = 0; j < 8; ++j) {
        for (int i = 0; i < 4; ++i) {
            const float low = __shfl_sync(~0u, d[j][0], i), high = __shfl_sync(~0u, d[j][1], i);
            if (4 * j + i == lane) bits = pack(low, high);
        }
    }
    return __uint_as_float(bits);
}

KERNEL void wgmma_missing_proxy_fence(const float* x, float* out) {
    DYNAMIC_SHARED(unsigned char, bytes);
    h16* tile = first_tile(bytes);
    copy_row(tile, x);
    cp_async_wait<0>();
    REPAIR(fence_proxy_async();)
    __syncthreads();
    float d[8][4];
    add_up(d, tile_descriptor(tile));
    out[threadIdx.x] = own_number(d);
}
REGISTER_KERNEL(wgmma_missing_proxy_fence)

// The fence comes before what it is for.
KERNEL void wgmma_early_proxy_fence(const float* x, float* out) {
    DYNAMIC_SHARED(unsigned char, bytes);
    h16* tile = first_tile(bytes);
    copy_row(tile, x);
    fence_proxy_async();
    cp_async_wait<0>();
    REPAIR(fence_proxy_async();)
    __syncthreads();
    float d[8][4];
    add_up(d, tile_descriptor(tile));
    out[threadIdx.x] = own_number(d);
}
REGISTER_KERNEL(wgmma_early_proxy_fence)

// The slot is copied to before the products that read it have been waited for by all.
KERNEL void wgmma_slot_released_early(const float* x, float* out) {
    DYNAMIC_SHARED(unsigned char, bytes);
    h16* tile = first_tile(bytes);
    float first[8][4], second[8][4];
    copy_row(tile, x);
    cp_async_wait<0>();
    fence_proxy_async();
    __syncthreads();
    add_up(first, tile_descriptor(tile));
    REPAIR(__syncthreads();)
    copy_row(tile, x + 32);
    cp_async_wait<0>();
    fence_proxy_async();
    __syncthreads();
    add_up(second, tile_descriptor(tile));
    out[threadIdx.x] = own_number(first) + own_number(second);
}
REGISTER_KERNEL(wgmma_slot_released_early)

KERNEL void wgmma_wrong_descriptor(const float* x, float* out) {
    DYNAMIC_SHARED(unsigned char, bytes);
    h16* tile = first_tile(bytes);
    copy_row(tile, x);
    cp_async_wait<0>();
    fence_proxy_async();
    __syncthreads();
    float d[8][4];
    // Rows of 128 bytes, and 512 from eight of them to the next.
    add_up(d, tile_descriptor(tile) REPAIR(+ ((uint64_t)512 >> 4 << 32)) - ((uint64_t)512 >> 4 << 32));
    out[threadIdx.x] = own_number(d);
}
REGISTER_KERNEL(wgmma_wrong_descriptor)

KERNEL void wgmma_misplaced_tile(const float* x, float* out) {
    DYNAMIC_SHARED(unsigned char, bytes);
    h16* tile = first_tile(bytes) + 64 REPAIR(-64);
    copy_row(tile, x);
    cp_async_wait<0>();
    fence_proxy_async();
    __syncthreads();
    float d[8][4];
    add_up(d, tile_descriptor(tile));
    out[threadIdx.x] = own_number(d);
}
REGISTER_KERNEL(wgmma_misplaced_tile)

// The accumulators are read while the products are under way.
KERNEL void wgmma_missing_wait(const float* x, float* out) {
    DYNAMIC_SHARED(unsigned char, bytes);
    h16* tile = first_tile(bytes);
    copy_row(tile, x);
    cp_async_wait<0>();
    fence_proxy_async();
    __syncthreads();
    float d[8][4];
    uint32_t ones[4];
    for (uint32_t& pair : ones) pair = pack(1.0f, 1.0f);
    begin_products(d);
    for (int i = 0; i < 4; ++i) wgmma_m64n64k16(d, ones, tile_descriptor(tile) + i * ROWS_16, i > 0);
    wgmma_commit();
    REPAIR(wgmma_wait<0>();)
    out[threadIdx.x] = own_number(d);
    wgmma_wait<0>();
}
REGISTER_KERNEL(wgmma_missing_wait)

KERNEL void wgmma_missing_fence(const float* x, float* out) {
    DYNAMIC_SHARED(unsigned char, bytes);
    h16* tile = first_tile(bytes);
    copy_row(tile, x);
    cp_async_wait<0>();
    fence_proxy_async();
    __syncthreads();
    float d[8][4];
    uint32_t ones[4];
    for (uint32_t& pair : ones) pair = pack(1.0f, 1.0f);
    hold(d);
    REPAIR(wgmma_fence();)
    for (int i = 0; i < 4; ++i) wgmma_m64n64k16(d, ones, tile_descriptor(tile) + i * ROWS_16, i > 0);
    finish_products(d);
    out[threadIdx.x] = own_number(d);
}
REGISTER_KERNEL(wgmma_missing_fence)
#endif
