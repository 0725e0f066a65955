// The vocabulary of the kernels: all a kernel includes, and with wgmma.cuh the only place with inline PTX.
// On the emulated device tests/emulator/device.hpp is included first and supplies the same names.
#pragma once

#ifdef __CUDACC_RTC__

typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef int int32_t;
typedef long long int64_t;

// An entry point: KERNEL void LAUNCH_BOUNDS(threads, blocks) name(...) { ... } REGISTER_KERNEL(name)
#define KERNEL extern "C" __global__
#define DEVICE __device__ __forceinline__
#define LAUNCH_BOUNDS(threads, blocks) __launch_bounds__(threads, blocks)
#define REGISTER_KERNEL(name)

// SHARED(float, sums[32]); DYNAMIC_SHARED(h16, tile); both hold garbage when a block starts.
#define SHARED(T, declarator) __shared__ T declarator
#define DYNAMIC_SHARED(T, name)                                           \
    extern __shared__ __align__(16) unsigned char dynamic_shared_bytes[]; \
    T* name = reinterpret_cast<T*>(dynamic_shared_bytes)

#elif !defined(INVAD_EMULATED_DEVICE)
#error "compile kernels with NVRTC, or for the host with tests/emulator/device.hpp included first"
#endif

#include "half.cuh"
#include "math.cuh"
#include "memory.cuh"
#include "mma.cuh"
#include "reduce.cuh"
