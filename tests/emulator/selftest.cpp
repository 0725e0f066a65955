// Checks the emulated device: every probe against formulas written from the PTX ISA and not from the twins in
// device.hpp, and every planted fault for being found. Goes through the libraries' C interfaces as the crate
// does.
//
//   selftest DIRECTORY                  all checks, with the stand-ins in DIRECTORY (see build.sh)
//   selftest DIRECTORY NAME [repaired]  one fault alone: prints OK, or what went wrong
//   selftest interfaces DIRECTORY       NVRTC and cuBLASLt alone
//   selftest probes LIBCUDA NVRTC       the probes alone, on whatever device LIBCUDA is for; instead of a
//   libnvrtc.so
//                                       NVRTC can be probes.cubin, already compiled
#include <dlfcn.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace {

const std::string here = INVAD_EMULATOR_SOURCES;  // the directory of this file

[[noreturn]] void stop(const std::string& reason) {
    printf("%s\n", reason.c_str());
    fflush(stdout);
    _Exit(1);
}

void* load(const std::string& path) {
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!library) stop(dlerror());
    return library;
}

std::string read(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) stop("cannot read " + path);
    return {std::istreambuf_iterator<char>(file), {}};
}

// ---- NVRTC

// What build.rs does: each include once, in place.
std::string expand(const std::string& path, std::vector<std::string>& seen) {
    std::ifstream file(path);
    if (!file) stop("cannot read " + path);
    std::string directory = path.substr(0, path.rfind('/') + 1), text, line;
    while (std::getline(file, line)) {
        if (line == "#pragma once") line = "";
        if (line.rfind("#include \"", 0) == 0) {
            std::string included = directory + line.substr(10, line.find('"', 10) - 10);
            if (std::find(seen.begin(), seen.end(), included) == seen.end()) {
                seen.push_back(included);
                text += expand(included, seen);
            }
            line = "";
        }
        text += line + "\n";
    }
    return text;
}

std::string compile(void* nvrtc, const std::string& name, int arch, std::vector<std::string> options) {
    auto call = [&](const char* function) { return reinterpret_cast<int (*)(...)>(dlsym(nvrtc, function)); };
    std::vector<std::string> seen;
    std::string source = expand(here + "/" + name, seen);
    options.push_back("--gpu-architecture=sm_" + std::to_string(arch) + (arch == 90 ? "a" : ""));
    options.push_back("--std=c++17");
    std::vector<const char*> list;
    for (auto& option : options) list.push_back(option.c_str());
    void* program;
    if (call("nvrtcCreateProgram")(&program, source.c_str(), name.c_str(), 0, nullptr, nullptr))
        stop("no program");
    if (call("nvrtcCompileProgram")(program, int(list.size()), list.data())) {
        size_t size;
        call("nvrtcGetProgramLogSize")(program, &size);
        std::string log(size, '\0');
        call("nvrtcGetProgramLog")(program, log.data());
        stop(log);
    }
    size_t size;
    call("nvrtcGetCUBINSize")(program, &size);
    std::string cubin(size, '\0');
    call("nvrtcGetCUBIN")(program, cubin.data());
    call("nvrtcDestroyProgram")(&program);
    return cubin;
}

// ---- the driver

struct Dim {
    unsigned x = 1, y = 1, z = 1;
};

struct Driver {
    void* library;
    void* stream = nullptr;
    void* module = nullptr;

    explicit Driver(const std::string& path) : library(load(path)) {
        void* context;
        check("cuInit", 0u);
        check("cuDevicePrimaryCtxRetain", &context, 0);
        check("cuCtxSetCurrent", context);
        stream = new_stream();
    }

    template <class... A>
    int call(const char* name, A... arguments) {
        void* symbol = dlsym(library, name);
        if (!symbol) stop(std::string("no symbol ") + name);
        return reinterpret_cast<int (*)(A...)>(symbol)(arguments...);
    }

    template <class... A>
    void check(const char* name, A... arguments) {
        if (int code = call(name, arguments...)) stop(std::string(name) + ": " + error(code));
    }

    std::string error(int code) {
        const char *name = "unknown error", *text = "";
        call("cuGetErrorName", code, &name);
        call("cuGetErrorString", code, &text);
        return std::string(name) + ": " + text;
    }

    int arch() {
        int major, minor;
        check("cuDeviceGetAttribute", &major, 75, 0);
        check("cuDeviceGetAttribute", &minor, 76, 0);
        return 10 * major + minor;
    }

    void* new_stream() {
        void* made;
        check("cuStreamCreate", &made, 1u);  // does not wait for the null stream
        return made;
    }

    void open(const std::string& cubin) { check("cuModuleLoadData", &module, cubin.data()); }

    template <class T>
    uint64_t upload(const std::vector<T>& values) {
        uint64_t p;
        check("cuMemAlloc_v2", &p, values.size() * sizeof(T));
        check("cuMemcpyHtoDAsync_v2", p, static_cast<const void*>(values.data()), values.size() * sizeof(T),
              stream);
        return p;
    }

    template <class T>
    std::vector<T> download(uint64_t p, size_t count) {
        std::vector<T> values(count);
        check("cuMemcpyDtoHAsync_v2", static_cast<void*>(values.data()), p, count * sizeof(T), stream);
        check("cuStreamSynchronize", stream);
        return values;
    }

    void allow_shared(const char* kernel, int bytes) {
        void* function;
        check("cuModuleGetFunction", &function, module, kernel);
        check("cuFuncSetAttribute", function, 8, bytes);
    }

    template <class... A>
    int launch_on(void* on, const char* kernel, Dim grid, Dim block, unsigned shared_bytes, A... arguments) {
        void* function;
        check("cuModuleGetFunction", &function, module, kernel);
        void* parameters[] = {&arguments...};
        return call("cuLaunchKernel", function, grid.x, grid.y, grid.z, block.x, block.y, block.z,
                    shared_bytes, on, parameters, static_cast<void**>(nullptr));
    }

    template <class... A>
    void launch(const char* kernel, Dim grid, Dim block, unsigned shared_bytes, A... arguments) {
        if (int code = launch_on(stream, kernel, grid, block, shared_bytes, arguments...)) stop(error(code));
    }
};

// ---- halves, from their definition

double value_of(uint16_t h) {
    int exponent = h >> 10 & 31, fraction = h & 1023;
    double sign = h >> 15 ? -1 : 1;
    if (exponent == 31) return fraction ? NAN : sign * INFINITY;
    return sign * (exponent ? ldexp(1024 + fraction, exponent - 25) : ldexp(fraction, -24));
}

// Rounds to the nearest multiple of the spacing of halves near x, in the C library's mode, which is to even.
double nearest_half(long double x) {
    if (x != x || fabsl(x) == INFINITY) return double(x);
    int exponent = x == 0 ? -14 : std::max(ilogbl(x), -14);
    double rounded = double(ldexpl(rintl(ldexpl(x, 10 - exponent)), exponent - 10));
    return fabs(rounded) >= 65536 ? copysign(INFINITY, rounded) : rounded;
}

bool same(double a, double b) { return a == b ? signbit(a) == signbit(b) : a != a && b != b; }

bool is_half(uint16_t h, long double expected) { return same(value_of(h), nearest_half(expected)); }

uint16_t half_of(double x) {  // of a value that is one; their bits are in the order of their values
    int low = 0, high = 0x7c00;
    while (low < high) {
        int middle = (low + high) / 2;
        if (value_of(uint16_t(middle)) < fabs(x)) low = middle + 1;
        else high = middle;
    }
    uint16_t h = uint16_t(low | (signbit(x) ? 0x8000 : 0));
    if (!same(value_of(h), x)) stop("no half");
    return h;
}

// ---- probes

void expect(bool right, const char* what, size_t i) {
    if (!right) stop(std::string(what) + " differs from the formula at element " + std::to_string(i));
}

std::mt19937 random_numbers;

float random_value() { return std::uniform_real_distribution<float>(-1, 1)(random_numbers); }

// Random halves small enough that sums of a few products are exact in f32.
double small_integer() { return std::uniform_int_distribution<int>(-8, 8)(random_numbers); }

std::vector<float> rounding_cases() {
    std::vector<float> x = {0.0f,       -0.0f,     INFINITY,  -INFINITY,    NAN,          65504,
                            65519.996f, 65520,     -65520,    1e30f,        0x1p-25f,     0x1.000002p-25f,
                            0x1p-26f,   -0x1p-25f, 0x1p-149f, 0x1.ffcp-15f, 0x1.ffep-15f, 0x1.fffp-15f};
    for (int h = 0; h < 0x7c00; ++h) {
        float value = float(value_of(uint16_t(h))),
              next = h == 0x7bff ? 65536 : float(value_of(uint16_t(h + 1)));
        float middle = (value + next) / 2;
        for (float v : {value, middle, nextafterf(middle, 0), nextafterf(middle, INFINITY)}) {
            x.push_back(v);
            x.push_back(-v);
        }
    }
    for (int i = 0; i < 100000; ++i) {
        uint32_t bits = random_numbers();
        float value;
        memcpy(&value, &bits, 4);
        x.push_back(value);
    }
    if (x.size() % 2) x.push_back(1);
    return x;
}

void probe_conversions(Driver& driver) {
    auto x = rounding_cases();
    int n = int(x.size());
    unsigned blocks = unsigned(n + 255) / 256;
    auto px = driver.upload(x), ph = driver.upload(std::vector<uint16_t>(x.size()));
    driver.launch("probe_to_h16", {blocks}, {256}, 0, px, ph, n);
    auto h = driver.download<uint16_t>(ph, x.size());
    for (size_t i = 0; i < x.size(); ++i) expect(is_half(h[i], x[i]), "to_h16", i);

    auto pu = driver.upload(std::vector<float>(x.size()));
    driver.launch("probe_pack", {blocks}, {256}, 0, px, ph, pu, n);
    h = driver.download<uint16_t>(ph, x.size());
    auto reversed = driver.download<float>(pu, x.size());
    for (size_t i = 0; i < x.size(); ++i) {
        expect(is_half(h[i], x[i]), "pack", i);
        expect(same(reversed[i ^ 1], value_of(h[i])), "unpack", i);
    }

    std::vector<uint16_t> all(65536);
    for (size_t i = 0; i < all.size(); ++i) all[i] = uint16_t(i);
    driver.launch("probe_to_f32", {256}, {256}, 0, driver.upload(all), pu, 65536);
    auto f = driver.download<float>(pu, all.size());
    for (size_t i = 0; i < all.size(); ++i) expect(same(f[i], value_of(all[i])), "to_f32", i);
}

void probe_fma2(Driver& driver) {
    std::vector<uint16_t> a, b, c;
    for (int i = 0; i < 200000; ++i) {
        a.push_back(uint16_t(random_numbers()));
        b.push_back(uint16_t(random_numbers()));
        c.push_back(uint16_t(random_numbers()));
    }
    // Sums of very different terms.
    for (uint16_t tiny : {0x0001, 0x8001, 0x0003, 0x03ff, 0x0400, 0x1001}) {
        for (uint16_t large : {0x3c01, 0x3c00, 0x6401, 0xe401, 0x7bff}) {
            a.insert(a.end(), {tiny, 0x3e01});
            b.insert(b.end(), {uint16_t(tiny), 0x1401});
            c.insert(c.end(), {large, large});
        }
    }
    int n = int(a.size() / 2);
    auto out = driver.upload(std::vector<uint16_t>(a.size()));
    driver.launch("probe_fma2", {unsigned(n + 255) / 256}, {256}, 0, driver.upload(a), driver.upload(b),
                  driver.upload(c), out, n);
    auto d = driver.download<uint16_t>(out, a.size());
    for (size_t i = 0; i < a.size(); ++i) {
        // Exact: from 2^-48 to below 2^33 there is room in 64 bits where both terms matter.
        long double sum = (long double)value_of(a[i]) * value_of(b[i]) + value_of(c[i]);
        expect(is_half(d[i], sum), "fma2", i);
    }
}

// The fragments of mma.m16n8k16 with .f16 inputs, in the ISA's words: element i of a lane's a, b or c is at
// (row, column).
struct Place {
    int row, column;
};
Place a_place(int lane, int i) {
    int group = lane >> 2, in_group = lane % 4;
    return {(i < 2 || (i >= 4 && i < 6)) ? group : group + 8,
            i < 4 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8};
}
Place b_place(int lane, int i) {
    int group = lane >> 2, in_group = lane % 4;
    return {i < 2 ? in_group * 2 + (i & 1) : in_group * 2 + (i & 1) + 8, group};
}
Place c_place(int lane, int i) {
    int group = lane >> 2, in_group = lane % 4;
    return {i < 2 ? group : group + 8, in_group * 2 + (i & 1)};
}

void probe_mma(Driver& driver) {
    double a[16][16], b[16][8], c[16][8];
    for (auto& row : a)
        for (auto& x : row) x = small_integer();
    for (auto& row : b)
        for (auto& x : row) x = small_integer();
    for (auto& row : c)
        for (auto& x : row) x = small_integer();
    std::vector<uint16_t> fragment_a, fragment_b;
    std::vector<float> fragment_d;
    for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < 8; ++i)
            fragment_a.push_back(half_of(a[a_place(lane, i).row][a_place(lane, i).column]));
        for (int i = 0; i < 4; ++i)
            fragment_b.push_back(half_of(b[b_place(lane, i).row][b_place(lane, i).column]));
        for (int i = 0; i < 4; ++i)
            fragment_d.push_back(float(c[c_place(lane, i).row][c_place(lane, i).column]));
    }
    auto d = driver.upload(fragment_d);
    driver.launch("probe_mma", {1}, {32}, 0, driver.upload(fragment_a), driver.upload(fragment_b), d);
    fragment_d = driver.download<float>(d, fragment_d.size());
    for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < 4; ++i) {
            auto [row, column] = c_place(lane, i);
            double sum = c[row][column];
            for (int k = 0; k < 16; ++k) sum += a[row][k] * b[k][column];
            expect(fragment_d[size_t(4 * lane + i)] == sum, "mma", size_t(4 * lane + i));
        }
    }
}

// The same of mma.m16n8k32 with inputs of eight bits; c's are those above.
Place a_place_of_bytes(int lane, int i) {
    int group = lane >> 2, in_group = lane % 4;
    return {(i < 4 || (i >= 8 && i < 12)) ? group : group + 8,
            i < 8 ? in_group * 4 + (i & 3) : in_group * 4 + (i & 3) + 16};
}
Place b_place_of_bytes(int lane, int i) {
    int group = lane >> 2, in_group = lane % 4;
    return {i < 4 ? in_group * 4 + (i & 3) : in_group * 4 + (i & 3) + 16, group};
}

// What `kernel` makes of d(16×8) += a(16×32)·b(32×8), row by row.
template <class Sum>
std::vector<Sum> product_of_bytes(Driver& driver, const char* kernel, const uint8_t (&a)[16][32],
                                  const uint8_t (&b)[32][8], const std::vector<Sum>& c) {
    std::vector<uint8_t> fragment_a, fragment_b;
    std::vector<Sum> fragment_d, d(128);
    for (int lane = 0; lane < 32; ++lane) {
        for (int i = 0; i < 16; ++i)
            fragment_a.push_back(a[a_place_of_bytes(lane, i).row][a_place_of_bytes(lane, i).column]);
        for (int i = 0; i < 8; ++i)
            fragment_b.push_back(b[b_place_of_bytes(lane, i).row][b_place_of_bytes(lane, i).column]);
        for (int i = 0; i < 4; ++i)
            fragment_d.push_back(c[size_t(8 * c_place(lane, i).row + c_place(lane, i).column)]);
    }
    auto out = driver.upload(fragment_d);
    driver.launch(kernel, {1}, {32}, 0, driver.upload(fragment_a), driver.upload(fragment_b), out);
    fragment_d = driver.download<Sum>(out, fragment_d.size());
    for (int lane = 0; lane < 32; ++lane)
        for (int i = 0; i < 4; ++i)
            d[size_t(8 * c_place(lane, i).row + c_place(lane, i).column)] = fragment_d[size_t(4 * lane + i)];
    return d;
}

void probe_mma_s8(Driver& driver) {
    uint8_t a[16][32], b[32][8];
    for (auto& row : a)
        for (auto& x : row) x = uint8_t(random_numbers());
    for (auto& row : b)
        for (auto& x : row) x = uint8_t(random_numbers());
    std::vector<int32_t> c(128);
    for (auto& x : c) x = int32_t(random_numbers());
    c[0] = INT32_MAX;  // without .satfinite a sum wraps
    c[1] = INT32_MIN;
    auto d = product_of_bytes(driver, "probe_mma_s8", a, b, c);
    for (size_t i = 0; i < 128; ++i) {
        int64_t sum = c[i];
        for (size_t k = 0; k < 32; ++k) sum += int8_t(a[i / 8][k]) * int8_t(b[k][i % 8]);
        expect(uint32_t(d[i]) == uint32_t(sum), "mma of s8", i);
    }
}

// E4M3 of OCP's 8-bit floating point specification: bias 7, no infinity, NaN is S.1111.111.
double value_of_e4m3(int code) {
    double sign = code & 0x80 ? -1 : 1;
    int exponent = code >> 3 & 15, fraction = code & 7;
    if (exponent == 15 && fraction == 7) return NAN;
    return sign * (exponent ? (1 + fraction / 8.0) * exp2(exponent - 7) : fraction / 8.0 * exp2(-6));
}

uint8_t e4m3_of(double x) {  // of a value that is one
    for (int code = 0; code < 256; ++code)
        if (value_of_e4m3(code) == x) return uint8_t(code);
    stop("no e4m3");
}

void probe_mma_e4m3(Driver& driver) {
    uint8_t a[16][32], b[32][8];
    for (auto& row : a)
        for (auto& x : row) x = e4m3_of(small_integer());
    for (auto& row : b)
        for (auto& x : row) x = e4m3_of(small_integer());
    std::vector<float> c(128);
    for (auto& x : c) x = float(small_integer());
    auto d = product_of_bytes(driver, "probe_mma_e4m3", a, b, c);
    for (size_t i = 0; i < 128; ++i) {
        double sum = c[i];
        for (size_t k = 0; k < 32; ++k) sum += value_of_e4m3(a[i / 8][k]) * value_of_e4m3(b[k][i % 8]);
        expect(d[i] == sum, "mma of e4m3", i);
    }
    // Each code by itself: a row of zeros but for it, times one.
    for (auto& row : b)
        for (auto& x : row) x = e4m3_of(1);
    for (int first = 0; first < 256; first += 16) {
        memset(a, 0, sizeof a);
        for (int row = 0; row < 16; ++row) a[row][random_numbers() % 32] = uint8_t(first + row);
        d = product_of_bytes(driver, "probe_mma_e4m3", a, b, std::vector<float>(128));
        for (size_t i = 0; i < 128; ++i) {
            double want = value_of_e4m3(first + int(i / 8));
            expect(d[i] == want || (want != want && d[i] != d[i]), "mma of one e4m3", i);
        }
    }
}

void probe_ldmatrix(Driver& driver) {
    std::vector<uint16_t> x(2048);
    for (size_t i = 0; i < x.size(); ++i) x[i] = uint16_t(i * 31 + 7);
    std::vector<int> row(256);
    for (int i = 0; i < 256; ++i) row[size_t(i)] = 8 * i;
    std::shuffle(row.begin(), row.end(), random_numbers);
    row.resize(32);
    auto out = driver.upload(std::vector<uint32_t>(12 * 32));
    driver.launch("probe_ldmatrix", {1}, {32}, 4096, driver.upload(x), driver.upload(row), out);
    auto r = driver.download<uint16_t>(out, 24 * 32);
    // Thread T receives of each matrix the elements 2(T % 4) and 2(T % 4) + 1 of row T / 4, of the transpose
    // if .trans.
    for (size_t thread = 0; thread < 32; ++thread) {
        for (size_t element = 0; element < 2; ++element) {
            size_t i = thread / 4, j = 2 * (thread % 4) + element;
            auto at = [&](size_t matrix, size_t row_, size_t column) {
                return x[size_t(row[8 * matrix + row_]) + column];
            };
            auto got = [&](size_t reg) { return r[(12 * thread + reg) * 2 + element]; };
            for (size_t matrix = 0; matrix < 4; ++matrix) {
                expect(got(matrix) == at(matrix, i, j), "ldmatrix.x4", thread);
                expect(got(4 + matrix) == at(matrix, j, i), "ldmatrix.x4.trans", thread);
            }
            for (size_t matrix = 0; matrix < 2; ++matrix) {
                expect(got(8 + matrix) == at(matrix, i, j), "ldmatrix.x2", thread);
                expect(got(10 + matrix) == at(matrix, j, i), "ldmatrix.x2.trans", thread);
            }
        }
    }
}

void probe_memory(Driver& driver) {
    const size_t n = 96;
    std::vector<float> x(8 * n);
    for (auto& v : x) v = random_value();
    auto px = driver.upload(x), first = driver.upload(x), both = driver.upload(x);
    driver.launch("probe_cp_async", {1}, {n}, unsigned(32 * n), px, first, both, 50);
    auto f = driver.download<float>(first, 4 * n), g = driver.download<float>(both, 8 * n);
    for (size_t i = 0; i < 4 * n; ++i) expect(f[i] == x[(i + 5) % (4 * n)], "cp.async", i);
    for (size_t i = 0; i < 8 * n; ++i) {
        size_t from = (i + 5) % (8 * n);
        expect(g[i] == (from < 4 * n + 4 * 50 ? x[from] : 0.0f), "cp.async with zeros", i);
    }
    driver.launch("probe_vectors", {1}, {n}, 0, px, both);
    g = driver.download<float>(both, 8 * n);
    for (size_t i = 0; i < 8 * n; ++i)
        expect(g[i] == x[i / 8 * 8 + 7 - i % 8], "16-byte loads and stores", i);
}

void probe_warps(Driver& driver) {
    const int n = 128;
    std::vector<float> x(n);
    for (auto& v : x) v = float(small_integer());
    auto px = driver.upload(x), out = driver.upload(std::vector<float>(8 * n));
    driver.launch("probe_shuffles", {1}, {n}, 0, px, out);
    auto r = driver.download<float>(out, 8 * n);
    for (int t = 0; t < n; ++t) {
        int lane = t % 32, warp = t - lane;
        int source[] = {lane ^ 5,
                        (3 * t + 1) % 32,
                        lane + 7 < 32 ? lane + 7 : lane,
                        lane >= 7 ? lane - 7 : lane,
                        lane / 8 * 8 + 3,
                        lane % 8 + 3 < 8 ? lane + 3 : lane,
                        lane < 16 ? lane ^ 9 : lane ^ 6,
                        lane % 8 >= 3 ? lane - 3 : lane};
        for (int i = 0; i < 8; ++i)
            expect(r[size_t(8 * t + i)] == x[size_t(warp + source[i])], "a shuffle", size_t(8 * t + i));
    }
    driver.launch("probe_reductions", {1}, {n}, 0, px, out);
    r = driver.download<float>(out, 4 * n);
    float total = 0;
    for (float v : x) total += v;
    for (int t = 0; t < n; ++t) {
        auto begin = x.begin() + t / 32 * 32, end = begin + 32;
        float sum = 0;
        for (auto i = begin; i != end; ++i) sum += *i;
        const float* got = &r[size_t(4 * t)];
        bool right = got[0] == sum && got[1] == *std::max_element(begin, end) &&
                     got[2] == *std::min_element(begin, end);
        expect(right && got[3] == total, "a reduction", size_t(t));
    }
    auto numbers = driver.upload(std::vector<int>(24 * 30));
    driver.launch("probe_indices", {2, 3, 4}, {5, 3, 2}, 0, numbers);
    auto number = driver.download<int>(numbers, 24 * 30);
    for (size_t i = 0; i < number.size(); ++i) expect(number[i] == int(i), "an index", i);
}

void probe_math(Driver& driver) {
    std::vector<float> x = {0,    -0.0f, 1,    -1,     2,     126.5f,   128,       -126, -126.5f,
                            -140, -149,  -200, 1e-40f, 3e38f, INFINITY, -INFINITY, NAN};
    for (int i = 0; i < 2000; ++i) x.push_back(random_value() * (i % 2 ? 30 : 1));
    int n = int(x.size());
    auto out = driver.upload(std::vector<float>(3 * x.size()));
    driver.launch("probe_math", {unsigned(n + 255) / 256}, {256}, 0, driver.upload(x), out, n);
    auto r = driver.download<float>(out, 3 * x.size());
    for (size_t i = 0; i < x.size(); ++i) {
        double magnitude = fabs(double(x[i]));
        auto near = [](float got, double expected, double relative, double absolute) {
            if (fabs(expected) > 3.4028235e38) return double(got) == copysign(INFINITY, expected);
            return same(got, expected) || fabs(got - expected) <= relative * fabs(expected) + absolute;
        };
        // Subnormals are zero.
        const double power = exp2(double(x[i]));
        expect(power < 0x1p-126 ? r[3 * i] <= 0x1p-126 : near(r[3 * i], power, 0x1p-21, 0), "exp2", i);
        expect(near(r[3 * i + 1], log2(magnitude), 0x1p-21, 0x1p-21), "log2", i);
        expect(near(r[3 * i + 2], 1 / sqrt(magnitude), 0x1p-22, 0), "rsqrt", i);
    }
}

// Where the ISA has register i of a warpgroup's thread in an accumulator of wgmma.
Place wgmma_place(int thread, int i) {
    auto [row, column] = c_place(thread % 32, i % 4);
    return {thread / 32 * 16 + row, i / 4 * 8 + column};
}

std::vector<double> small_integers(size_t size) {
    std::vector<double> x(size);
    for (auto& value : x) value = small_integer();
    return x;
}

std::vector<uint16_t> halves_of(const std::vector<double>& x) {
    std::vector<uint16_t> h;
    for (double value : x) h.push_back(half_of(value));
    return h;
}

// Products of all steps of a tile: a (64×64) from shared memory with b (256×64) transposed, or from registers with b
// (64×64).
void probe_wgmma(Driver& driver, bool shared, int steps, bool add) {
    const int columns = shared ? 256 : 64, registers = columns / 2;
    auto a = small_integers(64 * 64), b = small_integers(64 * size_t(columns));
    auto c = small_integers(64 * size_t(columns));
    std::vector<float> d;
    std::vector<double> left;
    for (int thread = 0; thread < 128; ++thread) {
        for (int i = 0; i < registers; ++i) {
            auto [row, column] = wgmma_place(thread, i);
            d.push_back(float(c[size_t(row * columns + column)]));
        }
        for (int i = 0; i < 32; ++i) {
            auto [row, column] = a_place(thread % 32, i % 8);
            left.push_back(a[size_t((thread / 32 * 16 + row) * 64 + i / 8 * 16 + column)]);
        }
    }
    const char* kernel = shared ? "probe_wgmma_shared" : "probe_wgmma_registers";
    const unsigned bytes = (shared ? 320 : 64) * 128 + 1024;
    auto pd = driver.upload(d);
    driver.allow_shared(kernel, int(bytes));
    driver.launch(kernel, {1}, {128}, bytes, driver.upload(halves_of(shared ? a : left)), driver.upload(halves_of(b)),
                  pd, steps, int(add));
    d = driver.download<float>(pd, d.size());
    for (size_t i = 0; i < d.size(); ++i) {
        auto [row, column] = wgmma_place(int(i) / registers, int(i) % registers);
        double sum = add ? c[size_t(row * columns + column)] : 0;
        for (int k = 0; k < 16 * steps; ++k)
            sum += a[size_t(row * 64 + k)] * b[size_t(shared ? column * 64 + k : k * 64 + column)];
        expect(d[i] == sum, kernel, i);
    }
}

void run_probes(Driver& driver) {
    random_numbers.seed(1);
    probe_conversions(driver);
    probe_fma2(driver);
    for (int i = 0; i < 10; ++i) probe_mma(driver);
    for (int i = 0; i < 10; ++i) probe_mma_s8(driver);
    if (driver.arch() >= 89) probe_mma_e4m3(driver);
    for (int i = 0; i < 10; ++i) probe_ldmatrix(driver);
    probe_memory(driver);
    probe_warps(driver);
    probe_math(driver);
    for (int steps = 1; steps <= 4 && driver.arch() == 90; ++steps) {
        for (bool add : {false, true}) {
            probe_wgmma(driver, true, steps, add);
            probe_wgmma(driver, false, steps, add);
        }
    }
}

// ---- NVRTC's and cuBLASLt's interfaces

void check_compiler(void* nvrtc) {
    auto call = [&](const char* function) { return reinterpret_cast<int (*)(...)>(dlsym(nvrtc, function)); };
    auto result = [&](const char* source, std::vector<const char*> options, std::string& log) {
        void* program;
        size_t size;
        call("nvrtcCreateProgram")(&program, source, "name.cu", 0, nullptr, nullptr);
        int code = call("nvrtcCompileProgram")(program, int(options.size()), options.data());
        call("nvrtcGetProgramLogSize")(program, &size);
        log.resize(size);
        call("nvrtcGetProgramLog")(program, log.data());
        call("nvrtcDestroyProgram")(&program);
        return code;
    };
    std::string log;
    auto require = [&](bool right) {
        if (!right) stop("NVRTC: unexpected result; its log: " + log);
    };
    require(result("int f() { return VALUE; }", {"--gpu-architecture=sm_89", "-DVALUE=1"}, log) == 0);
    require(result("\nint f() { return VALUE; }", {"--gpu-architecture=sm_89"}, log) == 6);
    require(log.find("\nname.cu:2") != std::string::npos);
    require(result("", {"--gpu-architecture=compute_89"}, log) == 5);
    require(result("", {"--gpu-architecture=sm_89", "--no-such-option"}, log) == 5);
}

// One product with everything that is supported, in f64.
struct Product {
    int m, n, k, batch;
    bool half_in, half_out, transpose_a, transpose_b;
    int epilogue;
    float alpha, beta;
};

void check_product(Driver& driver, void* library, const Product& p) {
    auto call = [&](const char* function, auto... arguments) {
        auto symbol = reinterpret_cast<int (*)(decltype(arguments)...)>(dlsym(library, function));
        return symbol(arguments...);
    };
    auto values = [&](size_t count, bool half) {  // halves, stored as asked for
        std::vector<float> list(count);
        for (auto& v : list) v = float(value_of(half_of(nearest_half(random_value()))));
        std::vector<uint16_t> halves(half ? count : 0);
        for (size_t i = 0; i < halves.size(); ++i) halves[i] = half_of(list[i]);
        return std::pair(list, half ? driver.upload(halves) : driver.upload(list));
    };
    // Gaps between columns and between batches.
    int a_rows = p.transpose_a ? p.k : p.m, a_columns = p.transpose_a ? p.m : p.k, lda = a_rows + 3;
    int b_rows = p.transpose_b ? p.n : p.k, b_columns = p.transpose_b ? p.k : p.n, ldb = b_rows + 1,
        ldd = p.m + 2;
    int64_t a_stride = lda * a_columns + 5, b_stride = ldb * b_columns + 2, d_stride = ldd * p.n + 7;
    auto [a, pa] = values(size_t(a_stride * p.batch), p.half_in);
    auto [b, pb] = values(size_t(b_stride * p.batch), p.half_in);
    auto [d, pd] = values(size_t(d_stride * p.batch), p.half_out);
    auto [bias, pbias] = values(size_t(p.m), p.half_out);
    int64_t aux_ld = (p.m + 15) / 8 * 8;
    auto [aux, paux] = values(size_t(aux_ld * p.n), p.half_out);

    void *description, *la, *lb, *ld;
    int in = p.half_in ? 2 : 0, out = p.half_out ? 2 : 0, ta = p.transpose_a, tb = p.transpose_b;
    auto set = [&](int attribute, auto value) {
        if (call("cublasLtMatmulDescSetAttribute", description, attribute, &value, sizeof value))
            stop("attribute");
    };
    auto layout = [&](void** made, int type, int rows, int columns, int ld_, int64_t stride) {
        call("cublasLtMatrixLayoutCreate", made, type, uint64_t(rows), uint64_t(columns), int64_t(ld_));
        call("cublasLtMatrixLayoutSetAttribute", *made, 5, &p.batch, sizeof p.batch);
        call("cublasLtMatrixLayoutSetAttribute", *made, 6, &stride, sizeof stride);
    };
    call("cublasLtMatmulDescCreate", &description, 68, 0);
    set(3, ta);
    set(4, tb);
    set(7, p.epilogue);
    set(8, pbias);
    set(11, paux);
    set(12, aux_ld);
    layout(&la, in, a_rows, a_columns, lda, a_stride);
    layout(&lb, in, b_rows, b_columns, ldb, b_stride);
    layout(&ld, out, p.m, p.n, ldd, d_stride);
    int found;
    char heuristic[96];
    void* none = nullptr;
    if (call("cublasLtMatmulAlgoGetHeuristic", none, description, la, lb, ld, ld, none, 1, &heuristic,
             &found)) {
        stop("no algorithm");
    }
    if (call("cublasLtMatmul", none, description, &p.alpha, pa, la, pb, lb, &p.beta, pd, ld, pd, ld,
             &heuristic, none, size_t(0), driver.stream)) {
        stop("the product failed");
    }
    auto download = [&](auto address, size_t count) {
        if (!p.half_out) return driver.download<float>(address, count);
        std::vector<float> list(count);
        auto halves = driver.download<uint16_t>(address, count);
        for (size_t i = 0; i < count; ++i) list[i] = float(value_of(halves[i]));
        return list;
    };
    auto got = download(pd, d.size()), got_aux = download(paux, aux.size());
    auto tolerance = [&](double expected) {
        return (fabs(expected) + 0.5) * (p.half_out ? 0x1p-11 : 1e-5);
    };
    for (int64_t i = 0; i < int64_t(d.size()); ++i) {
        int64_t batch = i / d_stride, column = i % d_stride / ldd, row = i % d_stride % ldd;
        double expected = d[size_t(i)];
        if (column < p.n && row < p.m) {
            expected *= p.beta;
            for (int k = 0; k < p.k; ++k) {
                double left = a[size_t(batch * a_stride + (p.transpose_a ? row * lda + k : k * lda + row))];
                double right =
                    b[size_t(batch * b_stride + (p.transpose_b ? k * ldb + column : column * ldb + k))];
                expected += p.alpha * left * right;
            }
            if (p.epilogue & 4) expected += bias[size_t(row)];
            if (p.epilogue & 2) expected = std::max(expected, 0.0);
            double stored = aux[size_t(column * aux_ld + row)];
            if (p.epilogue & 128) {
                double kept = p.epilogue & 32 ? expected : stored;
                double difference = got_aux[size_t(column * aux_ld + row)] - kept;
                expect(fabs(difference) <= tolerance(kept), "a matrix product's auxiliary matrix", size_t(i));
            }
            if (p.epilogue & 64) {
                auto gelu = [](double x) {
                    return 0.5 * x * (1 + tanh(sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
                };
                expected *= (gelu(stored + 1e-5) - gelu(stored - 1e-5)) / 2e-5;
            }
            if (p.epilogue & 32) {
                double cubed = expected + 0.044715 * expected * expected * expected;
                expected *= 0.5 * (1 + tanh(sqrt(2 / M_PI) * cubed));
            }
        }
        expect(fabs(got[size_t(i)] - expected) <= tolerance(expected), "a matrix product", size_t(i));
    }
}

void check_products(Driver& driver, void* library) {
    for (int i = 0; i < 16; ++i) {
        check_product(driver, library,
                      {17 + i, 9, 33, 1, (i & 1) != 0, (i & 2) != 0, (i & 4) != 0, (i & 8) != 0, 1, 1, 0});
    }
    for (int epilogue : {1, 2, 4, 6, 32, 36}) {
        check_product(driver, library,
                      {150, 61, 300, 3, true, epilogue != 4, true, false, epilogue, 0.5f, 0.25f});
    }
    for (int epilogue : {160, 164, 192}) {
        for (bool half_out : {false, true}) {
            check_product(driver, library,
                          {150, 61, 100, 1, true, half_out, true, false, epilogue, 0.5f, 0.25f});
        }
    }
    void* description;
    auto create = reinterpret_cast<int (*)(void**, int, int)>(dlsym(library, "cublasLtMatmulDescCreate"));
    auto set = reinterpret_cast<int (*)(void*, int, const void*, size_t)>(
        dlsym(library, "cublasLtMatmulDescSetAttribute"));
    int device_pointers = 1;
    create(&description, 68, 0);
    if (set(description, 2, &device_pointers, sizeof device_pointers) != 15)
        stop("pointers on the device were accepted");
}

// ---- faults

const size_t count = 256;

// Runs a kernel of faults.cu on 256 floats that are their own index, and compares with `expected`.
void run_fault(Driver& driver, const char* kernel, std::function<float(size_t)> expected, unsigned shared = 4096) {
    std::vector<float> x(count);
    for (size_t i = 0; i < count; ++i) x[i] = float(i);
    auto px = driver.upload(x), out = driver.upload(std::vector<float>(count, -1));
    driver.launch(kernel, {1}, {count}, shared, px, out);
    auto r = driver.download<float>(out, count);
    for (size_t i = 0; i < count; ++i) {
        float right = expected(i);
        if (right == right && r[i] != right) stop("wrong result");
    }
    driver.check("cuMemFree_v2", out);
    driver.check("cuMemFree_v2", px);
}

float same_index(size_t i) { return float(i); }

// A kernel that is given the second of three parts of an allocation, to read or to write.
void run_parts(Driver& driver, const char* kernel, bool reads) {
    const size_t ends[] = {count, 2 * count, 3 * count};
    driver.check("invadEmulatorParts", ends, size_t(3));
    auto whole = driver.upload(std::vector<float>(3 * count, 1)), other = driver.upload(std::vector<float>(count));
    uint64_t part = whole + count * sizeof(float);
    driver.launch(kernel, {1}, {count}, 0, reads ? part : other, reads ? other : part);
    auto r = driver.download<float>(reads ? other : part, count);
    for (float value : r) {
        if (value != 1) stop("wrong result");
    }
}

// Whether `second` sees what `first` wrote, on another stream. The pause of a real device is not to be relied
// upon.
void run_streams(Driver& driver, bool repaired) {
    std::vector<float> x(count, 1);
    auto p = driver.upload(x), out = driver.upload(std::vector<float>(count));
    driver.check("cuStreamSynchronize", driver.stream);
    void *other = driver.new_stream(), *event;
    driver.launch("plain_add_one", {1}, {count}, 0, p, p);
    driver.check("cuEventCreate", &event, 2u);
    driver.check("cuEventRecord", event, driver.stream);
    if (repaired) driver.check("cuStreamWaitEvent", other, event, 0u);
    driver.launch_on(other, "plain_copy", {1}, {count}, 0, p, out);
    driver.check("cuStreamSynchronize", other);
    std::swap(driver.stream, other);
    if (driver.download<float>(out, count)[0] != 2) stop("wrong result");
}

// The host overwrites pinned memory that a copy has not yet read.
void run_pinned(Driver& driver, bool repaired) {
    void* pinned;
    driver.check("cuMemHostAlloc", &pinned, count * 4, 0u);
    float* x = static_cast<float*>(pinned);
    std::fill(x, x + count, 1.0f);
    auto p = driver.upload(std::vector<float>(count));
    driver.check("cuMemcpyHtoDAsync_v2", p, static_cast<const void*>(pinned), count * 4, driver.stream);
    if (repaired) driver.check("cuStreamSynchronize", driver.stream);
    std::fill(x, x + count, 2.0f);
    if (driver.download<float>(p, count)[0] != 1) stop("wrong result");
    driver.check("cuMemFreeHost", pinned);
}

// A graph whose second stream is forked and joined, or (a fault) forked before the work it depends on.
void run_graph(Driver& driver, bool repaired, bool joined) {
    auto p = driver.upload(std::vector<float>(count)), out = driver.upload(std::vector<float>(count));
    driver.check("cuStreamSynchronize", driver.stream);
    void *other = driver.new_stream(), *fork, *join, *graph, *executable;
    driver.check("cuEventCreate", &fork, 2u);
    driver.check("cuEventCreate", &join, 2u);
    driver.check("cuStreamBeginCapture_v2", driver.stream, 1);
    if (!repaired) driver.check("cuEventRecord", fork, driver.stream);
    driver.launch("plain_add_one", {1}, {count}, 0, p, p);
    if (repaired) driver.check("cuEventRecord", fork, driver.stream);
    driver.check("cuStreamWaitEvent", other, fork, 0u);
    if (int code = driver.launch_on(other, "plain_copy", {1}, {count}, 0, p, out)) stop(driver.error(code));
    driver.check("cuEventRecord", join, other);
    if (joined) driver.check("cuStreamWaitEvent", driver.stream, join, 0u);
    driver.check("cuStreamEndCapture", driver.stream, &graph);
    driver.check("cuGraphInstantiateWithFlags", &executable, graph, 0ull);
    for (int i = 0; i < 3; ++i) driver.check("cuGraphLaunch", executable, driver.stream);
    if (driver.download<float>(out, count)[0] != 3) stop("wrong result");
}

using Fault = std::function<void(Driver&, bool repaired)>;

Fault kernel_fault(const char* kernel, std::function<float(size_t)> expected) {
    return [=](Driver& driver, bool) { run_fault(driver, kernel, expected); };
}

// One of sm_90a, which has a tile in shared memory.
Fault wgmma_fault(const char* kernel, float per_row = 1) {
    auto expected = [=](size_t i) { return per_row * float(i % 32) + (per_row == 2 ? 32 : 0); };
    return [=](Driver& driver, bool) { run_fault(driver, kernel, expected, 10240); };
}

const std::map<std::string, Fault> faults = {
    {"wgmma_missing_proxy_fence", wgmma_fault("wgmma_missing_proxy_fence")},
    {"wgmma_early_proxy_fence", wgmma_fault("wgmma_early_proxy_fence")},
    {"wgmma_slot_released_early", wgmma_fault("wgmma_slot_released_early", 2)},
    {"wgmma_wrong_descriptor", wgmma_fault("wgmma_wrong_descriptor")},
    {"wgmma_misplaced_tile", wgmma_fault("wgmma_misplaced_tile")},
    {"wgmma_missing_wait", wgmma_fault("wgmma_missing_wait")},
    {"wgmma_missing_fence", wgmma_fault("wgmma_missing_fence")},
    {"missing_barrier", kernel_fault("missing_barrier", [](size_t i) { return float(i ? i - 1 : 0); })},
    {"missing_second_barrier",
     kernel_fault("missing_second_barrier", [](size_t i) { return float((i + 10) % 256); })},
    {"missing_syncwarp", kernel_fault("missing_syncwarp", [](size_t i) { return float(i ^ 1); })},
    {"missing_wait", kernel_fault("missing_wait", [](size_t i) { return float(4 * ((i + 1) % 64)); })},
    {"missing_barrier_after_wait",
     kernel_fault("missing_barrier_after_wait", [](size_t i) { return float(4 * ((i + 255) % 64)); })},
    {"pending_copy_at_exit", kernel_fault("pending_copy_at_exit", same_index)},
    {"global_overflow", kernel_fault("global_overflow", [](size_t) { return NAN; })},
    {"hidden_overflow", kernel_fault("hidden_overflow", [](size_t) { return NAN; })},
    {"neighbour_added_to",
     [](Driver& driver, bool) { run_parts(driver, "neighbour_added_to", false); }},
    {"neighbour_read", [](Driver& driver, bool) { run_parts(driver, "neighbour_read", true); }},
    {"static_shared_overflow", kernel_fault("static_shared_overflow", [](size_t) { return NAN; })},
    {"dynamic_shared_overflow", kernel_fault("dynamic_shared_overflow", [](size_t) { return NAN; })},
    {"misaligned_vector",
     kernel_fault("misaligned_vector", [](size_t i) { return i < 128 ? float(i) : NAN; })},
    {"misaligned_pair",
     kernel_fault("misaligned_pair", [](size_t i) { return i < 32 ? float(2 * i) : NAN; })},
    {"divergent_barriers", kernel_fault("divergent_barriers", same_index)},
    {"barrier_after_exit", kernel_fault("barrier_after_exit", same_index)},
    {"divergent_shuffle", kernel_fault("divergent_shuffle", same_index)},
    {"missing_stream_dependency", run_streams},
    {"overwritten_pinned_memory", run_pinned},
    {"missing_graph_dependency", [](Driver& driver, bool repaired) { run_graph(driver, repaired, true); }},
    {"unjoined_capture", [](Driver& driver, bool repaired) { run_graph(driver, true, repaired); }},
    {"swapped_arguments",
     [](Driver& driver, bool repaired) {
         auto p = driver.upload(std::vector<float>(count));
         uint64_t wrong = 12345;
         driver.launch("plain_copy", {1}, {count}, 0, p, repaired ? p : wrong);
         driver.download<float>(p, count);
     }},
    {"freed_too_early",
     [](Driver& driver, bool repaired) {
         auto p = driver.upload(std::vector<float>(count)), q = driver.upload(std::vector<float>(count));
         if (!repaired) driver.check("cuMemFreeAsync", p, driver.stream);
         driver.launch("plain_copy", {1}, {count}, 0, p, q);
         driver.download<float>(q, count);
     }},
    {"too_many_threads",
     [](Driver& driver, bool repaired) {
         auto p = driver.upload(std::vector<float>(2048));
         driver.launch("plain_copy", {1}, {repaired ? 1024u : 1025u}, 0, p, p);
     }},
    {"too_much_shared_memory",
     [](Driver& driver, bool repaired) {
         auto p = driver.upload(std::vector<float>(count));
         driver.launch("plain_copy", {1}, {count}, repaired ? 48 << 10 : (48 << 10) + 1, p, p);
     }},
    {"too_much_memory",
     [](Driver& driver, bool repaired) {
         uint64_t p;
         driver.check("cuMemAlloc_v2", &p, size_t(repaired ? 1 : 30) << (repaired ? 20 : 30));
     }},
};

// In which setting a fault must be found, and by what words. Several seeds: any of them may find it.
struct Check {
    const char* fault;
    const char* sanitizer;  // as for -fsanitize=, or empty
    std::vector<int> seeds;
    std::vector<const char*> words;
    int arch = 89;
};

const std::vector<int> any = {1, 2, 3, 4};
const std::vector<Check> checks = {
    {"missing_barrier", "", any, {"wrong result"}},
    {"missing_barrier", "thread", {0}, {"ThreadSanitizer: data race", "faults.cu"}},
    {"missing_second_barrier", "", any, {"wrong result"}},
    {"missing_second_barrier", "thread", {0}, {"ThreadSanitizer: data race", "faults.cu"}},
    {"missing_syncwarp", "", any, {"wrong result"}},
    {"missing_syncwarp", "thread", {0}, {"ThreadSanitizer: data race", "faults.cu"}},
    {"missing_wait", "", {0}, {"wrong result"}},
    {"missing_barrier_after_wait", "", any, {"wrong result"}},
    {"missing_barrier_after_wait", "thread", {0}, {"ThreadSanitizer: data race"}},
    {"pending_copy_at_exit", "", {0}, {"cp.async still pending"}},
    {"global_overflow", "", {0}, {"ILLEGAL_ADDRESS", "argument 1: byte 1 behind its allocation"}},
    {"global_overflow",
     "address",
     {0},
     {"AddressSanitizer: heap-buffer-overflow", "global_overflow", "faults.cu"}},
    {"hidden_overflow", "", {0}, {"byte 1 behind the allocation of 1024 bytes"}},
    {"hidden_overflow", "address", {0}, {"AddressSanitizer: heap-buffer-overflow", "faults.cu"}},
    {"neighbour_added_to",
     "",
     {0},
     {"ILLEGAL_ADDRESS", "byte 2050 of an allocation was written, in a part that is no argument"}},
    {"neighbour_read", "", {0}, {"wrong result"}},
    {"static_shared_overflow", "address", {0}, {"AddressSanitizer: global-buffer-overflow", "faults.cu"}},
    {"dynamic_shared_overflow", "address", {0}, {"AddressSanitizer: heap-buffer-overflow", "faults.cu"}},
    {"misaligned_vector", "", {0}, {"MISALIGNED_ADDRESS", "16-byte load"}},
    {"misaligned_pair", "alignment", {0}, {"misaligned address", "faults.cu"}},
    {"divergent_barriers", "", {0, 3}, {"divergent __syncthreads"}},
    {"barrier_after_exit", "", {0}, {"divergent __syncthreads"}},
    {"divergent_shuffle", "", {0}, {"deadlock"}},
    {"missing_stream_dependency", "", {0}, {"wrong result"}},
    {"overwritten_pinned_memory", "", {0}, {"wrong result"}},
    {"missing_graph_dependency", "", any, {"wrong result"}},
    {"unjoined_capture", "", {0}, {"CAPTURE_UNJOINED"}},
    {"swapped_arguments", "", {0}, {"ILLEGAL_ADDRESS", "plain_copy, argument 1"}},
    {"freed_too_early", "", {0}, {"ILLEGAL_ADDRESS", "freed by now"}},
    {"too_many_threads", "", {0}, {"INVALID_VALUE", "block out of range"}},
    {"too_much_shared_memory", "", {0}, {"INVALID_VALUE", "49152"}},
    {"too_much_memory", "", {0}, {"OUT_OF_MEMORY"}},
    {"wgmma_missing_proxy_fence", "", {0}, {"without a fence.proxy.async"}, 90},
    {"wgmma_early_proxy_fence", "", {0}, {"without a fence.proxy.async"}, 90},
    {"wgmma_slot_released_early", "", any, {"wrong result"}, 90},
    {"wgmma_slot_released_early", "thread", {0}, {"ThreadSanitizer: data race", "emulated_read16"}, 90},
    {"wgmma_wrong_descriptor", "", {0}, {"stride from eight rows to the next"}, 90},
    {"wgmma_misplaced_tile", "", {0}, {"multiple of 1024 bytes"}, 90},
    {"wgmma_missing_wait", "", {0}, {"wrong result"}, 90},
    {"wgmma_missing_fence", "", {0}, {"without a wgmma.fence"}, 90},
};

std::string output_of(const std::string& command) {
    FILE* pipe = popen((command + " 2>&1").c_str(), "r");
    if (!pipe) stop("cannot run " + command);
    std::string text;
    char buffer[4096];
    while (size_t n = fread(buffer, 1, sizeof buffer, pipe)) text.append(buffer, n);
    pclose(pipe);
    return text;
}

// This program once more for one fault, with a seed and a sanitizer's runtime loaded first.
std::string run_alone(const std::string& program, const std::string& directory, const Check& check, int seed,
                      bool repaired) {
    std::string sanitizer = check.sanitizer, variables = "INVAD_EMULATOR_SEED=" + std::to_string(seed);
    variables += " INVAD_EMULATOR_ARCH=" + std::to_string(check.arch);
    if (!sanitizer.empty()) {
        variables += " INVAD_EMULATOR_CXXFLAGS='-fsanitize=" + sanitizer + " -fno-sanitize-recover=all'";
    }
    if (sanitizer == "address" || sanitizer == "thread") {
        std::string compiler = getenv("CXX") ? getenv("CXX") : "c++";
        std::string library =
            output_of(compiler + " -print-file-name=lib" + (sanitizer == "address" ? "a" : "t") + "san.so");
        variables += " ASAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS=halt_on_error=1 LD_PRELOAD=" +
                     library.substr(0, library.find('\n'));
    }
    return output_of(variables + " " + program + " " + directory + " " + check.fault +
                     (repaired ? " repaired" : ""));
}

bool contains_all(const std::string& text, const std::vector<const char*>& words) {
    return std::all_of(words.begin(), words.end(),
                       [&](const char* word) { return text.find(word) != std::string::npos; });
}

// Whether the last word is OK: a sanitizer that finds something ends the program before.
bool succeeded(const std::string& text) { return text.size() >= 3 && text.substr(text.size() - 3) == "OK\n"; }

int check_all(const std::string& program, const std::string& directory) {
    // Where programs that a sanitizer ends leave their modules.
    std::string temporary = std::filesystem::temp_directory_path() / "invad-selftest-XXXXXX";
    if (!mkdtemp(temporary.data())) stop("no temporary directory");
    setenv("TMPDIR", temporary.c_str(), 1);
    int wrong = 0;
    auto report = [&](bool right, const std::string& what, const std::string& output) {
        printf("%s  %s\n", right ? "ok  " : "FAIL", what.c_str());
        if (!right) printf("%s\n", output.c_str());
        fflush(stdout);
        wrong += !right;
    };
    for (const char* arch : {"89", "90"}) {
        for (const char* seed : {"0", "1", "2", "3"}) {
            std::string output = output_of(std::string("INVAD_EMULATOR_ARCH=") + arch + " INVAD_EMULATOR_SEED=" + seed +
                                           " " + program + " probes " + directory + "/libcuda.so.1 " + directory +
                                           "/libnvrtc.so.12");
            report(succeeded(output), std::string("probes of sm_") + arch + ", seed " + seed, output);
        }
    }
    std::string interfaces = output_of(program + " interfaces " + directory);
    report(succeeded(interfaces), "NVRTC's and cuBLASLt's interfaces", interfaces);
    for (const Check& check : checks) {
        std::string what = check.fault, found, clean;
        if (*check.sanitizer) what += std::string(", -fsanitize=") + check.sanitizer;
        bool right = false, quiet = true;
        for (int seed : check.seeds) {
            found = run_alone(program, directory, check, seed, false);
            right |= contains_all(found, check.words) && !succeeded(found);
            clean = run_alone(program, directory, check, seed, true);
            quiet &= succeeded(clean);
            if (!quiet) break;
        }
        report(right, what + ": found", found);
        report(quiet, what + ": repaired", clean);
    }
    std::filesystem::remove_all(temporary);
    printf("%s\n", wrong ? "FAILED" : "all checks passed");
    return wrong ? 1 : 0;
}

}  // namespace

int main(int count_, char** arguments) {
    std::vector<std::string> words(arguments + 1, arguments + count_);
    if (words.size() == 1) return check_all(arguments[0], words[0]);
    if (words.size() == 3 && words[0] == "probes") {
        Driver driver(words[1]);
        bool compiled = words[2].rfind(".cubin") == words[2].size() - 6;
        driver.open(compiled ? read(words[2]) : compile(load(words[2]), "probes.cu", driver.arch(), {}));
        run_probes(driver);
    } else if (words.size() == 2 && words[0] == "interfaces") {
        Driver driver(words[1] + "/libcuda.so.1");
        check_compiler(load(words[1] + "/libnvrtc.so.12"));
        check_products(driver, load(words[1] + "/libcublasLt.so.12"));
    } else if (words.size() >= 2 && faults.count(words[1])) {
        bool repaired = words.size() == 3 && words[2] == "repaired";
        Driver driver(words[0] + "/libcuda.so.1");
        std::vector<std::string> options;
        if (repaired) options = {"-DREPAIRED"};
        driver.open(compile(load(words[0] + "/libnvrtc.so.12"), "faults.cu", driver.arch(), options));
        faults.at(words[1])(driver, repaired);
    } else {
        stop("usage: selftest DIRECTORY | DIRECTORY FAULT [repaired] | probes LIBCUDA NVRTC");
    }
    printf("OK\n");
    fflush(stdout);
    _Exit(0);  // what is left on the device is not this test's subject
}
