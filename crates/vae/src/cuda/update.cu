// Adam, as model/src/adam.rs defines it, on the sum of all partials along the tree. A member that is
// alone gives its shards' gradients as the leaves; several give everybody's partials. A thread an element.

__device__ __forceinline__ float normal_or_zero(float x) { return fabsf(x) < 1.17549435e-38f ? 0.0f : x; }

extern "C" __global__ void update(const Step *table, const u32 *cursor, const float *leaves, const u8 *merges,
                                  int count, u32 length, float *p, float *mean, float *square) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= length) return;
    const Step &step = table[*cursor];
    float sum = leaves[i];
    if (count > 1) {
        float stack[STACK];
        sum_along_tree(leaves + i, length, merges, count, stack);
        sum = stack[0];
    }
    float g = step.reciprocal != 0.0f ? sum * step.reciprocal : sum / step.images;
    float m = mean[i], v = square[i];
    m = normal_or_zero(fmaf(g - m, step.rest1, m));
    v = normal_or_zero(fmaf(g * step.rest2, g, v * step.beta2));
    p[i] = p[i] - step.step_size * m / (sqrtf(v) + step.epsilon);
    mean[i] = m;
    square[i] = v;
}
