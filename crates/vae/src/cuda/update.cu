// The squares of a gradient's sum, as model/src/norm.rs adds them: a warp a block of 2^14 floats.
extern "C" __global__ void squares(const float *sum, u32 length, double *blocks) {
    const u32 BLOCK = 1 << 14, LANES = 32;
    u32 first = blockIdx.x * BLOCK, end = length - first < BLOCK ? length : first + BLOCK;
    double squares = 0.0;
    for (u32 i = first + threadIdx.x; i < end; i += LANES) squares += (double)sum[i] * (double)sum[i];
    for (u32 width = LANES / 2; width > 0; width /= 2) {
        double other = __shfl_sync(~0u, squares, (threadIdx.x + width) % LANES);
        if (threadIdx.x < width) squares += other;
    }
    if (threadIdx.x == 0) blocks[blockIdx.x] = squares;
}

// The norm of the sum, to the cursor's line of `norms`, and the factor that shortens the mean to the norm
// `allowed`, if it is longer; NaN allows any. One thread.
extern "C" __global__ void clip(const Step *table, const u32 *cursor, const double *blocks, u32 count,
                                double allowed, double *norms, float *factor) {
    double sum = 0.0;
    for (u32 i = 0; i < count; i++) sum += blocks[i];
    double norm = sqrt(sum), mean = norm / (double)table[*cursor].images;
    norms[*cursor] = norm;
    *factor = mean > allowed ? (float)(allowed / mean) : 1.0f;
}

// Adam, as model/src/adam.rs defines it, on the sum of all partials along the tree. A member that is
// alone gives its shards' gradients as the leaves; several give everybody's partials. `factor` shortens
// the sum, where there is one. Nothing is done after `stopped` was set. A thread an element.

__device__ __forceinline__ float normal_or_zero(float x) { return fabsf(x) < 1.17549435e-38f ? 0.0f : x; }

extern "C" __global__ void update(const Step *table, const u32 *cursor, const float *leaves, const u8 *merges,
                                  int count, u32 length, float *p, float *mean, float *square,
                                  const float *factor, const u32 *stopped) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= length || (stopped && *stopped)) return;
    const Step &step = table[*cursor];
    float sum = leaves[i];
    if (count > 1) {
        float stack[STACK];
        sum_along_tree(leaves + i, length, merges, count, stack);
        sum = stack[0];
    }
    if (factor) sum = sum * *factor;
    float g = step.reciprocal != 0.0f ? sum * step.reciprocal : sum / step.images;
    float m = mean[i], v = square[i];
    m = normal_or_zero(fmaf(g - m, step.rest1, m));
    v = normal_or_zero(fmaf(g * step.rest2, g, v * step.beta2));
    p[i] = p[i] - step.step_size * m / (sqrtf(v) + step.epsilon);
    mean[i] = m;
    square[i] = v;
}
