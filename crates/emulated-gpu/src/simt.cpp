// The scheduler of the fibers: see simt.hpp.
#include "simt.hpp"

#include <algorithm>
#include <random>

namespace simt {

Order order = Order::Up;
thread_local Block *block __attribute__((tls_model("initial-exec"))) = nullptr;

#if defined(__x86_64__)
asm(R"(
.text
.globl simt_switch
.hidden simt_switch
simt_switch:
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
)");
constexpr int SAVED = 6;
#else
#error "fibers are written for x86-64"
#endif

[[noreturn]] static void stop(const char *reason) {
    fprintf(stderr, "emulated GPU: %s\n", reason);
    abort();
}

static void entry() {
    (*block->body)();
    wait_for(Wait::Done);
    stop("a thread that has ended was started again");
}

static void prepare(Fiber &fiber) {
    // The previous thread left this stack without returning.
    ASAN_UNPOISON_MEMORY_REGION(fiber.stack.get(), STACK_BYTES);
    void **top = (void **)(((uintptr_t)fiber.stack.get() + STACK_BYTES) & ~(uintptr_t)15);
    *--top = nullptr;  // Aligned as a call leaves it.
    *--top = (void *)&entry;
    for (int i = 0; i < SAVED; i++) *--top = nullptr;
    fiber.stack_pointer = top;
    fiber.wait = Wait::None;
}

void *shared(const void *declaration, size_t bytes) {
    for (const Site &site : block->sites)
        if (site.declaration == declaration) return block->shared + site.offset;
    // Between two declarations some bytes stay unused, and poisoned.
    size_t offset = (block->shared_used + 31) & ~(size_t)15;
    if (offset + bytes > SHARED_BYTES) stop("a block uses more shared memory than there is");
    block->shared_used = offset + bytes;
    block->sites.push_back({declaration, offset});
    ASAN_UNPOISON_MEMORY_REGION(block->shared + offset, bytes);
    memset(block->shared + offset, 0xff, bytes);
    return block->shared + offset;
}

// Lets every warp continue whose live threads all wait in a shuffle; returns whether there was one.
static bool release_warps() {
    bool released = false;
    size_t count = block->threads;
    for (size_t first = 0; first < count; first += WARP) {
        size_t end = std::min(count, first + WARP);
        bool waits = false, complete = true;
        for (size_t i = first; i < end; i++) {
            Wait wait = block->fibers[i].wait;
            waits |= wait == Wait::Warp;
            complete &= wait == Wait::Warp || wait == Wait::Done;
        }
        if (!waits || !complete) continue;
        released = true;
        for (size_t i = first; i < end; i++)
            if (block->fibers[i].wait == Wait::Warp) block->fibers[i].wait = Wait::None;
    }
    return released;
}

static void run_block(std::vector<size_t> &turn, std::mt19937_64 &random) {
    for (size_t i = 0; i < block->threads; i++) prepare(block->fibers[i]);
    block->sites.clear();
    block->shared_used = 0;
    ASAN_POISON_MEMORY_REGION(block->shared, SHARED_BYTES);
    for (;;) {
        if (order == Order::Random) std::shuffle(turn.begin(), turn.end(), random);
        for (size_t i : turn) {
            Fiber &fiber = block->fibers[i];
            if (fiber.wait != Wait::None) continue;
            block->now = &fiber;
            simt_switch(&block->scheduler, fiber.stack_pointer);
        }
        if (release_warps()) continue;
        bool waits = false;
        for (Fiber &fiber : block->fibers) {
            if (fiber.wait == Wait::Warp) stop("a warp waits for a thread that does not come");
            if (fiber.wait != Wait::Block) continue;
            waits = true;
            fiber.wait = Wait::None;
        }
        if (!waits) return;
    }
}

void launch(dim3 grid, dim3 size, const std::function<void()> &body) {
    static thread_local std::unique_ptr<Block> mine;
    if (!mine) mine = std::make_unique<Block>();
    block = mine.get();
    size_t threads = (size_t)size.x * size.y * size.z;
    while (block->fibers.size() < threads) {
        std::unique_ptr<char[]> stack(new char[STACK_BYTES]);
        block->fibers.push_back({nullptr, std::move(stack), {}, Wait::Done, 0});
    }
    for (size_t i = threads; i < block->fibers.size(); i++) block->fibers[i].wait = Wait::Done;
    block->threads = threads;
    std::vector<size_t> turn(threads);
    for (size_t i = 0; i < threads; i++) {
        Fiber &fiber = block->fibers[i];
        fiber.thread = {(unsigned)(i % size.x), (unsigned)(i / size.x % size.y), (unsigned)(i / size.x / size.y)};
        turn[i] = order == Order::Down ? threads - 1 - i : i;
    }
    block->grid = grid;
    block->size = size;
    block->body = &body;
    std::mt19937_64 random(grid.x * 31 + threads);
    uint64_t blocks = (uint64_t)grid.x * grid.y * grid.z;
    for (uint64_t i = 0; i < blocks; i++) {
        uint64_t b = order == Order::Down ? blocks - 1 - i : i;
        block->index = {(unsigned)(b % grid.x), (unsigned)(b / grid.x % grid.y), (unsigned)(b / grid.x / grid.y)};
        run_block(turn, random);
    }
}

}  // namespace simt
