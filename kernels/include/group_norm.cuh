// How a block of 256 threads shares a group of channels of an image out.
#pragma once
#include "activation.cuh"
#include "vector.cuh"

const int THREADS = 256, WARPS = THREADS / 32;

// Of each cell a thread has E neighbouring channels, 8 or 1, the same of all its cells, which are every `step`-th.
template <int E>
struct Share {
    // Threads to a cell, and between the cells of a thread; the first of those, beyond all where there is none.
    int parts, step, first;
    // The first of its channels.
    int channel;
    float shift[E], weight[E], bias[E];

    DEVICE Share(int size, int cells, const float* all_shift, const float* all_weight, const float* all_bias)
        : parts(size / E), step(THREADS / parts), first(threadIdx.x / parts),
          channel(blockIdx.x * size + threadIdx.x % parts * E) {
        if (first >= step) first = cells;
#pragma unroll
        for (int e = 0; e < E; ++e) {
            shift[e] = all_shift ? all_shift[channel + e] : 0.0f;
            weight[e] = all_weight[channel + e];
            bias[e] = all_bias[channel + e];
        }
    }
};

template <class T, int E>
DEVICE void load_part(const T* from, float (&v)[E]) {
    if constexpr (E == 8) load8(from, v);
    else v[0] = load1(from);
}

template <class T, int E>
DEVICE void store_part(T* to, const float (&v)[E]) {
    if constexpr (E == 8) store8(to, v);
    else store1(to, v[0]);
}
