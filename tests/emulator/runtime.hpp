// What runtime.cpp offers to the stand-in driver, and the driver to the stand-in cuBLASLt.
#pragma once
#include <functional>
#include <string>
#include <vector>

#include "device.hpp"

namespace emulator {

// The driver's error code (0 is success) and what happened, in words.
struct Outcome {
    int code = 0;
    std::string message;
};

// Runs a kernel to its end on the calling thread; one launch at a time. `parameters` are addresses of their
// values. The order of the threads follows from `seed`; 0 runs them by number.
Outcome run_grid(const Kernel& kernel, void** parameters, Index grid, Index block, size_t shared_bytes,
                 uint64_t seed);

// The kernels registered since the last call: those of a library that was just loaded.
std::vector<Kernel> take_registered();

// Whether a sanitizer's runtime is in the process. The emulator itself is never instrumented.
bool address_sanitizer();
bool thread_sanitizer();

// Puts `work` into the order of a driver's stream, or into the graph it captures. Returns the driver's error
// code.
int enqueue(void* stream, std::function<Outcome()> work);

// Whether [p, p + bytes) lies in one allocation of device memory.
bool on_device(const void* p, size_t bytes);

}  // namespace emulator
