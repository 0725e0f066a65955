// Loads and stores of 16 bytes, and asynchronous copies into shared memory. All addresses are multiples of 16.
#pragma once

#ifdef __CUDACC_RTC__

struct alignas(16) vec4u {
    uint32_t x, y, z, w;
};

DEVICE uint32_t shared_address(const void* p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

DEVICE vec4u load16(const void* p) { return *static_cast<const vec4u*>(p); }

// For global data that is read once and must not displace others in L1; never for what this kernel writes.
DEVICE vec4u load16_streaming(const void* p) {
    vec4u r;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(r.x), "=r"(r.y), "=r"(r.z), "=r"(r.w)
        : "l"(p));
    return r;
}

DEVICE void store16(void* p, vec4u v) { *static_cast<vec4u*>(p) = v; }

// Copies 16 bytes from global to shared memory. They are there for this thread after cp_async_wait on their
// group, for the others after a barrier as well. A thread waits for all of its copies before it exits. L2 fetches the 128
// bytes around them: rows are read to their end.
DEVICE void cp_async16(void* shared, const void* global) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16;" ::"r"(shared_address(shared)), "l"(global)
                 : "memory");
}

// Writes zeros if not `valid`; `global` is then not read, but still an address of the tensor.
DEVICE void cp_async16_zfill(void* shared, const void* global, bool valid) {
    asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global),
                 "r"(valid ? 16 : 0)
                 : "memory");
}

DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most N of this thread's committed groups are pending.
template <int N>
DEVICE void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory");
}

#endif
