// Mappings, protections, faults with their addresses, copy on write, the stack.
#include "guest.h"
#include <fcntl.h>

static uint8_t *const base = (uint8_t *)0x20000000;

static void load(void *address) { (void)*(volatile uint32_t *)address; }
static void store(void *address) { *(volatile uint32_t *)address = 0x12345678; }
static void store_byte(void *address) { *(volatile uint8_t *)address = 0x5A; }
static void change(void *address) { __asm__ volatile("lock addl $1, (%0)" ::"r"(address)); }
static void jump(void *address) { ((void (*)(void))address)(); }
static void push_there(void *address) { __asm__ volatile("xchg %%esp, %0\n push $7\n xchg %%esp, %0" : "+r"(address)); }

static void tried(const char *name, void (*function)(void *), const void *address) {
    struct outcome outcome = attempt(function, (void *)(uintptr_t)address);
    line(name, "%s", describe(&outcome));
}

static void protections(void) {
    map((uintptr_t)base, 4 * PAGE, PROT_READ | PROT_WRITE);
    tried("write", store, base);
    mprotect(base, PAGE, PROT_READ);
    tried("read read-only", load, base);
    tried("write read-only", store, base + 0x123);
    tried("modify read-only", change, base + 0x200);
    tried("push on read-only", push_there, base + 0x100);
    line("unchanged", "%08x", *(uint32_t *)base);
    mprotect(base, PAGE, PROT_NONE);
    tried("read none", load, base + 8);
    tried("write none", store_byte, base + 0xFFF);
    mprotect(base, PAGE, PROT_READ | PROT_WRITE);
    tried("write again", store, base + 8);
    munmap(base + PAGE, PAGE);
    tried("read unmapped", load, base + PAGE);
    tried("write unmapped", store, base + PAGE + 4);
    tried("write across the end", store, base + PAGE - 2);
    tried("read across the end", load, base + PAGE - 1);
    line("no partial write", "%04x", *(uint16_t *)(base + PAGE - 2));
    tried("jump to unmapped", jump, base + PAGE + 0x10);
    map((uintptr_t)base + PAGE, PAGE, PROT_READ | PROT_WRITE);
    line("zero again", "%08x", hash(HASH, base + PAGE, PAGE));
    tried("null", load, NULL);
    tried("null write", store, (void *)12);
    tried("null call", jump, NULL);
    tried("kernel read", load, (void *)0xFFFFE000);
    tried("kernel write", store, (void *)0xFFFFE010);
    tried("last byte", store_byte, (void *)0xFFFFFFFF);
    tried("last word", load, (void *)0xFFFFFFFC);
}

// Code where no code may run. Only paging with NX (EFER.NXE) can tell; the processor says so in bit 4 of the error code.
static uint8_t data[16] = {0xC3}; // ret

static void no_execute(void) {
    uint8_t on_stack[16] __attribute__((aligned(16)));
    uint8_t *volatile stack = on_stack; // or the store below would be left out
    stack[0] = 0xC3;
    struct outcome outcome = attempt(jump, on_stack); // whose address is another each time
    line("execute stack", "%d error %#x there %d", outcome.signal, outcome.r.err, outcome.address == (uintptr_t)on_stack);
    outcome = attempt(jump, data);
    line("execute data", "%d error %#x there %d", outcome.signal, outcome.r.err, outcome.address == (uintptr_t)data);
    uint8_t *page = map((uintptr_t)base, 2 * PAGE, PROT_READ | PROT_WRITE);
    page[0x123] = page[PAGE] = 0xC3;
    page[PAGE - 1] = 0x90; // nop
    tried("execute mapping", jump, page + 0x123);
    mprotect(page, PAGE, PROT_READ | PROT_EXEC);
    tried("execute after mprotect", jump, page + 0x123);
    tried("execute into the next page", jump, page + PAGE - 1);
    mprotect(page + PAGE, PAGE, PROT_READ | PROT_EXEC);
    tried("execute both", jump, page + PAGE - 1);
    mprotect(page, PAGE, PROT_READ | PROT_WRITE);
    tried("execute mapping again", jump, page + 0x123);
    // Translated and run many times before the right goes.
    mprotect(page, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
    for (int i = 0; i < 1000; i++) {
        jump(page + 0x123);
    }
    mprotect(page, PAGE, PROT_READ | PROT_WRITE);
    tried("execute no more", jump, page + 0x123);
    tried("still readable", load, page + 0x123);
    munmap(page, 2 * PAGE);
}

static void remapping(void) {
    uint8_t *area = map((uintptr_t)base, 16 * PAGE, PROT_READ | PROT_WRITE);
    for (int i = 0; i < 16; i++) {
        memset(area + i * PAGE, 'a' + i, PAGE);
    }
    uint8_t *moved = mremap(area, 4 * PAGE, 4 * PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)0x21000000);
    line("mremap", "%p %c%c", (void *)moved, moved[0], moved[3 * PAGE]);
    tried("moved away", load, area);
    uint8_t *grown = mremap(moved, 4 * PAGE, 8 * PAGE, 0);
    line("mremap grown", "%d %c %d", grown == moved, moved[4 * PAGE - 1], moved[4 * PAGE]);
    mremap(moved, 8 * PAGE, 2 * PAGE, 0);
    tried("shrunk", load, moved + 2 * PAGE);
    // Pages exchanged between two places many times: stale mappings would show the old content.
    uint8_t *one = area + 4 * PAGE, *two = area + 5 * PAGE, *spare = area;
    uint32_t sum = 0;
    for (int i = 0; i < 100; i++) {
        mremap(one, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, spare);
        mremap(two, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, one);
        mremap(spare, PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, two);
        sum = sum * 31 + one[i] + two[i]++ * 2;
    }
    line("exchanged", "%08x", sum);
    madvise(one, PAGE, MADV_DONTNEED);
    line("dropped", "%d", one[0]);
}

static void files(void) {
    int file = memfd_create("shared", 0);
    if (file < 0 || ftruncate(file, 3 * PAGE + 100)) {
        broken("memfd");
    }
    uint8_t *shared = mmap((void *)0x22000000, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
    uint8_t *alias = mmap((void *)0x23000000, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
    uint8_t *private = mmap((void *)0x24000000, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, 0);
    uint32_t bad = 0;
    for (uint32_t i = 0; i < 3 * PAGE; i++) {
        shared[i] = (uint8_t)(i * 13);
        bad += alias[i] != (uint8_t)(i * 13);
    }
    line("alias", "%u", bad);
    private[5] = 1;
    alias[5] = 2;
    alias[PAGE] = 3;
    line("private", "%d %d %d %d", private[5], shared[5], private[PAGE], shared[PAGE]);
    char text[6] = {0};
    if (pwrite(file, "hello", 5, 2 * PAGE) != 5 || pread(file, text, 5, 2 * PAGE) != 5) {
        broken("pwrite");
    }
    line("written", "%s %.5s %.5s", text, shared + 2 * PAGE, private + 2 * PAGE);
    pid_t child = fork();
    if (child == 0) {
        shared[7] = 77;
        private[7] = 88;
        _exit(0);
    }
    waitpid(child, NULL, 0);
    line("shared with a child", "%d %d", alias[7], private[7] == 88);
    tried("inside the last page", store, shared + 3 * PAGE + 0x800);
    ftruncate(file, PAGE);
    tried("behind the end", load, shared + PAGE + 16);
    tried("private behind the end", store, private + 2 * PAGE);
    munmap(shared, 4 * PAGE);
    munmap(alias, 4 * PAGE);
    munmap(private, 4 * PAGE);
    close(file);
}

// Parent and children change the same pages after fork.
static void copy_on_write(void) {
    enum { PAGES = 64 };
    uint8_t *area = map((uintptr_t)base, PAGES * PAGE, PROT_READ | PROT_WRITE);
    int results[2];
    if (pipe(results)) {
        broken("pipe");
    }
    for (int i = 0; i < PAGES; i++) {
        memset(area + i * PAGE, i, PAGE);
    }
    uint32_t total = 0;
    for (int round = 0; round < 4; round++) {
        pid_t child = fork();
        for (int i = round; i < PAGES; i += 2) {
            area[i * PAGE + round] += child ? 3 : 7;
        }
        if (child == 0) {
            pid_t grandchild = fork();
            area[100] = grandchild ? 1 : 2;
            uint32_t sum = hash(HASH, area, PAGES * PAGE);
            if (grandchild == 0) {
                _exit(write(results[1], &sum, 4) != 4);
            }
            waitpid(grandchild, NULL, 0);
            _exit(write(results[1], &sum, 4) != 4);
        }
        waitpid(child, NULL, 0);
        uint32_t sums[2];
        if (read(results[0], sums, 8) != 8) {
            broken("read");
        }
        total = hash32(hash32(total, sums[0]), sums[1]);
    }
    line("copy on write", "%08x %08x", total, hash(HASH, area, PAGES * PAGE));
    // The kernel writes into a page that is still shared.
    pid_t child = fork();
    if (child == 0) {
        int zero = open("/dev/zero", O_RDONLY);
        _exit(read(zero, area + 10, 20) != 20 || area[9] != 0 || area[10] != 0 || area[30] != 0 || area[PAGE] != 1);
    }
    int status;
    waitpid(child, &status, 0);
    line("kernel copy on write", "%d %08x", WEXITSTATUS(status), hash(HASH, area, PAGES * PAGE));
}

static int __attribute__((noinline)) deep(int depth) {
    volatile char frame[1000];
    frame[0] = (char)depth;
    frame[999] = 1;
    return depth == 0 ? frame[999] : deep(depth - 1) + frame[999];
}

// Pushes on the ordinary stack, which grows until its limit.
static void overflow(void *top) { __asm__ volatile("mov %0, %%esp\n 1: push $1\n jmp 1b" ::"r"(top)); }

static void stack(void) {
    line("stack growth", "%d", deep(4000));
    pid_t child = fork();
    if (child == 0) {
        struct outcome outcome = attempt(overflow, (char *)__builtin_frame_address(0) - 64 * 1024);
        uint32_t distance = (uint32_t)__builtin_frame_address(0) - outcome.address;
        line("stack overflow", "signal %d code %d trap %u err %#x, below ESP %d, within the limit %d", outcome.signal,
             outcome.code, outcome.r.trapno, outcome.r.err, outcome.address == outcome.r.esp - 4,
             distance > 6 << 20 && distance < 9 << 20);
        _exit(0);
    }
    waitpid(child, NULL, 0);
}

static void many(void) {
    enum { MAPPINGS = 2000 };
    uint32_t sum = 0;
    for (uint32_t i = 0; i < MAPPINGS; i++) {
        // Every other page, so that none are merged.
        uint32_t *page = map(0x30000000 + i * 2 * PAGE, PAGE, PROT_READ | PROT_WRITE);
        *page = i * 3;
    }
    for (uint32_t i = 0; i < MAPPINGS; i++) {
        sum += *(uint32_t *)(0x30000000 + i * 2 * PAGE);
    }
    line("mappings", "%u", sum);
    for (uint32_t i = 0; i < MAPPINGS; i += 2) {
        munmap((void *)(0x30000000 + i * 2 * PAGE), PAGE);
    }
    sum = 0;
    for (uint32_t i = 1; i < MAPPINGS; i += 2) {
        sum += *(uint32_t *)(0x30000000 + i * 2 * PAGE);
    }
    line("half of them", "%u", sum);
    tried("one of the others", load, (void *)(0x30000000 + 4 * PAGE));
    munmap((void *)0x30000000, MAPPINGS * 2 * PAGE);
    // Sparse: one page in every 4 MiB, each with a page table of its own.
    for (uint32_t i = 0; i < 100; i++) {
        *(uint32_t *)map(0x30000000 + (i << 22), PAGE, PROT_READ | PROT_WRITE) = i;
    }
    sum = 0;
    for (uint32_t i = 0; i < 100; i++) {
        sum += *(uint32_t *)(0x30000000 + (i << 22)) * i;
        munmap((void *)(0x30000000 + (i << 22)), PAGE);
    }
    line("sparse", "%u", sum);
    // A large block touched in an order that no prefetching foresees.
    uint32_t *block = map(0x30000000, 8 << 20, PROT_READ | PROT_WRITE);
    for (uint32_t i = 0; i < 2048; i++) {
        block[(i * 1103 % 2048) * 1024 + i % 1024] = i;
    }
    line("block", "%08x", hash(HASH, block, 8 << 20));
    munmap(block, 8 << 20);
}

void memory(void) {
    protections();
    no_execute();
    remapping();
    files();
    copy_on_write();
    stack();
    many();
}
