// One small kernel for each instruction and collective that kernels/include wraps. selftest.cpp compares what
// they do with formulas of its own, on the emulated device and on a real one.
#include "../../kernels/include/device.cuh"

KERNEL void probe_to_h16(const float* x, h16* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = to_h16(x[i]);
}
REGISTER_KERNEL(probe_to_h16)

KERNEL void probe_to_f32(const h16* x, float* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = to_f32(x[i]);
}
REGISTER_KERNEL(probe_to_f32)

// Packs neighbours, and unpacks them in reverse.
KERNEL void probe_pack(const float* x, h16x2* packed, float* unpacked, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (2 * i + 1 >= n) return;
    packed[i] = pack(x[2 * i], x[2 * i + 1]);
    unpack(packed[i], unpacked[2 * i + 1], unpacked[2 * i]);
}
REGISTER_KERNEL(probe_pack)

KERNEL void probe_fma2(const h16x2* a, const h16x2* b, const h16x2* c, h16x2* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) out[i] = fma2(a[i], b[i], c[i]);
}
REGISTER_KERNEL(probe_fma2)

// The registers of lane l are a[4l..], b[2l..] and d[4l..].
template <class Sum>
DEVICE void probe_product(const uint32_t* a, const uint32_t* b, Sum* d,
                          void (*mma)(Sum (&)[4], const uint32_t (&)[4], const uint32_t (&)[2])) {
    int lane = threadIdx.x;
    uint32_t ra[4], rb[2];
    Sum rd[4];
    for (int i = 0; i < 4; ++i) {
        ra[i] = a[4 * lane + i];
        rd[i] = d[4 * lane + i];
    }
    for (int i = 0; i < 2; ++i) rb[i] = b[2 * lane + i];
    mma(rd, ra, rb);
    for (int i = 0; i < 4; ++i) d[4 * lane + i] = rd[i];
}

KERNEL void probe_mma(const uint32_t* a, const uint32_t* b, float* d) { probe_product(a, b, d, mma_m16n8k16); }
REGISTER_KERNEL(probe_mma)

KERNEL void probe_mma_s8(const uint32_t* a, const uint32_t* b, int32_t* d) {
    probe_product(a, b, d, mma_m16n8k32_s8);
}
REGISTER_KERNEL(probe_mma_s8)

#if defined(INVAD_EMULATED_DEVICE) || __CUDA_ARCH__ >= 890
KERNEL void probe_mma_e4m3(const uint32_t* a, const uint32_t* b, float* d) {
    probe_product(a, b, d, mma_m16n8k32_e4m3);
}
REGISTER_KERNEL(probe_mma_e4m3)
#endif

// The address of lane l is row[l] in 2048 halves of shared memory; out[12l..] gets x4, x4 transposed, x2, x2
// transposed.
KERNEL void probe_ldmatrix(const h16* x, const int* row, uint32_t* out) {
    DYNAMIC_SHARED(h16, tile);
    int lane = threadIdx.x;
    for (int i = lane; i < 2048; i += 32) tile[i] = x[i];
    __syncthreads();
    uint32_t r[4], s[2];
    ldmatrix_x4(r, tile + row[lane]);
    for (int i = 0; i < 4; ++i) out[12 * lane + i] = r[i];
    ldmatrix_x4_trans(r, tile + row[lane]);
    for (int i = 0; i < 4; ++i) out[12 * lane + 4 + i] = r[i];
    ldmatrix_x2(s, tile + row[lane]);
    for (int i = 0; i < 2; ++i) out[12 * lane + 8 + i] = s[i];
    ldmatrix_x2_trans(s, tile + row[lane]);
    for (int i = 0; i < 2; ++i) out[12 * lane + 10 + i] = s[i];
}
REGISTER_KERNEL(probe_ldmatrix)

// Two groups: the first is needed while the second is under way. Threads from `valid` on copy zeros in the
// second.
KERNEL void probe_cp_async(const float* x, float* first, float* both, int valid) {
    DYNAMIC_SHARED(float, tile);
    int t = threadIdx.x, n = blockDim.x;
    cp_async16(tile + 4 * t, x + 4 * t);
    cp_async_commit();
    cp_async16_zfill(tile + 4 * (n + t), x + 4 * (n + t), t < valid);
    cp_async_commit();
    cp_async_wait<1>();
    __syncthreads();
    for (int i = 0; i < 4; ++i) first[4 * t + i] = tile[(4 * t + i + 5) % (4 * n)];
    cp_async_wait<0>();
    __syncthreads();
    for (int i = 0; i < 8; ++i) both[8 * t + i] = tile[(8 * t + i + 5) % (8 * n)];
}
REGISTER_KERNEL(probe_cp_async)

KERNEL void probe_vectors(const float* x, float* out) {
    int t = threadIdx.x;
    vec4u v = load16(x + 8 * t), w = load16_streaming(x + 8 * t + 4);
    store16(out + 8 * t, {w.w, w.z, w.y, w.x});
    store16(out + 8 * t + 4, {v.w, v.z, v.y, v.x});
}
REGISTER_KERNEL(probe_vectors)

KERNEL void probe_shuffles(const float* x, float* out) {
    int t = threadIdx.x;
    float v = x[t];
    out[8 * t + 0] = __shfl_xor_sync(0xffffffffu, v, 5);
    out[8 * t + 1] = __shfl_sync(0xffffffffu, v, 3 * t + 1);
    out[8 * t + 2] = __shfl_down_sync(0xffffffffu, v, 7);
    out[8 * t + 3] = __shfl_up_sync(0xffffffffu, v, 7);
    out[8 * t + 4] = __shfl_sync(0xffffffffu, v, 3, 8);
    out[8 * t + 5] = __shfl_down_sync(0xffffffffu, v, 3, 8);
    out[8 * t + 6] = t % 32 < 16 ? __shfl_xor_sync(0x0000ffffu, v, 9) : __shfl_xor_sync(0xffff0000u, v, 6);
    out[8 * t + 7] = __shfl_up_sync(0xffffffffu, v, 3, 8);
}
REGISTER_KERNEL(probe_shuffles)

KERNEL void probe_reductions(const float* x, float* out) {
    SHARED(float, scratch[4]);
    int t = threadIdx.x;
    out[4 * t + 0] = warp_sum(x[t]);
    out[4 * t + 1] = warp_max(x[t]);
    out[4 * t + 2] = warp_min(x[t]);
    out[4 * t + 3] = block_sum(x[t], scratch);
}
REGISTER_KERNEL(probe_reductions)

KERNEL void probe_math(const float* x, float* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    out[3 * i + 0] = exp2_approx(x[i]);
    out[3 * i + 1] = log2_approx(fabsf(x[i]));
    out[3 * i + 2] = rsqrt_accurate(fabsf(x[i]));
}
REGISTER_KERNEL(probe_math)

// Every thread writes its number in the grid, found in two ways.
KERNEL void probe_indices(int* out) {
    int threads = blockDim.x * blockDim.y * blockDim.z;
    int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    out[block * threads + thread] = block * threads + thread;
}
REGISTER_KERNEL(probe_indices)

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#include "../../kernels/include/tile.cuh"
#include "../../kernels/include/wgmma.cuh"

// d (64×256) = the sum over `steps` of 16 columns of a (64×64) · b (256×64)ᵀ, and what d was with `add`: thread t's
// registers are d[128t..].
KERNEL void probe_wgmma_shared(const h16* a, const h16* b, float* d, int steps, int add) {
    DYNAMIC_SHARED(unsigned char, bytes);
    h16* tile = first_tile(bytes);
    copy_tile_async<256, 64, 128, false>(tile, b, 64, 256, 64);
    copy_tile_async<64, 64, 128, false>(tile + 256 * 64, a, 64, 64, 64);
    cp_async_commit();
    cp_async_wait<0>();
    fence_proxy_async();
    __syncthreads();
    float v[32][4];
    for (int i = 0; i < 128; ++i) v[i / 4][i % 4] = d[128 * threadIdx.x + i];
    begin_products(v);
    for (int i = 0; i < steps; ++i) {
        wgmma_m64n256k16(v, tile_descriptor(tile + 256 * 64) + i * COLUMNS_16,
                         tile_descriptor(tile) + i * COLUMNS_16, add || i > 0);
    }
    finish_products(v);
    for (int i = 0; i < 128; ++i) d[128 * threadIdx.x + i] = v[i / 4][i % 4];
}
REGISTER_KERNEL(probe_wgmma_shared)

// d (64×64) = the sum over `steps` of 16 rows of a (64×64) · b (64×64): thread t's registers are a[16t..] and d[32t..].
KERNEL void probe_wgmma_registers(const uint32_t* a, const h16* b, float* d, int steps, int add) {
    DYNAMIC_SHARED(unsigned char, bytes);
    h16* tile = first_tile(bytes);
    copy_tile_async<64, 64, 128, false>(tile, b, 64, 64, 64);
    cp_async_commit();
    cp_async_wait<0>();
    fence_proxy_async();
    __syncthreads();
    uint32_t left[4][4];
    float v[8][4];
    for (int i = 0; i < 16; ++i) left[i / 4][i % 4] = a[16 * threadIdx.x + i];
    for (int i = 0; i < 32; ++i) v[i / 4][i % 4] = d[32 * threadIdx.x + i];
    begin_products(v);
#pragma unroll
    for (int i = 0; i < 4; ++i)
        if (i < steps) wgmma_m64n64k16(v, left[i], tile_descriptor(tile) + i * ROWS_16, add || i > 0);
    finish_products(v);
    for (int i = 0; i < 32; ++i) d[32 * threadIdx.x + i] = v[i / 4][i % 4];
}
REGISTER_KERNEL(probe_wgmma_registers)
#endif
