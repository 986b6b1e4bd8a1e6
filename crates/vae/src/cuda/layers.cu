// The layers, forward and back: each a product with what follows it. Matrices are row-major with a
// row an image (or a sample of one); `w` is [outputs, inputs].

struct Bias {
    float *out;
    const float *bias;
    int stride;
    bool relu;
    __device__ __forceinline__ void operator()(int m, int n, float y) const {
        float sum = y + bias[n];
        out[(u64)m * stride + n] = relu && sum < 0.0f ? 0.0f : sum;
    }
};

// The gradient of what a layer took in, where that was above zero.
struct Masked {
    float *out;
    const float *activation;
    int stride;
    __device__ __forceinline__ void operator()(int m, int n, float y) const {
        u64 i = (u64)m * stride + n;
        out[i] = !activation || activation[i] > 0.0f ? y : 0.0f;
    }
};

struct Bernoulli {
    float *gradient, *terms;
    const float *bias, *x;
    int stride, samples;
    __device__ __forceinline__ void operator()(int m, int n, float y) const {
        float pixel = x[(u64)(m / samples) * stride + n], logit = y + bias[n];
        float sigmoid, softplus;
        sigmoid_and_softplus(logit, sigmoid, softplus);
        terms[(u64)m * stride + n] = fmaf(-pixel, logit, softplus);
        gradient[(u64)m * stride + n] = sigmoid - pixel;
    }
};

struct Gaussian {
    float *gradient, *terms;
    const float *bias, *x;
    float precision;
    int stride, samples;
    __device__ __forceinline__ void operator()(int m, int n, float y) const {
        float error = y + bias[n] - x[(u64)(m / samples) * stride + n];
        terms[(u64)m * stride + n] = error * error;
        gradient[(u64)m * stride + n] = error * precision;
    }
};

// The first row and column of the block's tile; blocks go through a row of tiles first.
#define AT(BM, BN, columns) blockIdx.x / ((columns + BN - 1) / BN) * BM, blockIdx.x % ((columns + BN - 1) / BN) * BN

// One kernel for each tile: BM x BN elements a block.
#define LAYERS(NAME, TILE, BM, BN, THREADS)                                                              \
    /* out = x w' + bias, [rows, outputs]; with relu, zero below zero. */                                \
    extern "C" __global__ void __launch_bounds__(THREADS) layer_##NAME(                                  \
        const float *x, const float *w, const float *bias, float *out, int rows, int outputs,            \
        int inputs, int relu) {                                                                          \
        Rows a = {x, inputs}, b = {w, inputs};                                                           \
        Bias then = {out, bias, outputs, relu != 0};                                                     \
        TILE::product(a, b, then, AT(BM, BN, outputs), rows, outputs, inputs);                             \
    }                                                                                                    \
    /* out = d w, [rows, inputs], zero where `activation` (if any) is not above zero. */                 \
    extern "C" __global__ void __launch_bounds__(THREADS) input_gradient_##NAME(                         \
        const float *d, const float *w, const float *activation, float *out, int rows, int inputs,       \
        int outputs) {                                                                                   \
        Rows a = {d, outputs};                                                                           \
        Columns b = {w, inputs};                                                                         \
        Masked then = {out, activation, inputs};                                                         \
        TILE::product(a, b, then, AT(BM, BN, inputs), rows, inputs, outputs);                              \
    }                                                                                                    \
    /* The last layer and -log p(x|z): `terms` of it and its gradient, each [rows, pixels]. */           \
    extern "C" __global__ void __launch_bounds__(THREADS) bernoulli_##NAME(                              \
        const float *h, const float *w, const float *bias, const float *x, float *gradient,              \
        float *terms, int rows, int pixels, int inputs, int samples) {                                   \
        Rows a = {h, inputs}, b = {w, inputs};                                                           \
        Bernoulli then = {gradient, terms, bias, x, pixels, samples};                                    \
        TILE::product(a, b, then, AT(BM, BN, pixels), rows, pixels, inputs);                               \
    }                                                                                                    \
    extern "C" __global__ void __launch_bounds__(THREADS) gaussian_##NAME(                               \
        const float *h, const float *w, const float *bias, const float *log_variance, const float *x,    \
        float *gradient, float *terms, int rows, int pixels, int inputs, int samples) {                  \
        Rows a = {h, inputs}, b = {w, inputs};                                                           \
        Gaussian then = {gradient, terms, bias, x, exp_of(-*log_variance), pixels, samples};             \
        TILE::product(a, b, then, AT(BM, BN, pixels), rows, pixels, inputs);                               \
    }

LAYERS(small, Small, 16, 16, 512)
LAYERS(large, Large, 128, 64, 256)
LAYERS(bf16_small, TensorSmall, 32, 32, 128)
LAYERS(bf16_large, TensorLarge, 128, 64, 256)
