// Pixels, latents and the KL divergence, forward and back.

// x[row] = the pixels of the image in that row, 0 to 1; zeros where the group has none. With
// binarize, each is black or white as this pass draws it. A thread: four pixels.
extern "C" __global__ void gather(const Step *table, const u32 *cursor, Shape shape, const u8 *images,
                                  const u32 *order, int binarize, float *x) {
    const Step &step = table[*cursor];
    int fours = (shape.pixels + 3) / 4;
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    int row = (int)(i / fours), first = (int)(i % fours) * 4;
    if (row >= shape.batch * shape.groups) return;
    bool is_there = row % shape.batch < images_of(step, shape, row / shape.batch);
    u32 image = is_there ? order[step.start + row] : 0;
    u32 words[4] = {0, 0, 0, 0};
    if (binarize && is_there) {
        Stream stream = {step.pass_key0, step.pass_key1, image | step.pass_mark, step.pass_low,
                         step.pass_high};
        philox(stream, first / 4, words);
    }
#pragma unroll
    for (int k = 0; k < 4; k++) {
        if (first + k >= shape.pixels) return;
        u32 grey = is_there ? images[(u64)image * shape.pixels + first + k] : 0;
        if (binarize) grey = (u64)words[k] * 255 < (u64)grey << 32 ? 255 : 0;
        x[(u64)row * shape.pixels + first + k] = (float)grey / 255.0f;
    }
}

// The sum of 16 lanes, in ascending order; a lane is a thread of a half-warp.
__device__ __forceinline__ double sum_of_lanes(float lane) {
    double sum = -0.0;
#pragma unroll
    for (int i = 0; i < 16; i++) sum += (double)__shfl_sync(0xffffffffu, lane, threadIdx.x % 32 / 16 * 16 + i);
    return sum;
}

// From the encoder's output, [images, 2 latent], mean then log-variance: deviation, noise and z, and
// the KL divergence of each image; with several samples, log p(z) - log q(z|x) of each. A half-warp an
// image.
extern "C" __global__ void latent(const Step *table, const u32 *cursor, Shape shape, const float *stats,
                                  float *deviation, float *noise, float *z, double *divergences,
                                  double *ratios) {
    const Step &step = table[*cursor];
    int image = (blockIdx.x * blockDim.x + threadIdx.x) / 16, lane = threadIdx.x % 16;
    int L = shape.latent;
    bool is_there = image < shape.batch * shape.groups;
    const float *mean = stats + (u64)image * 2 * L, *log_variance = mean + L;
    float sum = 0.0f;
    if (is_there) {
        for (int l = lane; l < L; l += 16) {
            float s = exp_of(0.5f * log_variance[l]);
            deviation[(u64)image * L + l] = s;
            float variance_part = fmaf(s, s, -1.0f) - log_variance[l];
            sum += 0.5f * fmaf(mean[l], mean[l], variance_part);
        }
    }
    double divergence = sum_of_lanes(sum);
    if (is_there && lane == 0) divergences[image] = divergence;

    Stream stream = noise_of(step, image / shape.batch);
    for (int sample = 0; sample < shape.samples; sample++) {
        sum = 0.0f;
        u64 row = (u64)image * shape.samples + sample;
        u64 drawn = ((u64)(image % shape.batch) * shape.samples + sample) * L;
        if (is_there) {
            for (int l = lane; l < L; l += 16) {
                float n = normal_at(stream, drawn + l), s = exp_of(0.5f * log_variance[l]);
                float exact = fmaf(s, n, mean[l]);
                noise[row * L + l] = n;
                z[row * L + l] = exact;
                float squares = fmaf(n, n, -(exact * exact));
                sum += 0.5f * (squares + log_variance[l]);
            }
        }
        if (shape.samples > 1) {
            double ratio = sum_of_lanes(sum);
            if (is_there && lane == 0) ratios[row] = ratio;
        }
    }
}

// The gradient of the encoder's output, from that of z and from beta times the KL divergence. A
// thread: a latent of an image.
extern "C" __global__ void latent_gradient(const Step *table, const u32 *cursor, Shape shape, const float *dz,
                                           const float *noise, const float *stats, const float *deviation,
                                           float *d_stats) {
    float beta = (float)table[*cursor].beta;
    int L = shape.latent;
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x, at = i / L * 2 * L + i % L;
    if (i >= (u64)shape.batch * shape.groups * L) return;
    float s = deviation[i];
    float divergence = beta * fmaf(s, s, -1.0f);
    d_stats[at] = fmaf(beta, stats[at], dz[i]);
    d_stats[at + L] = 0.5f * fmaf(dz[i] * noise[i], s, divergence);
}
