// The twins of kernels/include/wgmma.cuh, for kernels that are compiled for sm_90a. What is declared in `emulator` lives in
// hopper.cpp.
#pragma once

namespace emulator {

// An address in shared memory as instructions have it: that of dynamic shared memory is a multiple of 16, no more.
constexpr uint32_t shared_window = 0x410;

// Operands of a product of a warp's 16 rows: accumulators of `columns` columns, and what the left operand is.
struct Product {
    float* d;
    int columns;
    bool add;
    const uint32_t* registers;  // of the left operand, or null
    uint64_t a, b;              // descriptors, the first without such registers
};
void wgmma_fence();
void wgmma_issue(const Product&);
void wgmma_commit();
// Shared memory is read by `read`, 16 bytes at a time, which is the kernel's code so that sanitizers see it.
void wgmma_wait(int pending_groups, void (*read)(const void* unit, h16 (&halves)[8]));
void fence_proxy_async();

}  // namespace emulator

DEVICE uint32_t shared_address(const void* p) {
    return uint32_t(static_cast<const char*>(p) - static_cast<const char*>(emulator::dynamic_shared())) +
           emulator::shared_window;
}

DEVICE void wgmma_fence(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (!emulator::removed(file, line)) emulator::wgmma_fence();
}
DEVICE void wgmma_commit(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (!emulator::removed(file, line)) emulator::wgmma_commit();
}
DEVICE void emulated_read16(const void* unit, h16 (&halves)[8]) { memcpy(halves, unit, 16); }
template <int N>
DEVICE void wgmma_wait(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (!emulator::removed(file, line)) emulator::wgmma_wait(N, emulated_read16);
}
DEVICE void fence_proxy_async(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    if (!emulator::removed(file, line)) emulator::fence_proxy_async();
}

DEVICE void wgmma_m64n256k16(float (&d)[32][4], uint64_t a, uint64_t b, bool add) {
    emulator::wgmma_issue({d[0], 256, add, nullptr, a, b});
}
DEVICE void wgmma_m64n64k16(float (&d)[8][4], const uint32_t (&a)[4], uint64_t b, bool add) {
    emulator::wgmma_issue({d[0], 64, add, a, 0, b});
}
template <int BLOCKS>
DEVICE void hold(float (&)[BLOCKS][4]) {}
