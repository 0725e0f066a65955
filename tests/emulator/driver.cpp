// The stand-in libcuda.so.1: what cudarc calls of the driver API, over host memory. A module's image is a
// shared library that the stand-in NVRTC made. Work on streams waits until something needs it: the latest
// that is legal.
#include <dlfcn.h>
#include <elf.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <thread>

#include "runtime.hpp"

namespace {

using emulator::Index;
using emulator::Kernel;
using emulator::Outcome;
using Work = std::function<Outcome()>;
using DevicePointer = uint64_t;

enum Result : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    MISALIGNED_ADDRESS = 716,
    LAUNCH_FAILED = 719,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_UNMATCHED = 903,
    CAPTURE_UNJOINED = 904,
    CAPTURE_ISOLATION = 905,
    CAPTURE_IMPLICIT = 906,
    CAPTURED_EVENT = 907,
};

const std::pair<int, const char*> names[] = {
    {SUCCESS, "CUDA_SUCCESS"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND"},
    {NOT_READY, "CUDA_ERROR_NOT_READY"},
    {ILLEGAL_ADDRESS, "CUDA_ERROR_ILLEGAL_ADDRESS"},
    {MISALIGNED_ADDRESS, "CUDA_ERROR_MISALIGNED_ADDRESS"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED"},
    {CAPTURE_UNSUPPORTED, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"},
    {CAPTURE_INVALIDATED, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED"},
    {CAPTURE_UNMATCHED, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED"},
    {CAPTURE_UNJOINED, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED"},
    {CAPTURE_ISOLATION, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION"},
    {CAPTURE_IMPLICIT, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT"},
    {CAPTURED_EVENT, "CUDA_ERROR_CAPTURED_EVENT"},
};

// The device: an RTX 4090 by its limits, with fewer multiprocessors; of compute capability 9.0 with an H200's shared
// memory.
constexpr int max_block = 1024, max_block_z = 64, max_grid_yz = 65535;
constexpr int shared_default = 48 << 10;
constexpr int threads_per_multiprocessor = 1536, blocks_per_multiprocessor = 24;

constexpr size_t guard_bytes = 256;
constexpr unsigned char poison = 0xff;  // a NaN in half and in single precision
// What lies where a launch has no business. As a half and a single precision number it is a signalling NaN, or
// one that is found in single precision: what is read shows in results, and what is added to shows here.
constexpr unsigned char sealed[] = {0xa0, 0x7f};

// ---- state. `mutex` is held in every call.

std::recursive_mutex mutex;
Outcome sticky;           // of the first failed launch; ends the context, as on a device
std::string last_reason;  // what cuGetErrorString adds to an error that is not sticky
constexpr int most_devices = 8;
int contexts[most_devices];  // of each device; they have an address only
thread_local void* current_context;
uint64_t launches;

uint64_t environment(const char* name, uint64_t otherwise) {
    const char* text = getenv(name);
    return text && *text ? strtoull(text, nullptr, 0) : otherwise;
}

int compute_capability() { return int(environment("INVAD_EMULATOR_ARCH", 89)); }
int shared_per_multiprocessor() { return (compute_capability() == 90 ? 228 : 100) << 10; }
int shared_limit() { return shared_per_multiprocessor() - 1024; }
int devices() { return int(std::min<uint64_t>(environment("INVAD_EMULATOR_DEVICES", 1), most_devices)); }

uint64_t seed() { return environment("INVAD_EMULATOR_SEED", 0); }

int refuse(int code, std::string reason) {
    last_reason = std::move(reason);
    return code;
}

// ---- memory

std::map<DevicePointer, size_t> device_memory;
std::map<DevicePointer, size_t> pinned_memory;
size_t device_bytes, peak_bytes;

// Whether memory is only given out: nothing is copied, filled or launched, and what is never touched costs
// the host nothing.
bool allocate_only() {
    static const bool only = environment("INVAD_EMULATOR_ALLOCATE_ONLY", 0);
    return only;
}

size_t memory_limit() { return environment("INVAD_EMULATOR_MEMORY", uint64_t(24) << 30); }

using Allocation = std::map<DevicePointer, size_t>::const_iterator;

// The allocation that holds [p, p + bytes), or the end.
Allocation find(const std::map<DevicePointer, size_t>& memory, DevicePointer p, size_t bytes) {
    Allocation i = memory.upper_bound(p);
    if (i == memory.begin()) return memory.end();
    --i;
    return p - i->first <= i->second && bytes <= i->second - (p - i->first) ? i : memory.end();
}

bool on_device(DevicePointer p, size_t bytes) { return find(device_memory, p, bytes) != device_memory.end(); }

bool pinned(const void* p, size_t bytes) {
    return find(pinned_memory, reinterpret_cast<DevicePointer>(p), bytes) != pinned_memory.end();
}

char* bytes_at(DevicePointer p) { return reinterpret_cast<char*>(p); }

// AddressSanitizer has its own guards, and sees the first byte behind an allocation only if ours are not
// there.
size_t guard_size() { return allocate_only() || emulator::address_sanitizer() ? 0 : guard_bytes; }

void seal(DevicePointer p, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) bytes_at(p)[i] = char(sealed[(p + i) % sizeof sealed]);
}

// Which byte of what was sealed has been written first, from 1, or 0.
size_t unsealed(DevicePointer p, size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) {
        if (static_cast<unsigned char>(bytes_at(p)[i]) != sealed[(p + i) % sizeof sealed]) return i + 1;
    }
    return 0;
}

// How far behind its end an allocation was written first, or 0.
size_t overrun(Allocation allocation) {
    return unsealed(allocation->first + allocation->second, guard_size());
}

int allocate(DevicePointer* p, size_t bytes);

void release(DevicePointer p) {
    Allocation allocation = device_memory.find(p);
    if (size_t behind = overrun(allocation)) {
        fprintf(stderr,
                "emulated device: byte %zu behind the allocation of %zu bytes at %#lx was written; found "
                "when freed\n",
                behind, allocation->second, (unsigned long)p);
        abort();
    }
    size_t bytes = allocation->second;
    device_bytes -= bytes;
    device_memory.erase(allocation);
    if (allocate_only()) munmap(bytes_at(p), bytes);
    else free(bytes_at(p));
}

// ---- parts of allocations

// The ends of the parts of allocations of so many numbers, in numbers.
std::map<size_t, std::vector<size_t>> parts;

struct Part {
    DevicePointer begin, end;
};

// The parts of an allocation that holds so many numbers in single or in half precision.
std::vector<Part> parts_of(Allocation allocation) {
    for (size_t element : {4, 2}) {
        auto found = parts.find(allocation->second / element);
        if (allocation->second % element || found == parts.end()) continue;
        std::vector<Part> all;
        DevicePointer begin = allocation->first;
        for (size_t end : found->second) {
            all.push_back({begin, allocation->first + end * element});
            begin = all.back().end;
        }
        return all;
    }
    return {{allocation->first, allocation->first + allocation->second}};
}

// A part that a launch must leave alone, and what is in it.
struct Cover {
    Part part;
    std::vector<char> kept;
};

// Seals the parts of allocations that have others which these pointers point to. A pointer to the beginning of
// an allocation may be to all of it.
std::vector<Cover> cover(const std::vector<std::pair<int, DevicePointer>>& pointers) {
    std::map<DevicePointer, std::vector<Part>> others;
    for (auto [i, p] : pointers) {
        Allocation allocation = find(device_memory, p, 0);
        auto& left = others.try_emplace(allocation->first, parts_of(allocation)).first->second;
        auto given = [&, p = p](const Part& part) {
            return p == allocation->first || (part.begin <= p && p < part.end);
        };
        left.erase(std::remove_if(left.begin(), left.end(), given), left.end());
    }
    std::vector<Cover> covers;
    for (auto& [allocation, left] : others) {
        for (const Part& part : left) {
            covers.push_back({part, {bytes_at(part.begin), bytes_at(part.end)}});
            seal(part.begin, part.end - part.begin);
        }
    }
    return covers;
}

// ---- streams, events, captures

struct Graph {
    struct Node {
        Work work;
        std::vector<size_t> after;
    };
    std::vector<Node> nodes;
};

struct Stream;

struct Capture {
    std::shared_ptr<Graph> graph = std::make_shared<Graph>();
    Stream* origin;
    int mode;
    std::thread::id thread;
    bool valid = true;
};

struct Stream {
    std::deque<Work> waiting;
    uint64_t enqueued = 0, done = 0;
    bool blocking = false;  // kept in order with the null stream
    void* context = nullptr;  // that it was made in; of the null stream none
    std::shared_ptr<Capture> capture;
    std::vector<size_t> captured_after;  // the nodes that the next one follows
};

struct Event {
    bool timed = true;
    std::shared_ptr<Stream> stream;  // null: never recorded
    uint64_t position = 0;           // complete when the stream has done so much
    std::chrono::steady_clock::time_point time;
    std::shared_ptr<Capture> capture;
    std::vector<size_t> captured_after;
};

std::shared_ptr<Stream> null_stream = std::make_shared<Stream>();
std::vector<std::shared_ptr<Stream>> streams;  // in the order of their creation
std::map<void*, std::shared_ptr<Event>> events;
std::vector<std::weak_ptr<Capture>> captures;

std::shared_ptr<Stream> stream_of(void* handle) {
    if (reinterpret_cast<uintptr_t>(handle) <= 2) return null_stream;
    for (auto& stream : streams) {
        if (stream.get() == handle) return stream;
    }
    return nullptr;
}

std::shared_ptr<Event> event_of(void* handle) {
    auto found = events.find(handle);
    return found == events.end() ? nullptr : found->second;
}

// Whether INVAD_EMULATOR_REMOVE names this call, which then does nothing: CALL for all streams, or CALL:N for
// the stream that was made N-th of those there are, from 0.
bool passed_by(const std::string& call, const Stream* stream = nullptr) {
    const char* removed = getenv("INVAD_EMULATOR_REMOVE");
    if (!removed) return false;
    auto at = std::find_if(streams.begin(), streams.end(), [&](auto& s) { return s.get() == stream; });
    return removed == call || removed == call + ":" + std::to_string(at - streams.begin());
}

// Runs a stream's work up to a position.
int drain(Stream& stream, uint64_t position) {
    while (stream.done < position && !sticky.code) {
        Work work = std::move(stream.waiting.front());
        stream.waiting.pop_front();
        Outcome outcome = work();
        ++stream.done;
        if (outcome.code && !sticky.code) {
            fprintf(stderr, "emulated device: %s\n", outcome.message.c_str());
            sticky = outcome;
        }
    }
    return sticky.code;
}
int drain(Stream& stream) { return drain(stream, stream.enqueued); }

// Streams without a dependency may finish in any order. The youngest first finds the most where nothing is
// drawn.
int drain_all() {
    auto list = streams;
    list.insert(list.begin(), null_stream);
    uint64_t draw = seed() * 0x9e3779b97f4a7c15 + launches;
    if (!seed() || draw >> 17 & 1) std::reverse(list.begin(), list.end());
    for (auto& stream : list) drain(*stream);
    return sticky.code;
}

// The null stream and blocking streams wait for each other.
void order_with_null_stream(Stream& stream) {
    if (&stream == null_stream.get()) {
        for (auto& other : streams) {
            if (other->blocking && !other->capture) drain(*other);
        }
    } else if (stream.blocking) {
        drain(*null_stream);
    }
}

// While a capture is under way, its thread (or in global mode any) must not call what is no part of a stream.
bool forbidden_by_capture() {
    for (auto& weak : captures) {
        auto capture = weak.lock();
        if (!capture || capture->mode == 2) continue;
        if (capture->mode == 0 || capture->thread == std::this_thread::get_id()) return true;
    }
    return false;
}

int enqueue(Stream& stream, Work work) {
    if (stream.capture) {
        if (!stream.capture->valid) return CAPTURE_INVALIDATED;
        auto& nodes = stream.capture->graph->nodes;
        nodes.push_back({std::move(work), std::move(stream.captured_after)});
        stream.captured_after = {nodes.size() - 1};
        return SUCCESS;
    }
    if (&stream == null_stream.get() && forbidden_by_capture()) return CAPTURE_IMPLICIT;
    order_with_null_stream(stream);
    if (sticky.code) return sticky.code;
    stream.waiting.push_back(std::move(work));
    ++stream.enqueued;
    return SUCCESS;
}

// One of the legal orders of a graph: drawn, or what was captured last first.
Outcome run_graph(const Graph& graph) {
    std::vector<bool> done(graph.nodes.size());
    uint64_t draw = seed() * 0x9e3779b97f4a7c15 + ++launches;
    for (size_t left = done.size(); left > 0; --left) {
        std::vector<size_t> ready;
        for (size_t i = 0; i < done.size(); ++i) {
            auto& after = graph.nodes[i].after;
            if (!done[i] && std::all_of(after.begin(), after.end(), [&](size_t j) { return done[j]; }))
                ready.push_back(i);
        }
        draw = draw * 6364136223846793005 + 1442695040888963407;
        size_t next = seed() ? ready[(draw >> 33) % ready.size()] : ready.back();
        Outcome outcome = graph.nodes[next].work();
        if (outcome.code) return outcome;
        done[next] = true;
    }
    return {};
}

int allocate(DevicePointer* p, size_t bytes) {
    if (bytes == 0) return INVALID_VALUE;
    if (bytes > memory_limit() - std::min(device_bytes, memory_limit())) drain_all();  // frees may be waiting
    if (bytes > memory_limit() - std::min(device_bytes, memory_limit())) {
        return refuse(OUT_OF_MEMORY, std::to_string(bytes) + " bytes asked for, " +
                                         std::to_string(memory_limit() - device_bytes) + " free");
    }
    void* memory;
    if (allocate_only()) {
        int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
        memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
        if (memory == MAP_FAILED) return refuse(OUT_OF_MEMORY, "the host has no more addresses");
    } else if (posix_memalign(&memory, 256, bytes + guard_size()) != 0) {
        return refuse(OUT_OF_MEMORY, "the host has no more");
    } else {
        memset(memory, poison, bytes);
        seal(reinterpret_cast<DevicePointer>(memory) + bytes, guard_size());
    }
    *p = reinterpret_cast<DevicePointer>(memory);
    device_memory[*p] = bytes;
    device_bytes += bytes;
    peak_bytes = std::max(peak_bytes, device_bytes);
    return SUCCESS;
}

// ---- modules and launches

struct Function {
    Kernel kernel;
    int max_dynamic_shared = shared_default;
};

struct Module {
    std::map<std::string, Function> functions;
};

// The size of an ELF file in memory: its section headers come last.
size_t image_bytes(const void* image) {
    const Elf64_Ehdr* header = static_cast<const Elf64_Ehdr*>(image);
    if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0) return 0;
    return header->e_shoff + size_t(header->e_shnum) * header->e_shentsize;
}

// Files of modules that are there until the process ends.
struct Leftovers {
    std::vector<std::string> paths;
    ~Leftovers() {
        for (auto& path : paths) unlink(path.c_str());
    }
} leftovers;

// Kernels find the emulator's symbols in this library, which whoever loaded it may have kept to themselves.
void make_symbols_global() {
    Dl_info self;
    if (dladdr(reinterpret_cast<void*>(&make_symbols_global), &self)) {
        dlopen(self.dli_fname, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL);
    }
}

int load_module(const void* image, Module& module) {
    size_t bytes = image_bytes(image);
    if (!bytes) return refuse(INVALID_IMAGE, "the image is no ELF file");
    const char* directory = getenv("TMPDIR");
    std::string path = std::string(directory ? directory : "/tmp") + "/invad-emulator-XXXXXX.so";
    int file = mkstemps(path.data(), 3);
    if (file < 0 || write(file, image, bytes) != ssize_t(bytes))
        return refuse(INVALID_IMAGE, "cannot write " + path);
    close(file);
    make_symbols_global();
    void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    std::string reason = library ? "" : dlerror();
    // A library stays loaded, and with a sanitizer its file stays too: reports read line numbers from it.
    if (emulator::address_sanitizer() || emulator::thread_sanitizer()) leftovers.paths.push_back(path);
    else unlink(path.c_str());
    for (const Kernel& kernel : emulator::take_registered())
        module.functions[kernel.name] = {kernel, shared_default};
    return library ? int(SUCCESS) : refuse(INVALID_IMAGE, reason);
}

struct Launch {
    Kernel kernel;
    Index grid, block;
    size_t shared_bytes;
    std::vector<std::vector<char>> values;

    Outcome run() {
        if (allocate_only()) return {};
        std::vector<void*> parameters;
        std::vector<std::pair<int, DevicePointer>> pointers;
        for (size_t i = 0; i < values.size(); ++i) {
            parameters.push_back(values[i].data());
            if (!kernel.is_pointer[i]) continue;
            DevicePointer p;
            memcpy(&p, values[i].data(), sizeof p);
            if (!p || pinned(bytes_at(p), 0)) continue;
            if (!on_device(p, 0)) {
                return {ILLEGAL_ADDRESS,
                        argument(int(i)) + " is no address of device memory (never was, or freed by now)"};
            }
            pointers.push_back({int(i), p});
        }
        uint64_t drawn = seed() ? seed() * 1000003 + ++launches : 0;
        std::vector<Cover> covers = cover(pointers);
        Outcome outcome = run_grid(kernel, parameters.data(), grid, block, shared_bytes, drawn);
        for (const Cover& cover : covers) {
            auto [begin, end] = cover.part;
            size_t byte = unsealed(begin, end - begin);
            memcpy(bytes_at(begin), cover.kept.data(), cover.kept.size());
            if (byte && !outcome.code) {
                size_t at = begin + byte - 1 - find(device_memory, begin, 0)->first;
                outcome = {ILLEGAL_ADDRESS, std::string(kernel.name) + ": byte " + std::to_string(at) +
                                                " of an allocation was written, in a part that is no argument"};
            }
        }
        if (outcome.code) return outcome;
        for (auto [i, p] : pointers) {
            size_t behind = overrun(find(device_memory, p, 0));
            if (behind) {
                return {ILLEGAL_ADDRESS, argument(i) + ": byte " + std::to_string(behind) +
                                             " behind its allocation was written"};
            }
        }
        return {};
    }

    std::string argument(int i) const { return std::string(kernel.name) + ", argument " + std::to_string(i); }
};

// The legacy stream's order, at once: for calls without a stream.
int immediately(Work work) {
    if (forbidden_by_capture()) return CAPTURE_UNSUPPORTED;
    int code = enqueue(*null_stream, std::move(work));
    return code ? code : drain(*null_stream);
}

Work copying(void* to, const void* from, size_t bytes) {
    return [=] {
        if (!allocate_only()) memmove(to, from, bytes);
        return Outcome{};
    };
}

}  // namespace

int emulator::enqueue(void* handle, std::function<Outcome()> work) {
    std::lock_guard<std::recursive_mutex> lock(mutex);
    auto stream = stream_of(handle);
    if (stream && allocate_only()) return SUCCESS;
    return stream ? ::enqueue(*stream, std::move(work)) : int(INVALID_HANDLE);
}

bool emulator::on_device(const void* pointer, size_t bytes) {
    DevicePointer p = reinterpret_cast<DevicePointer>(pointer);
    Allocation allocation = find(device_memory, p, bytes);
    if (allocation == device_memory.end()) return false;
    auto all = parts_of(allocation);
    return std::any_of(all.begin(), all.end(),
                       [&](const Part& part) { return part.begin <= p && p + bytes <= part.end; });
}

// ---- the driver API

#define API extern "C" __attribute__((visibility("default"))) int
#define ENTER                                          \
    std::lock_guard<std::recursive_mutex> lock(mutex); \
    if (sticky.code) return sticky.code
#define ENTER_WITH_STREAM(handle)    \
    ENTER;                           \
    auto stream = stream_of(handle); \
    if (!stream) return INVALID_HANDLE
#define ENTER_WITH_EVENT(handle)   \
    ENTER;                         \
    auto event = event_of(handle); \
    if (!event) return INVALID_HANDLE

API cuInit(unsigned) { return SUCCESS; }

API cuDriverGetVersion(int* version) {
    *version = int(environment("INVAD_EMULATOR_DRIVER", 12090));
    return SUCCESS;
}

API cuGetErrorName(int code, const char** name) {
    for (auto& known : names) {
        if (known.first == code) {
            *name = known.second;
            return SUCCESS;
        }
    }
    return INVALID_VALUE;
}

API cuGetErrorString(int code, const char** text) {
    std::lock_guard<std::recursive_mutex> lock(mutex);
    static thread_local std::string kept;
    kept = sticky.code == code ? sticky.message : last_reason;
    if (kept.empty()) return cuGetErrorName(code, text);
    *text = kept.c_str();
    return SUCCESS;
}

// NVIDIA's NVRTC looks for this in whatever libcuda.so.1 it finds.
API cuGetExportTable(const void** table, const void*) {
    *table = nullptr;
    return NOT_FOUND;
}

API cuDeviceGetCount(int* count) {
    *count = devices();
    return SUCCESS;
}

API cuDeviceGet(int* device, int ordinal) {
    if (ordinal < 0 || ordinal >= devices()) return INVALID_DEVICE;
    *device = ordinal;
    return SUCCESS;
}

API cuDeviceGetName(char* name, int size, int) {
    snprintf(name, size_t(size), "Emulated");
    return SUCCESS;
}

API cuDeviceGetUuid_v2(char* uuid, int) {
    memset(uuid, 0xe1, 16);
    return SUCCESS;
}

API cuDeviceTotalMem_v2(size_t* bytes, int) {
    *bytes = memory_limit();
    return SUCCESS;
}

API cuDeviceGetAttribute(int* value, int attribute, int) {
    int arch = compute_capability();
    switch (attribute) {
        case 1:
        case 2:
        case 3: *value = max_block; break;  // threads of a block, its x and y
        case 4: *value = max_block_z; break;
        case 5: *value = 0x7fffffff; break;  // grid x
        case 6:
        case 7: *value = max_grid_yz; break;
        case 8: *value = shared_default; break;
        case 9: *value = 64 << 10; break;  // constant memory
        case 10: *value = 32; break;       // warp
        case 12:
        case 82: *value = 64 << 10; break;  // registers of a block, of a multiprocessor
        case 16: *value = 32; break;        // multiprocessors: few, so that launches soon have more blocks
        case 38: *value = 72 << 20; break;  // L2
        case 39: *value = threads_per_multiprocessor; break;
        case 41: *value = 1; break;  // unified addressing
        case 75: *value = arch / 10; break;
        case 76: *value = arch % 10; break;
        case 81: *value = shared_per_multiprocessor(); break;
        case 97: *value = shared_limit(); break;
        case 106: *value = blocks_per_multiprocessor; break;
        case 115: *value = 1; break;  // memory pools, hence asynchronous allocation
        default: *value = 0;
    }
    return SUCCESS;
}

API cuDevicePrimaryCtxRetain(void** handle, int device) {
    if (device < 0 || device >= devices()) return INVALID_DEVICE;
    *handle = &contexts[device];
    return SUCCESS;
}

API cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }

// Forgets a failed launch, and the work that was waiting.
API cuDevicePrimaryCtxReset_v2(int) {
    std::lock_guard<std::recursive_mutex> lock(mutex);
    sticky = {};
    streams.push_back(null_stream);
    for (auto& stream : streams) {
        stream->waiting.clear();
        stream->done = stream->enqueued;
        stream->capture = nullptr;
    }
    streams.pop_back();
    return SUCCESS;
}

API cuCtxGetCurrent(void** handle) {
    *handle = current_context;
    return SUCCESS;
}

API cuCtxSetCurrent(void* handle) {
    if (handle && (handle < contexts || handle >= contexts + devices())) return INVALID_CONTEXT;
    current_context = handle;
    return SUCCESS;
}

API cuCtxGetDevice(int* device) {
    if (!current_context) return INVALID_CONTEXT;
    *device = int(static_cast<int*>(current_context) - contexts);
    return SUCCESS;
}

// Refused, and the end of every capture, whatever its mode and thread.
API cuCtxSynchronize() {
    ENTER;
    bool capturing = false;
    for (auto& weak : captures) {
        if (auto capture = weak.lock()) capturing = true, capture->valid = false;
    }
    return capturing ? int(CAPTURE_UNSUPPORTED) : drain_all();
}

// ---- memory

API cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
    ENTER;
    *total = memory_limit();
    *free_bytes = *total - std::min(device_bytes, *total);
    return SUCCESS;
}

// The emulation's own: the most bytes that were allocated at once since the last call.
API invadEmulatorPeakMemory(size_t* bytes) {
    ENTER;
    drain_all();
    *bytes = peak_bytes;
    peak_bytes = device_bytes;
    return SUCCESS;
}

// The emulation's own: from now on allocations of ends[count - 1] numbers, in single or half precision, consist of
// parts that end there. A launch must leave alone those that it has no pointer to.
API invadEmulatorParts(const size_t* ends, size_t count) {
    ENTER;
    if (count == 0 || !std::is_sorted(ends, ends + count)) return INVALID_VALUE;
    parts[ends[count - 1]].assign(ends, ends + count);
    return SUCCESS;
}

API cuMemAlloc_v2(DevicePointer* p, size_t bytes) {
    ENTER;
    return forbidden_by_capture() ? int(CAPTURE_UNSUPPORTED) : allocate(p, bytes);
}

API cuMemFree_v2(DevicePointer p) {
    ENTER;
    if (!p) return SUCCESS;
    if (!device_memory.count(p)) return INVALID_VALUE;
    if (forbidden_by_capture()) return CAPTURE_UNSUPPORTED;
    int code = drain_all();
    release(p);
    return code;
}

// Graphs that allocate are not emulated.
API cuMemAllocAsync(DevicePointer* p, size_t bytes, void* handle) {
    ENTER_WITH_STREAM(handle);
    return stream->capture ? int(CAPTURE_UNSUPPORTED) : allocate(p, bytes);
}

API cuMemFreeAsync(DevicePointer p, void* handle) {
    ENTER_WITH_STREAM(handle);
    if (!p) return SUCCESS;
    if (!device_memory.count(p)) return INVALID_VALUE;
    if (stream->capture) return CAPTURE_UNSUPPORTED;
    return enqueue(*stream, [=]() -> Outcome {
        if (!device_memory.count(p)) return {ILLEGAL_ADDRESS, "device memory was freed twice"};
        release(p);
        return {};
    });
}

API cuMemHostAlloc(void** p, size_t bytes, unsigned) {
    ENTER;
    if (bytes == 0) return INVALID_VALUE;
    if (posix_memalign(p, 4096, bytes) != 0) return OUT_OF_MEMORY;
    memset(*p, poison, bytes);
    pinned_memory[reinterpret_cast<DevicePointer>(*p)] = bytes;
    return SUCCESS;
}

API cuMemFreeHost(void* p) {
    ENTER;
    if (!pinned_memory.count(reinterpret_cast<DevicePointer>(p))) return INVALID_VALUE;
    int code = drain_all();
    pinned_memory.erase(reinterpret_cast<DevicePointer>(p));
    free(p);
    return code;
}

// From pinned memory the copy is made when its turn comes; from other memory the driver first takes a copy of
// its own.
API cuMemcpyHtoDAsync_v2(DevicePointer to, const void* from, size_t bytes, void* handle) {
    ENTER_WITH_STREAM(handle);
    if (!on_device(to, bytes)) return INVALID_VALUE;
    if (stream->capture || pinned(from, bytes)) return enqueue(*stream, copying(bytes_at(to), from, bytes));
    if (allocate_only()) return SUCCESS;
    const char* first = static_cast<const char*>(from);
    auto staged = std::make_shared<std::vector<char>>(first, first + bytes);
    return enqueue(*stream, [=] {
        memcpy(bytes_at(to), staged->data(), bytes);
        return Outcome{};
    });
}

// Into pinned memory the copy is there after a synchronisation; into other memory before the call returns.
API cuMemcpyDtoHAsync_v2(void* to, DevicePointer from, size_t bytes, void* handle) {
    ENTER_WITH_STREAM(handle);
    if (!on_device(from, bytes)) return INVALID_VALUE;
    int code = enqueue(*stream, copying(to, bytes_at(from), bytes));
    if (code || stream->capture || pinned(to, bytes)) return code;
    return drain(*stream);
}

API cuMemcpyDtoDAsync_v2(DevicePointer to, DevicePointer from, size_t bytes, void* handle) {
    ENTER_WITH_STREAM(handle);
    if (!on_device(to, bytes) || !on_device(from, bytes)) return INVALID_VALUE;
    return enqueue(*stream, copying(bytes_at(to), bytes_at(from), bytes));
}

API cuMemcpyHtoD_v2(DevicePointer to, const void* from, size_t bytes) {
    ENTER;
    return on_device(to, bytes) ? immediately(copying(bytes_at(to), from, bytes)) : int(INVALID_VALUE);
}

API cuMemcpyDtoH_v2(void* to, DevicePointer from, size_t bytes) {
    ENTER;
    return on_device(from, bytes) ? immediately(copying(to, bytes_at(from), bytes)) : int(INVALID_VALUE);
}

API cuMemcpyDtoD_v2(DevicePointer to, DevicePointer from, size_t bytes) {
    ENTER;
    if (!on_device(to, bytes) || !on_device(from, bytes)) return INVALID_VALUE;
    return immediately(copying(bytes_at(to), bytes_at(from), bytes));
}

API cuMemsetD8Async(DevicePointer p, unsigned char value, size_t bytes, void* handle) {
    ENTER_WITH_STREAM(handle);
    if (!on_device(p, bytes)) return INVALID_VALUE;
    if (allocate_only()) return SUCCESS;
    return enqueue(*stream, [=] {
        memset(bytes_at(p), value, bytes);
        return Outcome{};
    });
}

API cuMemsetD16Async(DevicePointer p, unsigned short value, size_t count, void* handle) {
    ENTER_WITH_STREAM(handle);
    if (p % sizeof value || !on_device(p, count * sizeof value)) return INVALID_VALUE;
    if (allocate_only()) return SUCCESS;
    return enqueue(*stream, [=] {
        std::fill_n(reinterpret_cast<unsigned short*>(bytes_at(p)), count, value);
        return Outcome{};
    });
}

API cuMemsetD32Async(DevicePointer p, unsigned value, size_t count, void* handle) {
    ENTER_WITH_STREAM(handle);
    if (p % sizeof value || !on_device(p, count * sizeof value)) return INVALID_VALUE;
    if (allocate_only()) return SUCCESS;
    return enqueue(*stream, [=] {
        std::fill_n(reinterpret_cast<unsigned*>(bytes_at(p)), count, value);
        return Outcome{};
    });
}

API cuMemsetD8_v2(DevicePointer p, unsigned char value, size_t bytes) {
    ENTER;
    if (!on_device(p, bytes)) return INVALID_VALUE;
    if (allocate_only()) return SUCCESS;
    return immediately([=] {
        memset(bytes_at(p), value, bytes);
        return Outcome{};
    });
}

// ---- streams and events

API cuStreamCreate(void** handle, unsigned flags) {
    ENTER;
    streams.push_back(std::make_shared<Stream>());
    streams.back()->blocking = !(flags & 1);
    streams.back()->context = current_context;
    *handle = streams.back().get();
    return SUCCESS;
}

API cuStreamCreateWithPriority(void** handle, unsigned flags, int) { return cuStreamCreate(handle, flags); }

API cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    *least = *greatest = 0;
    return SUCCESS;
}

API cuStreamDestroy_v2(void* handle) {
    ENTER;
    auto stream = stream_of(handle);
    if (!stream || stream == null_stream) return INVALID_HANDLE;
    streams.erase(std::find(streams.begin(), streams.end(), stream));
    return drain(*stream);
}

API cuStreamSynchronize(void* handle) {
    ENTER_WITH_STREAM(handle);
    if (stream->capture) return CAPTURE_UNSUPPORTED;
    order_with_null_stream(*stream);
    return drain(*stream);
}

// Who asks again gets another answer: the work is done in between.
API cuStreamQuery(void* handle) {
    ENTER_WITH_STREAM(handle);
    if (stream->capture) return CAPTURE_UNSUPPORTED;
    if (stream->done == stream->enqueued) return SUCCESS;
    int code = drain(*stream);
    return code ? code : int(NOT_READY);
}

API cuLaunchHostFunc(void* handle, void (*function)(void*), void* data) {
    ENTER_WITH_STREAM(handle);
    return enqueue(*stream, [=] {
        function(data);
        return Outcome{};
    });
}

API cuEventCreate(void** handle, unsigned flags) {
    ENTER;
    auto event = std::make_shared<Event>();
    event->timed = !(flags & 2);
    *handle = event.get();
    events[event.get()] = event;
    return SUCCESS;
}

API cuEventDestroy_v2(void* handle) {
    ENTER_WITH_EVENT(handle);
    events.erase(handle);
    return SUCCESS;
}

API cuEventRecord(void* handle, void* stream_handle) {
    ENTER_WITH_EVENT(handle);
    auto stream = stream_of(stream_handle);
    if (!stream) return INVALID_HANDLE;
    event->capture = stream->capture;
    if (stream->capture) {
        event->captured_after = stream->captured_after;
        return SUCCESS;
    }
    int code = enqueue(*stream, [event] {
        event->time = std::chrono::steady_clock::now();
        return Outcome{};
    });
    event->stream = stream;
    event->position = stream->enqueued;
    return code;
}

API cuStreamWaitEvent(void* handle, void* event_handle, unsigned) {
    ENTER_WITH_EVENT(event_handle);
    auto stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    if (passed_by("cuStreamWaitEvent", stream.get())) return SUCCESS;
    if (event->capture) {
        if (!stream->capture && stream != null_stream && event->capture->graph) {
            stream->capture = event->capture;  // a fork: this stream is captured as well
            stream->captured_after.clear();
        }
        if (stream->capture != event->capture) return CAPTURE_ISOLATION;
        auto& after = stream->captured_after;
        after.insert(after.end(), event->captured_after.begin(), event->captured_after.end());
        return SUCCESS;
    }
    if (!event->stream) return SUCCESS;
    if (stream->capture) return CAPTURE_ISOLATION;
    if (event->stream == stream) return SUCCESS;
    auto source = event->stream;
    uint64_t position = event->position;
    return enqueue(*stream, [=]() -> Outcome {
        drain(*source, position);
        return {};
    });
}

API cuEventSynchronize(void* handle) {
    ENTER_WITH_EVENT(handle);
    if (passed_by("cuEventSynchronize")) return SUCCESS;
    if (event->capture) return CAPTURED_EVENT;
    return event->stream ? drain(*event->stream, event->position) : int(SUCCESS);
}

API cuEventQuery(void* handle) {
    ENTER_WITH_EVENT(handle);
    if (event->capture) return CAPTURED_EVENT;
    if (!event->stream || event->stream->done >= event->position) return SUCCESS;
    int code = drain(*event->stream, event->position);
    return code ? code : int(NOT_READY);
}

API cuEventElapsedTime(float* milliseconds, void* first, void* second) {
    ENTER;
    auto begin = event_of(first), end = event_of(second);
    if (!begin || !end || !begin->timed || !end->timed || !begin->stream || !end->stream)
        return INVALID_HANDLE;
    for (auto& event : {begin, end}) {
        if (event->capture) return CAPTURED_EVENT;
        if (event->stream->done < event->position) return NOT_READY;
    }
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - begin->time).count();
    return SUCCESS;
}

API cuEventElapsedTime_v2(float* milliseconds, void* first, void* second) {
    return cuEventElapsedTime(milliseconds, first, second);
}

// ---- graphs

API cuStreamBeginCapture_v2(void* handle, int mode) {
    ENTER_WITH_STREAM(handle);
    if (stream == null_stream) return CAPTURE_UNSUPPORTED;
    if (stream->capture) return INVALID_VALUE;
    stream->capture = std::make_shared<Capture>();
    stream->capture->origin = stream.get();
    stream->capture->mode = mode;
    stream->capture->thread = std::this_thread::get_id();
    stream->captured_after.clear();
    captures.push_back(stream->capture);
    return SUCCESS;
}

API cuStreamEndCapture(void* handle, void** graph) {
    ENTER_WITH_STREAM(handle);
    *graph = nullptr;
    auto capture = stream->capture;
    if (!capture) return INVALID_VALUE;
    if (capture->origin != stream.get()) return CAPTURE_UNMATCHED;
    // Every node that nothing follows must be one that the origin has come after.
    std::vector<bool> joined(capture->graph->nodes.size());
    for (auto& node : capture->graph->nodes) {
        for (size_t i : node.after) joined[i] = true;
    }
    for (size_t i : stream->captured_after) joined[i] = true;
    for (auto& other : streams) {
        if (other->capture == capture) other->capture = nullptr;
    }
    auto ended = std::exchange(capture->graph, nullptr);  // marks events recorded in it as stale
    captures.erase(std::remove_if(captures.begin(), captures.end(),
                                  [&](auto& weak) { return weak.expired() || weak.lock() == capture; }),
                   captures.end());
    if (!capture->valid) return CAPTURE_INVALIDATED;
    if (std::find(joined.begin(), joined.end(), false) != joined.end()) return CAPTURE_UNJOINED;
    *graph = new std::shared_ptr<Graph>(ended);
    return SUCCESS;
}

API cuStreamIsCapturing(void* handle, int* status) {
    ENTER_WITH_STREAM(handle);
    *status = stream->capture ? 1 : 0;
    return SUCCESS;
}

API cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
    ENTER;
    *executable = new std::shared_ptr<Graph>(*static_cast<std::shared_ptr<Graph>*>(graph));
    return SUCCESS;
}

API cuGraphUpload(void*, void* handle) {
    ENTER_WITH_STREAM(handle);
    return SUCCESS;
}

API cuGraphLaunch(void* executable, void* handle) {
    ENTER_WITH_STREAM(handle);
    auto graph = *static_cast<std::shared_ptr<Graph>*>(executable);
    return enqueue(*stream, [graph] { return run_graph(*graph); });
}

API cuGraphExecDestroy(void* executable) {
    std::lock_guard<std::recursive_mutex> lock(mutex);
    delete static_cast<std::shared_ptr<Graph>*>(executable);
    return SUCCESS;
}

API cuGraphDestroy(void* graph) { return cuGraphExecDestroy(graph); }

// ---- modules and launches

API cuModuleLoadData(void** handle, const void* image) {
    ENTER;
    auto module = std::make_unique<Module>();
    if (int code = load_module(image, *module)) return code;
    *handle = module.release();
    return SUCCESS;
}

API cuModuleUnload(void* handle) {
    ENTER;
    int code = drain_all();
    delete static_cast<Module*>(handle);
    return code;
}

API cuModuleGetFunction(void** function, void* handle, const char* name) {
    ENTER;
    auto& functions = static_cast<Module*>(handle)->functions;
    auto found = functions.find(name);
    if (found == functions.end()) return NOT_FOUND;
    *function = &found->second;
    return SUCCESS;
}

API cuFuncSetAttribute(void* handle, int attribute, int value) {
    ENTER;
    if (attribute != 8) return SUCCESS;
    if (value < 0 || value > shared_limit())
        return refuse(INVALID_VALUE, "more dynamic shared memory than a block can have");
    static_cast<Function*>(handle)->max_dynamic_shared = std::max(value, shared_default);
    return SUCCESS;
}

// Registers and the static shared memory are not known here.
API cuFuncGetAttribute(int* value, int attribute, void* handle) {
    ENTER;
    int arch = compute_capability();
    switch (attribute) {
        case 0: *value = max_block; break;
        case 5:
        case 6: *value = arch; break;  // PTX and binary version
        case 8: *value = static_cast<Function*>(handle)->max_dynamic_shared; break;
        default: *value = 0;
    }
    return SUCCESS;
}

API cuFuncSetCacheConfig(void*, int) { return SUCCESS; }

API cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void*, int block, size_t shared_bytes,
                                                         unsigned) {
    if (block <= 0 || block > max_block) return INVALID_VALUE;
    int by_threads = threads_per_multiprocessor / ((block + 31) / 32 * 32);
    int by_memory = int(size_t(shared_per_multiprocessor()) / (shared_bytes + 1024));
    *blocks = std::min({by_threads, by_memory, blocks_per_multiprocessor});
    return SUCCESS;
}

API cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* function, int block, size_t shared_bytes) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(blocks, function, block, shared_bytes, 0);
}

API cuLaunchKernel(void* handle, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned shared_bytes, void* stream_handle,
                   void** parameters, void** extra) {
    ENTER_WITH_STREAM(stream_handle);
    auto& function = *static_cast<Function*>(handle);
    const Kernel& kernel = function.kernel;
    if (stream->context && stream->context != current_context)
        return refuse(INVALID_HANDLE, std::string(kernel.name) + ": the stream is another device's");
    auto in = [](uint64_t value, uint64_t limit) { return value >= 1 && value <= limit; };
    std::string name = kernel.name;
    if (!in(grid_x, 0x7fffffff) || !in(grid_y, max_grid_yz) || !in(grid_z, max_grid_yz)) {
        return refuse(INVALID_VALUE, name + ": grid out of range");
    }
    if (!in(block_x, max_block) || !in(block_y, max_block) || !in(block_z, max_block_z) ||
        !in(uint64_t(block_x) * block_y * block_z, max_block)) {
        return refuse(INVALID_VALUE, name + ": block out of range");
    }
    if (shared_bytes > unsigned(function.max_dynamic_shared)) {
        return refuse(INVALID_VALUE, name + ": " + std::to_string(shared_bytes) +
                                         " bytes of dynamic shared memory, " +
                                         std::to_string(function.max_dynamic_shared) + " are allowed");
    }
    if (extra || (kernel.parameters && !parameters)) return refuse(INVALID_VALUE, name + ": no parameters");
    auto launch = std::make_shared<Launch>(
        Launch{kernel, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared_bytes, {}});
    for (int i = 0; i < kernel.parameters; ++i) {
        const char* value = static_cast<const char*>(parameters[i]);
        launch->values.emplace_back(value, value + kernel.size[i]);
    }
    return enqueue(*stream, [launch] { return launch->run(); });
}
