// Tensor cores. Here g = lane / 4 and t = lane % 4, and a register of halves holds two neighbours, the first
// in its low bits. All 32 lanes take part.
#pragma once

#ifdef __CUDACC_RTC__

// d(16×8) += a(16×16)·b(16×8), a row-major, b column-major, halves; d in f32.
//
//     a[0]: row g,   columns 2t and 2t+1     b[0]: rows 2t and 2t+1, column g
//     a[1]: row g+8, columns 2t and 2t+1     b[1]: rows 2t+8 and 2t+9, column g
//     a[2]: row g,   columns 2t+8 and 2t+9   d[0] and d[1]: row g,   columns 2t and 2t+1
//     a[3]: row g+8, columns 2t+8 and 2t+9   d[2] and d[3]: row g+8, columns 2t and 2t+1
DEVICE void mma_m16n8k16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// d(16×8) += a(16×32)·b(32×8), a row-major, b column-major, of bytes, of which a register holds four neighbours, the
// first in its low bits; d as above. s8: d in s32, which wraps. e4m3: d in f32, for sm_89 and up.
//
//     a[0]: row g,   columns 4t to 4t+3      b[0]: rows 4t to 4t+3, column g
//     a[1]: row g+8, columns 4t to 4t+3      b[1]: rows 4t+16 to 4t+19, column g
//     a[2]: row g,   columns 4t+16 to 4t+19
//     a[3]: row g+8, columns 4t+16 to 4t+19
DEVICE void mma_m16n8k32_s8(int32_t (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#if __CUDA_ARCH__ >= 890
DEVICE void mma_m16n8k32_e4m3(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile(
        "mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

// Loads 8×8 matrices of halves from shared memory. Lanes 8i to 8i+7 give the addresses of the rows of matrix
// i; r[i] gets row g, columns 2t and 2t+1 of it. Transposed: rows 2t and 2t+1, column g.
DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Two matrices: the addresses of lanes 16 to 31 are ignored.
DEVICE void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

DEVICE void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(shared_address(row))
                 : "memory");
}

#endif
