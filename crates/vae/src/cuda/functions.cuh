// The elementary functions, as model/src/math.rs defines them: same coefficients, same order, and
// a fused operation where `fmaf` is written, nowhere else.

typedef unsigned char u8;
typedef unsigned int u32;
typedef unsigned long long u64;

__device__ __forceinline__ float power_of_two(int n) { return __uint_as_float((u32)(n + 127) << 23); }

__device__ __forceinline__ float exp_of(float x) {
    const float ROUND = 12582912.0f;
    x = x < -110.0f ? -110.0f : x;
    x = x > 100.0f ? 100.0f : x;
    float shifted = fmaf(x, 1.44269504088896340736f, ROUND);
    float n = shifted - ROUND;
    float r = fmaf(n, 2.1219444e-4f, fmaf(n, -0.693359375f, x));
    float p = 1.3814596e-3f;
    p = fmaf(p, r, 8.368718e-3f);
    p = fmaf(p, r, 4.166839e-2f);
    p = fmaf(p, r, 1.6666521e-1f);
    p = fmaf(p, r, 4.9999994e-1f);
    float e = fmaf(p, r * r, r) + 1.0f;
    int i = __float_as_int(shifted) - __float_as_int(ROUND);
    int half = i >> 1;
    return e * power_of_two(half) * power_of_two(i - half);
}

__device__ __forceinline__ float ln_of(float x) {
    const u32 ROOT_HALF = 0x3f3504f3u;
    u32 offset = __float_as_uint(x) - ROOT_HALF;
    float n = (float)((int)offset >> 23);
    float m = __uint_as_float((offset & 0x007fffffu) + ROOT_HALF);
    float s = (m - 1.0f) / (m + 1.0f);
    float t = s * s;
    float p = 2.9871732e-1f;
    p = fmaf(p, t, 3.997754e-1f);
    p = fmaf(p, t, 6.6666776e-1f);
    float tail = fmaf(n, -2.1219444e-4f, p * t * s);
    float ln = fmaf(n, 0.693359375f, fmaf(2.0f, s, tail));
    return x != x ? x : ln;
}

__device__ __forceinline__ float ln_1p_unit(float e) {
    float p = -3.243981e-3f;
    p = fmaf(p, e, 1.9851264e-2f);
    p = fmaf(p, e, -5.695916e-2f);
    p = fmaf(p, e, 1.0603617e-1f);
    p = fmaf(p, e, -1.530557e-1f);
    p = fmaf(p, e, 1.9675931e-1f);
    p = fmaf(p, e, -2.4954133e-1f);
    p = fmaf(p, e, 3.3329964e-1f);
    p = fmaf(p, e, -4.9999902e-1f);
    p = fmaf(p, e, 1.0f);
    return p * e;
}

__device__ __forceinline__ void sigmoid_and_softplus(float x, float &sigmoid, float &softplus) {
    float e = exp_of(-fabsf(x));
    float t = 1.0f / (1.0f + e);
    sigmoid = x < 0.0f ? e * t : t;
    softplus = (x < 0.0f ? 0.0f : x) + ln_1p_unit(e);
}

__device__ __forceinline__ void sin_cos_turn(u32 turn, float &sin, float &cos) {
    u32 quarter = (turn + (1u << 29)) >> 30;
    float a = (float)(int)(turn << 2) * (0.785398163397448309616f / 2147483648.0f);
    float t = a * a;
    float p = -1.9517266e-4f;
    p = fmaf(p, t, 8.332178e-3f);
    p = fmaf(p, t, -1.6666655e-1f);
    float s = fmaf(p * t, a, a);
    p = 2.4438414e-5f;
    p = fmaf(p, t, -1.3887368e-3f);
    p = fmaf(p, t, 4.1666646e-2f);
    float c = fmaf(p * t, t, fmaf(t, -0.5f, 1.0f));
    float odd_sin = quarter & 1 ? c : s, odd_cos = quarter & 1 ? s : c;
    sin = __uint_as_float(__float_as_uint(odd_sin) ^ ((quarter & 2) << 30));
    cos = __uint_as_float(__float_as_uint(odd_cos) ^ (((quarter + 1) & 2) << 30));
}
