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
};

// This thread's, of a group of `size` channels; without `shift` it is 0.
template <int E>
DEVICE Share<E> share(int size, int cells, const float* shift, const float* weight, const float* bias) {
    Share<E> own;
    own.parts = size / E;
    own.step = THREADS / own.parts;
    own.first = threadIdx.x / own.parts;
    if (own.first >= own.step) own.first = cells;
    own.channel = blockIdx.x * size + threadIdx.x % own.parts * E;
#pragma unroll
    for (int e = 0; e < E; ++e) {
        own.shift[e] = shift ? shift[own.channel + e] : 0.0f;
        own.weight[e] = weight[own.channel + e];
        own.bias[e] = bias[own.channel + e];
    }
    return own;
}

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
