// What the guest programs share: lines of output, processor state in and out of a piece of code.
//
// Each topic is one function, run as `programs TOPIC`. Everything it prints is the same on each run
// and on each processor and kernel, as far as the architecture and Linux's interface promise it.
#pragma once
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096u
#define COUNT(array) (sizeof(array) / sizeof *(array))

// Flags (Intel SDM vol. 1, section 3.4.3).
enum {
    CF = 1 << 0,
    PF = 1 << 2,
    AF = 1 << 4,
    ZF = 1 << 6,
    SF = 1 << 7,
    TF = 1 << 8,
    DF = 1 << 10,
    OF = 1 << 11,
    NT = 1 << 14,
    RF = 1 << 16,
    AC = 1 << 18,
    ID = 1 << 21,
    STATUS = CF | PF | AF | ZF | SF | OF,
};

// Prints one line, `NAME: ...`. Names are unique within a topic.
void line(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));

// A system call failed that the topic needs: says so and ends the process.
void broken(const char *what) __attribute__((noreturn));

// FNV-1a over everything a case leaves.
typedef uint32_t hash_t;
enum { HASH = 0x811C9DC5 };
hash_t hash(hash_t start, const void *data, size_t size);

static inline hash_t hash32(hash_t start, uint32_t value) { return hash(start, &value, sizeof value); }

// Prints the hashes of values, of flags and of the denormal flag on lines of their own: emulators differ most in the last.
void report_hashes(const char *name, const hash_t h[3]);

// Memory at a fixed address, zero.
void *map(uintptr_t address, size_t size, int protection);

// Registers as in a signal frame of Linux for i386.
struct registers {
    uint32_t gs, fs, es, ds, edi, esi, ebp, esp, ebx, edx, ecx, eax, trapno, err, eip, cs, eflags, esp_at_signal, ss;
};

// How a piece of code ended.
struct outcome {
    struct registers r;
    int signal;
    int code;         // si_code
    uint32_t address; // si_addr
};

// The registers of the caller, with EIP at `code` and a stack of its own.
struct registers start_at(const void *code);

// Enters `start` as it is, through a signal return, and comes back with the state at the first
// signal that the code causes, usually that of an INT3.
struct outcome run(struct registers start);

// Runs a function and comes back when it returns (signal 0) or causes a signal.
struct outcome attempt(void (*function)(void *), void *argument);

// `SEGV code 1 trap 14 error 6 address 0x1234`, `int3`, or `none`.
const char *describe(const struct outcome *outcome);

// Code in the program's text: NAME to NAME_end.
#define CODE(name, text)                                                                                               \
    extern const char name[], name##_end[] __attribute__((unused));                                                                          \
    __asm__(".pushsection .text.snippets,\"ax\"\n.balign 16\n" #name ":\n" text "\n" #name "_end:\n.code32\n.popsection")

// Copies code and returns its size.
#define PUT(where, name) (memcpy((where), name, (size_t)(name##_end - name)), (size_t)(name##_end - name))

bool has_sse2(void);

void arithmetic(void);
void fpu(void);
void machine(void);
void memory(void);
void modifying(void);
void processes(void);
void segments(void);
void signals(void);
void simd(void);
void strings(void);
void syscalls(void);
void tracing(void);
