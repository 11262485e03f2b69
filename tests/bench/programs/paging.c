// What an operating system does to its page tables, and processes that hand over to each other.
#include "bench.h"
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum { REGION_PAGES = 1024, PROCESSES = 20 };

static void end_child(pid_t child) {
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child || status != 0)
        fail("child");
}

static void send_byte(int fd, uint8_t byte) {
    if (write(fd, &byte, 1) != 1)
        fail("pipe");
}

static uint8_t receive_byte(int fd) {
    uint8_t byte;
    if (read(fd, &byte, 1) != 1)
        fail("pipe");
    return byte;
}

// One page of fresh anonymous memory: mapped with 1,023 others, touched, unmapped with them.
static uint32_t demand_fault(long count) {
    uint32_t sum = 0;
    while (count > 0) {
        long pages = count < REGION_PAGES ? count : REGION_PAGES;
        volatile char *at = mmap(0, pages * PAGE, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED)
            fail("mmap");
        for (long i = 0; i < pages; i++)
            sum += ++at[i * PAGE];
        munmap((void *)at, pages * PAGE);
        count -= pages;
    }
    return sum;
}

// A page is made read-only, read, made writable, written.
static uint32_t protect(long count) {
    static char area[64 * PAGE] __attribute__((aligned(PAGE)));
    volatile char *at = area;
    uint32_t sum = 0;
    for (long i = 0; i < count; i++) {
        volatile char *page = at + i % 64 * PAGE;
        if (mprotect((void *)page, PAGE, PROT_READ))
            fail("mprotect");
        sum += *page;
        if (mprotect((void *)page, PAGE, PROT_READ | PROT_WRITE))
            fail("mprotect");
        *page = 1;
    }
    memset(area, 0, sizeof area);
    return sum;
}

static uint32_t fork_wait(long count) {
    for (long i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0)
            _exit(0);
        end_child(child);
    }
    return count;
}

// fork, exec of this program (which ends at once), wait.
static uint32_t fork_exec(long count) {
    for (long i = 0; i < count; i++) {
        pid_t child = fork();
        if (child == 0) {
            execl(program_path, "nothing", "nothing", (char *)0);
            _exit(1);
        }
        end_child(child);
    }
    return count;
}

// A byte goes round a ring of processes, each of which adds one to it; the operation is one hand-over.
static uint32_t ring(long count, int processes) {
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
                uint8_t byte = receive_byte(pipes[i - 1][0]);
                send_byte(pipes[i][1], byte + 1);
            }
            _exit(0);
        }
    }
    uint32_t sum = 0;
    for (long n = 0; n < rounds; n++) {
        send_byte(pipes[0][1], n);
        sum = mix(sum, receive_byte(pipes[processes - 1][0]));
    }
    for (int i = 0; i < processes; i++) {
        if (i > 0)
            end_child(children[i]);
        close(pipes[i][0]);
        close(pipes[i][1]);
    }
    return sum;
}

// Two hand-overs are one round trip.
static uint32_t ping_pong(long count) { return ring(count * 2, 2); }

static uint32_t context_switch(long count) { return ring(count, PROCESSES); }

static uint32_t system_call(long count) {
    uint32_t sum = 0;
    for (long i = 0; i < count; i++)
        sum |= syscall(SYS_getppid) < 0;
    return sum;
}

// Reads and writes a megabyte that is mapped, page by page.
static uint32_t steady(long count) {
    static char area[256 * PAGE];
    volatile char *at = area;
    uint32_t sum = 0;
    for (long i = 0; i < count; i++)
        sum += at[i % 256 * PAGE + i % 61] ^= 1;
    memset(area, 0, sizeof area);
    return sum;
}

// A write to a page, the same page mapped elsewhere and gone again: two changes of one page-table
// entry, in a table that stays.
static uint32_t table_write(long count) {
    char *at = mmap(0, 64 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        fail("mmap");
    memset(at, 1, 64 * PAGE);
    uint32_t sum = 0;
    for (long i = 0; i < count; i++) {
        volatile char *page = at + i % 64 * PAGE;
        if (madvise((void *)page, PAGE, MADV_DONTNEED))
            fail("madvise");
        sum += *page += 1;
    }
    munmap(at, 64 * PAGE);
    return sum;
}

const struct work PAGING[] = {
    {"demand-fault", demand_fault},
    {"mprotect", protect},
    {"fork-wait", fork_wait},
    {"fork-exec-wait", fork_exec},
    {"ping-pong", ping_pong},
    {"context-switch", context_switch},
    {"system-call", system_call},
    {"steady", steady},
    {"table-write", table_write},
    {0, 0},
};
