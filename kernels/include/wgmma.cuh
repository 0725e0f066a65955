// Products of Hopper's warpgroups (sm_90a): four warps, the first a multiple of four, multiply halves that lie in shared
// memory, while their threads go on. All threads of a warp take part with the same arguments.
//
// A tile is tile.cuh's of 64 columns, which begins at a multiple of 1024 bytes of shared memory. Its descriptor plus
// COLUMNS_16 is that of the tile from its 16th column on, plus ROWS_16 that from its 16th row on.
#pragma once
#include "device.cuh"

const uint64_t COLUMNS_16 = 16 * 2 >> 4;
const uint64_t ROWS_16 = 16 * 64 * 2 >> 4;

#ifdef __CUDACC_RTC__

// A product may read the registers that have been written before, accumulators and left operands.
DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most N of the committed groups are pending.
template <int N>
DEVICE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

// What this thread has written to shared memory may be read by products, after a barrier by those of other threads.
DEVICE void fence_proxy_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

#define WGMMA_4(i) "+f"(d[i][0]), "+f"(d[i][1]), "+f"(d[i][2]), "+f"(d[i][3])
#define WGMMA_16(i) WGMMA_4(i), WGMMA_4(i + 1), WGMMA_4(i + 2), WGMMA_4(i + 3)
#define WGMMA_32 WGMMA_16(0), WGMMA_16(4)
#define WGMMA_128 WGMMA_32, WGMMA_16(8), WGMMA_16(12), WGMMA_16(16), WGMMA_16(20), WGMMA_16(24), WGMMA_16(28)

// d(64×256) = a(64×16)·b(256×16)ᵀ, and d more with `add`: a and b are columns of tiles of so many rows. A warp has 16 rows
// of d, as accumulators of mma.m16n8k16 side by side.
DEVICE void wgmma_m64n256k16(float (&d)[32][4], uint64_t a, uint64_t b, bool add) {
    asm volatile(
        "{.reg .pred add; setp.ne.b32 add, %130, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n256k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
        "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
        "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
        "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
        "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
        "}, %128, %129, add, 1, 1, 0, 0;}"
        : WGMMA_128
        : "l"(a), "l"(b), "r"((int)add));
}

// d(64×64) = a(64×16)·b(16×64), and d more with `add`: b is rows of a tile, and a warp has 16 rows of a in registers, as
// the left operand of mma.m16n8k16.
DEVICE void wgmma_m64n64k16(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b, bool add) {
    asm volatile(
        "{.reg .pred add; setp.ne.b32 add, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {"
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
        "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
        "}, {%32, %33, %34, %35}, %36, add, 1, 1, 1;}"
        : WGMMA_32
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"((int)add));
}

// Has the compiler leave an accumulator in its registers from here on.
template <int BLOCKS>
DEVICE void hold(float (&d)[BLOCKS][4]) {
#pragma unroll
    for (int i = 0; i < BLOCKS; ++i) asm volatile("" : WGMMA_4(i)::"memory");
}

#undef WGMMA_4
#undef WGMMA_16
#undef WGMMA_32
#undef WGMMA_128

#endif

// A tile's address in units of 16 bytes, steps of 1024 bytes from eight rows to the next, units permuted in rows of 128
// bytes. The distance of tiles side by side (bit 16) is for wider ones.
DEVICE uint64_t tile_descriptor(const h16* tile) {
    return (uint64_t)1 << 62 | (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 16 | shared_address(tile) >> 4;
}

// The first place in shared memory from `p` on at which a tile can begin.
DEVICE h16* first_tile(unsigned char* p) {
    return reinterpret_cast<h16*>(p + (0u - shared_address(p)) % 1024);
}

// Products into d stand between these two.
template <int BLOCKS>
DEVICE void begin_products(float (&d)[BLOCKS][4]) {
    hold(d);
    wgmma_fence();
}

template <int BLOCKS>
DEVICE void finish_products(float (&d)[BLOCKS][4]) {
    wgmma_commit();
    wgmma_wait<0>();
    hold(d);
}
