// Products of warpgroups, as late as is legal: in the wait that needs them. Warps of a group do not wait for each other.
// Until the wait accumulators are NaN.
#include "runtime.hpp"
#include "hopper.hpp"

namespace emulator {

namespace {

constexpr unsigned warp_size = 32, max_warps = 32;
constexpr uint32_t unit = 16, row_bytes = 128, eight_rows = 8 * row_bytes;

// A warp's 16 rows of an accumulator while products are pending, and whose registers they are.
struct Accumulator {
    float* registers[warp_size];
    int columns;
    float rows[16][256];
    int pending;

    // Element i of a lane's registers: of a 16 × 8 block, lane 4g + t has columns 2t and 2t + 1 of rows g and g + 8.
    float& element(unsigned lane, int i) {
        return rows[lane / 4 + (i & 2 ? 8 : 0)][i / 4 * 8 + 2 * (lane % 4) + (i & 1)];
    }
};

struct Pending {
    Product product;
    const uint32_t* left[warp_size];
    int group;
};

struct Queue {
    std::vector<Pending> products;
    std::vector<Accumulator> accumulators;
    int open_group = 0;
    bool fenced = false;
};
Queue queues[max_warps];
Queue& mine() { return queues[current->warp]; }

// 16-byte units of dynamic shared memory that cp.async has written, and of those each thread's, until its proxy fence.
std::vector<bool> unfenced;
std::vector<uint32_t> written[max_warps * warp_size];
unsigned number() { return current->warp * warp_size + current->lane; }

[[noreturn]] void refuse(const std::string& what) { fail(launch_failed, what.c_str()); }

uint32_t bits(uint64_t word, int first, int count) { return uint32_t(word >> first) & ((1u << count) - 1); }

// The fields of the PTX ISA's matrix descriptor, as far as they may vary here. A start within the first of eight rows is
// that of a later column.
void check(uint64_t descriptor, bool rows_are_k) {
    if (bits(descriptor, 62, 2) != 1) refuse("wgmma: a descriptor of another swizzle than that of 128 bytes");
    if (bits(descriptor, 49, 3) != 0) refuse("wgmma: a descriptor with a base offset");
    if (bits(descriptor, 32, 14) * unit != eight_rows)
        refuse("wgmma: a descriptor whose stride from eight rows to the next is not 1024 bytes");
    if (bits(descriptor, 16, 14) != 1) refuse("wgmma: a descriptor whose unused distance is not 1");
    if (bits(descriptor, 14, 2) || bits(descriptor, 30, 2) || bits(descriptor, 46, 3) || bits(descriptor, 52, 10))
        refuse("wgmma: a descriptor with bits that mean nothing");
    const uint32_t offset = bits(descriptor, 0, 14) * unit % eight_rows;
    if (rows_are_k ? offset != 0 : offset >= row_bytes || offset % 32 != 0)
        refuse("wgmma: a descriptor of a tile that does not begin at a multiple of 1024 bytes");
}

static_assert(sizeof(Product) <= sizeof(Operand), "a lane's operands fit");
Product brought(const Operand& operand) {
    Product product;
    memcpy(&product, operand.word, sizeof product);
    return product;
}

void require_full_warp(uint32_t mask) {
    if (mask != 0xffffffffu) refuse("wgmma in a warp of fewer than 32 threads");
}

void lead_issue(const Operand* inputs, Operand*, uint32_t mask) {
    require_full_warp(mask);
    Queue& queue = mine();
    if (!queue.fenced) refuse("wgmma without a wgmma.fence after its registers were written");
    Pending pending{brought(inputs[0]), {}, queue.open_group};
    const Product& first = pending.product;
    check(first.b, first.registers != nullptr);
    if (!first.registers) check(first.a, false);
    Accumulator* accumulator = nullptr;
    for (Accumulator& known : queue.accumulators) {
        if (known.registers[0] == first.d) accumulator = &known;
    }
    if (accumulator && accumulator->columns != first.columns) refuse("wgmma: accumulators of two shapes in one place");
    const bool is_new = !accumulator;
    if (is_new) accumulator = &queue.accumulators.emplace_back();
    for (unsigned lane = 0; lane < warp_size; ++lane) {
        const Product own = brought(inputs[lane]);
        if (own.a != first.a || own.b != first.b || own.add != first.add || own.columns != first.columns)
            refuse("wgmma: the lanes of a warp bring different operands");
        pending.left[lane] = own.registers;
        if (!is_new) continue;
        accumulator->registers[lane] = own.d;
        for (int i = 0; i < first.columns / 2; ++i) {
            accumulator->element(lane, i) = own.d[i];
            own.d[i] = bit_cast<float>(0x7fffffffu);
        }
    }
    if (is_new) accumulator->columns = first.columns, accumulator->pending = 0;
    ++accumulator->pending;
    queue.products.push_back(pending);
}

void (*read_unit)(const void* unit, h16 (&halves)[8]);

// Eight halves at a distance from the start of a descriptor: the address as it would be without the swizzle.
void read(uint64_t descriptor, uint32_t distance, float (&values)[8]) {
    uint32_t address = bits(descriptor, 0, 14) * unit + distance;
    address ^= address / row_bytes % 8 * unit;
    const uint32_t offset = address - shared_window;
    if (address < shared_window || offset / unit >= unfenced.size()) refuse("wgmma beyond shared memory");
    if (unfenced[offset / unit])
        refuse("wgmma reads what cp.async has written without a fence.proxy.async of the writing thread");
    h16 halves[8];
    read_unit(static_cast<const char*>(dynamic_shared()) + offset, halves);
    for (int i = 0; i < 8; ++i) values[i] = to_f32(halves[i]);
}

uint32_t row_at(int row) { return uint32_t(row / 8) * eight_rows + uint32_t(row % 8) * row_bytes; }

void run(const Pending& pending, Accumulator& to) {
    const Product& p = pending.product;
    float a[16][16], values[8];
    static float b[16][256];
    for (int row = 0; row < 16 && !p.registers; ++row) {
        for (int half = 0; half < 2; ++half) {
            read(p.a, row_at(int(current->warp % 4) * 16 + row) + unsigned(half) * unit, values);
            memcpy(&a[row][8 * half], values, sizeof values);
        }
    }
    for (unsigned lane = 0; lane < warp_size && p.registers; ++lane) {
        for (unsigned i = 0; i < 4; ++i) {
            float* pair = &a[lane / 4 + i % 2 * 8][2 * (lane % 4) + i / 2 * 8];
            unpack(pending.left[lane][i], pair[0], pair[1]);
        }
    }
    if (p.registers) {  // rows of b's tile are k
        for (int k = 0; k < 16; ++k) {
            for (int column = 0; column < p.columns; column += 8) {
                read(p.b, row_at(k) + unsigned(column) * 2, values);
                memcpy(&b[k][column], values, sizeof values);
            }
        }
    } else {
        for (int column = 0; column < p.columns; ++column) {
            for (int half = 0; half < 2; ++half) {
                read(p.b, row_at(column) + unsigned(half) * unit, values);
                for (int i = 0; i < 8; ++i) b[8 * half + i][column] = values[i];
            }
        }
    }
    for (int row = 0; row < 16; ++row) {
        float sums[256] = {};
        for (int k = 0; k < 16; ++k) {
            for (int column = 0; column < p.columns; ++column) sums[column] += a[row][k] * b[k][column];
        }
        for (int column = 0; column < p.columns; ++column) {
            float& d = to.rows[row][column];
            d = p.add ? d + sums[column] : sums[column];
        }
    }
}

void lead_fence(const Operand*, Operand*, uint32_t mask) {
    require_full_warp(mask);
    mine().fenced = true;
}

void lead_commit(const Operand*, Operand*, uint32_t mask) {
    require_full_warp(mask);
    ++mine().open_group;
}

void lead_wait(const Operand* inputs, Operand*, uint32_t mask) {
    require_full_warp(mask);
    Queue& queue = mine();
    const int last = queue.open_group - int(inputs[0].word[0]);
    size_t done = 0;
    for (; done < queue.products.size() && queue.products[done].group < last; ++done) {
        const Pending& pending = queue.products[done];
        for (Accumulator& accumulator : queue.accumulators) {
            if (accumulator.registers[0] != pending.product.d) continue;
            run(pending, accumulator);
            --accumulator.pending;
        }
    }
    queue.products.erase(queue.products.begin(), queue.products.begin() + long(done));
    std::vector<Accumulator> left;
    for (Accumulator& accumulator : queue.accumulators) {
        if (accumulator.pending) {
            left.push_back(accumulator);
            continue;
        }
        for (unsigned lane = 0; lane < warp_size; ++lane) {
            for (int i = 0; i < accumulator.columns / 2; ++i)
                accumulator.registers[lane][i] = accumulator.element(lane, i);
        }
    }
    queue.accumulators = std::move(left);
    queue.fenced = false;
}

}  // namespace

void wgmma_fence() { collective("wgmma.fence", ~0u, {}, lead_fence); }

void wgmma_issue(const Product& product) {
    Operand operand{};
    memcpy(operand.word, &product, sizeof product);
    collective("wgmma.mma_async", ~0u, operand, lead_issue);
}

void wgmma_commit() { collective("wgmma.commit_group", ~0u, {}, lead_commit); }

void wgmma_wait(int pending_groups, void (*read)(const void* unit, h16 (&halves)[8])) {
    read_unit = read;
    Operand operand{};
    operand.word[0] = uint32_t(pending_groups);
    collective("wgmma.wait_group", ~0u, operand, lead_wait);
}

void fence_proxy_async() {
    for (uint32_t unit : written[number()]) unfenced[unit] = false;
    written[number()].clear();
}

void start_hopper(size_t shared_bytes) {
    unfenced.assign(shared_bytes / unit, false);
    for (auto& units : written) units.clear();
    for (Queue& queue : queues) queue = {};
}

void cp_async_landed(const void* shared) {
    const size_t offset = size_t(static_cast<const char*>(shared) - static_cast<const char*>(dynamic_shared()));
    if (offset / unit >= unfenced.size()) return;
    unfenced[offset / unit] = true;
    written[number()].push_back(uint32_t(offset / unit));
}

bool products_pending() { return !mine().products.empty(); }

}  // namespace emulator
