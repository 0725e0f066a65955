// Where an output of a bilinear resize reads along one axis. Pixel corners are not aligned.
#pragma once
#include "device.cuh"

struct Tap {
    int first, second;
    // Of the second.
    float weight;
};

DEVICE Tap tap(int out, int inputs, int outputs) {
    const float source = fmaxf((out + 0.5f) * ((float)inputs / outputs) - 0.5f, 0.0f);
    const int last = inputs - 1, at = (int)source, first = at < last ? at : last;
    return Tap{first, first < last ? first + 1 : last, source - first};
}

DEVICE float blend(float first, float second, float weight) { return first + weight * (second - first); }
