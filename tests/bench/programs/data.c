// Data structures: a chain of pointers, sorting, an interpreter, compression.
#include "bench.h"
#include <stdlib.h>
#include <string.h>

// --- A chain of pointers ---------------------------------------------------------------------------

enum { LINKS = 4096 };

struct link {
    struct link *next;
    uint32_t value, unused[6];
};

// Once round a ring of 128 KiB in a random order is 4,096 operations.
static uint32_t chase(long count) {
    static struct link ring[LINKS];
    static uint16_t order[LINKS];
    uint32_t seed = 17;
    for (int i = 0; i < LINKS; i++)
        order[i] = i;
    for (int i = LINKS - 1; i > 0; i--) {
        int other = next_random(&seed) % (i + 1);
        uint16_t swapped = order[i];
        order[i] = order[other];
        order[other] = swapped;
    }
    for (int i = 0; i < LINKS; i++) {
        ring[order[i]].next = &ring[order[(i + 1) % LINKS]];
        ring[order[i]].value = i;
    }
    struct link *at = ring;
    for (long i = 0; i < count; i++)
        at = at->next;
    return at->value;
}

// --- Sorting ---------------------------------------------------------------------------------------

enum { KEYS = 2048 };

static int by_value(const void *a, const void *b) {
    int32_t left = *(const int32_t *)a, right = *(const int32_t *)b;
    return (left > right) - (left < right);
}

static void quick_sort(int32_t *keys, int low, int high) {
    while (low < high) {
        int32_t pivot = keys[(low + high) / 2];
        int i = low, j = high;
        while (i <= j) {
            while (keys[i] < pivot)
                i++;
            while (keys[j] > pivot)
                j--;
            if (i <= j) {
                int32_t swapped = keys[i];
                keys[i++] = keys[j];
                keys[j--] = swapped;
            }
        }
        quick_sort(keys, low, j);
        low = i;
    }
}

// 2,048 numbers by qsort and by a quicksort of ours; the operation is a number.
static uint32_t sorting(long count) {
    static int32_t one[KEYS], two[KEYS];
    uint32_t sum = 0, seed = 19;
    for (long i = 0; i < count; i += 2 * KEYS) {
        for (int k = 0; k < KEYS; k++)
            one[k] = two[k] = next_random(&seed);
        qsort(one, KEYS, sizeof *one, by_value);
        quick_sort(two, 0, KEYS - 1);
        if (memcmp(one, two, sizeof one))
            fail("sorting");
        sum = mix(sum, one[KEYS / 3]);
    }
    return sum;
}

// --- An interpreter --------------------------------------------------------------------------------

enum op { PUSH, LOAD, STORE, ADD, SUB, MUL, LESS, JUMP, JUMP_IF_NOT, DUP, XOR, SHIFT, HALT };

// for (a = 0, c = 1; a < n; a++) { c = c * 31 + a ^ c >> 7; }
static const int32_t PROGRAM[] = {
    PUSH, 0, STORE, 0, PUSH, 1, STORE, 1,                               //
    LOAD, 0, LOAD, 2, LESS, JUMP_IF_NOT, 40,                            // 8
    LOAD, 1, PUSH, 31, MUL, LOAD, 0, ADD, LOAD, 1, PUSH, 7, SHIFT, XOR, // 15
    STORE, 1, LOAD, 0, PUSH, 1, ADD, STORE, 0, JUMP, 8,                 // 29
    HALT,
};

static uint32_t interpret(const int32_t *program, uint32_t *variables, uint32_t *steps) {
    uint32_t stack[16], *top = stack, done = 0;
    for (const int32_t *at = program;;) {
        done++;
        switch ((enum op)*at++) {
        case PUSH: *top++ = *at++; break;
        case LOAD: *top++ = variables[*at++]; break;
        case STORE: variables[*at++] = *--top; break;
        case ADD: top--; top[-1] += *top; break;
        case SUB: top--; top[-1] -= *top; break;
        case MUL: top--; top[-1] *= *top; break;
        case LESS: top--; top[-1] = top[-1] < *top; break;
        case XOR: top--; top[-1] ^= *top; break;
        case SHIFT: top--; top[-1] >>= *top & 31; break;
        case DUP: *top = top[-1]; top++; break;
        case JUMP: at = program + *at; break;
        case JUMP_IF_NOT: at = *--top ? at + 1 : program + *at; break;
        case HALT: *steps += done; return variables[1];
        }
    }
}

// The operation is an instruction of the interpreted program.
static uint32_t interpreter(long count) {
    uint32_t variables[4] = {0, 0, 1000, 0}, steps = 0, sum = 0;
    while (steps < (unsigned long)count)
        sum = mix(sum, interpret(PROGRAM, variables, &steps));
    return sum;
}

// --- Compression -----------------------------------------------------------------------------------

enum { INPUT = 8192, HASHES = 1024, LONGEST = 66 };

// Runs of bytes, and copies of what came before: the most significant bit tells them apart.
static int compress(const uint8_t *in, int length, uint8_t *out) {
    static int16_t last[HASHES];
    memset(last, 0xFF, sizeof last);
    int at = 0, plain = 0, used = 0;
    while (at < length) {
        int matched = 0, distance = 0;
        if (at + 3 < length) {
            uint32_t word = in[at] | in[at + 1] << 8 | in[at + 2] << 16;
            int16_t *slot = &last[word * 0x9E3779B1u >> 22];
            int before = *slot;
            *slot = at;
            if (before >= 0) {
                while (matched < LONGEST && at + matched < length &&
                       in[before + matched] == in[at + matched])
                    matched++;
                distance = at - before;
            }
        }
        if (matched < 4) {
            at++;
            if (at - plain < 127 && at < length)
                continue;
            matched = 0;
        }
        if (at > plain) {
            out[used++] = at - plain;
            memcpy(out + used, in + plain, at - plain);
            used += at - plain;
        }
        if (matched) {
            out[used++] = 0x80 | (matched - 3);
            out[used++] = distance;
            out[used++] = distance >> 8;
            at += matched;
        }
        plain = at;
    }
    return used;
}

static int expand(const uint8_t *in, int length, uint8_t *out) {
    int used = 0;
    for (int at = 0; at < length;) {
        int code = in[at++];
        if (code & 0x80) {
            int count = (code & 0x7F) + 3, distance = in[at] | in[at + 1] << 8;
            at += 2;
            for (; count > 0; count--, used++)
                out[used] = out[used - distance];
        } else {
            memcpy(out + used, in + at, code);
            used += code;
            at += code;
        }
    }
    return used;
}

// 8 KiB of words packed and unpacked; the operation is a byte.
static uint32_t compression(long count) {
    static const char *const WORDS[] = {"guest ", "host ",  "page ",   "table ", "fault ", "unit ",
                                        "the ",   "trace ", "window ", "of ",    "a ",     "jump "};
    static uint8_t input[INPUT + 16], packed[2 * INPUT], output[INPUT + 128];
    uint32_t sum = 0, seed = 23;
    int length = 0;
    while (length < INPUT)
        for (const char *word = WORDS[next_random(&seed) % 12]; *word; word++)
            input[length++] = *word;
    for (long i = 0; i < count; i += INPUT) {
        input[next_random(&seed) % INPUT] ^= 1;
        int size = compress(input, INPUT, packed);
        if (expand(packed, size, output) != INPUT || memcmp(input, output, INPUT))
            fail("compression");
        sum = mix(sum, size);
    }
    return sum;
}

const struct work DATA[] = {
    {"pointer-chase", chase},
    {"sorting", sorting},
    {"interpreter", interpreter},
    {"compression", compression},
    {0, 0},
};
