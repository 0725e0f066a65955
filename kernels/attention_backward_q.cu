// dq[b, i, h] = scale · Σ_j ds_j · k[b, j, h],  ds_j = p_j · (dout[b, i, h] · v[b, j, h] − delta_i),
// p_j = exp(scale · q[b, i, h] · k[b, j, h] − lse_i),  delta_i = out[b, i, h] · dout[b, i, h]:
// the first half of attention's gradient (Dao et al., FlashAttention, 2022)
//
// qkv:   fp16 (B, N, 3, H, d), q then k then v
// out:   fp16 (B, N, H·d), attention's output
// lse:   f32 (B, H, N), the natural logarithm of each softmax's denominator
// dout:  fp16 (B, N, H·d), the gradient of out
// dqkv:  fp16 (B, N, 3, H, d), of which dq is written
// delta: f32 (B, H, N)
// sums:  f32 (B, H, ⌈N/64⌉, ⌈d/32⌉, 2048), this kernel's own; not used if N is at most 256
// Sizes: tokens = N, heads = H, head_size = d; scale is the forward pass's.
//
// Launch: grid ⌈N/64⌉, H, B; block 128; shared 41472
// Accumulates in f32; p and ds are rounded to fp16, ds without scale. What exceeds fp16 becomes infinite.
// dq and delta are written.
//
// Limits: d a multiple of 8; all fp16 tensors aligned to 16 bytes; H and B at most 65535; N·3·H·d below 2³¹.
//
// A block owns 64 queries, a warp 16 of them. Their scores with 256 keys, then the scores' gradients, stay in
// registers while columns pass through shared memory 32 at a time: k with q, v with dout, and k again for the
// output. So registers do not grow with the head size. Then come the next 256 keys; meanwhile the sums wait in
// memory.
#include "include/attention_backward.cuh"

KERNEL void LAUNCH_BOUNDS(THREADS, 2)
attention_backward_q(const h16* qkv, const h16* out, const float* lse, const h16* dout, h16* dqkv,
                     float* delta, float* sums, int tokens, int heads, int head_size, float scale) {
    DYNAMIC_SHARED(h16, shared);
    float* row_lse = reinterpret_cast<float*>(shared + 2 * SLOT);
    float* row_delta = row_lse + OWN;
    const int first_query = blockIdx.x * OWN, head = blockIdx.y, image = blockIdx.z;
    const int width = heads * head_size, stride = 3 * width, chunks = (head_size + WIDTH - 1) / WIDTH;
    const h16* k = qkv + (int64_t)image * tokens * stride + width + head * head_size;
    const h16* v = k + width;
    const h16* q = k - width + first_query * stride;
    const int64_t in_out = ((int64_t)image * tokens + first_query) * width + head * head_size;

    const Rows all = {k, v, stride, stride, tokens};
    const Rows own = {q, dout + in_out, stride, width, tokens - first_query};
    Passage passage = {shared, all, own, head_size, chunks};
    const int row = warp_of_block() * 16, group = lane_of_warp() >> 2, quarter = lane_of_warp() & 3;
    fetch(passage, 0);
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const int at = row + group + 8 * half;
        const bool valid = first_query + at < tokens;
        const int64_t in_row = in_out + at * width;
        float product = 0.0f;
        if (valid) product = quarter_of_product(out + in_row, dout + in_row, head_size);
        product = row_sum(product);
        if (quarter == 0) {
            const int64_t in_rows = ((int64_t)image * heads + head) * tokens + first_query + at;
            row_lse[at] = valid ? lse[in_rows] * LOG2_E : 0.0f;
            row_delta[at] = product;
            if (valid) delta[in_rows] = product;
        }
    }

#pragma unroll 1
    for (; passage.first_row < tokens; next_tile(passage)) {
        const int first_key = passage.first_row;
        float s[TILE / 8][4];
        clear(s);
#pragma unroll 1
        for (int i = 0; i < chunks; ++i) {
            const h16* all = await(passage, i);
            multiply_transposed<WIDTH>(s, all + TILE * WIDTH, row, all);
        }

        // Packed in pairs, accumulators of a product are the left operand of the next. From −delta on, the
        // products of dout and v are summed up to what multiplies p.
        uint32_t p[TILE / 16][4];
        const int keys = tokens - first_key;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float l = row_lse[row + group + 8 * half], d = row_delta[row + group + 8 * half];
#pragma unroll
            for (int j = 0; j < TILE / 8; ++j) {
                float a = exp2_approx(s[j][2 * half] * (scale * LOG2_E) - l);
                float b = exp2_approx(s[j][2 * half + 1] * (scale * LOG2_E) - l);
                if (j * 8 + quarter * 2 >= keys) a = 0.0f;
                if (j * 8 + quarter * 2 + 1 >= keys) b = 0.0f;
                p[j / 2][(j & 1) * 2 + half] = pack(a, b);
                s[j][2 * half] = s[j][2 * half + 1] = -d;
            }
        }
#pragma unroll 1
        for (int i = chunks; i < 2 * chunks; ++i) {
            const h16* all = await(passage, i);
            multiply_transposed<WIDTH>(s, all + TILE * WIDTH, row, all);
        }
        multiply_packed(p, s);

        h16* to = dqkv + (q - qkv) + row * stride;
        const int rows = tokens - first_query - row;
        const float scales[2] = {scale, scale};
#pragma unroll 1
        for (int i = 2 * chunks; i < 3 * chunks; ++i) {
            const h16* all = await(passage, i);
            const int at = i - 2 * chunks, column = at * WIDTH;
            float dq[WIDTH / 8][4];
            if (first_key == 0) clear(dq);
            else take(dq, sums, at, chunks);
            multiply<WIDTH>(dq, p, all);
            if (first_key + TILE < tokens) keep(dq, sums, at, chunks);
            else store_16x32(to + column, stride, dq, 0, scales, rows, head_size - column);
        }
    }
}
REGISTER_KERNEL(attention_backward_q)
