// What an operating system does for a program: signals and files.
#include "bench.h"
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static volatile uint32_t seen;

static void handler(int number) { seen = seen * 3 + number; }

static uint32_t signals(long count) {
    signal(SIGUSR1, handler);
    seen = 0;
    for (long i = 0; i < count; i++)
        kill(getpid(), SIGUSR1);
    return seen;
}

// A file of 64 KiB in memory made, written, looked at, read and removed.
static uint32_t files(long count) {
    static uint8_t block[PAGE];
    char path[64];
    snprintf(path, sizeof path, "%s/ringshift-bench.%d", files_path, (int)getpid());
    uint32_t sum = 0;
    for (long i = 0; i < count; i++) {
        int file = open(path, O_CREAT | O_RDWR | O_TRUNC, 0600);
        if (file < 0)
            fail(path);
        for (int at = 0; at < 16; at++) {
            memset(block, i + at, sizeof block);
            if (write(file, block, sizeof block) != sizeof block)
                fail("write");
        }
        struct stat status;
        if (fstat(file, &status) || lseek(file, 0, SEEK_SET))
            fail("lseek");
        while (read(file, block, sizeof block) == sizeof block)
            sum = mix(sum, block[i % PAGE]);
        close(file);
        if (stat(path, &status) || unlink(path))
            fail("unlink");
        sum = mix(sum, status.st_size);
    }
    return sum;
}

const struct work SYSTEM[] = {{"signals", signals}, {"files", files}, {0, 0}};
