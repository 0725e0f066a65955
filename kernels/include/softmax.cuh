// Softmax over the rows of an accumulator (tile.cuh): 16 queries of a warp, 8·BLOCKS keys. A lane holds parts
// of two rows, the first in elements 0 and 1 of each block, the second in 2 and 3; `half` says which.
#pragma once
#include "tile.cuh"

const float LOG2_E = 1.44269504f;
// Of keys that are not there. Differences of two are 0, those of two infinities would be NaN.
const float LOWEST = -1e30f;

// Puts LOWEST into the columns from `columns` on.
template <int BLOCKS>
DEVICE void mask_columns(float (&s)[BLOCKS][4], int columns) {
    const int first = (lane_of_warp() & 3) * 2;
#pragma unroll
    for (int j = 0; j < BLOCKS; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
            if (j * 8 + first + (e & 1) >= columns) s[j][e] = LOWEST;
        }
    }
}

// The largest number of a row.
template <int BLOCKS>
DEVICE float largest(const float (&s)[BLOCKS][4], int half) {
    float largest = LOWEST;
#pragma unroll
    for (int j = 0; j < BLOCKS; ++j) largest = fmaxf(largest, fmaxf(s[j][2 * half], s[j][2 * half + 1]));
    return row_max(largest);
}

// p = 2^(s·scale − offset), in fp16: packed in pairs, accumulators of a product are the left operand of the next.
// Adds this lane's share to the sums, before p is rounded. One offset and sum to each of its rows.
template <int BLOCKS>
DEVICE void exponentials(uint32_t (&p)[BLOCKS / 2][4], float (&sum)[2], const float (&s)[BLOCKS][4], float scale,
                         const float (&offset)[2]) {
#pragma unroll
    for (int j = 0; j < BLOCKS; ++j) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float a = exp2_approx(s[j][2 * half] * scale - offset[half]);
            const float b = exp2_approx(s[j][2 * half + 1] * scale - offset[half]);
            sum[half] += a + b;
            p[j / 2][(j & 1) * 2 + half] = pack(a, b);
        }
    }
}

// Of this lane's two rows 1/sum and, unless lse is null, lse[row] = top·scale + ln(sum). `top`: the rows'
// largest numbers; `sum`: this lane's share of their sums. The warp's rows begin at `first`; `rows` are there.
DEVICE void finish_rows(float (&inverse)[2], float* lse, const float (&top)[2], const float (&sum)[2],
                        float scale, int first, int rows) {
    const int lane = lane_of_warp();
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const float total = row_sum(sum[half]);
        inverse[half] = 1.0f / total;
        const int row = first + (lane >> 2) + 8 * half;
        if (lse && (lane & 3) == 0 && row < rows) lse[row] = top[half] * scale + logf(total);
    }
}
