// The hash of each block of a vector, as model/src/digest.rs has it: XXH3-128 of a block's bytes, which are
// more than 240. `keys` are those that digest.rs lays out: 24 of the stripes, then 8 each of the last stripe
// and of both halves of the result. A block has eight threads, one for each accumulator of the hash.

// The product's halves, one XOR the other.
__device__ __forceinline__ u64 folded_product(u64 a, u64 b) {
    u64 a0 = a & 0xffffffffu, a1 = a >> 32, b0 = b & 0xffffffffu, b1 = b >> 32;
    u64 low = a0 * b0, middle = a1 * b0 + (low >> 32), carried = a0 * b1 + (middle & 0xffffffffu);
    u64 high = a1 * b1 + (middle >> 32) + (carried >> 32);
    return high ^ (a * b);
}

// Two floats as one number of 64 bits.
__device__ __forceinline__ u64 bits_of_two(const float *values) {
    return (u64)__float_as_uint(values[0]) | (u64)__float_as_uint(values[1]) << 32;
}

extern "C" __global__ void __launch_bounds__(32) hashes(const float *vector, u32 length, const u64 *keys, u32 blocks,
                                                        u64 *hashes) {
    const u32 BLOCK = 1 << 14, STRIPE = 16;
    const u64 PRIME1 = 0x9e3779b185ebca87u, PRIME2 = 0xc2b2ae3d27d4eb4fu, PRIME3 = 0x165667b19e3779f9u;
    const u64 PRIME4 = 0x85ebca77c2b2ae63u, PRIME5 = 0x27d4eb2f165667c5u;
    const u64 SMALL1 = 0x9e3779b1u, SMALL2 = 0x85ebca77u, SMALL3 = 0xc2b2ae3du;
    SHARED(u64, sums, [32]);
    u32 block = blockIdx.x * 4 + threadIdx.x / 8, lane = threadIdx.x % 8;
    u64 bytes = 0;
    if (block < blocks) {
        u32 first = block * BLOCK, floats = length - first < BLOCK ? length - first : BLOCK;
        const float *values = vector + first, *last = values + floats - STRIPE;
        u32 own = 2 * lane, other = 2 * (lane ^ 1);
        u64 sum = lane == 0 ? SMALL3 : lane == 1 ? PRIME1 : lane == 2 ? PRIME2 : lane == 3 ? PRIME3
                : lane == 4 ? PRIME4 : lane == 5 ? SMALL2 : lane == 6 ? PRIME5 : SMALL1;
        bytes = (u64)floats * sizeof(float);
        u32 stripes = (u32)((bytes - 1) / 64);
#pragma unroll 2
        for (u32 stripe = 0; stripe < stripes; stripe++) {
            const float *here = values + stripe * STRIPE;
            u64 key = bits_of_two(here + own) ^ keys[stripe % 16 + lane];
            sum += bits_of_two(here + other) + (key & 0xffffffffu) * (key >> 32);
            if (stripe % 16 == 15) sum = (sum ^ (sum >> 47) ^ keys[16 + lane]) * SMALL1;
        }
        u64 key = bits_of_two(last + own) ^ keys[24 + lane];
        sum += bits_of_two(last + other) + (key & 0xffffffffu) * (key >> 32);
        sums[threadIdx.x] = sum;
    }
    __syncthreads();
    if (block >= blocks || lane > 1) return;
    const u64 *merged = sums + threadIdx.x / 8 * 8, *with = keys + 32 + 8 * lane;
    u64 hash = lane == 0 ? bytes * PRIME1 : ~(bytes * PRIME2);
#pragma unroll 1
    for (u32 i = 0; i < 8; i += 2) hash += folded_product(merged[i] ^ with[i], merged[i + 1] ^ with[i + 1]);
    hash = (hash ^ (hash >> 37)) * 0x165667919e3779f9u;
    hashes[2 * block + lane] = hash ^ (hash >> 32);
}
