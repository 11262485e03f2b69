// Floating point: the x87 unit, and the functions of libm.
#include "bench.h"
#include <math.h>

enum { TERMS = 256 };

// What is left of a result after rounding: libm and emulators differ in the last digits.
static uint32_t rounded(double value) { return (uint32_t)(int64_t)(value * 1e6 + 0.5); }

// Multiplications and additions, some divisions and square roots.
static uint32_t x87(long count) {
    static double a[TERMS], b[TERMS];
    uint32_t seed = 3;
    for (int i = 0; i < TERMS; i++) {
        a[i] = 1 + (next_random(&seed) & 0xFFFF) / 65536.0;
        b[i] = 1 + (next_random(&seed) & 0xFFFF) / 65536.0;
    }
    double sum = 0;
    for (long i = 0; i < count; i += TERMS) {
        double product = 0, x = 1;
        for (int j = 0; j < TERMS; j++) {
            product += a[j] * b[j];
            x = x * 0.5 + a[j];
        }
        sum = sum * 0.25 + product / x + sqrt(product);
    }
    return rounded(sum);
}

static uint32_t sines(long count) {
    double sum = 0, x = 0.1;
    for (long i = 0; i < count; i++) {
        sum += sin(x);
        x += 0.37;
        if (x > 50)
            x -= 50;
    }
    return rounded(sum);
}

static uint32_t libm(long count) {
    double sum = 0, x = 0.1;
    for (long i = 0; i < count; i += 5) {
        sum += cos(x) + exp(-x) + log(x) + pow(x, 0.3) + atan(x);
        x += 0.37;
        if (x > 20)
            x -= 19.9;
    }
    return rounded(sum);
}

const struct work FLOATS[] = {{"x87", x87}, {"sin", sines}, {"libm", libm}, {0, 0}};
