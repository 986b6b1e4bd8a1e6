// What changes from step to step, and what does not. README.md says how they fit together.

// A line of the table, as `Line` in line.rs writes it.
struct Step {
    // The stream of normals: that of group g has b = noise_b + g * noise_stride.
    u32 noise_key0, noise_key1, noise_b, noise_stride, noise_low, noise_high;
    // What is drawn for an image: b = its index | pass_mark.
    u32 pass_key0, pass_key1, pass_mark, pass_low, pass_high;
    // Positions in the order: the first of group 0, and one past the last of all groups.
    u32 start, end;
    u32 reserved;
    double beta;
    // Adam's factors; reciprocal is that of images where it is exact, else zero.
    float beta2, rest1, rest2, step_size, epsilon, images, reciprocal;
    u32 reserved2;
};

// Sizes, the same in every step. A group is a shard: `batch` rows each, of which the last ones have
// no image where the order ends. Each image has `samples` rows from z on.
struct Shape {
    int batch, groups, samples, pixels, hidden, latent;
};

// How many images a group has.
__device__ __forceinline__ int images_of(const Step &step, const Shape &shape, int group) {
    u64 first = (u64)step.start + (u64)group * shape.batch;
    if (first >= step.end) return 0;
    u64 left = step.end - first;
    return left < (u64)shape.batch ? (int)left : shape.batch;
}

__device__ __forceinline__ Stream noise_of(const Step &step, int group) {
    Stream stream = {step.noise_key0, step.noise_key1, step.noise_b + group * step.noise_stride,
                     step.noise_low, step.noise_high};
    return stream;
}
