// Kinds of work that a program measures with the clock of the system it runs on.
//
//     WORK WARM COUNT    WARM operations untimed, COUNT timed; prints "RESULT WORK COUNT NANOSECONDS"
//     serve              takes orders from standard input, a line each: "WORK COUNT MILLISECONDS"
//
// An order is carried out in rounds of COUNT operations until the time is over: one untimed, at least
// three timed. It prints "BEGIN WORK", and when it is done
//     END WORK ROUNDS LEAST MEDIAN TOTAL ELAPSED CHECKSUM
// with the shortest of the rounds, their median, their sum, and the time between the two lines, in nanoseconds; all
// rounds have the same checksum. The order "end" ends it.
//
// As init (with what follows "--" on the kernel's command line) it powers the machine off at its end.
#include "bench.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { MOST_ROUNDS = 20000 };

const char *program_path, *files_path = "/dev/shm";

static void end(int status) {
    fflush(stdout);
    if (getpid() == 1) {
        sync();
        reboot(RB_POWER_OFF);
    }
    exit(status);
}

void fail(const char *what) {
    perror(what);
    end(1);
}

static long long now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static run_t *find(const char *name) {
    const struct work *tables[] = {CALLS, DATA, FLOATS, INTEGERS, MEMORY, PAGING, SSE2, SYSTEM};
    for (unsigned i = 0; i < sizeof tables / sizeof *tables; i++)
        for (const struct work *work = tables[i]; work->name; work++)
            if (!strcmp(work->name, name))
                return work->run;
    return 0;
}

static int by_size(const void *a, const void *b) {
    long long left = *(const long long *)a, right = *(const long long *)b;
    return (left > right) - (left < right);
}

static void serve(const char *name, run_t *run, long count, long milliseconds) {
    static long long rounds[MOST_ROUNDS];
    printf("BEGIN %s\n", name);
    fflush(stdout);
    tcdrain(1);
    long long begin = now(), total = 0;
    uint32_t sum = run(count);
    int done = 0;
    while (done < MOST_ROUNDS && (done < 3 || total < milliseconds * 1000000LL)) {
        long long start = now();
        uint32_t again = run(count);
        total += rounds[done++] = now() - start;
        if (again != sum) {
            printf("FAILED %s: %08x, then %08x\n", name, sum, again);
            return;
        }
    }
    long long elapsed = now() - begin;
    qsort(rounds, done, sizeof *rounds, by_size);
    printf("END %s %d %lld %lld %lld %lld %08x\n", name, done, rounds[0], rounds[done / 2], total, elapsed,
           sum);
    fflush(stdout);
}

static void server(void) {
    struct termios terminal;
    if (tcgetattr(0, &terminal) == 0) {
        cfmakeraw(&terminal);
        tcsetattr(0, TCSANOW, &terminal);
    }
    printf("READY\n");
    fflush(stdout);
    char line[128], name[64];
    long count, milliseconds;
    while (fgets(line, sizeof line, stdin) && strncmp(line, "end", 3)) {
        if (sscanf(line, "%63s %ld %ld", name, &count, &milliseconds) != 3)
            continue;
        run_t *run = find(name);
        if (run)
            serve(name, run, count, milliseconds);
        else
            printf("FAILED %s: unknown\n", name);
        fflush(stdout);
    }
}

int main(int argc, char **argv) {
    program_path = argv[0];
    if (argc == 2 && !strcmp(argv[1], "nothing"))
        return 0;
    if (getpid() == 1) {
        files_path = "/tmp";
        mkdir("/tmp", 0755);
        if (mount("tmpfs", "/tmp", "tmpfs", 0, ""))
            fail("tmpfs");
    }
    if (argc == 2 && !strcmp(argv[1], "serve")) {
        server();
        end(0);
    }
    if (argc != 4)
        fail("usage: WORK WARM COUNT");
    run_t *run = find(argv[1]);
    if (!run)
        fail("unknown work");
    long count = atol(argv[3]);
    run(atol(argv[2]));
    long long start = now();
    run(count);
    printf("RESULT %s %ld %lld\n", argv[1], count, now() - start);
    end(0);
}
