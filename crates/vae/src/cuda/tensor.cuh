// The matrix product of bf16, for any sizes, by the GPU's tensor cores: both factors are rounded to bf16, and
// the sums are f32. An element begins with +0 and takes its terms in ascending order, 16 at a time; in which
// order a tensor core adds these 16, and how it rounds, is its own affair. So all tiles and sizes give an
// element the same bits, and so do all GPUs of one kind, but another kind may give others.
//
// A block computes BM x BN elements, and a warp of it BM / DOWN x BN / ACROSS of them. Terms beyond the last
// are zero.

// sums += a b, by a warp: 16 x 16 elements by 16 x 8. A word has two of a row of a, or of a column of b, the
// first one in its lower half. PTX says for mma.m16n8k16 which lane has which.
#ifndef MULTIPLY_ADD
#define MULTIPLY_ADD multiply_add
__device__ __forceinline__ void multiply_add(float *sums, const u32 *a, const u32 *b) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
#endif

// The nearest number in bf16, ties to even; as model/src/bf16.rs has it.
__device__ __forceinline__ u32 bf16_of(float x) {
    u32 bits = __float_as_uint(x), upper = bits >> 16;
    return x != x ? upper | 0x40 : (bits + 0x7fff + (upper & 1)) >> 16;
}

// Copies SIDE x 2 WORDS elements by way of registers, THREADS threads together; in shared memory a row is a
// side.
template <int SIDE, int WORDS, int THREADS, bool DEPTH_FIRST>
struct CopyPairs {
    static const int COUNT = SIDE * WORDS / THREADS;
    float held[COUNT][2];

    __device__ __forceinline__ void place(int i, int thread, int &side, int &word) const {
        int e = thread + i * THREADS;
        side = DEPTH_FIRST ? e / WORDS : e % SIDE;
        word = DEPTH_FIRST ? e % WORDS : e / SIDE;
    }
    __device__ __forceinline__ void fetch(const Factor<DEPTH_FIRST> &factor, int thread, int first, int sides,
                                          int begin, int end) {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            int side, word;
            place(i, thread, side, word);
#pragma unroll
            for (int p = 0; p < 2; p++) {
                int depth = begin + 2 * word + p;
                held[i][p] = first + side < sides && depth < end ? factor.at(first + side, depth) : 0.0f;
            }
        }
    }
    template <int STRIDE>
    __device__ __forceinline__ void store(u32 (*to)[STRIDE], int thread) const {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            int side, word;
            place(i, thread, side, word);
            to[side][word] = bf16_of(held[i][0]) | bf16_of(held[i][1]) << 16;
        }
    }
};

template <int BM, int BN, int DOWN, int ACROSS>
struct TensorTile {
    static const int THREADS = 32 * DOWN * ACROSS, WORDS = 16;
    // The four words between two rows keep the loads of a warp in different banks.
    static const int STRIDE = WORDS + 4;
    static const int TM = BM / DOWN / 16, TN = BN / ACROSS / 8;

    // As Tile's.
    template <bool A_DEPTH_FIRST, bool B_DEPTH_FIRST, class Out>
    static __device__ __forceinline__ void product(const Factor<A_DEPTH_FIRST> &a, const Factor<B_DEPTH_FIRST> &b,
                                                   const Out &out, int m0, int n0, int M, int N, int K) {
        SHARED(u32, as, [BM][STRIDE]);
        SHARED(u32, bs, [BN][STRIDE]);
        int thread = threadIdx.x, warp = thread / 32, eighth = thread % 32 / 4, pair = thread % 4;
        int row = warp / ACROSS * TM * 16 + eighth, columns = warp % ACROSS * TN * 8;
        CopyPairs<BM, WORDS, THREADS, A_DEPTH_FIRST> copy_a;
        CopyPairs<BN, WORDS, THREADS, B_DEPTH_FIRST> copy_b;
        float sums[TM][TN][4];
#pragma unroll
        for (int i = 0; i < TM; i++)
#pragma unroll
            for (int j = 0; j < TN; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) sums[i][j][e] = 0.0f;

        copy_a.fetch(a, thread, m0, M, 0, K);
        copy_b.fetch(b, thread, n0, N, 0, K);
        for (int done = 0; done < K; done += 2 * WORDS) {
            __syncthreads();
            copy_a.store(as, thread);
            copy_b.store(bs, thread);
            __syncthreads();
            if (done + 2 * WORDS < K) {
                copy_a.fetch(a, thread, m0, M, done + 2 * WORDS, K);
                copy_b.fetch(b, thread, n0, N, done + 2 * WORDS, K);
            }
#pragma unroll
            for (int step = 0; step < WORDS; step += 8) {
                int word = step + pair;
                u32 va[TM][4], vb[TN][2];
#pragma unroll
                for (int i = 0; i < TM; i++)
#pragma unroll
                    for (int e = 0; e < 4; e++) va[i][e] = as[row + 16 * i + e % 2 * 8][word + e / 2 * 4];
#pragma unroll
                for (int j = 0; j < TN; j++)
#pragma unroll
                    for (int e = 0; e < 2; e++) vb[j][e] = bs[columns + 8 * j + eighth][word + e * 4];
#pragma unroll
                for (int i = 0; i < TM; i++)
#pragma unroll
                    for (int j = 0; j < TN; j++) MULTIPLY_ADD(sums[i][j], va[i], vb[j]);
            }
        }
#pragma unroll
        for (int i = 0; i < TM; i++)
#pragma unroll
            for (int j = 0; j < TN; j++)
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    int m = m0 + row + 16 * i + e / 2 * 8, n = n0 + columns + 8 * j + pair * 2 + e % 2;
                    if (m < M && n < N) out(m, n, sums[i][j][e]);
                }
    }
};

// For few rows, for weights' gradients, and for many rows.
typedef TensorTile<32, 32, 2, 2> TensorSmall;
typedef TensorTile<64, 64, 4, 2> TensorMedium;
typedef TensorTile<128, 64, 4, 2> TensorLarge;
