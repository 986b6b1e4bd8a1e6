// Runs CUDA kernels on a CPU, compiled as C++. A thread of a block is a fiber; the system thread that
// starts a kernel runs its blocks one after the other. Barriers, shuffles and shared memory work as on a
// GPU; new shared memory is filled with NaN. The fibers of a block run from barrier to barrier in the
// order `order`: a kernel whose result depends on this order has a race.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#if __has_include(<sanitizer/asan_interface.h>)
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(place, bytes) ((void)(place), (void)(bytes))
#define ASAN_UNPOISON_MEMORY_REGION(place, bytes) ((void)(place), (void)(bytes))
#endif

#define __global__
#define __device__ inline
#define __forceinline__ __attribute__((always_inline))
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

namespace simt {

enum class Order { Up, Down, Random };
enum class Wait { None, Block, Warp, Done };

constexpr size_t WARP = 32, STACK_BYTES = 64 << 10, SHARED_BYTES = 227 << 10;

struct Fiber {
    void *stack_pointer;
    std::unique_ptr<char[]> stack;
    dim3 thread;
    Wait wait;
    uint64_t slot;
};

// A declaration of shared memory in the source, and its offset in the block's shared memory.
struct Site {
    const void *declaration;
    size_t offset;
};

struct Block {
    std::vector<Fiber> fibers;  // As many as the largest block so far; the first `threads` belong to this block.
    size_t threads = 0;
    Fiber *now = nullptr;
    void *scheduler = nullptr;
    dim3 index, size, grid;
    const std::function<void()> *body = nullptr;
    std::vector<Site> sites;
    size_t shared_used = 0;
    alignas(16) char shared[SHARED_BYTES];
};

extern Order order;
extern thread_local Block *block __attribute__((tls_model("initial-exec")));

extern "C" void simt_switch(void **from, void *to);

inline void wait_for(Wait wait) {
    Fiber *fiber = block->now;
    fiber->wait = wait;
    simt_switch(&fiber->stack_pointer, block->scheduler);
}

// The block's memory for a declaration; all threads of the block get the same memory.
void *shared(const void *declaration, size_t bytes);

// Runs `body` as every thread of every block; aborts the process if threads wait for each other forever.
void launch(dim3 grid, dim3 size, const std::function<void()> &body);

// The value of lane `from` of the caller's warp.
template <class T>
T shuffle(T value, unsigned from) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "a slot holds it");
    Fiber *fiber = block->now;
    memcpy(&fiber->slot, &value, sizeof(T));
    wait_for(Wait::Warp);
    size_t place = (fiber - block->fibers.data()) / WARP * WARP + from % WARP;
    T found;
    memcpy(&found, &block->fibers[place].slot, sizeof(T));
    wait_for(Wait::Warp);
    return found;
}

inline float of_bf16(unsigned upper) {
    unsigned bits = upper << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

// A tensor core's sums += a b for bf16, with the fragments of mma.m16n8k16. Here an element takes its 16 terms
// in ascending order, each by a fused multiply-add; a GPU adds them in an order of its own.
inline void multiply_add(float *sums, const unsigned *a, const unsigned *b) {
    struct Fragments {
        const unsigned *a, *b;
    };
    Fragments mine = {a, b};
    Fragments *place = &mine;
    static_assert(sizeof place == sizeof(uint64_t), "a slot holds it");
    memcpy(&block->now->slot, &place, sizeof place);
    wait_for(Wait::Warp);
    size_t index = block->now - block->fibers.data(), warp = index / WARP * WARP, lane = index % WARP;
    auto of = [&](size_t other) {
        Fragments *found;
        memcpy(&found, &block->fibers[warp + other].slot, sizeof found);
        return found;
    };
    for (size_t e = 0; e < 4; e++) {
        size_t row = lane / 4, column = lane % 4 * 2 + e % 2;
        for (size_t k = 0; k < 16; k++) {
            size_t half = k / 8, pair = k % 8 / 2, shift = k % 2 * 16;
            unsigned from_a = of(row * 4 + pair)->a[e / 2 + 2 * half], from_b = of(column * 4 + pair)->b[half];
            sums[e] = fmaf(of_bf16(from_a >> shift & 0xffff), of_bf16(from_b >> shift & 0xffff), sums[e]);
        }
    }
    wait_for(Wait::Warp);
}

}  // namespace simt

#define MULTIPLY_ADD simt::multiply_add
#define threadIdx (simt::block->now->thread)
#define blockIdx (simt::block->index)
#define blockDim (simt::block->size)
#define gridDim (simt::block->grid)
#define __syncthreads() simt::wait_for(simt::Wait::Block)
#define SHARED(type, name, sizes)            \
    static char declaration_of_##name;       \
    typedef type name##_memory sizes;        \
    name##_memory &name = *(name##_memory *)simt::shared(&declaration_of_##name, sizeof(name##_memory))

template <class T>
T __shfl_sync(unsigned, T value, unsigned from) {
    return simt::shuffle(value, from);
}
static inline unsigned __umulhi(unsigned a, unsigned b) { return (unsigned)(((uint64_t)a * b) >> 32); }
template <class To, class From>
static inline To same_bits(From from) {
    To to;
    memcpy(&to, &from, sizeof(To));
    return to;
}
static inline float __int_as_float(int bits) { return same_bits<float>(bits); }
static inline float __uint_as_float(unsigned bits) { return same_bits<float>(bits); }
static inline int __float_as_int(float value) { return same_bits<int>(value); }
static inline unsigned __float_as_uint(float value) { return same_bits<unsigned>(value); }
