// dk[b, j, h] = scale · Σ_i ds_i · q[b, i, h],  dv[b, j, h] = Σ_i p_i · dout[b, i, h],
// ds_i = p_i · (dout[b, i, h] · v[b, j, h] − delta_i),  p_i = exp(scale · q[b, i, h] · k[b, j, h] − lse_i):
// the second half of attention's gradient, after attention_backward_q
//
// qkv:   fp16 (B, N, 3, H, d), q then k then v
// lse:   f32 (B, H, N), the natural logarithm of each softmax's denominator
// dout:  fp16 (B, N, H·d), the gradient of attention's output
// delta: f32 (B, H, N), as attention_backward_q leaves it
// dqkv:  fp16 (B, N, 3, H, d), of which dk and dv are written
// sums:  f32 (B, H, ⌈N/64⌉, 2·⌈d/32⌉, 2048), this kernel's own; not used if N is at most 256
// Sizes: tokens = N, heads = H, head_size = d; scale is the forward pass's.
//
// Launch: grid ⌈N/64⌉, H, B; block 128; shared 43008
// Accumulates in f32; p and ds are rounded to fp16, ds without scale. What exceeds fp16 becomes infinite.
// dk and dv are written.
//
// Limits: d a multiple of 8; all fp16 tensors aligned to 16 bytes; H and B at most 65535; N·3·H·d below 2³¹.
//
// A block owns 64 keys, a warp 16 of them. Their scores with 256 queries, then the scores' gradients, stay in
// registers while columns pass through shared memory 32 at a time: q with k, dout with v for the gradients and
// dv, and q again for dk. So registers do not grow with the head size. Then come the next 256 queries; meanwhile
// the sums wait in memory.
#include "include/attention_backward.cuh"

KERNEL void LAUNCH_BOUNDS(THREADS, 2)
attention_backward_kv(const h16* qkv, const float* lse, const h16* dout, const float* delta, h16* dqkv,
                      float* sums, int tokens, int heads, int head_size, float scale) {
    DYNAMIC_SHARED(h16, shared);
    float* row_lse = reinterpret_cast<float*>(shared + 2 * SLOT);
    float* row_delta = row_lse + TILE;
    const int first_key = blockIdx.x * OWN, head = blockIdx.y, image = blockIdx.z;
    const int width = heads * head_size, stride = 3 * width, chunks = (head_size + WIDTH - 1) / WIDTH;
    const h16* q = qkv + (int64_t)image * tokens * stride + head * head_size;
    const h16* k = q + width + first_key * stride;
    const h16* v = k + width;
    const h16* d_out = dout + (int64_t)image * tokens * width + head * head_size;

    const Rows all = {q, d_out, stride, width, tokens};
    const Rows own = {k, v, stride, stride, tokens - first_key};
    Passage passage = {shared, all, own, head_size, chunks};
    const int row = warp_of_block() * 16, quarter = lane_of_warp() & 3;
    fetch(passage, 0);
#pragma unroll 1
    for (; passage.first_row < tokens; next_tile(passage)) {
        const int first_query = passage.first_row;
        const int64_t in_rows = ((int64_t)image * heads + head) * tokens + first_query;
#pragma unroll
        for (int i = threadIdx.x; i < TILE; i += THREADS) {
            const bool valid = first_query + i < tokens;
            // Queries past the end have no part in p.
            row_lse[i] = valid ? lse[in_rows + i] * LOG2_E : 1e30f;
            row_delta[i] = valid ? delta[in_rows + i] : 0.0f;
        }
        float s[TILE / 8][4];
        clear(s);
#pragma unroll 1
        for (int i = 0; i < chunks; ++i) {
            const h16* all = await(passage, i);
            multiply_transposed<WIDTH>(s, all + TILE * WIDTH, row, all);
        }

        // Packed in pairs, accumulators of a product are the left operand of the next. From −delta on, the
        // products of v and dout are summed up to what multiplies p.
        uint32_t p[TILE / 16][4];
#pragma unroll
        for (int j = 0; j < TILE / 8; ++j) {
            const int query = j * 8 + quarter * 2;
            const float l[2] = {row_lse[query], row_lse[query + 1]};
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const float a = exp2_approx(s[j][2 * half] * (scale * LOG2_E) - l[0]);
                const float b = exp2_approx(s[j][2 * half + 1] * (scale * LOG2_E) - l[1]);
                p[j / 2][(j & 1) * 2 + half] = pack(a, b);
            }
            s[j][0] = s[j][2] = -row_delta[query];
            s[j][1] = s[j][3] = -row_delta[query + 1];
        }

        h16* to = dqkv + (k - qkv) + row * stride;
        const int rows = tokens - first_key - row;
        const float ones[2] = {1.0f, 1.0f}, scales[2] = {scale, scale};
        const bool first = first_query == 0, last = first_query + TILE >= tokens;
#pragma unroll 1
        for (int i = chunks; i < 2 * chunks; ++i) {
            const h16* all = await(passage, i);
            multiply_transposed<WIDTH>(s, all + TILE * WIDTH, row, all);
            const int at = i - chunks, column = at * WIDTH;
            float dv[WIDTH / 8][4];
            if (first) clear(dv);
            else take(dv, sums, at, 2 * chunks);
            multiply<WIDTH>(dv, p, all);
            if (last) store_16x32(to + width + column, stride, dv, 0, ones, rows, head_size - column);
            else keep(dv, sums, at, 2 * chunks);
        }
        multiply_packed(p, s);
#pragma unroll 1
        for (int i = 2 * chunks; i < 3 * chunks; ++i) {
            const h16* all = await(passage, i);
            const int at = i - 2 * chunks, column = at * WIDTH;
            float dk[WIDTH / 8][4];
            if (first) clear(dk);
            else take(dk, sums, chunks + at, 2 * chunks);
            multiply<WIDTH>(dk, p, all);
            if (last) store_16x32(to + column, stride, dk, 0, scales, rows, head_size - column);
            else keep(dk, sums, chunks + at, 2 * chunks);
        }
    }
}
REGISTER_KERNEL(attention_backward_kv)
