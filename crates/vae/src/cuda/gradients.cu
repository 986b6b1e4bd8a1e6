// The gradients of all parameters, of all groups in one launch.

// A layer: its output's gradient and its input, in rows; `rows` of them for each image. The places of
// weight and bias are in the gradient. `first_tile` counts the tiles of the layers before.
struct Layer {
    const float *d, *x;
    u32 weight, bias, outputs, inputs, first_tile, rows;
};

struct Write {
    float *out;
    int stride;
    __device__ __forceinline__ void operator()(int m, int n, float y) const { out[(u64)m * stride + n] = y; }
};

// The sum of a column of `rows` numbers, in ascending order. Loads do not wait for additions.
__device__ __forceinline__ float column_sum(const float *d, int stride, int rows) {
    const int AHEAD = 8;
    float sum = 0.0f, held[AHEAD];
    for (int first = 0; first < rows; first += AHEAD) {
#pragma unroll
        for (int i = 0; i < AHEAD; i++) held[i] = first + i < rows ? d[(u64)(first + i) * stride] : 0.0f;
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (first + i < rows) sum += held[i];
    }
    return sum;
}

// blockIdx.y is the group, whose gradient is gradient[group * length ..]. The first blocks are tiles of
// the weights, 64 x 64; `tiles` counts them. Those after them are biases, 256 to a block, layer by layer,
// as many blocks as the widest layer needs for each.
template <class Tile>
__device__ __forceinline__ void gradients(const Step *table, const u32 *cursor, Shape shape, const Layer *layers,
                                          int tiles, int bias_blocks, float *gradient, u32 length) {
    int group = blockIdx.y, block = blockIdx.x, images = images_of(table[*cursor], shape, group);
    gradient += (u64)group * length;
    if (block >= tiles) {
        const Layer &layer = layers[(block - tiles) / bias_blocks];
        u32 output = (block - tiles) % bias_blocks * 256 + threadIdx.x;
        if (output >= layer.outputs) return;
        const float *d = layer.d + (u64)group * shape.batch * layer.rows * layer.outputs + output;
        gradient[layer.bias + output] = column_sum(d, layer.outputs, images * layer.rows);
        return;
    }
    int which = 0;
    while (which < 5 && block >= (int)layers[which + 1].first_tile) which++;
    const Layer &layer = layers[which];
    int tile = block - layer.first_tile, across = (layer.inputs + 63) / 64;
    u64 first = (u64)group * shape.batch * layer.rows;
    Columns a = {layer.d + first * layer.outputs, (int)layer.outputs};
    Columns b = {layer.x + first * layer.inputs, (int)layer.inputs};
    Write then = {gradient + layer.weight, (int)layer.inputs};
    Tile::product(a, b, then, tile / across * 64, tile % across * 64, layer.outputs, layer.inputs,
                  images * layer.rows);
}

#define GRADIENTS(NAME, TILE)                                                                                  \
    extern "C" __global__ void __launch_bounds__(256, 1) NAME(                                                 \
        const Step *table, const u32 *cursor, Shape shape, const Layer *layers, int tiles, int bias_blocks,    \
        float *gradient, u32 length) {                                                                         \
        gradients<TILE>(table, cursor, shape, layers, tiles, bias_blocks, gradient, length);                   \
    }

GRADIENTS(parameter_gradients, Medium)
GRADIENTS(bf16_gradients, TensorMedium)

// That of the gaussian's log-variance: a block a group, one thread.
extern "C" __global__ void log_variance_gradient(const Step *table, const u32 *cursor, Shape shape,
                                                 const float *log_variance, const double *losses,
                                                 const float *weights, float *gradient, u32 place, u32 length) {
    const double LN_TAU = 1.8378770664093453;
    int group = blockIdx.x, images = images_of(table[*cursor], shape, group);
    double constant = (double)shape.pixels * ((double)*log_variance + LN_TAU), sum = -0.0;
    u64 first = (u64)group * shape.batch * shape.samples;
    for (int row = 0; row < images * shape.samples; row++) {
        double of_row = 0.5 * ((double)shape.pixels + constant) - losses[first + row];
        sum += shape.samples == 1 ? of_row : (double)weights[first + row] * of_row;
    }
    gradient[(u64)group * length + place] = (float)sum;
}
