// Runs the threads of a block as fibers on one OS thread. A fiber runs until it meets others: at a barrier,
// in a warp collective, or at its end. Blocks run one after the other.
#include "runtime.hpp"

#include <sys/mman.h>
#ifdef __F16C__
#include <immintrin.h>
#endif

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include <array>
#include <map>
#include <unordered_set>

#if !defined(__x86_64__) && !defined(INVAD_EMULATOR_UCONTEXT)
#define INVAD_EMULATOR_UCONTEXT 1
#endif
#ifdef INVAD_EMULATOR_UCONTEXT
#include <ucontext.h>
#endif

// The sanitizers' interfaces, absent unless their runtime is loaded first (LD_PRELOAD or a sanitized
// executable).
#define OPTIONAL extern "C" __attribute__((weak))
OPTIONAL void __sanitizer_start_switch_fiber(void** save, const void* bottom, size_t size);
OPTIONAL void __sanitizer_finish_switch_fiber(void* saved, const void** old_bottom, size_t* old_size);
OPTIONAL void __asan_unpoison_memory_region(const volatile void* p, size_t size);
OPTIONAL void* __tsan_get_current_fiber();
OPTIONAL void* __tsan_create_fiber(unsigned flags);
OPTIONAL void __tsan_destroy_fiber(void* fiber);
OPTIONAL void __tsan_switch_to_fiber(void* fiber, unsigned flags);
OPTIONAL void __tsan_acquire(void* p);
OPTIONAL void __tsan_release(void* p);
#undef OPTIONAL

namespace emulator {

Thread* current;
Index block_index, block_size, grid_size;

bool address_sanitizer() { return __sanitizer_start_switch_fiber != nullptr; }
bool thread_sanitizer() { return __tsan_create_fiber != nullptr; }

namespace {

// Units of 16 bytes of device memory that the launch has read and written.
std::unordered_set<uintptr_t> units_read, units_written;

constexpr unsigned max_threads = 1024, warp_size = 32;
constexpr size_t stack_bytes = 256 << 10, guard_bytes = 4096;

// What every switch touches comes first, in one line of the cache.
struct alignas(64) Fiber : Thread {
    const char* waits_for = "";
    int waits_at_line = 0;
    bool exited = true;
#ifdef INVAD_EMULATOR_UCONTEXT
    ucontext_t context;
#else
    void* stack_pointer = nullptr;
#endif
    char* stack = nullptr;  // its lowest address
    size_t stack_size = 0;
    void* asan_stack = nullptr;  // AddressSanitizer's own stack of a fiber that is not running
    void* tsan = nullptr;
    std::vector<std::pair<AsyncCopy, int>> copies;  // with their group, in order
    int open_group = 0;
};

// In which order ready threads run: a rotation of their numbers, upwards or downwards.
struct Order {
    unsigned first = 0;
    bool down = false;

    unsigned pick(uint32_t ready) const {
        uint32_t turned = first ? ready >> first | ready << (32 - first) : ready;
        unsigned i = down ? 31 - __builtin_clz(turned) : __builtin_ctz(turned);
        return (i + first) % 32;
    }
};

// A meeting of lanes in a warp collective.
struct Meeting {
    const char* name;
    uint32_t mask, arrived;
    char generation = 0, tags[2];  // addresses that ThreadSanitizer's clocks hang on
};

struct Warp {
    uint32_t lanes = 0;  // those that exist
    uint32_t ready = 0;
    Order order;
    uint32_t open = 0;  // which of the meetings have arrivals; there can be several with disjoint masks
    Meeting meetings[4];
    Operand inputs[warp_size], outputs[warp_size];
};

const Kernel* kernel;
void** parameters;
char* shared;

Fiber fibers[max_threads], scheduler;
Warp warps[max_threads / warp_size];
unsigned threads, exited;
uint32_t ready_warps;
Order warp_order;

unsigned at_barrier;
int barrier_line;
char barrier_generation, barrier_tags[2], block_start, block_end;

Outcome failure;
uint64_t random_state;  // 0: in order

uint64_t random_bits() {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

Order draw_order() {
    if (!random_state) return {};
    uint64_t bits = random_bits() >> 32;
    return {unsigned(bits % 32), (bits & 32) != 0};
}

Fiber* self() { return static_cast<Fiber*>(current); }

void acquire(char& tag) {
    if (__tsan_acquire) __tsan_acquire(&tag);
}
void release(char& tag) {
    if (__tsan_release) __tsan_release(&tag);
}

// ---- switching

#ifndef INVAD_EMULATOR_UCONTEXT
extern "C" void invad_emulator_switch(void** save_stack_pointer, void* stack_pointer);
// Saves what the System V ABI wants kept, and continues where the other fiber did so.
asm(R"(
.text
.globl invad_emulator_switch
.hidden invad_emulator_switch
.type invad_emulator_switch, @function
invad_emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size invad_emulator_switch, .-invad_emulator_switch
)");
#endif

Fiber* switched_from;

// What has to happen first on the stack that was switched to.
void arrive(void* asan_stack) {
    if (!__sanitizer_finish_switch_fiber) return;
    const void* bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(asan_stack, &bottom, &size);
    if (switched_from == &scheduler) {
        scheduler.stack = static_cast<char*>(const_cast<void*>(bottom));
        scheduler.stack_size = size;
    }
}

void switch_to(Fiber* to) {
    Fiber* from = self();
    switched_from = from;
    current = to;
    if (__sanitizer_start_switch_fiber)
        __sanitizer_start_switch_fiber(&from->asan_stack, to->stack, to->stack_size);
    if (__tsan_switch_to_fiber) __tsan_switch_to_fiber(to->tsan, 1 /* implies no order */);
#ifdef INVAD_EMULATOR_UCONTEXT
    swapcontext(&from->context, &to->context);
#else
    invad_emulator_switch(&from->stack_pointer, to->stack_pointer);
#endif
    arrive(from->asan_stack);
}

void fiber_main();

// Gives a fiber a fresh stack that starts at fiber_main.
void start(Fiber& fiber) {
    if (!fiber.stack) {
        void* memory = mmap(nullptr, guard_bytes + stack_bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED || mprotect(memory, guard_bytes, PROT_NONE) != 0) {
            perror("emulated device: no memory for stacks");
            abort();
        }
        fiber.stack = static_cast<char*>(memory) + guard_bytes;
        fiber.stack_size = stack_bytes;
    }
    if (__asan_unpoison_memory_region) __asan_unpoison_memory_region(fiber.stack, stack_bytes);
    fiber.asan_stack = nullptr;
    if (__tsan_create_fiber) {
        if (fiber.tsan) __tsan_destroy_fiber(fiber.tsan);
        fiber.tsan = __tsan_create_fiber(0);
    }
#ifdef INVAD_EMULATOR_UCONTEXT
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = stack_bytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, fiber_main, 0);
#else
    // As invad_emulator_switch leaves it: six registers, fiber_main to return to, and no one for that to
    // return to. Stacks begin at different places of a page, or their tops would compete for the same lines
    // of the cache.
    size_t offset = size_t(&fiber - fibers) % warp_size * 128;
    void** top = reinterpret_cast<void**>(fiber.stack + stack_bytes - offset);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(fiber_main);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    fiber.stack_pointer = top;
#endif
}

// ---- scheduling

// The first ready warp keeps running until all its threads wait at the barrier: the furthest that it can be
// ahead.
Fiber* next_ready() {
    if (!ready_warps) return &scheduler;
    unsigned w = warp_order.pick(ready_warps);
    Warp& warp = warps[w];
    unsigned lane = warp.order.pick(warp.ready);
    warp.ready &= ~(1u << lane);
    if (!warp.ready) ready_warps &= ~(1u << w);
    return &fibers[w * warp_size + lane];
}

void make_ready(unsigned w, uint32_t lanes) {
    warps[w].ready |= lanes;
    warps[w].order = draw_order();
    ready_warps |= 1u << w;
}

void wait(const char* what, int line = 0) {
    Fiber* me = self();
    me->waits_for = what;
    me->waits_at_line = line;
    Fiber* next = next_ready();
    if (next != me) switch_to(next);
}

std::string text(Index i) {
    return "(" + std::to_string(i.x) + ", " + std::to_string(i.y) + ", " + std::to_string(i.z) + ")";
}

std::string place() { return std::string(kernel->name) + ", block " + text(block_index); }

std::string describe_waiting() {
    std::map<std::string, int> waiting;
    for (unsigned i = 0; i < threads; ++i) {
        if (fibers[i].exited) continue;
        std::string what = fibers[i].waits_for;
        if (fibers[i].waits_at_line) what += " (line " + std::to_string(fibers[i].waits_at_line) + ")";
        ++waiting[what];
    }
    std::string list;
    for (auto& [what, count] : waiting) {
        list += (list.empty() ? "" : ", ") + std::to_string(count) + " threads wait in " + what;
    }
    return list;
}

void fiber_main() {
    arrive(nullptr);
    for (;;) {  // once for each block
        acquire(block_start);
        kernel->call(*kernel, parameters);
        release(block_end);
        Fiber* me = self();
        if (!me->copies.empty()) fail(launch_failed, "cp.async still pending when the thread exits");
        if (products_pending()) fail(launch_failed, "wgmma still pending when the thread exits");
        if (at_barrier) fail(launch_failed, "divergent __syncthreads: this thread exits while others wait");
        me->exited = true;
        ++exited;
        switch_to(next_ready());
    }
}

void run_block(size_t shared_bytes) {
    if (shared_bytes) memset(shared, 0xff, shared_bytes);
    start_hopper(shared_bytes);
    exited = 0;
    at_barrier = 0;
    ready_warps = 0;
    warp_order = draw_order();
    for (unsigned first = 0; first < threads; first += warp_size) {
        unsigned count = threads - first < warp_size ? threads - first : warp_size;
        Warp& warp = warps[first / warp_size];
        warp.lanes = count == 32 ? 0xffffffffu : (1u << count) - 1;
        warp.ready = 0;
        warp.open = 0;
        make_ready(first / warp_size, warp.lanes);
    }
    for (unsigned i = 0; i < threads; ++i) {
        fibers[i].index = {i % block_size.x, i / block_size.x % block_size.y,
                           i / block_size.x / block_size.y};
        fibers[i].lane = i % warp_size;
        fibers[i].warp = i / warp_size;
        fibers[i].exited = false;
        fibers[i].open_group = 0;
    }
    release(block_start);
    switch_to(next_ready());
    acquire(block_end);
    if (exited < threads && !failure.code) {
        failure = {launch_failed, place() + ": deadlock: " + describe_waiting()};
        if (exited) failure.message += ", " + std::to_string(exited) + " have exited";
    }
}

std::vector<Kernel>& registered() {
    static std::vector<Kernel> list;
    return list;
}

// Of halves, eight at a time where the processor can.
void widen(const h16* from, float* to, size_t count) {
#ifdef __F16C__
    for (size_t i = 0; i < count; i += 8) {
        _mm256_storeu_ps(to + i,
                         _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from + i))));
    }
#else
    for (size_t i = 0; i < count; ++i) to[i] = to_f32(from[i]);
#endif
}

void require_full_warp(uint32_t mask) {
    if (mask != 0xffffffffu) fail(launch_failed, "a matrix instruction in a warp of fewer than 32 threads");
}

}  // namespace

void register_kernel(const Kernel& kernel) { registered().push_back(kernel); }

std::vector<Kernel> take_registered() { return std::exchange(registered(), {}); }

Outcome run_grid(const Kernel& kernel_, void** parameters_, Index grid, Index block, size_t shared_bytes,
                 uint64_t seed) {
    kernel = &kernel_;
    parameters = parameters_;
    grid_size = grid;
    block_size = block;
    threads = block.x * block.y * block.z;
    failure = {};
    random_state = seed * 0x9e3779b97f4a7c15;
    void* memory = nullptr;
    if (shared_bytes && posix_memalign(&memory, 16, shared_bytes) != 0)
        return {2, "no memory for shared memory"};
    shared = static_cast<char*>(memory);
    for (unsigned i = 0; i < threads; ++i) {
        if (!fibers[i].stack) start(fibers[i]);
    }
    if (__tsan_get_current_fiber) scheduler.tsan = __tsan_get_current_fiber();
    current = &scheduler;
    for (block_index.z = 0; block_index.z < grid.z && !failure.code; ++block_index.z) {
        for (block_index.y = 0; block_index.y < grid.y && !failure.code; ++block_index.y) {
            for (block_index.x = 0; block_index.x < grid.x && !failure.code; ++block_index.x) {
                run_block(shared_bytes);
            }
        }
    }
    if (failure.code) {  // some fibers are in the middle of something
        for (unsigned i = 0; i < threads; ++i) {
            fibers[i].copies.clear();
            start(fibers[i]);
        }
    }
    free(memory);
    if (counts_traffic) {
        write_traffic(kernel->name, 16 * units_read.size(), 16 * units_written.size(), 0);
        units_read.clear();
        units_written.clear();
    }
    return std::move(failure);
}

const bool counts_traffic = getenv("INVAD_EMULATOR_TRAFFIC") != nullptr;

void note_traffic(const void* p, bool writes) {
    if (!on_device(p, 16)) return;
    (writes ? units_written : units_read).insert(reinterpret_cast<uintptr_t>(p) / 16);
}

void write_traffic(const char* what, size_t read, size_t written, double operations) {
    FILE* file = fopen(getenv("INVAD_EMULATOR_TRAFFIC"), "a");
    if (!file) return;
    fprintf(file, "%s %zu %zu %.0f\n", what, read, written, operations);
    fclose(file);
}

// ---- what kernels call

void* dynamic_shared() { return shared; }

void fail(int code, const char* what) {
    failure = {code, place() + ", thread " + text(current->index) + ": " + what};
    switch_to(&scheduler);
    __builtin_unreachable();
}

bool removed(const char* file, int line) {
    static const std::string place = getenv("INVAD_EMULATOR_REMOVE") ? getenv("INVAD_EMULATOR_REMOVE") : "";
    static const int place_line = atoi(place.c_str() + place.rfind(':') + 1);
    return line == place_line && place == std::string(file) + ":" + std::to_string(line);
}

void barrier(int line) {
    if (exited) fail(launch_failed, "divergent __syncthreads: other threads of the block have exited");
    if (!at_barrier) barrier_line = line;
    if (line != barrier_line) {
        std::string what = "divergent __syncthreads: this thread at line " + std::to_string(line) +
                           ", others at line " + std::to_string(barrier_line);
        fail(launch_failed, what.c_str());
    }
    char& tag = barrier_tags[int(barrier_generation)];
    release(tag);
    if (++at_barrier == threads) {
        at_barrier = 0;
        barrier_generation ^= 1;
        warp_order = draw_order();
        for (unsigned w = 0; w * warp_size < threads; ++w) make_ready(w, warps[w].lanes);
    }
    wait("__syncthreads", line);
    acquire(tag);
}

static Meeting& meeting_of(Warp& warp, const char* name, uint32_t mask) {
    for (uint32_t left = warp.open; left; left &= left - 1) {
        Meeting& meeting = warp.meetings[__builtin_ctz(left)];
        if (meeting.mask == mask) return meeting;
    }
    unsigned i = __builtin_ctz(~warp.open);
    if (i == std::size(warp.meetings)) fail(launch_failed, "too many warp collectives at a time");
    warp.open |= 1u << i;
    Meeting& meeting = warp.meetings[i];
    meeting.name = name;
    meeting.mask = mask;
    meeting.arrived = 0;
    return meeting;
}

const Operand& collective(const char* name, uint32_t mask, const Operand& input, Leader leader,
                          bool orders_memory) {
    Fiber* me = self();
    Warp& warp = warps[me->warp];
    unsigned lane = me->lane;
    mask &= warp.lanes;
    if (!(mask >> lane & 1)) fail(launch_failed, "a warp collective whose mask leaves out the calling lane");
    Meeting& meeting = meeting_of(warp, name, mask);
    if (meeting.name != name && strcmp(meeting.name, name) != 0) {
        fail(launch_failed, "the lanes of a warp meet in different collectives");
    }
    warp.inputs[lane] = input;
    char& tag = meeting.tags[int(meeting.generation)];
    if (orders_memory) release(tag);
    meeting.arrived |= 1u << lane;
    if (meeting.arrived == mask) {
        leader(warp.inputs, warp.outputs, mask);
        warp.open &= ~(1u << (&meeting - warp.meetings));
        meeting.generation ^= 1;
        make_ready(me->warp, mask);
        // Now and then another warp gets its turn in between.
        if (random_state && random_bits() >> 60 == 0) warp_order = draw_order();
    }
    wait(name);
    if (orders_memory) acquire(tag);
    return warp.outputs[lane];
}

void lead_nothing(const Operand*, Operand*, uint32_t) {}

void lead_shuffle(const Operand* inputs, Operand* outputs, uint32_t mask) {
    for (unsigned lane = 0; lane < warp_size; ++lane) {
        if (!(mask >> lane & 1)) continue;
        uint32_t source = inputs[lane].word[2];
        // The value of a lane that takes no part is undefined: here a NaN.
        if (mask >> source & 1) outputs[lane] = inputs[source];
        else outputs[lane].word[0] = outputs[lane].word[1] = 0xffffffffu;
    }
}

void lead_mma_m16n8k16(const Operand* inputs, Operand* outputs, uint32_t mask) {
    require_full_warp(mask);
    typedef float Row __attribute__((vector_size(32)));
    alignas(32) h16 a_bits[16][16], b_bits[16][8];
    float a[16][16];
    Row b[16], d[16];
    for (unsigned lane = 0; lane < warp_size; ++lane) {
        unsigned g = lane / 4, t = lane % 4;
        const uint32_t* word = inputs[lane].word;
        for (unsigned i = 0; i < 4; ++i) memcpy(&a_bits[g + i % 2 * 8][2 * t + i / 2 * 8], &word[i], 4);
        memcpy(reinterpret_cast<float*>(&d[g]) + 2 * t, &word[4], 8);
        memcpy(reinterpret_cast<float*>(&d[g + 8]) + 2 * t, &word[6], 8);
        for (unsigned i = 0; i < 2; ++i) {
            b_bits[2 * t + i * 8][g] = h16(word[8 + i]);
            b_bits[2 * t + i * 8 + 1][g] = h16(word[8 + i] >> 16);
        }
    }
    widen(&a_bits[0][0], &a[0][0], 256);
    widen(&b_bits[0][0], reinterpret_cast<float*>(b), 128);
    for (unsigned row = 0; row < 16; ++row) {
        Row sum = a[row][0] * b[0];
        for (unsigned k = 1; k < 16; ++k) sum += a[row][k] * b[k];
        d[row] += sum;
    }
    for (unsigned lane = 0; lane < warp_size; ++lane) {
        unsigned g = lane / 4, t = lane % 4;
        memcpy(outputs[lane].word, reinterpret_cast<float*>(&d[g]) + 2 * t, 8);
        memcpy(outputs[lane].word + 2, reinterpret_cast<float*>(&d[g + 8]) + 2 * t, 8);
    }
}

namespace {

float e4m3_to_float(uint8_t code) {
    int exponent = code >> 3 & 15, fraction = code & 7;
    if ((code & 0x7f) == 0x7f) return NAN;
    float magnitude = exponent ? ldexpf(float(8 + fraction), exponent - 10) : ldexpf(float(fraction), -9);
    return code & 0x80 ? -magnitude : magnitude;
}

// Sums of s32 are kept as u32, which wraps as they do.
template <class Sum, class Decode>
void lead_mma_m16n8k32(const Operand* inputs, Operand* outputs, Decode decode) {
    Sum a[16][32], b[32][8], d[16][8];
    for (unsigned lane = 0; lane < warp_size; ++lane) {
        unsigned g = lane / 4, t = lane % 4;
        const uint32_t* word = inputs[lane].word;
        for (unsigned byte = 0; byte < 4; ++byte) {
            auto number = [&](unsigned i) { return decode(uint8_t(word[i] >> 8 * byte)); };
            for (unsigned i = 0; i < 4; ++i) a[g + i % 2 * 8][4 * t + byte + i / 2 * 16] = number(i);
            for (unsigned i = 0; i < 2; ++i) b[4 * t + byte + i * 16][g] = number(8 + i);
        }
        memcpy(&d[g][2 * t], &word[4], 8);
        memcpy(&d[g + 8][2 * t], &word[6], 8);
    }
    for (unsigned row = 0; row < 16; ++row) {
        Sum sum[8] = {};
        for (unsigned k = 0; k < 32; ++k)
            for (unsigned column = 0; column < 8; ++column) sum[column] += a[row][k] * b[k][column];
        for (unsigned column = 0; column < 8; ++column) d[row][column] += sum[column];
    }
    for (unsigned lane = 0; lane < warp_size; ++lane) {
        unsigned g = lane / 4, t = lane % 4;
        memcpy(outputs[lane].word, &d[g][2 * t], 8);
        memcpy(outputs[lane].word + 2, &d[g + 8][2 * t], 8);
    }
}

}  // namespace

void lead_mma_m16n8k32_s8(const Operand* inputs, Operand* outputs, uint32_t mask) {
    require_full_warp(mask);
    lead_mma_m16n8k32<uint32_t>(inputs, outputs, [](uint8_t code) { return uint32_t(int8_t(code)); });
}

void lead_mma_m16n8k32_e4m3(const Operand* inputs, Operand* outputs, uint32_t mask) {
    require_full_warp(mask);
    static const std::array<float, 256> numbers = [] {
        std::array<float, 256> all{};
        for (unsigned code = 0; code < 256; ++code) all[code] = e4m3_to_float(uint8_t(code));
        return all;
    }();
    lead_mma_m16n8k32<float>(inputs, outputs, [](uint8_t code) { return numbers[code]; });
}

// Lane 8i + r brings row r of matrix i. All four matrices are there to be read; ldmatrix.x2 has no use for
// the last two.
void lead_ldmatrix(const Operand* inputs, Operand* outputs, uint32_t mask) {
    require_full_warp(mask);
    for (unsigned lane = 0; lane < warp_size; ++lane) {
        for (unsigned i = 0; i < 4; ++i) outputs[lane].word[i] = inputs[8 * i + lane / 4].word[lane % 4];
    }
}

void lead_ldmatrix_trans(const Operand* inputs, Operand* outputs, uint32_t mask) {
    require_full_warp(mask);
    for (unsigned lane = 0; lane < warp_size; ++lane) {
        unsigned column = lane / 4, row = 2 * (lane % 4), shift = column % 2 * 16;
        for (unsigned i = 0; i < 4; ++i) {
            uint32_t low = inputs[8 * i + row].word[column / 2] >> shift & 0xffff;
            uint32_t high = inputs[8 * i + row + 1].word[column / 2] >> shift & 0xffff;
            outputs[lane].word[i] = low | high << 16;
        }
    }
}

void async_copy(AsyncCopy copy) { self()->copies.push_back({copy, self()->open_group}); }

void async_commit() { ++self()->open_group; }

void async_wait(int pending_groups, void (*copy)(AsyncCopy)) {
    auto& copies = self()->copies;
    size_t done = 0;
    for (; done < copies.size() && copies[done].second < self()->open_group - pending_groups; ++done) {
        copy(copies[done].first);
        cp_async_landed(copies[done].first.shared);
    }
    copies.erase(copies.begin(), copies.begin() + done);
}

}  // namespace emulator
