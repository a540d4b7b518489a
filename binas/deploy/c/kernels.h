/* Kernels of the program: sums of signs by exclusive-or and bit counts, and float convolutions.
 *
 * Output channels lie in vector lanes. Weights are stored [block of 16 output channels][tap][word][16], so that a
 * word of the input, 64 channels, is broadcast against 16 filters and nothing is added across lanes. Floats are
 * added tap by tap and channel by channel with fused multiply-adds, in every build alike.
 */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && !defined(BINAS_PORTABLE)
#define BINAS_AVX512 1
#endif
#if defined(__AVX2__) && defined(__FMA__) && !defined(BINAS_PORTABLE)
#define BINAS_AVX2 1
#endif
#if defined(BINAS_AVX512) || defined(BINAS_AVX2)
#include <immintrin.h>
#endif
#if defined(__ARM_NEON) && defined(__aarch64__) && !defined(BINAS_PORTABLE)
#define BINAS_NEON 1
#include <arm_neon.h>
#endif
#ifdef __clang__
#pragma STDC FP_CONTRACT OFF
#endif

/* APART: steps read the arena as numbers of their own types, so none may move into another; and GCC 12 with -O3
 * concludes from the body of the packing that it reads less than it does, and leaves out stores before it. */
#if defined(__clang__)
#define UNUSED __attribute__((unused))
#define APART __attribute__((unused, noinline))
#elif defined(__GNUC__)
#define UNUSED __attribute__((unused))
#define APART __attribute__((unused, noipa))
#else
#define UNUSED
#define APART
#endif
#define LANES 16
#define FLOAT_LANES 32

#if defined(BINAS_AVX512) && defined(__AVX512VPOPCNTDQ__)
#define ISA "AVX-512 VPOPCNTDQ"
#elif defined(BINAS_AVX512)
#define ISA "AVX-512BW"
#elif defined(BINAS_AVX2)
#define ISA "AVX2"
#elif defined(BINAS_NEON)
#define ISA "NEON"
#else
#define ISA "portable"
#endif

/* ---- counts: a[p][lane] = bits that differ, over all taps and words, of PIXELS neighbouring outputs */

UNUSED static unsigned count_bits(uint64_t x)
{
#if defined(__GNUC__) && (defined(__POPCNT__) || defined(__aarch64__))
    return (unsigned)__builtin_popcountll(x);
#else
    x = x - ((x >> 1) & 0x5555555555555555u);
    x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return (unsigned)((x * 0x0101010101010101u) >> 56);
#endif
}

/* taps: offsets in words of each tap's pixel from the first one's */
typedef struct {
    int taps, words;      /* words of a pixel that belong to the group */
    const int *offsets;   /* of taps, in words */
    int step;             /* words between the inputs of two neighbouring outputs */
} Reach;

#if defined(BINAS_AVX512)

#if defined(__AVX512VPOPCNTDQ__)
#define COUNT512(x) _mm512_popcnt_epi64(x)
#else
static inline __m512i count512(__m512i x)
{
    const __m512i table = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m512i low = _mm512_set1_epi8(15);
    __m512i a = _mm512_shuffle_epi8(table, _mm512_and_si512(x, low));
    __m512i b = _mm512_shuffle_epi8(table, _mm512_and_si512(_mm512_srli_epi16(x, 4), low));
    return _mm512_sad_epu8(_mm512_add_epi8(a, b), _mm512_setzero_si512());
}
#define COUNT512(x) count512(x)
#endif

#define COUNT_BLOCK(NAME, PIXELS)                                                                        \
    static inline void NAME(const uint64_t *x, const uint64_t *w, const Reach *r, int32_t *a, int row)   \
    {                                                                                                    \
        __m512i low[PIXELS], high[PIXELS];                                                               \
        int p, t, k;                                                                                     \
        for (p = 0; p < PIXELS; p++)                                                                     \
            low[p] = high[p] = _mm512_setzero_si512();                                                   \
        for (t = 0; t < r->taps; t++) {                                                                  \
            const uint64_t *at = x + r->offsets[t];                                                      \
            for (k = 0; k < r->words; k++, w += LANES) {                                                 \
                const __m512i w0 = _mm512_loadu_si512((const void *)w);                                  \
                const __m512i w1 = _mm512_loadu_si512((const void *)(w + 8));                            \
                for (p = 0; p < PIXELS; p++) {                                                           \
                    const __m512i v = _mm512_set1_epi64((long long)at[p * r->step + k]);                 \
                    low[p] = _mm512_add_epi64(low[p], COUNT512(_mm512_xor_si512(v, w0)));                \
                    high[p] = _mm512_add_epi64(high[p], COUNT512(_mm512_xor_si512(v, w1)));              \
                }                                                                                        \
            }                                                                                            \
        }                                                                                                \
        for (p = 0; p < PIXELS; p++) {                                                                   \
            _mm256_storeu_si256((void *)(a + p * row), _mm512_cvtepi64_epi32(low[p]));                   \
            _mm256_storeu_si256((void *)(a + p * row + 8), _mm512_cvtepi64_epi32(high[p]));              \
        }                                                                                                \
    }
COUNT_BLOCK(count_1, 1)
COUNT_BLOCK(count_2, 2)
COUNT_BLOCK(count_4, 4)
COUNT_BLOCK(count_7, 7)
COUNT_BLOCK(count_8, 8)
#define MOST_PIXELS 8

#elif defined(BINAS_AVX2)

static inline __m256i bytes256(__m256i x)
{
    const __m256i table =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
    const __m256i low = _mm256_set1_epi8(15);
    __m256i a = _mm256_shuffle_epi8(table, _mm256_and_si256(x, low));
    __m256i b = _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(x, 4), low));
    return _mm256_add_epi8(a, b);
}

/* bytes hold the counts of 31 words */
#define COUNT_BLOCK(NAME, PIXELS)                                                                        \
    static inline void NAME(const uint64_t *x, const uint64_t *w, const Reach *r, int32_t *a, int row)   \
    {                                                                                                    \
        const __m256i zero = _mm256_setzero_si256();                                                     \
        __m256i wide[PIXELS][4];                                                                         \
        int p, q, t = 0, k = 0;                                                                          \
        for (p = 0; p < PIXELS; p++)                                                                     \
            for (q = 0; q < 4; q++)                                                                      \
                wide[p][q] = zero;                                                                       \
        while (t < r->taps) {                                                                            \
            __m256i bytes[PIXELS][4];                                                                    \
            int left = 31;                                                                               \
            for (p = 0; p < PIXELS; p++)                                                                 \
                for (q = 0; q < 4; q++)                                                                  \
                    bytes[p][q] = zero;                                                                  \
            while (t < r->taps && left > 0) {                                                            \
                const uint64_t *at = x + r->offsets[t];                                                  \
                int end = k + left < r->words ? k + left : r->words;                                     \
                left -= end - k;                                                                         \
                for (; k < end; k++, w += LANES)                                                         \
                    for (p = 0; p < PIXELS; p++) {                                                       \
                        const __m256i v = _mm256_set1_epi64x((long long)at[p * r->step + k]);            \
                        for (q = 0; q < 4; q++)                                                          \
                            bytes[p][q] = _mm256_add_epi8(                                               \
                                bytes[p][q],                                                             \
                                bytes256(_mm256_xor_si256(v, _mm256_loadu_si256((const void *)(w + 4 * q))))); \
                    }                                                                                    \
                if (k == r->words) {                                                                     \
                    k = 0;                                                                               \
                    t++;                                                                                 \
                }                                                                                        \
            }                                                                                            \
            for (p = 0; p < PIXELS; p++)                                                                 \
                for (q = 0; q < 4; q++)                                                                  \
                    wide[p][q] = _mm256_add_epi64(wide[p][q], _mm256_sad_epu8(bytes[p][q], zero));       \
        }                                                                                                \
        for (p = 0; p < PIXELS; p++)                                                                     \
            for (q = 0; q < 4; q++) {                                                                    \
                const __m256i half = _mm256_permutevar8x32_epi32(                                        \
                    wide[p][q], _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));                              \
                _mm_storeu_si128((void *)(a + p * row + 4 * q), _mm256_castsi256_si128(half));           \
            }                                                                                            \
    }
COUNT_BLOCK(count_1, 1)
COUNT_BLOCK(count_2, 2)
#define MOST_PIXELS 2

#elif defined(BINAS_NEON)

#define COUNT_BLOCK(NAME, PIXELS)                                                                        \
    static inline void NAME(const uint64_t *x, const uint64_t *w, const Reach *r, int32_t *a, int row)   \
    {                                                                                                    \
        uint16x8_t wide[PIXELS][8];                                                                      \
        uint64x2_t sums[PIXELS][8];                                                                      \
        int p, q, t, k, filled = 0;                                                                      \
        for (p = 0; p < PIXELS; p++)                                                                     \
            for (q = 0; q < 8; q++) {                                                                    \
                wide[p][q] = vdupq_n_u16(0);                                                             \
                sums[p][q] = vdupq_n_u64(0);                                                             \
            }                                                                                            \
        for (t = 0; t < r->taps; t++) {                                                                  \
            const uint64_t *at = x + r->offsets[t];                                                      \
            for (k = 0; k < r->words; k++, w += LANES) {                                                 \
                for (p = 0; p < PIXELS; p++) {                                                           \
                    const uint64x2_t v = vdupq_n_u64(at[p * r->step + k]);                               \
                    for (q = 0; q < 8; q++)                                                              \
                        wide[p][q] = vpadalq_u8(                                                         \
                            wide[p][q], vcntq_u8(vreinterpretq_u8_u64(veorq_u64(v, vld1q_u64(w + 2 * q))))); \
                }                                                                                        \
                if (++filled == 4000) {                                                                  \
                    filled = 0;                                                                          \
                    for (p = 0; p < PIXELS; p++)                                                         \
                        for (q = 0; q < 8; q++) {                                                        \
                            sums[p][q] = vaddq_u64(sums[p][q], vpaddlq_u32(vpaddlq_u16(wide[p][q])));    \
                            wide[p][q] = vdupq_n_u16(0);                                                 \
                        }                                                                                \
                }                                                                                        \
            }                                                                                            \
        }                                                                                                \
        for (p = 0; p < PIXELS; p++)                                                                     \
            for (q = 0; q < 8; q++) {                                                                    \
                sums[p][q] = vaddq_u64(sums[p][q], vpaddlq_u32(vpaddlq_u16(wide[p][q])));                \
                a[p * row + 2 * q] = (int32_t)vgetq_lane_u64(sums[p][q], 0);                             \
                a[p * row + 2 * q + 1] = (int32_t)vgetq_lane_u64(sums[p][q], 1);                         \
            }                                                                                            \
    }
COUNT_BLOCK(count_1, 1)
COUNT_BLOCK(count_2, 2)
#define MOST_PIXELS 2

#else

static inline void count_1(const uint64_t *x, const uint64_t *w, const Reach *r, int32_t *a, int row)
{
    int t, k, c;
    (void)row;
    for (c = 0; c < LANES; c++)
        a[c] = 0;
    for (t = 0; t < r->taps; t++)
        for (k = 0; k < r->words; k++, w += LANES) {
            const uint64_t v = x[r->offsets[t] + k];
            for (c = 0; c < LANES; c++)
                a[c] += (int32_t)count_bits(v ^ w[c]);
        }
}
#define MOST_PIXELS 1
#endif

/* Counts of `pixels` neighbouring outputs and `blocks` of 16 channels: a[p * row + channel]. */
UNUSED static void count_row(
    const uint64_t *x, const uint64_t *w, const Reach *r, int pixels, int blocks, int32_t *a, int row)
{
    const size_t block = (size_t)r->taps * (size_t)r->words * LANES;
    int b;
    for (b = 0; b < blocks; b++) {
        const uint64_t *own = w + (size_t)b * block;
        int p = 0;
#if MOST_PIXELS >= 8
        for (; p + 8 <= pixels && (pixels - p) % 7 != 0; p += 8)
            count_8(x + p * r->step, own, r, a + p * row + b * LANES, row);
        for (; p + 7 <= pixels; p += 7)
            count_7(x + p * r->step, own, r, a + p * row + b * LANES, row);
        for (; p + 4 <= pixels; p += 4)
            count_4(x + p * r->step, own, r, a + p * row + b * LANES, row);
#endif
#if MOST_PIXELS >= 2
        for (; p + 2 <= pixels; p += 2)
            count_2(x + p * r->step, own, r, a + p * row + b * LANES, row);
#endif
        for (; p < pixels; p++)
            count_1(x + p * r->step, own, r, a + p * row + b * LANES, row);
    }
}

/* ---- signs to bits: bit c of a word is 1 where x[c] < threshold[c], turned round by `falls` */

#define PACK(NAME, TYPE, AVX512_MASK, AVX2_MASK)                                                         \
    APART static void NAME(const TYPE *x, const TYPE *threshold, const uint64_t *falls, int n, uint64_t *bits) \
    {                                                                                                    \
        int word, c;                                                                                     \
        for (word = 0; word * 64 < n; word++) {                                                          \
            uint64_t found = 0;                                                                          \
            int end = n - word * 64 < 64 ? n - word * 64 : 64;                                           \
            c = 0;                                                                                       \
            AVX512_MASK                                                                                  \
            AVX2_MASK                                                                                    \
            for (; c < end; c++)                                                                         \
                found |= (uint64_t)(x[word * 64 + c] < threshold[word * 64 + c]) << c;                   \
            bits[word] = found ^ falls[word];                                                            \
        }                                                                                                \
    }
#if defined(BINAS_AVX512)
#define FLOATS512                                                                                        \
    for (; c + 16 <= end; c += 16)                                                                       \
        found |= (uint64_t)_mm512_cmp_ps_mask(_mm512_loadu_ps(x + word * 64 + c),                        \
                                              _mm512_loadu_ps(threshold + word * 64 + c), _CMP_LT_OQ) << c;
#define INTS512                                                                                          \
    for (; c + 16 <= end; c += 16)                                                                       \
        found |= (uint64_t)_mm512_cmplt_epi32_mask(_mm512_loadu_si512((const void *)(x + word * 64 + c)), \
                                                   _mm512_loadu_si512((const void *)(threshold + word * 64 + c))) \
                 << c;
#else
#define FLOATS512
#define INTS512
#endif
#if defined(BINAS_AVX2)
#define FLOATS256                                                                                        \
    for (; c + 8 <= end; c += 8)                                                                         \
        found |= (uint64_t)(unsigned)_mm256_movemask_ps(                                                 \
                     _mm256_cmp_ps(_mm256_loadu_ps(x + word * 64 + c),                                   \
                                   _mm256_loadu_ps(threshold + word * 64 + c), _CMP_LT_OQ)) << c;
#define INTS256                                                                                          \
    for (; c + 8 <= end; c += 8)                                                                         \
        found |= (uint64_t)(unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(_mm256_cmpgt_epi32(          \
                     _mm256_loadu_si256((const void *)(threshold + word * 64 + c)),                      \
                     _mm256_loadu_si256((const void *)(x + word * 64 + c))))) << c;
#else
#define FLOATS256
#define INTS256
#endif
PACK(pack_floats, float, FLOATS512, FLOATS256)
PACK(pack_ints, int32_t, INTS512, INTS256)

/* ---- float convolutions: y[p][channel], added tap by tap and channel by channel */

typedef struct {
    int taps, channels;   /* of the input */
    const int *offsets;   /* of taps, in floats */
    int step;             /* floats between the inputs of two neighbouring outputs */
} FloatReach;

#if defined(BINAS_AVX512)
#define FLOAT_BLOCK(NAME, PIXELS)                                                                        \
    static inline void NAME(const float *x, const float *w, const float *bias, const FloatReach *r, float *y, int row) \
    {                                                                                                    \
        __m512 low[PIXELS], high[PIXELS];                                                                \
        int p, t, k;                                                                                     \
        for (p = 0; p < PIXELS; p++) {                                                                   \
            low[p] = _mm512_loadu_ps(bias);                                                              \
            high[p] = _mm512_loadu_ps(bias + 16);                                                        \
        }                                                                                                \
        for (t = 0; t < r->taps; t++) {                                                                  \
            const float *at = x + r->offsets[t];                                                         \
            for (k = 0; k < r->channels; k++, w += FLOAT_LANES) {                                        \
                const __m512 w0 = _mm512_loadu_ps(w), w1 = _mm512_loadu_ps(w + 16);                      \
                for (p = 0; p < PIXELS; p++) {                                                           \
                    const __m512 v = _mm512_set1_ps(at[p * r->step + k]);                                \
                    low[p] = _mm512_fmadd_ps(v, w0, low[p]);                                             \
                    high[p] = _mm512_fmadd_ps(v, w1, high[p]);                                           \
                }                                                                                        \
            }                                                                                            \
        }                                                                                                \
        for (p = 0; p < PIXELS; p++) {                                                                   \
            _mm512_storeu_ps(y + p * row, low[p]);                                                       \
            _mm512_storeu_ps(y + p * row + 16, high[p]);                                                 \
        }                                                                                                \
    }
FLOAT_BLOCK(floats_1, 1)
FLOAT_BLOCK(floats_2, 2)
FLOAT_BLOCK(floats_4, 4)
FLOAT_BLOCK(floats_7, 7)
FLOAT_BLOCK(floats_8, 8)
#define MOST_FLOAT_PIXELS 8
#elif defined(BINAS_AVX2)
#define FLOAT_BLOCK(NAME, PIXELS)                                                                        \
    static inline void NAME(const float *x, const float *w, const float *bias, const FloatReach *r, float *y, int row) \
    {                                                                                                    \
        __m256 sum[PIXELS][4];                                                                           \
        int p, q, t, k;                                                                                  \
        for (p = 0; p < PIXELS; p++)                                                                     \
            for (q = 0; q < 4; q++)                                                                      \
                sum[p][q] = _mm256_loadu_ps(bias + 8 * q);                                               \
        for (t = 0; t < r->taps; t++) {                                                                  \
            const float *at = x + r->offsets[t];                                                         \
            for (k = 0; k < r->channels; k++, w += FLOAT_LANES)                                          \
                for (p = 0; p < PIXELS; p++) {                                                           \
                    const __m256 v = _mm256_set1_ps(at[p * r->step + k]);                                \
                    for (q = 0; q < 4; q++)                                                              \
                        sum[p][q] = _mm256_fmadd_ps(v, _mm256_loadu_ps(w + 8 * q), sum[p][q]);           \
                }                                                                                        \
        }                                                                                                \
        for (p = 0; p < PIXELS; p++)                                                                     \
            for (q = 0; q < 4; q++)                                                                      \
                _mm256_storeu_ps(y + p * row + 8 * q, sum[p][q]);                                        \
    }
FLOAT_BLOCK(floats_1, 1)
FLOAT_BLOCK(floats_2, 2)
#define MOST_FLOAT_PIXELS 2
#else
static inline void floats_1(
    const float *x, const float *w, const float *bias, const FloatReach *r, float *y, int row)
{
    int t, k, c;
    (void)row;
    for (c = 0; c < FLOAT_LANES; c++)
        y[c] = bias[c];
    for (t = 0; t < r->taps; t++)
        for (k = 0; k < r->channels; k++, w += FLOAT_LANES) {
            const float v = x[r->offsets[t] + k];
            for (c = 0; c < FLOAT_LANES; c++)
                y[c] = fmaf(v, w[c], y[c]);
        }
}
#define MOST_FLOAT_PIXELS 1
#endif

UNUSED static void floats_row(
    const float *x, const float *w, const float *bias, const FloatReach *r, int pixels, int blocks, float *y, int row)
{
    const size_t block = (size_t)r->taps * (size_t)r->channels * FLOAT_LANES;
    int b;
    for (b = 0; b < blocks; b++) {
        const float *own = w + (size_t)b * block, *start = bias + b * FLOAT_LANES;
        int p = 0;
#if MOST_FLOAT_PIXELS >= 8
        for (; p + 8 <= pixels && (pixels - p) % 7 != 0; p += 8)
            floats_8(x + p * r->step, own, start, r, y + p * row + b * FLOAT_LANES, row);
        for (; p + 7 <= pixels; p += 7)
            floats_7(x + p * r->step, own, start, r, y + p * row + b * FLOAT_LANES, row);
        for (; p + 4 <= pixels; p += 4)
            floats_4(x + p * r->step, own, start, r, y + p * row + b * FLOAT_LANES, row);
#endif
#if MOST_FLOAT_PIXELS >= 2
        for (; p + 2 <= pixels; p += 2)
            floats_2(x + p * r->step, own, start, r, y + p * row + b * FLOAT_LANES, row);
#endif
        for (; p < pixels; p++)
            floats_1(x + p * r->step, own, start, r, y + p * row + b * FLOAT_LANES, row);
    }
}

/* ---- functions, the same operations in every build */

UNUSED static float binas_exp(float x)
{
    float n, r, y;
    x = x < -88.0f ? -88.0f : x > 88.0f ? 88.0f : x;
    n = rintf(x * 1.44269504f);
    r = fmaf(n, -0.693359375f, x);
    r = fmaf(n, 2.12194440e-4f, r);
    y = 1.9875691500e-4f;
    y = fmaf(y, r, 1.3981999507e-3f);
    y = fmaf(y, r, 8.3334519073e-3f);
    y = fmaf(y, r, 4.1665795894e-2f);
    y = fmaf(y, r, 1.6666665459e-1f);
    y = fmaf(y, r, 0.5f);
    y = fmaf(y, r * r, r) + 1.0f;
    return ldexpf(y, (int)n);
}

UNUSED static float binas_sigmoid(float x)
{
    return 1.0f / (1.0f + binas_exp(-x));
}

UNUSED static float binas_tanh(float x)
{
    return 2.0f * binas_sigmoid(2.0f * x) - 1.0f;
}

UNUSED static float binas_hardsigmoid(float x)
{
    const float y = fmaf(x, 0.16666667f, 0.5f);
    return y < 0.0f ? 0.0f : y > 1.0f ? 1.0f : y;
}

/* ---- what stands around the kernels */

UNUSED static void sums_of_counts(int32_t *a, int bits, int n)
{
    int i;
    for (i = 0; i < n; i++)
        a[i] = bits - 2 * a[i];
}

UNUSED static void add_counts(int32_t *total, const int32_t *a, int factor, int bits, int n)
{
    int i;
    for (i = 0; i < n; i++)
        total[i] += factor * (bits - 2 * a[i]);
}

UNUSED static void quarter(int32_t *total, int n)
{
    int i;
    for (i = 0; i < n; i++)
        total[i] /= 4;
}

UNUSED static void fill_row(int32_t *total, const int32_t *base, int row, int pixels)
{
    int p;
    for (p = 0; p < pixels; p++)
        memcpy(total + p * row, base, sizeof(int32_t) * (size_t)row);
}

UNUSED static void close_ranks(int32_t *a, int groups, int each, int lanes, int row, int pixels)
{
    int p, g, c, at = 0;
    for (p = 0; p < pixels; p++)
        for (g = 0; g < groups; g++)
            for (c = 0; c < each; c++)
                a[at++] = a[p * row + g * lanes + c];
}

/* What padding that is no level has added at the edges. */
UNUSED static void take_off_edges(int32_t *a, const int32_t *tap, int row, int pixels, int side, int stride,
                                  int dilation, int pad, int height, int width, int oy)
{
    const int reach = dilation * (side - 1);
    const int above = oy * stride - pad < 0 || oy * stride - pad + reach >= height;
    int p, r, s, c;
    for (p = 0; p < pixels; p++) {
        if (!above && p * stride - pad >= 0 && p * stride - pad + reach < width)
            continue;
        for (r = 0; r < side; r++)
            for (s = 0; s < side; s++) {
                const int y = oy * stride - pad + r * dilation, x = p * stride - pad + s * dilation;
                if (y < 0 || y >= height || x < 0 || x >= width) {
                    const int32_t *own = tap + (r * side + s) * row;
                    int32_t *at = a + p * row;
                    for (c = 0; c < row; c++)
                        at[c] -= own[c];
                }
            }
    }
}

UNUSED static uint64_t bits_at(const uint64_t *x, int from, int n)
{
    const int word = from >> 6, shift = from & 63;
    uint64_t found = x[word] >> shift;
    if (shift + n > 64)
        found |= x[word + 1] << (64 - shift);
    return n == 64 ? found : found & (((uint64_t)1 << n) - 1);
}

/* Groups whose taps and channels fit into one word. */
UNUSED static void small_groups_row(const uint64_t *x, const uint64_t *w, const int *offsets, int taps, int inputs,
                                    int groups, int each, int step, int pixels, int32_t *a)
{
    int p, g, t, o;
    for (p = 0; p < pixels; p++, x += step)
        for (g = 0; g < groups; g++) {
            uint64_t word = 0;
            for (t = 0; t < taps; t++)
                word |= bits_at(x + offsets[t], g * inputs, inputs) << (t * inputs);
            for (o = 0; o < each; o++)
                *a++ = (int32_t)count_bits(word ^ w[g * each + o]);
        }
}

/* Rows `from` to `to` of the padded copy, with words of its own for each group. */
UNUSED static void regroup(const uint64_t *x, int height, int width, int margin, int words, int planes, int plane,
                           int groups, int inputs, int pad, const uint64_t *fill, uint64_t *y, int from, int to)
{
    const int each = (inputs + 63) / 64, pixel = groups * each, wide = width + 2 * pad;
    int q, r, p, g, k;
    for (q = 0; q < planes; q++)
        for (r = from; r < to; r++)
            for (p = 0; p < wide; p++) {
                uint64_t *own = y + ((size_t)(q * (height + 2 * pad) + r) * (size_t)wide + (size_t)p) * (size_t)pixel;
                const int iy = r - pad, ix = p - pad;
                if (iy < 0 || iy >= height || ix < 0 || ix >= width) {
                    memcpy(own, fill + q * pixel, sizeof(uint64_t) * (size_t)pixel);
                    continue;
                }
                for (g = 0; g < groups; g++)
                    for (k = 0; k < each; k++) {
                        const int left = inputs - 64 * k;
                        own[g * each + k] = bits_at(
                            x + q * plane + ((iy + margin) * (width + 2 * margin) + ix + margin) * words,
                            g * inputs + 64 * k, left < 64 ? left : 64);
                    }
            }
}

/* The margin around codes, filled with a padding that is a level. */
UNUSED static void fill_margin(uint64_t *x, int height, int width, int margin, int words, int planes,
                               const uint64_t *fill)
{
    const int wide = width + 2 * margin, high = height + 2 * margin;
    int q, r, p;
    for (q = 0; q < planes; q++)
        for (r = 0; r < high; r++)
            for (p = 0; p < wide; p++)
                if (r < margin || r >= high - margin || p < margin || p >= wide - margin)
                    memcpy(x + ((size_t)(q * high + r) * (size_t)wide + (size_t)p) * (size_t)words, fill + q * words,
                           sizeof(uint64_t) * (size_t)words);
}

#define PACK_LEVELS(NAME, TYPE)                                                                          \
    APART static void NAME(const TYPE *x, const TYPE *thresholds, const uint8_t *falls, const uint8_t *index, \
                            int levels, int n, int planes, uint64_t *bits, int plane)                    \
    {                                                                                                    \
        int c, k, q;                                                                                     \
        for (c = 0; c < n; c++) {                                                                        \
            int count = 0;                                                                               \
            for (k = 0; k < levels - 1; k++)                                                             \
                count += x[c] >= thresholds[k * n + c];                                                  \
            count = index[falls[c] ? levels - 1 - count : count];                                        \
            for (q = 0; q < planes; q++) {                                                               \
                uint64_t *word = bits + q * plane + c / 64;                                              \
                if (c % 64 == 0)                                                                         \
                    *word = 0;                                                                           \
                *word |= (uint64_t)(~(unsigned)count >> q & 1u) << (c % 64);                             \
            }                                                                                            \
        }                                                                                                \
    }
PACK_LEVELS(pack_levels_floats, float)
PACK_LEVELS(pack_levels_ints, int32_t)

UNUSED static void pad_floats(const float *x, int height, int width, int channels, int stride, int top, int left,
                              float *y, int from, int to)
{
    const int wide = width + 2 * left;
    int r, p, c;
    for (r = from; r < to; r++)
        for (p = 0; p < wide; p++) {
            float *own = y + ((size_t)r * (size_t)wide + (size_t)p) * (size_t)channels;
            const int iy = r - top, ix = p - left;
            const int inside = iy >= 0 && iy < height && ix >= 0 && ix < width;
            for (c = 0; c < channels; c++)
                own[c] = inside ? x[(size_t)(iy * width + ix) * (size_t)stride + (size_t)c] : 0.0f;
        }
}

UNUSED static void grouped_floats_row(const float *x, const float *w, const float *bias, const int *offsets, int taps,
                                      int inputs, int groups, int outputs, int step, int pixels, float *y)
{
    const int each = outputs / groups;
    int p, t, k, o;
    for (p = 0; p < pixels; p++, x += step, y += outputs) {
        for (o = 0; o < outputs; o++)
            y[o] = bias[o];
        for (t = 0; t < taps; t++)
            for (k = 0; k < inputs; k++) {
                const float *own = w + (size_t)(t * inputs + k) * (size_t)outputs, *at = x + offsets[t];
                if (each == 1 && inputs == 1)
                    for (o = 0; o < outputs; o++)
                        y[o] = fmaf(at[o], own[o], y[o]);
                else
                    for (o = 0; o < outputs; o++)
                        y[o] = fmaf(at[o / each * inputs + k], own[o], y[o]);
            }
    }
}

UNUSED static void pool_row(const float *x, int stride, int height, int width, int channels, int kh, int kw, int sh,
                            int sw, int ph, int pw, int dh, int dw, int mean, int counts, int divisor, int oy,
                            int pixels, float *y)
{
    const int top = oy * sh - ph;
    int p, r, s, c;
    for (p = 0; p < pixels; p++, y += channels) {
        const int left = p * sw - pw;
        int seen = 0;
        for (r = 0; r < kh; r++) {
            const int iy = top + r * dh;
            if (iy < 0 || iy >= height)
                continue;
            for (s = 0; s < kw; s++) {
                const int ix = left + s * dw;
                const float *own = x + (size_t)(iy * width + ix) * (size_t)stride;
                if (ix < 0 || ix >= width)
                    continue;
                if (seen++ == 0)
                    memcpy(y, own, sizeof(float) * (size_t)channels);
                else if (mean)
                    for (c = 0; c < channels; c++)
                        y[c] = y[c] + own[c];
                else
                    for (c = 0; c < channels; c++)
                        y[c] = y[c] > own[c] ? y[c] : own[c];
            }
        }
        if (mean) {
            const int down = (top + kh < height + ph ? top + kh : height + ph) - top;
            const int along = (left + kw < width + pw ? left + kw : width + pw) - left;
            const float by = (float)(divisor ? divisor : counts ? down * along : seen);
            for (c = 0; c < channels; c++)
                y[c] = y[c] / by;
        }
    }
}

UNUSED static void channel_mean_row(const float *x, int stride, int channels, int pixels, float *y)
{
    int p, c;
    for (p = 0; p < pixels; p++, x += stride) {
        float total = 0.0f;
        for (c = 0; c < channels; c++)
            total += x[c];
        y[p] = total / (float)channels;
    }
}

UNUSED static void sift_down(double *a, int place, int n)
{
    for (;;) {
        int child = 2 * place + 1;
        double kept;
        if (child >= n)
            return;
        child += child + 1 < n && a[child + 1] > a[child];
        if (a[place] >= a[child])
            return;
        kept = a[place], a[place] = a[child], a[child] = kept;
        place = child;
    }
}

/* magnitudes of an image split in two at the place of least squared error; sums run over channels, then pixels */
UNUSED static void split_scales(const float *x, int stride, int channels, int pixels, int step, int ternary, double *a,
                                float *y)
{
    const int all = channels * pixels;
    double total = 0.0, sum = 0.0, most = -1.0, low = 0.0, high = 0.0;
    int n = 0, k;
    for (k = 0; k < all; k += step)
        a[n++] = fabs((double)x[(size_t)(k % pixels) * (size_t)stride + (size_t)(k / pixels)]);
    for (k = n / 2 - 1; k >= 0; k--)
        sift_down(a, k, n);
    for (k = n - 1; k > 0; k--) {
        const double last = a[k];
        a[k] = a[0], a[0] = last;
        sift_down(a, 0, k);
    }
    for (k = 0; k < n; k++)
        total += a[k];
    if (!ternary && n == 1) {
        y[0] = (float)a[0], y[1] = 0.0f;
        return;
    }
    for (k = 0; k < (ternary ? n : n - 1); k++) {
        const double count = (double)(k + 1);
        double score, above;
        sum += ternary ? a[n - 1 - k] : a[k];
        above = total - sum;
        score = ternary ? sum * sum / count : sum * sum / count + above * above / (double)(n - k - 1);
        if (score > most) {
            most = score;
            low = ternary ? 0.0 : sum / count;
            high = ternary ? sum / count : above / (double)(n - k - 1);
        }
    }
    if (n < all) {
        const double split = ternary ? high / 2.0 : (low + high) / 2.0;
        double over = 0.0;
        int number = 0;
        total = 0.0;
        for (k = 0; k < all; k++) {
            const double one = fabs((double)x[(size_t)(k % pixels) * (size_t)stride + (size_t)(k / pixels)]);
            total += one;
            over += one > split ? one : 0.0;
            number += one > split;
        }
        if (number < all)
            low = (total - over) / (double)(all - number);
        if (number)
            high = over / (double)number;
    }
    if (ternary)
        y[0] = (float)high;
    else
        y[0] = (float)((high + low) / 2.0), y[1] = (float)((high - low) / 2.0);
}

UNUSED static void select_row(const float *x, int stride, int width, int row, const int *columns, const int *chosen,
                              float fill, int channels, int pixels, float *y)
{
    int p, c;
    for (p = 0; p < pixels; p++, y += channels)
        if (row < 0 || columns[p] < 0)
            for (c = 0; c < channels; c++)
                y[c] = fill;
        else {
            const float *own = x + (size_t)(row * width + columns[p]) * (size_t)stride;
            for (c = 0; c < channels; c++)
                y[c] = chosen[c] < 0 ? fill : own[chosen[c]];
        }
}

UNUSED static void gather_row(const float *x, const int *index, float fill, int n, float *y)
{
    int i;
    for (i = 0; i < n; i++)
        y[i] = index[i] < 0 ? fill : x[index[i]];
}

UNUSED static void copy_channels(const float *x, int stride, int channels, float *y, int step, int pixels)
{
    int p;
    for (p = 0; p < pixels; p++)
        memcpy(y + p * step, x + p * stride, sizeof(float) * (size_t)channels);
}
