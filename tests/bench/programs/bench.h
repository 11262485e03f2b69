// Kinds of work that a guest program measures: see main.c.
#pragma once
#include <stdint.h>

enum { PAGE = 4096 };

// Carries out `count` operations; the result depends on nothing but `count`.
typedef uint32_t run_t(long count);

struct work {
    const char *name;
    run_t *run;
};

// One table for each file, ended by a work without a name.
extern const struct work CALLS[], DATA[], FLOATS[], INTEGERS[], MEMORY[], PAGING[], SSE2[], SYSTEM[];

// Where this program is and where files are in memory, for those that need it.
extern const char *program_path, *files_path;

// Reports an error and ends the program, or as init the machine.
void fail(const char *what);

// Pseudo-random numbers: the same in every run.
static inline uint32_t next_random(uint32_t *state) {
    *state = *state * 1664525 + 1013904223;
    return *state >> 8;
}

// Adds a value to a checksum.
static inline uint32_t mix(uint32_t sum, uint32_t value) {
    sum = (sum ^ value) * 0x9E3779B1;
    return sum ^ sum >> 15;
}
