// The matrix product of ARITHMETIC.md, for any sizes: chunks of 128 terms, each a chain of fused
// multiply-adds from +0, and the chunks' sums added in order from +0.
//
// A block computes BM x BN elements. Its threads form groups of (BM / TM) x (BN / TN), each of which
// computes all elements' sums of a chunk of its own; the first group adds them up in the order of the
// chunks. Terms beyond the last are zero: that changes a sum only from -0 to +0, as a chunk's sum
// does when it is added.

const int CHUNK = 128;

// Where the element (i, k) of a factor is: `data[i * side + k * depth]`. One of the two strides is 1,
// and DEPTH_FIRST says that it is that of k.
template <bool DEPTH_FIRST>
struct Factor {
    const float *data;
    int stride;
    __device__ __forceinline__ float at(int i, int k) const {
        return DEPTH_FIRST ? data[(u64)i * stride + k] : data[(u64)k * stride + i];
    }
};
typedef Factor<true> Rows;
typedef Factor<false> Columns;

// Copies a tile's side of SIDE x DEPTH elements by way of registers, THREADS threads together.
template <int SIDE, int DEPTH, int THREADS, bool DEPTH_FIRST>
struct Copy {
    static const int COUNT = (SIDE * DEPTH + THREADS - 1) / THREADS;
    float held[COUNT];

    __device__ __forceinline__ void place(int i, int thread, int &side, int &depth) const {
        int e = thread + i * THREADS;
        side = DEPTH_FIRST ? e / DEPTH : e % SIDE;
        depth = DEPTH_FIRST ? e % DEPTH : e / SIDE;
    }
    __device__ __forceinline__ void fetch(const Factor<DEPTH_FIRST> &factor, int thread, int first, int sides,
                                          int begin, int end) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            int side, depth;
            place(i, thread, side, depth);
            bool is_there = side < SIDE && depth < DEPTH && first + side < sides && begin + depth < end;
            held[i] = is_there ? factor.at(first + side, begin + depth) : 0.0f;
        }
    }
    template <int STRIDE>
    __device__ __forceinline__ void store(float (*to)[STRIDE], int thread) const {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            int side, depth;
            place(i, thread, side, depth);
            if (side < SIDE && depth < DEPTH) to[depth][side] = held[i];
        }
    }
};

// N numbers from shared memory, in as few loads as they allow.
template <int N>
__device__ __forceinline__ void load(const float *from, float *to) {
    if (N % 4 == 0) {
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            float4 four = *(const float4 *)(from + i);
            to[i] = four.x;
            to[i + 1] = four.y;
            to[i + 2] = four.z;
            to[i + 3] = four.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i < N; i++) to[i] = from[i];
    }
}

// The sizes of a tile: BK terms are fetched at a time, and up to GROUPS chunks are computed together.
template <int BM, int BN, int BK, int TM, int TN, int GROUPS>
struct Tile {
    static const int ACROSS = BN / TN, THREADS = BM / TM * ACROSS;
    static const int STRIDE_M = BM + (TM % 4 == 0 ? 4 : 2), STRIDE_N = BN + (TN % 4 == 0 ? 4 : 2);

    // Calls `out(m, n, element)` for the elements of a's rows from m0 and b's from n0 on, of M and N.
    template <bool A_DEPTH_FIRST, bool B_DEPTH_FIRST, class Out>
    static __device__ __forceinline__ void product(const Factor<A_DEPTH_FIRST> &a, const Factor<B_DEPTH_FIRST> &b,
                                                   const Out &out, int m0, int n0, int M, int N, int K) {
        SHARED(float, as, [GROUPS][BK][STRIDE_M]);
        SHARED(float, bs, [GROUPS][BK][STRIDE_N]);
        SHARED(float, parts, [GROUPS > 1 ? GROUPS - 1 : 1][GROUPS > 1 ? TM * TN : 1][THREADS]);
        int group = GROUPS > 1 ? threadIdx.x / THREADS : 0, groups = GROUPS > 1 ? blockDim.x / THREADS : 1;
        int thread = GROUPS > 1 ? threadIdx.x % THREADS : threadIdx.x;
        int tm = thread / ACROSS * TM, tn = thread % ACROSS * TN;
        Copy<BM, BK, THREADS, A_DEPTH_FIRST> copy_a;
        Copy<BN, BK, THREADS, B_DEPTH_FIRST> copy_b;
        float total[TM][TN], sum[TM][TN];
#pragma unroll
        for (int i = 0; i < TM; i++)
#pragma unroll
            for (int j = 0; j < TN; j++) total[i][j] = 0.0f;

        for (int first = 0; first < K; first += groups * CHUNK) {
            int begin = first + group * CHUNK, end = begin + CHUNK < K ? begin + CHUNK : K;
            int terms = K - first < CHUNK ? K - first : CHUNK;
#pragma unroll
            for (int i = 0; i < TM; i++)
#pragma unroll
                for (int j = 0; j < TN; j++) sum[i][j] = 0.0f;
            copy_a.fetch(a, thread, m0, M, begin, end);
            copy_b.fetch(b, thread, n0, N, begin, end);
            for (int done = 0; done < terms; done += BK) {
                __syncthreads();
                copy_a.store(as[group], thread);
                copy_b.store(bs[group], thread);
                __syncthreads();
                if (done + BK < terms) {
                    copy_a.fetch(a, thread, m0, M, begin + done + BK, end);
                    copy_b.fetch(b, thread, n0, N, begin + done + BK, end);
                }
#pragma unroll
                for (int k = 0; k < BK; k++) {
                    float va[TM], vb[TN];
                    load<TM>(&as[group][k][tm], va);
                    load<TN>(&bs[group][k][tn], vb);
#pragma unroll
                    for (int i = 0; i < TM; i++)
#pragma unroll
                        for (int j = 0; j < TN; j++) sum[i][j] = fmaf(va[i], vb[j], sum[i][j]);
                }
            }
            if (GROUPS > 1 && groups > 1) {
                if (group > 0) {
#pragma unroll
                    for (int i = 0; i < TM; i++)
#pragma unroll
                        for (int j = 0; j < TN; j++) parts[group - 1][i * TN + j][thread] = sum[i][j];
                }
                __syncthreads();
            }
            if (group == 0) {
#pragma unroll
                for (int i = 0; i < TM; i++)
#pragma unroll
                    for (int j = 0; j < TN; j++) {
                        total[i][j] = total[i][j] + sum[i][j];
                        if (GROUPS > 1)
                            for (int g = 1; g < groups && first + g * CHUNK < K; g++)
                                total[i][j] = total[i][j] + parts[g - 1][i * TN + j][thread];
                    }
            }
        }
        if (group > 0) return;
#pragma unroll
        for (int i = 0; i < TM; i++)
#pragma unroll
            for (int j = 0; j < TN; j++)
                if (m0 + tm + i < M && n0 + tn + j < N) out(m0 + tm + i, n0 + tn + j, total[i][j]);
    }
};

// For few rows: all chunks of up to 1024 terms at once, so that a product takes as long as one chunk.
typedef Tile<16, 16, 32, 2, 2, 8> Small;
// For weights' gradients, whose chains are as long as a shard has rows.
typedef Tile<64, 64, 16, 4, 4, 1> Medium;
// For many rows.
typedef Tile<128, 64, 16, 8, 4, 1> Large;
