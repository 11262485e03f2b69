// What an operating system does to its page tables: one kind of work, timed from inside.
//
// Runs as init. The kernel passes what follows "--" on its command line:
//     WORK WARM COUNT
// carries out WARM operations untimed and COUNT timed ones, prints "RESULT WORK COUNT NANOSECONDS"
// and powers the machine off.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAGE = 4096, REGION_PAGES = 1024, PROCESSES = 20 };

static void fail(const char *what) {
    perror(what);
    reboot(RB_POWER_OFF);
    exit(1);
}

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void end_child(pid_t child) {
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        fail("child");
}

static void one_byte(int fd, int write_it) {
    char byte = 1;
    if ((write_it ? write(fd, &byte, 1) : read(fd, &byte, 1)) != 1)
        fail("pipe");
}

// One page of fresh anonymous memory: mapped with 1,023 others, touched, unmapped with them.
static void demand_fault(long count) {
    while (count > 0) {
        long pages = count < REGION_PAGES ? count : REGION_PAGES;
        volatile char *at = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED)
            fail("mmap");
        for (long i = 0; i < pages; i++)
            at[i * PAGE] = 1;
        munmap((void *)at, pages * PAGE);
        count -= pages;
    }
}

// A page is made read-only, read, made writable, written.
static void protect(long count) {
    static char area[64 * PAGE] __attribute__((aligned(PAGE)));
    volatile char *at = area;
    for (long i = 0; i < count; i++) {
        volatile char *page = at + i % 64 * PAGE;
        if (mprotect((void *)page, PAGE, PROT_READ))
            fail("mprotect");
        (void)*page;
        if (mprotect((void *)page, PAGE, PROT_READ | PROT_WRITE))
            fail("mprotect");
        *page = 1;
    }
}

static void fork_wait(long count) {
    while (count-- > 0) {
        pid_t child = fork();
        if (child == 0)
            _exit(0);
        end_child(child);
    }
}

// fork, exec of this program (which ends at once), wait.
static void fork_exec(long count) {
    while (count-- > 0) {
        pid_t child = fork();
        if (child == 0) {
            execl("/init", "init", "nothing", (char *)0);
            _exit(1);
        }
        end_child(child);
    }
}

// A byte goes round a ring of processes; the operation is one hand-over.
static void ring(long count, int processes) {
    int pipes[PROCESSES][2];
    pid_t children[PROCESSES];
    long rounds = count / processes;
    for (int i = 0; i < processes; i++)
        if (pipe(pipes[i]))
            fail("pipe");
    for (int i = 1; i < processes; i++) {
        children[i] = fork();
        if (children[i] == 0) {
            for (long n = 0; n < rounds; n++) {
                one_byte(pipes[i - 1][0], 0);
                one_byte(pipes[i][1], 1);
            }
            _exit(0);
        }
    }
    for (long n = 0; n < rounds; n++) {
        one_byte(pipes[0][1], 1);
        one_byte(pipes[processes - 1][0], 0);
    }
    for (int i = 0; i < processes; i++) {
        if (i > 0)
            end_child(children[i]);
        close(pipes[i][0]);
        close(pipes[i][1]);
    }
}

// Two hand-overs are one round trip.
static void ping_pong(long count) { ring(count * 2, 2); }

static void context_switch(long count) { ring(count, PROCESSES); }

static void system_call(long count) {
    while (count-- > 0)
        syscall(SYS_getppid);
}

// Reads and writes a megabyte that is mapped, page by page.
static void steady(long count) {
    static char area[256 * PAGE];
    volatile char *at = area;
    while (count-- > 0)
        at[count % 256 * PAGE + count % 61] += 1;
}

// A write to a page, the same page mapped elsewhere and gone again: two changes of one page-table
// entry, in a table that stays.
static void table_write(long count) {
    char *at = mmap(0, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        fail("mmap");
    memset(at, 1, 64 * PAGE);
    for (long i = 0; i < count; i++) {
        volatile char *page = at + i % 64 * PAGE;
        if (madvise((void *)page, PAGE, MADV_DONTNEED))
            fail("madvise");
        *page = 1;
    }
    munmap(at, 64 * PAGE);
}

static const struct {
    const char *name;
    void (*run)(long);
} WORKS[] = {
    {"demand-fault", demand_fault}, {"mprotect", protect},
    {"fork-wait", fork_wait},       {"fork-exec-wait", fork_exec},
    {"ping-pong", ping_pong},       {"context-switch", context_switch},
    {"system-call", system_call},   {"steady", steady},
    {"table-write", table_write},
};

int main(int argc, char **argv) {
    if (argc == 2 && !strcmp(argv[1], "nothing"))
        return 0;
    if (argc != 4)
        fail("usage: WORK WARM COUNT");
    long warm = atol(argv[2]), count = atol(argv[3]);
    for (unsigned i = 0; i < sizeof WORKS / sizeof *WORKS; i++) {
        if (strcmp(WORKS[i].name, argv[1]))
            continue;
        WORKS[i].run(warm);
        long long start = now();
        WORKS[i].run(count);
        printf("RESULT %s %ld %lld\n", argv[1], count, now() - start);
        fflush(stdout);
        sync();
        reboot(RB_POWER_OFF);
        return 0;
    }
    fail("unknown work");
}
