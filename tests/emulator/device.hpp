// The host's side of kernels/include: force-included before a kernel that is compiled as C++17 for the
// emulated device. It gives CUDA's words a meaning and holds the host twins of all inline PTX. What it
// declares in `emulator` without defining lives in runtime.cpp, in the stand-in libcuda.so.1. It includes
// little, so that kernels compile quickly.
#pragma once
#define INVAD_EMULATED_DEVICE 1

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <utility>

// The C library's, without <cmath>, which would take longer to compile than a kernel.
extern "C" {
float sqrtf(float) noexcept;
float fmaf(float, float, float) noexcept;
float fmaxf(float, float) noexcept;
float fminf(float, float) noexcept;
float fabsf(float) noexcept;
float expf(float) noexcept;
float erfcf(float) noexcept;
float exp2f(float) noexcept;
float logf(float) noexcept;
float log2f(float) noexcept;
float sinf(float) noexcept;
float cosf(float) noexcept;
float tanhf(float) noexcept;
float floorf(float) noexcept;
float ceilf(float) noexcept;
float rintf(float) noexcept;
float ldexpf(float, int) noexcept;
double sqrt(double) noexcept;
}

namespace emulator {

struct Index {
    unsigned x, y, z;
};

// One CUDA thread, as far as kernels see it.
struct Thread {
    Index index;
    unsigned lane, warp;
};

extern Thread* current;
extern Index block_index, block_size, grid_size;

void* dynamic_shared();
void barrier(int line);

// Whether the barrier or wait at this place is the one that INVAD_EMULATOR_REMOVE says to pass by.
bool removed(const char* file, int line);

// Whether what launches read and write of device memory is counted (INVAD_EMULATOR_TRAFFIC), and notes 16 bytes of it. What
// a launch reads or writes again counts once; single numbers do not.
extern const bool counts_traffic;
void note_traffic(const void* p, bool writes);

// Ends the launch with the driver's error `code`, naming the kernel, block and thread.
[[noreturn]] void fail(int code, const char* what);
constexpr int misaligned_address = 716;
constexpr int launch_failed = 719;

// What a lane brings to a warp collective, or takes from it.
struct alignas(16) Operand {
    uint32_t word[12];
};

// Meets the other lanes of `mask`; the last to arrive runs `leader`, which fills every lane's output.
// `orders_memory` says whether what lanes wrote before is seen by the others after, for ThreadSanitizer. The
// result is the calling lane's until its next collective.
using Leader = void (*)(const Operand* inputs, Operand* outputs, uint32_t mask);
const Operand& collective(const char* name, uint32_t mask, const Operand& input, Leader leader,
                          bool orders_memory = false);

void lead_nothing(const Operand*, Operand*, uint32_t);
void lead_shuffle(const Operand*, Operand*, uint32_t);
void lead_mma_m16n8k16(const Operand*, Operand*, uint32_t);
void lead_mma_m16n8k32_s8(const Operand*, Operand*, uint32_t);
void lead_mma_m16n8k32_e4m3(const Operand*, Operand*, uint32_t);
void lead_ldmatrix(const Operand*, Operand*, uint32_t);
void lead_ldmatrix_trans(const Operand*, Operand*, uint32_t);

// Asynchronous copies wait in a list of their thread. They are carried out by `copy`, which is the kernel's
// code so that sanitizers see it, and only in the wait that needs them.
struct AsyncCopy {
    void* shared;
    const void* global;  // null: zeros
};
void async_copy(AsyncCopy copy);
void async_commit();
void async_wait(int pending_groups, void (*copy)(AsyncCopy));

// A kernel's entry: how it is called and what its parameters look like.
struct Kernel {
    static constexpr int max_parameters = 32;
    const char* name;
    void (*call)(const Kernel&, void** parameters);
    void (*entry)();
    int parameters;
    uint32_t size[max_parameters];
    bool is_pointer[max_parameters];
};
void register_kernel(const Kernel&);

template <class T>
constexpr bool is_pointer = false;
template <class T>
constexpr bool is_pointer<T*> = true;

template <class... P>
struct Entry {
    static_assert(sizeof...(P) <= Kernel::max_parameters, "too many parameters");

    template <size_t... I>
    static void unpack(const Kernel& kernel, void** parameters, std::index_sequence<I...>) {
        reinterpret_cast<void (*)(P...)>(kernel.entry)(*static_cast<P*>(parameters[I])...);
    }
    static void call(const Kernel& kernel, void** parameters) {
        unpack(kernel, parameters, std::index_sequence_for<P...>{});
    }
};

struct Registration {
    template <class... P>
    Registration(const char* name, void (*entry)(P...)) {
        register_kernel({name,
                         &Entry<P...>::call,
                         reinterpret_cast<void (*)()>(entry),
                         int(sizeof...(P)),
                         {uint32_t(sizeof(P))...},
                         {is_pointer<P>...}});
    }
};

inline void require_aligned(const void* p, const char* what) {
    if (reinterpret_cast<uintptr_t>(p) % 16 != 0) fail(misaligned_address, what);
}

template <class To, class From>
inline To bit_cast(const From& from) {
    static_assert(sizeof(To) == sizeof(From), "different sizes");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

// The half nearest to x, to even in a tie, from the definition of the format.
inline uint16_t round_to_half(double x) {
    uint64_t bits = bit_cast<uint64_t>(x);
    uint16_t sign = uint16_t(bits >> 48 & 0x8000);
    bits &= ~(uint64_t(1) << 63);
    if (bits > uint64_t(0x7ff) << 52) return 0x7fff;  // the NaN that cvt gives
    int exponent = int(bits >> 52) - 1023;
    if (exponent > 15) return sign | 0x7c00;
    if (exponent < -25) return sign;
    // Below 2^-14 the last place stays that of the subnormals.
    int dropped = exponent < -14 ? 42 + (-14 - exponent) : 42;
    uint64_t significand = (bits & ((uint64_t(1) << 52) - 1)) | uint64_t(1) << 52;
    uint64_t kept = significand >> dropped, rest = significand & ((uint64_t(1) << dropped) - 1);
    uint64_t half = uint64_t(1) << (dropped - 1);
    if (rest > half || (rest == half && (kept & 1))) ++kept;
    // The hidden bit in `kept` (which a subnormal can also be rounded up to) adds one to the exponent field.
    return sign | uint16_t(kept + (exponent < -14 ? 0 : uint64_t(exponent + 14) << 10));
}

inline float half_to_float(uint16_t h) {
    uint32_t sign = uint32_t(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff;
    if (exponent == 0) {
        float magnitude = float(fraction) * 0x1p-24f;
        return sign ? -magnitude : magnitude;
    }
    if (exponent == 31) return bit_cast<float>(fraction ? 0x7fffffffu : sign | 0x7f800000u);
    return bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}

}  // namespace emulator

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __restrict__ __restrict
#define threadIdx (emulator::current->index)
#define blockIdx (emulator::block_index)
#define blockDim (emulator::block_size)
#define gridDim (emulator::grid_size)

// ---- device.cuh

#define KERNEL extern "C"
#define DEVICE static inline
#define LAUNCH_BOUNDS(threads, blocks)
#define REGISTER_KERNEL(name) static const emulator::Registration register_##name(#name, &name);
#define SHARED(T, declarator) static T declarator  // blocks run one at a time
#define DYNAMIC_SHARED(T, name) T* name = static_cast<T*>(emulator::dynamic_shared())

// ---- CUDA's own

// The line tells divergent barriers apart.
static inline void __syncthreads(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (!emulator::removed(file, line)) emulator::barrier(line);
}

static inline void __syncwarp(uint32_t mask = 0xffffffffu) {
    emulator::collective("__syncwarp", mask, {}, emulator::lead_nothing, true);
}

template <class T>
static inline T emulated_shuffle(const char* name, uint32_t mask, T value, int source, int width) {
    static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles move 4 or 8 bytes");
    // A source outside the lane's segment gives the lane's own value.
    int lane = int(emulator::current->lane), first = lane / width * width;
    if (source < first || source >= first + width) source = lane;
    emulator::Operand operand{};
    memcpy(operand.word, &value, sizeof value);
    operand.word[2] = uint32_t(source);
    memcpy(&value, emulator::collective(name, mask, operand, emulator::lead_shuffle).word, sizeof value);
    return value;
}

template <class T>
static inline T __shfl_sync(uint32_t mask, T value, int source, int width = 32) {
    int first = int(emulator::current->lane) / width * width;
    return emulated_shuffle("__shfl_sync", mask, value, first + (source & (width - 1)), width);
}
template <class T>
static inline T __shfl_xor_sync(uint32_t mask, T value, int bits, int width = 32) {
    return emulated_shuffle("__shfl_xor_sync", mask, value, int(emulator::current->lane) ^ bits, width);
}
template <class T>
static inline T __shfl_down_sync(uint32_t mask, T value, unsigned distance, int width = 32) {
    return emulated_shuffle("__shfl_down_sync", mask, value, int(emulator::current->lane + distance), width);
}
template <class T>
static inline T __shfl_up_sync(uint32_t mask, T value, unsigned distance, int width = 32) {
    return emulated_shuffle("__shfl_up_sync", mask, value, int(emulator::current->lane) - int(distance),
                            width);
}

static inline uint32_t __float_as_uint(float x) { return emulator::bit_cast<uint32_t>(x); }
static inline float __uint_as_float(uint32_t x) { return emulator::bit_cast<float>(x); }
static inline int __float_as_int(float x) { return emulator::bit_cast<int>(x); }
static inline float __int_as_float(int x) { return emulator::bit_cast<float>(x); }

// Kernels are compiled without contraction.
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }

static inline int min(int a, int b) { return b < a ? b : a; }
static inline int max(int a, int b) { return b > a ? b : a; }
static inline unsigned min(unsigned a, unsigned b) { return b < a ? b : a; }
static inline unsigned max(unsigned a, unsigned b) { return b > a ? b : a; }

// ---- half.cuh

typedef uint16_t h16;
typedef uint32_t h16x2;

#ifdef __FLT16_MAX__  // the compiler's own type, in most cases one instruction
DEVICE h16 to_h16(float x) { return x != x ? h16(0x7fff) : emulator::bit_cast<h16>(_Float16(x)); }
DEVICE float to_f32(h16 x) { return float(emulator::bit_cast<_Float16>(x)); }
#else
DEVICE h16 to_h16(float x) { return emulator::round_to_half(x); }
DEVICE float to_f32(h16 x) { return emulator::half_to_float(x); }
#endif

DEVICE h16x2 pack(float lo, float hi) { return to_h16(lo) | h16x2(to_h16(hi)) << 16; }
DEVICE void unpack(h16x2 x, float& lo, float& hi) {
    lo = to_f32(h16(x));
    hi = to_f32(h16(x >> 16));
}

// The product is exact in a double. The sum is not where the terms are more than 2^31 apart, but then what is
// lost lies far below a tie between halves.
DEVICE h16 emulated_fma(h16 a, h16 b, h16 c) {
    return emulator::round_to_half(double(to_f32(a)) * double(to_f32(b)) + double(to_f32(c)));
}
DEVICE h16x2 fma2(h16x2 a, h16x2 b, h16x2 c) {
    return emulated_fma(h16(a), h16(b), h16(c)) |
           h16x2(emulated_fma(h16(a >> 16), h16(b >> 16), h16(c >> 16))) << 16;
}

// ---- memory.cuh

struct alignas(16) vec4u {
    uint32_t x, y, z, w;
};

DEVICE vec4u load16(const void* p) {
    emulator::require_aligned(p, "16-byte load from an address that is no multiple of 16");
    if (emulator::counts_traffic) emulator::note_traffic(p, false);
    return *static_cast<const vec4u*>(p);
}
DEVICE vec4u load16_streaming(const void* p) { return load16(p); }
DEVICE void store16(void* p, vec4u v) {
    emulator::require_aligned(p, "16-byte store to an address that is no multiple of 16");
    if (emulator::counts_traffic) emulator::note_traffic(p, true);
    *static_cast<vec4u*>(p) = v;
}

DEVICE void emulated_copy16(emulator::AsyncCopy copy) {
    uint64_t* to = static_cast<uint64_t*>(copy.shared);
    const uint64_t* from = static_cast<const uint64_t*>(copy.global);
    to[0] = from ? from[0] : 0;
    to[1] = from ? from[1] : 0;
}
DEVICE void cp_async16_zfill(void* shared, const void* global, bool valid) {
    emulator::require_aligned(shared, "cp.async to an address that is no multiple of 16");
    emulator::require_aligned(global, "cp.async from an address that is no multiple of 16");
    if (emulator::counts_traffic && valid) emulator::note_traffic(global, false);
    emulator::async_copy({shared, valid ? global : nullptr});
}
DEVICE void cp_async16(void* shared, const void* global) { cp_async16_zfill(shared, global, true); }
DEVICE void cp_async_commit() { emulator::async_commit(); }
template <int N>
DEVICE void cp_async_wait(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (!emulator::removed(file, line)) emulator::async_wait(N, emulated_copy16);
}

// ---- mma.cuh

template <class Sum>
DEVICE void emulated_mma(const char* name, Sum (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                         emulator::Leader leader) {
    emulator::Operand operand{};
    memcpy(operand.word, a, 16);
    memcpy(operand.word + 4, d, 16);
    memcpy(operand.word + 8, b, 8);
    memcpy(d, emulator::collective(name, 0xffffffffu, operand, leader).word, 16);
}
DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    emulated_mma("mma.m16n8k16", d, a, b, emulator::lead_mma_m16n8k16);
}
DEVICE void mma_m16n8k32_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    emulated_mma("mma.m16n8k32.s8", d, a, b, emulator::lead_mma_m16n8k32_s8);
}
DEVICE void mma_m16n8k32_e4m3(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    emulated_mma("mma.m16n8k32.e4m3", d, a, b, emulator::lead_mma_m16n8k32_e4m3);
}

// Lanes that are not asked for a row bring none.
template <int N>
DEVICE void emulated_ldmatrix(const char* name, uint32_t (&r)[N], const void* row, emulator::Leader leader) {
    emulator::Operand operand{};
    if (emulator::current->lane < 8 * N) {
        emulator::require_aligned(row, "ldmatrix from an address that is no multiple of 16");
        const uint64_t* halves = static_cast<const uint64_t*>(row);
        memcpy(operand.word, halves, 8);
        memcpy(operand.word + 2, halves + 1, 8);
    }
    memcpy(r, emulator::collective(name, 0xffffffffu, operand, leader).word, 4 * N);
}
DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
    emulated_ldmatrix("ldmatrix.x4", r, row, emulator::lead_ldmatrix);
}
DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
    emulated_ldmatrix("ldmatrix.x4.trans", r, row, emulator::lead_ldmatrix_trans);
}
DEVICE void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
    emulated_ldmatrix("ldmatrix.x2", r, row, emulator::lead_ldmatrix);
}
DEVICE void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
    emulated_ldmatrix("ldmatrix.x2.trans", r, row, emulator::lead_ldmatrix_trans);
}

// ---- math.cuh

DEVICE float exp2_approx(float x) {
    const float y = exp2f(x);
    return y < 0x1p-126f ? 0.0f : y;  // a NaN stays
}
DEVICE float log2_approx(float x) { return log2f(x); }

// ---- what later architectures have, as NVRTC says that they do

#ifdef __CUDA_ARCH_FEAT_SM90_ALL
#include "hopper.hpp"
#endif
