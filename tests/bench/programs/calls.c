// Calls and jumps: through tables, through pointers, deep ones.
#include "bench.h"

enum { CHOICES = 4096 };

// Numbers 0 to 15 in an order that no predictor learns at once.
static const uint8_t *choices(void) {
    static uint8_t table[CHOICES];
    uint32_t seed = 7;
    for (int i = 0; i < CHOICES; i++)
        table[i] = next_random(&seed) & 15;
    return table;
}

static uint32_t by_switch(long count) {
    const uint8_t *choice = choices();
    uint32_t a = 1;
    for (long i = 0; i < count; i++) {
        switch (choice[i & (CHOICES - 1)]) {
        case 0: a += 3; break;
        case 1: a ^= 0x55; break;
        case 2: a -= i; break;
        case 3: a = a << 1 | a >> 31; break;
        case 4: a *= 5; break;
        case 5: a = ~a; break;
        case 6: a ^= a >> 3; break;
        case 7: a += i; break;
        case 8: a -= 0x1234; break;
        case 9: a = a >> 2 | a << 30; break;
        case 10: a *= 3; break;
        case 11: a = -a; break;
        case 12: a ^= i; break;
        case 13: a += a << 4; break;
        case 14: a |= 1; break;
        default: a &= ~0x80u; break;
        }
    }
    return a;
}

struct shape;
struct methods {
    uint32_t (*area)(const struct shape *);
    void (*grow)(struct shape *, uint32_t);
};
struct shape {
    const struct methods *methods;
    uint32_t a, b;
};

static uint32_t square_area(const struct shape *s) { return s->a * s->a; }
static uint32_t oblong_area(const struct shape *s) { return s->a * s->b; }
static uint32_t triangle_area(const struct shape *s) { return s->a * s->b / 2; }
static uint32_t line_area(const struct shape *s) { return s->a + s->b; }
static void grow_a(struct shape *s, uint32_t by) { s->a += by; }
static void grow_b(struct shape *s, uint32_t by) { s->b ^= by; }

static uint32_t by_vtable(long count) {
    static const struct methods METHODS[] = {{square_area, grow_a},
                                             {oblong_area, grow_b},
                                             {triangle_area, grow_a},
                                             {line_area, grow_b}};
    static struct shape shapes[64];
    const uint8_t *choice = choices();
    for (int i = 0; i < 64; i++)
        shapes[i] = (struct shape){&METHODS[choice[i] & 3], i, i + 1};
    uint32_t sum = 0;
    for (long i = 0; i < count; i += 2) {
        struct shape *shape = &shapes[i >> 1 & 63];
        sum += shape->methods->area(shape);
        shape->methods->grow(shape, sum);
    }
    return sum;
}

static uint32_t f0(uint32_t x) { return x + 1; }
static uint32_t f1(uint32_t x) { return x ^ 0xFF; }
static uint32_t f2(uint32_t x) { return x * 3; }
static uint32_t f3(uint32_t x) { return x >> 1; }

static uint32_t by_pointer(long count) {
    static uint32_t (*const volatile FUNCTIONS[])(uint32_t) = {f0, f1, f2, f3};
    uint32_t x = 1;
    for (long i = 0; i < count; i++)
        x = FUNCTIONS[i & 3](x);
    return x;
}

static __attribute__((noinline, noclone)) uint32_t leaf(uint32_t x) {
    __asm__ volatile("" : "+r"(x));
    return x + 1;
}

// Calls of a function that does nothing.
static uint32_t call_return(long count) {
    uint32_t x = 0;
    for (long i = 0; i < count; i++)
        x = leaf(x);
    return x;
}

static __attribute__((noinline, noclone)) uint32_t down(uint32_t depth, uint32_t x) {
    if (depth == 0)
        return x;
    return down(depth - 1, x * 3 + 1) ^ depth;
}

// 200 calls deep, and back.
static uint32_t deep_calls(long count) {
    uint32_t x = 0;
    for (long i = 0; i < count; i += 200)
        x = down(200, x);
    return x;
}

static __attribute__((noinline, noclone, optimize("no-optimize-sibling-calls", "no-inline"))) uint32_t
fibonacci(uint32_t n) {
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

// fibonacci(18) makes 8,361 calls.
static uint32_t recursion(long count) {
    uint32_t sum = 0;
    for (long i = 0; i < count; i += 8361)
        sum = mix(sum, fibonacci(18));
    return sum;
}

const struct work CALLS[] = {
    {"switch", by_switch},       {"vtable", by_vtable},         {"function-pointers", by_pointer},
    {"call-return", call_return}, {"deep-calls", deep_calls}, {"recursion", recursion},
    {0, 0},
};
