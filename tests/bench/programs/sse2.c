// Floating point and integers in XMM registers.
#pragma GCC target("sse2,fpmath=sse")
#include "bench.h"
#include <emmintrin.h>

enum { TERMS = 256 };

static uint32_t sse2(long count) {
    static double a[TERMS], b[TERMS];
    static __m128i words[TERMS / 4];
    uint32_t seed = 5;
    for (int i = 0; i < TERMS; i++) {
        a[i] = 1 + (next_random(&seed) & 0xFFFF) / 65536.0;
        b[i] = 1 + (next_random(&seed) & 0xFFFF) / 65536.0;
        ((uint32_t *)words)[i] = next_random(&seed);
    }
    double sum = 0;
    __m128i bits = _mm_setzero_si128();
    for (long i = 0; i < count; i += TERMS) {
        __m128d pairs = _mm_setzero_pd();
        double x = 1;
        for (int j = 0; j < TERMS; j += 2) {
            pairs = _mm_add_pd(pairs, _mm_mul_pd(_mm_loadu_pd(a + j), _mm_loadu_pd(b + j)));
            x = x * 0.5 + a[j];
        }
        double both[2];
        _mm_storeu_pd(both, pairs);
        sum = sum * 0.25 + (both[0] + both[1]) / x;
        for (int j = 0; j < TERMS / 4; j++)
            bits = _mm_xor_si128(_mm_add_epi32(bits, words[j]), _mm_srli_epi32(bits, 3));
    }
    uint32_t lanes[4];
    _mm_storeu_si128((__m128i *)lanes, bits);
    return mix((uint32_t)(sum * 1e6), lanes[0] ^ lanes[1] ^ lanes[2] ^ lanes[3]);
}

const struct work SSE2[] = {{"sse2", sse2}, {0, 0}};
