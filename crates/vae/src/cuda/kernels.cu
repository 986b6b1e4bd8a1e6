// The VAE's elementwise passes and sums on a GPU: what `kernels.rs` does on a CPU.
//
// Every matrix is row-major with a row an image. All sums are added in an order that depends on
// the sizes alone, without atomics, so that the same GPU gives the same bits. NaN stays NaN.

#define WARP 32

// The sum over a block of at most 1,024 threads, for its first thread.
template <typename T> __device__ T block_sum(T value) {
    __shared__ T sums[WARP];
    int lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, warps = blockDim.x / WARP;
    for (int far = WARP / 2; far > 0; far /= 2) value += __shfl_down_sync(~0u, value, far);
    if (lane == 0) sums[warp] = value;
    __syncthreads();
    value = threadIdx.x < warps ? sums[threadIdx.x] : T(0);
    if (warp == 0)
        for (int far = WARP / 2; far > 0; far /= 2) value += __shfl_down_sync(~0u, value, far);
    return value;
}

// Adds what the rows of a 32 x 32 block hold of a column, and writes it for the column.
__device__ void write_column_sum(float value, float *out, int width) {
    __shared__ float sums[WARP][WARP + 1];
    sums[threadIdx.y][threadIdx.x] = value;
    __syncthreads();
    value = sums[threadIdx.x][threadIdx.y];
    for (int far = WARP / 2; far > 0; far /= 2) value += __shfl_down_sync(~0u, value, far);
    int column = blockIdx.x * WARP + threadIdx.y;
    if (threadIdx.x == 0 && column < width) out[column] = value;
}

extern "C" {

// Grey values as floats, 0 to 1.
__global__ void pixels(const unsigned char *grey, float *x, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count) x[i] = grey[i] / 255.0f;
}

// y = relu(y + b) for every row.
__global__ void add_bias_relu(float *y, const float *bias, int width, int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    float sum = y[i] + bias[i % width];
    y[i] = sum < 0.0f ? 0.0f : sum;
}

// A block an image: adds the bias to mean and log-variance, draws z, and sums the divergence.
__global__ void sample(float *stats, const float *bias, const float *noise, float *deviation,
                       float *z, float *divergence, int latent) {
    int row = blockIdx.x;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < latent; i += blockDim.x) {
        float *mean = stats + row * 2 * latent + i, *log_variance = mean + latent;
        *mean += bias[i];
        *log_variance += bias[latent + i];
        float s = expf(0.5f * *log_variance);
        deviation[row * latent + i] = s;
        z[row * latent + i] = *mean + s * noise[row * latent + i];
        sum += 0.5f * (*mean * *mean + s * s - 1.0f - *log_variance);
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) divergence[row] = sum;
}

// A block an image: sums the cross-entropy of the pixels, and turns the logits without their
// bias into their gradient.
__global__ void bernoulli(float *y, const float *bias, const float *x, float *loss, int width) {
    int row = blockIdx.x;
    float sum = 0.0f;
    for (int i = threadIdx.x; i < width; i += blockDim.x) {
        int place = row * width + i;
        float logit = y[place] + bias[i], e = expf(-fabsf(logit));
        sum += (logit > 0.0f ? logit : 0.0f) - logit * x[place] + log1pf(e);
        y[place] = (logit >= 0.0f ? 1.0f : e) / (1.0f + e) - x[place];
    }
    sum = block_sum(sum);
    if (threadIdx.x == 0) loss[row] = sum;
}

// One block: the sums over all images of loss, reconstruction and divergence.
__global__ void totals(const float *losses, const float *divergences, const float *beta,
                       double *sums, int rows) {
    double reconstruction = 0.0, divergence = 0.0;
    for (int row = threadIdx.x; row < rows; row += blockDim.x) {
        reconstruction += losses[row];
        divergence += divergences[row];
    }
    reconstruction = block_sum(reconstruction);
    __syncthreads();
    divergence = block_sum(divergence);
    if (threadIdx.x > 0) return;
    sums[0] = reconstruction + double(*beta) * divergence;
    sums[1] = reconstruction;
    sums[2] = divergence;
}

// Blocks of 32 x 32: the sums of columns, the gradient of a bias.
__global__ void column_sums(const float *d, float *out, int width, int rows) {
    int column = blockIdx.x * WARP + threadIdx.x;
    float sum = 0.0f;
    if (column < width)
        for (int row = threadIdx.y; row < rows; row += WARP) sum += d[row * width + column];
    write_column_sum(sum, out, width);
}

// Blocks of 32 x 32: zeroes the gradient where the activation is zero, and sums its columns.
__global__ void relu_backward(float *d, const float *activation, float *out, int width, int rows) {
    int column = blockIdx.x * WARP + threadIdx.x;
    float sum = 0.0f;
    if (column < width)
        for (int row = threadIdx.y; row < rows; row += WARP) {
            int place = row * width + column;
            float value = activation[place] > 0.0f ? d[place] : 0.0f;
            d[place] = value;
            sum += value;
        }
    write_column_sum(sum, out, width);
}

// The gradient of mean and log-variance, from that of z and from beta times the divergence.
__global__ void sample_backward(const float *dz, const float *noise, const float *stats,
                                const float *deviation, const float *beta, float *out, int latent,
                                int count) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count) return;
    int mean = i / latent * 2 * latent + i % latent;
    float s = deviation[i];
    out[mean] = dz[i] + *beta * stats[mean];
    out[mean + latent] = 0.5f * (dz[i] * noise[i] * s + *beta * (s * s - 1.0f));
}
}
