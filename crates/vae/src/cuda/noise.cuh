// Random numbers, as data/src/philox.rs and model/src/noise.rs define them.

// A stream's key and counter; the counter's first word counts the blocks.
struct Stream {
    u32 key0, key1, b, low, high;
};

__device__ __forceinline__ void philox(const Stream &stream, u32 block, u32 out[4]) {
    u32 c0 = block, c1 = stream.b, c2 = stream.low, c3 = stream.high;
    u32 k0 = stream.key0, k1 = stream.key1;
#pragma unroll
    for (int round = 0; round < 10; round++) {
        u32 even_high = __umulhi(0xD2511F53u, c0), even_low = 0xD2511F53u * c0;
        u32 odd_high = __umulhi(0xCD9E8D57u, c2), odd_low = 0xCD9E8D57u * c2;
        c0 = odd_high ^ c1 ^ k0;
        c1 = odd_low;
        c2 = even_high ^ c3 ^ k1;
        c3 = even_low;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

// The k-th normal of a stream: of 64, 16 cosines of the first two words, their sines, then those of
// the other two.
__device__ __forceinline__ float normal_at(const Stream &stream, u64 k) {
    u32 words[4];
    philox(stream, (u32)(k / 64) * 16 + (u32)k % 16, words);
    u32 part = (u32)k / 16 % 4;
    u32 radius = part < 2 ? words[0] : words[2], turn = part < 2 ? words[1] : words[3];
    float u = ((float)radius + 0.5f) * (1.0f / 4294967296.0f);
    float r = sqrtf(-2.0f * ln_of(u));
    float sin, cos;
    sin_cos_turn(turn, sin, cos);
    return part % 2 == 0 ? r * cos : r * sin;
}
