// The kernels of the VAE, compiled as C++, and some that are wrong on purpose.
#include "kernels.hpp"

#include <map>
#include <string>
#include <tuple>

#include "step.cu"

// Two kernels without their barriers: faults that the tests must find.
namespace planted {
#undef __syncthreads
#define __syncthreads() ((void)0)
#define hashes racing_hashes
#include "product.cuh"
#include "digest.cu"
#undef hashes
#undef __syncthreads
#define __syncthreads() simt::wait_for(simt::Wait::Block)
}  // namespace planted

// `layer_small` with a race.
static void racing_layer_small(const float *x, const float *w, const float *bias, float *out, int rows, int outputs,
                               int inputs, int relu) {
    planted::Rows a = {x, inputs}, b = {w, inputs};
    Bias then = {out, bias, outputs, relu != 0};
    planted::Small::product(a, b, then, AT(16, 16, outputs), rows, outputs, inputs);
}

// `advance`, which also writes behind the last line of the table.
static void overrunning_advance(unsigned *cursor, int lines) {
    cursor[2 + lines * sizeof(Step) / sizeof(unsigned)] = 0;
    advance(cursor, lines);
}

template <class... A, size_t... I>
static std::function<void()> defer(void (*function)(A...), void **arguments, Launch launch,
                                   std::index_sequence<I...>) {
    auto copies = std::make_tuple(*(A *)arguments[I]...);
    return [=] { simt::launch(launch.grid, launch.block, [&] { std::apply(function, copies); }); };
}

template <class... A>
static Kernel kernel(void (*function)(A...)) {
    return [=](void **arguments, Launch launch) {
        return defer(function, arguments, launch, std::index_sequence_for<A...>{});
    };
}

#define KERNEL(name) {#name, kernel(name)}
#define TILED(name) KERNEL(name##_small), KERNEL(name##_large)

const Kernel *kernel_named(const char *name) {
    static std::map<std::string, Kernel> kernels = {
        TILED(layer), TILED(input_gradient), TILED(bernoulli), TILED(gaussian), TILED(layer_bf16),
        TILED(input_gradient_bf16), TILED(bernoulli_bf16), TILED(gaussian_bf16), KERNEL(bf16_gradients),
        KERNEL(gather), KERNEL(latent),
        KERNEL(latent_gradient), KERNEL(weigh), KERNEL(weigh_rows), KERNEL(samples_gradient),
        KERNEL(parameter_gradients), KERNEL(log_variance_gradient), KERNEL(losses), KERNEL(totals), KERNEL(advance),
        KERNEL(partials), KERNEL(squares), KERNEL(clip), KERNEL(update), KERNEL(hashes),
    };
    // A racing kernel replaces the correct kernel if a test asks for it.
    static std::map<std::string, Kernel> racing = {
        {"layer_small", kernel(racing_layer_small)}, {"hashes", kernel(planted::racing_hashes)}};
    const char *race = getenv("EMULATED_GPU_RACE");
    if (race && std::string(race) == name && racing.count(name)) return &racing[name];
    const char *overrun = getenv("EMULATED_GPU_OVERRUN");
    static Kernel overrunning = kernel(overrunning_advance);
    if (overrun && std::string(overrun) == name) return &overrunning;
    auto found = kernels.find(name);
    return found == kernels.end() ? nullptr : &found->second;
}
