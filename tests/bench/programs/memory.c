// Blocks of memory and strings, by the functions of libc and by string instructions.
#include "bench.h"
#include <string.h>

enum { BLOCK = 16384, LINES = 128 };

static uint8_t from[BLOCK + 64], to[BLOCK + 64];

// libc's functions, and not what the compiler makes of small blocks of known size.
static void *(*volatile const copy_block)(void *, const void *, size_t) = memcpy;
static void *(*volatile const set_block)(void *, int, size_t) = memset;

static void fill(void) {
    uint32_t seed = 11;
    for (int i = 0; i < BLOCK; i++)
        from[i] = next_random(&seed);
    memset(to, 0, sizeof to);
}

static uint32_t checked(void) {
    uint32_t sum = 0;
    for (int i = 0; i < BLOCK; i += 61)
        sum = mix(sum, to[i]);
    return sum;
}

// One operation is a kilobyte: blocks of 16 KiB, 1 KiB and 64 bytes, a third each.
static uint32_t copies(long count) {
    fill();
    for (long i = 0; i < count; i += 48) {
        copy_block(to, from + (i & 15), BLOCK);
        for (int at = 0; at < BLOCK; at += 1024)
            copy_block(to + at, from + at, 1024);
        for (int at = 0; at < BLOCK; at += 64)
            copy_block(to + at, from + (at ^ 64), 64);
        __asm__ volatile("" ::: "memory");
    }
    return checked();
}

static uint32_t sets(long count) {
    fill();
    for (long i = 0; i < count; i += 48) {
        set_block(to, i, BLOCK);
        for (int at = 0; at < BLOCK; at += 1024)
            set_block(to + at, at >> 10, 1024);
        for (int at = 0; at < BLOCK; at += 64)
            set_block(to + at, at >> 6, 64);
        __asm__ volatile("" ::: "memory");
    }
    return checked();
}

// REP MOVSD and REP STOSB, a kilobyte at a time.
static uint32_t string_copies(long count) {
    fill();
    for (long i = 0; i < count; i += 2) {
        void *source = from + (i & 15) * 512, *target = to + (i & 14) * 1024;
        long words = 256, bytes = 1024;
        __asm__ volatile("rep movsl" : "+S"(source), "+D"(target), "+c"(words) : : "memory");
        __asm__ volatile("rep stosb" : "+D"(target), "+c"(bytes) : "a"(i >> 4) : "memory");
    }
    return checked();
}

// One operation is a line of text measured, copied, compared and searched.
static uint32_t strings(long count) {
    static char text[LINES][80], copy[80];
    uint32_t seed = 13;
    for (int line = 0; line < LINES; line++) {
        int length = 20 + next_random(&seed) % 55;
        for (int i = 0; i < length; i++)
            text[line][i] = 'a' + next_random(&seed) % 26;
        text[line][length] = 0;
    }
    uint32_t sum = 0;
    for (long i = 0; i < count; i++) {
        const char *line = text[i % LINES];
        size_t length = strlen(line);
        strcpy(copy, line);
        const char *found = strchr(line, 'q'), *pair = strstr(line, "ab");
        sum += length + (found ? found - line : 1) + (pair ? pair - line : 2);
        sum += strcmp(copy, text[(i + 1) % LINES]) > 0;
        sum += memchr(line, 'z', length) ? 3 : 4;
    }
    return sum;
}

const struct work MEMORY[] = {
    {"memcpy", copies},
    {"memset", sets},
    {"string-instructions", string_copies},
    {"strings", strings},
    {0, 0},
};
