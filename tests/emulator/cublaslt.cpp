// The stand-in libcublasLt: matrix products of halves and floats with f32 accumulation and the epilogues that
// invad uses. Anything else is CUBLAS_STATUS_NOT_SUPPORTED. As in cuBLAS all matrices are column-major.
#include <stdlib.h>

#include <algorithm>
#include <memory>
#include <thread>

#include "runtime.hpp"

namespace {

using emulator::Outcome;

enum Status : int { SUCCESS = 0, INVALID_VALUE = 7, EXECUTION_FAILED = 13, NOT_SUPPORTED = 15 };
enum Type : int { F32 = 0, F16 = 2 };
// Combined by or. GELU_AUX stores what GELU is applied to, DGELU multiplies by GELU's slope there.
enum Epilogue : int { DEFAULT = 1, RELU = 2, BIAS = 4, GELU = 32, GELU_AUX = 160, DGELU = 192 };

struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t ld;
    int batch = 1;
    int64_t stride = 0;

    size_t element() const { return type == F16 ? 2 : 4; }
    size_t bytes() const {
        return rows && columns
                   ? size_t((batch - 1) * stride + int64_t(columns - 1) * ld + int64_t(rows)) * element()
                   : 0;
    }
};

struct Description {
    int compute, scale;
    int transpose_a = 0, transpose_b = 0;
    int epilogue = DEFAULT;
    const void* bias = nullptr;
    int64_t bias_stride = 0;
    int bias_type = -1;  // that of D
    void* aux = nullptr;
    int64_t aux_ld = 0;
    int aux_type = -1;  // that of D

    bool has_bias() const { return epilogue & BIAS; }
    bool has_aux() const { return epilogue & 128; }
    bool is_gelu() const { return epilogue & GELU; }
    bool is_gelu_slope() const { return (epilogue & DGELU) == DGELU; }
};

// How many terms are summed before the sum is added to those before: what tells one algorithm from another, by the last
// bits of a product.
struct Algorithm {
    uint64_t name, block_k;
    uint64_t rest[6];

    bool is_known() const;
};

constexpr uint64_t algorithm_name = 0x656d75;
constexpr uint64_t blocks_k[] = {256, 64, 16};

bool Algorithm::is_known() const {
    return name == algorithm_name && std::find(std::begin(blocks_k), std::end(blocks_k), block_k) != std::end(blocks_k);
}

struct Heuristic {
    Algorithm algorithm;
    size_t workspace;
    int state;
    float waves;
    int reserved[4];
};

float read(const void* p, int type, size_t i) {
    return type == F16 ? to_f32(static_cast<const h16*>(p)[i]) : static_cast<const float*>(p)[i];
}

void write(void* p, int type, size_t i, float value) {
    if (type == F16) static_cast<h16*>(p)[i] = to_h16(value);
    else static_cast<float*>(p)[i] = value;
}

// ---- the product, in blocks that fit the caches: c(m×n) = a(m×k)·b(k×n), c column-major in f32

constexpr size_t tile_m = 16, tile_n = 6, block_m = 128, block_n = 768;

struct Operand {
    const void* data;
    int type;
    bool transposed;
    int64_t ld;

    float at(size_t row, size_t column) const {
        return read(data, type, transposed ? row * ld + column : column * ld + row);
    }
};

// Panels of `width` rows (of a) or columns (of b), zero-filled, with k running slowest within a panel.
template <size_t width, class At>
void pack(float* to, size_t count, size_t depth, At at) {
    for (size_t first = 0; first < count; first += width) {
        for (size_t k = 0; k < depth; ++k) {
            for (size_t i = 0; i < width; ++i) *to++ = first + i < count ? at(first + i, k) : 0.0f;
        }
    }
}

void multiply_tile(const float* a, const float* b, size_t depth, float* c, size_t ld, size_t rows,
                   size_t columns) {
    typedef float Vector __attribute__((vector_size(32)));
    Vector sum[tile_n][2] = {};
    for (size_t k = 0; k < depth; ++k, a += tile_m, b += tile_n) {
        Vector low, high;
        memcpy(&low, a, sizeof low);
        memcpy(&high, a + 8, sizeof high);
#pragma GCC unroll 6
        for (size_t j = 0; j < tile_n; ++j) {
            sum[j][0] += low * b[j];
            sum[j][1] += high * b[j];
        }
    }
    float out[tile_n][tile_m];
    memcpy(out, sum, sizeof out);
    for (size_t j = 0; j < columns; ++j) {
        for (size_t i = 0; i < rows; ++i) c[j * ld + i] += out[j][i];
    }
}

void multiply(const Operand& a, const Operand& b, size_t m, size_t first_column, size_t end_column, size_t k,
              size_t block_k, float* c) {
    std::vector<float> packed_a(block_m * block_k), packed_b((block_n + tile_n) * block_k);
    for (size_t jc = first_column; jc < end_column; jc += block_n) {
        size_t columns = std::min(block_n, end_column - jc);
        for (size_t pc = 0; pc < k; pc += block_k) {
            size_t depth = std::min(block_k, k - pc);
            pack<tile_n>(packed_b.data(), columns, depth,
                         [&](size_t j, size_t p) { return b.at(pc + p, jc + j); });
            for (size_t ic = 0; ic < m; ic += block_m) {
                size_t rows = std::min(block_m, m - ic);
                pack<tile_m>(packed_a.data(), rows, depth,
                             [&](size_t i, size_t p) { return a.at(ic + i, pc + p); });
                for (size_t j = 0; j < columns; j += tile_n) {
                    for (size_t i = 0; i < rows; i += tile_m) {
                        multiply_tile(&packed_a[i * depth], &packed_b[j * depth], depth,
                                      &c[(jc + j) * m + ic + i], m, std::min(tile_m, rows - i),
                                      std::min(tile_n, columns - j));
                    }
                }
            }
        }
    }
}

// Splits the columns among the machine's processors where the work is worth a thread.
template <class Body>
void in_parallel(size_t columns, double operations, Body body) {
    const char* setting = getenv("INVAD_EMULATOR_THREADS");
    size_t most = setting ? strtoul(setting, nullptr, 10) : std::thread::hardware_concurrency();
    size_t threads = std::max<size_t>(1, std::min({most, size_t(operations / 2e7), columns / tile_n}));
    size_t each = (columns + threads * tile_n - 1) / (threads * tile_n) * tile_n;
    std::vector<std::thread> others;
    for (size_t first = each; first < columns; first += each) {
        others.emplace_back(body, first, std::min(first + each, columns));
    }
    body(size_t(0), std::min(each, columns));
    for (auto& thread : others) thread.join();
}

float gelu(float x) { return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x))); }

float gelu_slope(float x) {
    float t = tanhf(0.7978845608f * (x + 0.044715f * x * x * x));
    return 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * 0.7978845608f * (1.0f + 0.134145f * x * x);
}

struct Matmul {
    Description description;
    Layout a, b, c, d;
    float alpha, beta;
    const char *pa = nullptr, *pb = nullptr, *pc = nullptr;
    char* pd = nullptr;
    size_t block_k = 0;

    int bias_type() const { return description.bias_type < 0 ? d.type : description.bias_type; }

    int aux_type() const { return description.aux_type < 0 ? d.type : description.aux_type; }
    size_t aux_bytes() const {
        return ((d.columns - 1) * description.aux_ld + d.rows) * (aux_type() == F16 ? 2 : 4);
    }

    int check() const {
        for (auto* layout : {&a, &b, &c, &d}) {
            if (layout->type != F16 && layout->type != F32) return NOT_SUPPORTED;
            if (layout->ld < int64_t(layout->rows) || layout->batch != d.batch || layout->batch < 1)
                return INVALID_VALUE;
        }
        int epilogue = description.epilogue & ~BIAS;
        if (epilogue != 0 && epilogue != DEFAULT && epilogue != RELU && epilogue != GELU &&
            epilogue != GELU_AUX && description.epilogue != DGELU) {
            return NOT_SUPPORTED;
        }
        if (description.has_aux()) {
            if (d.batch != 1 || (aux_type() != F16 && aux_type() != F32)) return NOT_SUPPORTED;
            if (description.aux_ld < int64_t(d.rows) || description.aux_ld % 8 != 0 ||
                reinterpret_cast<uintptr_t>(description.aux) % 16 != 0) {
                return INVALID_VALUE;
            }
        }
        if (description.compute != 68 && description.compute != 77)
            return NOT_SUPPORTED;  // f32, or f32 by TF32
        if (description.scale != F32 || a.type != b.type || (bias_type() != F16 && bias_type() != F32))
            return NOT_SUPPORTED;
        uint64_t m = description.transpose_a ? a.columns : a.rows,
                 k = description.transpose_a ? a.rows : a.columns;
        uint64_t n = description.transpose_b ? b.rows : b.columns,
                 k_of_b = description.transpose_b ? b.columns : b.rows;
        if (k != k_of_b || m != d.rows || n != d.columns || m != c.rows || n != c.columns)
            return INVALID_VALUE;
        return SUCCESS;
    }

    Outcome run() const {
        auto outside = [](const char* what) {
            return Outcome{700, std::string("cublasLtMatmul: ") + what + " is not within device memory"};
        };
        if (!emulator::on_device(pa, a.bytes())) return outside("A");
        if (!emulator::on_device(pb, b.bytes())) return outside("B");
        if (beta != 0 && !emulator::on_device(pc, c.bytes())) return outside("C");
        if (!emulator::on_device(pd, d.bytes())) return outside("D");
        size_t m = d.rows, n = d.columns, k = description.transpose_a ? a.rows : a.columns;
        const char* bias = static_cast<const char*>(description.bias);
        size_t bias_element = bias_type() == F16 ? 2 : 4;
        if (description.has_bias() &&
            !emulator::on_device(bias, ((d.batch - 1) * description.bias_stride + m) * bias_element)) {
            return outside("the bias");
        }
        if (description.has_aux() && !emulator::on_device(description.aux, aux_bytes()))
            return outside("the auxiliary matrix");
        if (emulator::counts_traffic) {
            size_t read = a.bytes() + b.bytes() + (beta != 0 ? c.bytes() : 0);
            size_t written = d.bytes();
            if (description.has_bias()) read += m * bias_element;
            if (description.has_aux()) (description.is_gelu_slope() ? read : written) += aux_bytes();
            emulator::write_traffic("cublasLtMatmul", read, written, 2.0 * m * n * k * d.batch);
        }
        std::vector<float> product(m * n);
        for (int batch = 0; batch < d.batch; ++batch) {
            Operand left{pa + batch * a.stride * a.element(), a.type, description.transpose_a != 0, a.ld};
            Operand right{pb + batch * b.stride * b.element(), b.type, description.transpose_b != 0, b.ld};
            in_parallel(n, 2.0 * m * n * k, [&](size_t first, size_t end) {
                std::fill(product.begin() + first * m, product.begin() + end * m, 0.0f);
                multiply(left, right, m, first, end, k, block_k, product.data());
                finish(product.data(), first, end, pc + batch * c.stride * c.element(),
                       pd + batch * d.stride * d.element(),
                       bias + batch * description.bias_stride * bias_element);
            });
        }
        return {};
    }

    void finish(const float* product, size_t first, size_t end, const char* from, char* to,
                const char* bias) const {
        for (size_t j = first; j < end; ++j) {
            for (size_t i = 0; i < d.rows; ++i) {
                float value = alpha * product[j * d.rows + i];
                if (beta != 0) value += beta * read(from, c.type, j * c.ld + i);
                if (description.has_bias()) value += read(bias, bias_type(), i);
                if (description.epilogue & RELU) value = value > 0 || value != value ? value : 0.0f;
                size_t at_aux = j * description.aux_ld + i;
                if (description.has_aux() && description.is_gelu())
                    write(description.aux, aux_type(), at_aux, value);
                if (description.is_gelu()) value = gelu(value);
                if (description.is_gelu_slope())
                    value *= gelu_slope(read(description.aux, aux_type(), at_aux));
                write(to, d.type, j * d.ld + i, value);
            }
        }
    }
};

template <class T>
int take(T& field, const void* value, size_t bytes) {
    if (bytes != sizeof field) return INVALID_VALUE;
    memcpy(&field, value, sizeof field);
    return SUCCESS;
}

// Takes a setting of which only one value is supported.
int only(int supported, const void* value, size_t bytes) {
    int given;
    if (int status = take(given, value, bytes)) return status;
    return given == supported ? SUCCESS : NOT_SUPPORTED;
}

}  // namespace

#define API extern "C" __attribute__((visibility("default"))) int

extern "C" __attribute__((visibility("default"))) size_t cublasLtGetVersion() { return 120900; }

API cublasLtCreate(void** handle) {
    *handle = new char;
    return SUCCESS;
}

API cublasLtDestroy(void* handle) {
    delete static_cast<char*>(handle);
    return SUCCESS;
}

API cublasLtMatrixLayoutCreate(Layout** layout, int type, uint64_t rows, uint64_t columns, int64_t ld) {
    *layout = new Layout{type, rows, columns, ld};
    return SUCCESS;
}

API cublasLtMatrixLayoutDestroy(Layout* layout) {
    delete layout;
    return SUCCESS;
}

API cublasLtMatrixLayoutSetAttribute(Layout* layout, int attribute, const void* value, size_t bytes) {
    switch (attribute) {
        case 0: return take(layout->type, value, bytes);
        case 1: return only(0, value, bytes);  // column-major
        case 2: return take(layout->rows, value, bytes);
        case 3: return take(layout->columns, value, bytes);
        case 4: return take(layout->ld, value, bytes);
        case 5: return take(layout->batch, value, bytes);
        case 6: return take(layout->stride, value, bytes);
        default: return NOT_SUPPORTED;
    }
}

API cublasLtMatmulDescCreate(Description** description, int compute, int scale) {
    *description = new Description{compute, scale};
    return SUCCESS;
}

API cublasLtMatmulDescDestroy(Description* description) {
    delete description;
    return SUCCESS;
}

API cublasLtMatmulDescSetAttribute(Description* description, int attribute, const void* value, size_t bytes) {
    switch (attribute) {
        case 0: return take(description->compute, value, bytes);
        case 1: return take(description->scale, value, bytes);
        case 2: return only(0, value, bytes);  // alpha and beta on the host
        case 3: return take(description->transpose_a, value, bytes);
        case 4: return take(description->transpose_b, value, bytes);
        case 5: return only(0, value, bytes);  // no transpose of C
        case 7: return take(description->epilogue, value, bytes);
        case 8: return take(description->bias, value, bytes);
        case 10: return take(description->bias_stride, value, bytes);
        case 11: return take(description->aux, value, bytes);
        case 12: return take(description->aux_ld, value, bytes);
        case 22: return take(description->aux_type, value, bytes);
        case 26: return take(description->bias_type, value, bytes);
        default: return NOT_SUPPORTED;
    }
}

API cublasLtMatmulPreferenceCreate(void** preference) { return cublasLtCreate(preference); }
API cublasLtMatmulPreferenceDestroy(void* preference) { return cublasLtDestroy(preference); }
API cublasLtMatmulPreferenceSetAttribute(void*, int, const void*, size_t) { return SUCCESS; }

API cublasLtMatmulAlgoGetHeuristic(void*, Description* description, Layout* a, Layout* b, Layout* c,
                                   Layout* d, void*, int requested, Heuristic* results, int* found) {
    *found = 0;
    if (requested < 1) return INVALID_VALUE;
    if (int status = Matmul{*description, *a, *b, *c, *d, 1, 0}.check()) return status;
    for (uint64_t block_k : blocks_k) {
        if (*found == requested) break;
        results[*found] = {};
        results[*found].algorithm = {algorithm_name, block_k, {}};
        ++*found;
    }
    return SUCCESS;
}

API cublasLtMatmulAlgoCheck(void*, Description* description, Layout* a, Layout* b, Layout* c, Layout* d,
                            const Algorithm* algorithm, Heuristic* result) {
    if (!algorithm->is_known()) return INVALID_VALUE;
    if (int status = Matmul{*description, *a, *b, *c, *d, 1, 0}.check()) return status;
    *result = {};
    result->algorithm = *algorithm;
    return SUCCESS;
}

API cublasLtMatmul(void*, Description* description, const float* alpha, const char* pa, Layout* a,
                   const char* pb, Layout* b, const float* beta, const char* pc, Layout* c, char* pd,
                   Layout* d, const Algorithm* algorithm, void*, size_t, void* stream) {
    if (algorithm && !algorithm->is_known()) return INVALID_VALUE;
    auto matmul = std::make_shared<Matmul>(Matmul{*description, *a, *b, *c, *d, *alpha, *beta, pa, pb, pc, pd,
                                                  algorithm ? algorithm->block_k : blocks_k[0]});
    if (int status = matmul->check()) return status;
    if (matmul->description.has_bias() && !matmul->description.bias) return INVALID_VALUE;
    if (matmul->description.has_aux() && !matmul->description.aux) return INVALID_VALUE;
    return emulator::enqueue(stream, [matmul] { return matmul->run(); }) ? EXECUTION_FAILED : SUCCESS;
}
