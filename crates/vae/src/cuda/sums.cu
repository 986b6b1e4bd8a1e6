// Sums of losses, of rows, groups and the shard tree; the update is in update.cu.

// -log p(x|z) of every row, from its terms: pieces of 1024, in each 16 lanes. A half-warp a row. For the
// gaussian, `log_variance` is where that is; else null.
extern "C" __global__ void losses(const float *terms, const float *log_variance, double *losses, int rows,
                                  int pixels) {
    const double LN_TAU = 1.8378770664093453;
    int row = (blockIdx.x * blockDim.x + threadIdx.x) / 16, lane = threadIdx.x % 16;
    const float *of_row = terms + (u64)row * pixels;
    double loss = 0.0;
    for (int piece = 0; piece < pixels; piece += 1024) {
        int end = piece + 1024 < pixels ? piece + 1024 : pixels;
        float sum = 0.0f;
        if (row < rows)
            for (int i = piece + lane; i < end; i += 16) sum += of_row[i];
        loss += sum_of_lanes(sum);
    }
    if (row >= rows || lane != 0) return;
    if (log_variance) {
        double precision = (double)exp_of(-*log_variance);
        double constant = (double)pixels * ((double)*log_variance + LN_TAU);
        loss = 0.5 * (loss * precision + constant);
    }
    losses[row] = loss;
}

// The tree of a member's shards, or of all members' partials, as a stack machine reads it: leaf i is
// pushed, then the two uppermost are added merges[i] times. What is left are the sums of the maximal
// nodes, in order. A tree of 2^31 leaves needs no more than this.
const int STACK = 32;

// The sum of `count` numbers in ascending order; they are fetched ahead, 256 at a time, by the block.
__device__ __forceinline__ double sum_in_order(const double *values, int count) {
    SHARED(double, held, [256]);
    double sum = -0.0;
    for (int first = 0; first < count; first += 256) {
        int n = count - first < 256 ? count - first : 256;
        __syncthreads();
        if ((int)threadIdx.x < n) held[threadIdx.x] = values[first + threadIdx.x];
        __syncthreads();
        if (threadIdx.x == 0)
            for (int i = 0; i < n; i++) sum += held[i];
    }
    return sum;
}

// The loss, the reconstruction and the divergence of each of the nodes, [nodes, 3], to the cursor's line
// of `sums`. A loss that is not finite sets `stopped`, where there is one. One block of 256.
extern "C" __global__ void __launch_bounds__(256) totals(const Step *table, const u32 *cursor, Shape shape,
                                                         const double *losses, const double *divergences,
                                                         const double *bounds, const u8 *merges, int nodes,
                                                         double *sums, u32 *stopped) {
    u32 line = *cursor;
    const Step &step = table[line];
    double stack[STACK][3];
    int top = 0;
    for (int group = 0; group < shape.groups; group++) {
        int images = images_of(step, shape, group);
        u64 first = (u64)group * shape.batch;
        double divergence = sum_in_order(divergences + first, images);
        double rows = sum_in_order(losses + first * shape.samples, images * shape.samples);
        double reconstruction = rows / (double)shape.samples, loss = reconstruction + step.beta * divergence;
        if (shape.samples > 1) loss = sum_in_order(bounds + first, images);
        stack[top][0] = loss;
        stack[top][1] = reconstruction;
        stack[top][2] = divergence;
        top++;
        for (int n = merges[group]; n > 0; n--) {
            top--;
            for (int t = 0; t < 3; t++) stack[top - 1][t] = stack[top - 1][t] + stack[top][t];
        }
    }
    if (threadIdx.x != 0) return;
    for (int node = 0; node < nodes; node++)
        for (int t = 0; t < 3; t++) sums[((u64)line * nodes + node) * 3 + t] = stack[node][t];
    if (stopped && !(stack[0][0] - stack[0][0] == 0.0)) *stopped = 1;
}

// Moves the cursor to the next of so many lines, and from the last to the first. One thread.
extern "C" __global__ void advance(u32 *cursor, u32 lines) { *cursor = (*cursor + 1) % lines; }

// Pushes the element of each leaf and adds along the tree; gives how many nodes are left.
__device__ __forceinline__ int sum_along_tree(const float *leaves, u64 length, const u8 *merges, int count,
                                              float stack[STACK]) {
    int top = 0;
    for (int leaf = 0; leaf < count; leaf++) {
        stack[top++] = leaves[leaf * length];
        for (int n = merges[leaf]; n > 0; n--) {
            top--;
            stack[top - 1] = stack[top - 1] + stack[top];
        }
    }
    return top;
}

// partials[node] = the gradients' sum of each maximal node, for the other members. A thread an element.
extern "C" __global__ void partials(const float *gradients, const u8 *merges, int groups, u32 length,
                                    float *partials) {
    u32 i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= length) return;
    float stack[STACK];
    int nodes = sum_along_tree(gradients + i, length, merges, groups, stack);
    for (int node = 0; node < nodes; node++) partials[(u64)node * length + i] = stack[node];
}
