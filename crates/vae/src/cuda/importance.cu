// The importance-weighted bound of several samples an image, as vae/src/importance.rs defines it.

// Normalised weights of an image's rows, and -log of the mean weight. A thread an image.
extern "C" __global__ void weigh(const Step *table, const u32 *cursor, Shape shape, const double *losses,
                                 const double *ratios, float *weights, double *bounds) {
    double beta = table[*cursor].beta;
    int image = blockIdx.x * blockDim.x + threadIdx.x, samples = shape.samples;
    if (image >= shape.batch * shape.groups) return;
    u64 first = (u64)image * samples;
    double largest = beta * ratios[first] - losses[first];
    for (int k = 1; k < samples; k++) {
        double weight = beta * ratios[first + k] - losses[first + k];
        largest = weight > largest ? weight : largest;
    }
    float total = 0.0f;
    for (int k = 0; k < samples; k++) {
        double weight = beta * ratios[first + k] - losses[first + k];
        weights[first + k] = exp_of((float)(weight - largest));
        total += weights[first + k];
    }
    for (int k = 0; k < samples; k++) weights[first + k] /= total;
    bounds[image] = -(largest + (double)ln_of(total / (float)samples));
}

// Multiplies every row of the output's gradient with its weight.
extern "C" __global__ void weigh_rows(Shape shape, const float *weights, float *gradient) {
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x;
    u64 count = (u64)shape.batch * shape.groups * shape.samples * shape.pixels;
    if (i < count) gradient[i] = weights[i / shape.pixels] * gradient[i];
}

// As `latent_gradient`, from the weighted gradients of all samples.
extern "C" __global__ void samples_gradient(const Step *table, const u32 *cursor, Shape shape, const float *dz,
                                            const float *noise, const float *stats, const float *deviation,
                                            const float *weights, float *d_stats) {
    float beta = (float)table[*cursor].beta;
    int L = shape.latent;
    u64 i = (u64)blockIdx.x * blockDim.x + threadIdx.x, image = i / L, l = i % L, at = image * 2 * L + l;
    if (i >= (u64)shape.batch * shape.groups * L) return;
    float mean = stats[at], s = deviation[i], d_mean = 0.0f, d_log_variance = -0.5f * beta;
    for (int sample = 0; sample < shape.samples; sample++) {
        u64 row = image * shape.samples + sample;
        float n = noise[row * L + l], pull = weights[row] * beta;
        float d = fmaf(pull, fmaf(s, n, mean), dz[row * L + l]);
        d_mean += d;
        d_log_variance += 0.5f * d * s * n;
    }
    d_stats[at] = d_mean;
    d_stats[at + L] = d_log_variance;
}
