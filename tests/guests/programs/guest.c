// The common part, and the choice of the topic: `programs topics` lists them.
#include "guest.h"
#include <cpuid.h>
#include <stdarg.h>
#include <ucontext.h>

void line(const char *name, const char *format, ...) {
    char text[1024];
    int used = snprintf(text, sizeof text, "%s: ", name);
    va_list arguments;
    va_start(arguments, format);
    used += vsnprintf(text + used, sizeof text - (size_t)used - 1, format, arguments);
    va_end(arguments);
    if (used > (int)sizeof text - 2) {
        used = sizeof text - 2;
    }
    text[used++] = '\n';
    // One write a line, so that lines of several processes do not mix; more only where a signal comes
    // before the end, as it does on a slow machine.
    for (int done = 0; done < used;) {
        ssize_t now = write(1, text + done, (size_t)(used - done));
        if (now < 0 && errno != EINTR) {
            _exit(98);
        }
        done += now > 0 ? (int)now : 0;
    }
}

void broken(const char *what) {
    line("BROKEN", "%s: %s", what, strerror(errno));
    _exit(99);
}

hash_t hash(hash_t start, const void *data, size_t size) {
    const uint8_t *bytes = data;
    for (size_t i = 0; i < size; i++) {
        start = (start ^ bytes[i]) * 0x01000193;
    }
    return start;
}

void report_hashes(const char *name, const hash_t h[3]) {
    char text[64];
    line(name, "%08x", h[0]);
    snprintf(text, sizeof text, "%s, flags", name);
    line(text, "%08x", h[1]);
    snprintf(text, sizeof text, "%s, denormal flag", name);
    line(text, "%08x", h[2]);
}

void *map(uintptr_t address, size_t size, int protection) {
    void *got = mmap((void *)address, size, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    if (got == MAP_FAILED) {
        broken("mmap");
    }
    return got;
}

bool has_sse2(void) {
    uint32_t a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && d & bit_SSE2;
}

// The state of `run`: what to enter, where to go on, what came of it.
static struct {
    enum { IDLE, ENTER, INSIDE } phase;
    struct registers start;
    struct registers caller;
    struct outcome outcome;
} runs;

static char code_stack[64 * 1024] __attribute__((aligned(16)));
static char handler_stack[64 * 1024] __attribute__((aligned(16)));

// Uses no thread-local storage: the code under test may have loaded GS.
static void handler(int number, siginfo_t *info, void *context) {
    _Static_assert(sizeof(struct registers) == sizeof(((ucontext_t *)0)->uc_mcontext.gregs), "the layout of <ucontext.h>");
    struct registers *frame = (struct registers *)((ucontext_t *)context)->uc_mcontext.gregs;
    switch (runs.phase) {
    case ENTER:
        runs.caller = *frame;
        *frame = runs.start;
        runs.phase = INSIDE;
        break;
    case INSIDE:
        runs.outcome.r = *frame;
        runs.outcome.signal = number;
        runs.outcome.code = info->si_code;
        runs.outcome.address = number == SIGSEGV || number == SIGBUS || number == SIGILL || number == SIGFPE ? (uint32_t)info->si_addr : 0;
        *frame = runs.caller;
        runs.phase = IDLE;
        break;
    case IDLE:
        line("BROKEN", "signal %d at %#x", number, frame->eip);
        _exit(97);
    }
}

static void set_up(void) {
    static bool done;
    if (done) {
        return;
    }
    done = true;
    stack_t stack = {.ss_sp = handler_stack, .ss_size = sizeof handler_stack};
    if (sigaltstack(&stack, NULL)) {
        broken("sigaltstack");
    }
    struct sigaction action = {.sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    const int caught[] = {SIGTRAP, SIGSEGV, SIGILL, SIGFPE, SIGBUS};
    for (size_t i = 0; i < COUNT(caught); i++) {
        if (sigaction(caught[i], &action, NULL)) {
            broken("sigaction");
        }
    }
}

struct registers start_at(const void *code) {
    struct registers r = {.eip = (uint32_t)code, .eflags = 0x202};
    r.esp_at_signal = r.esp = (uint32_t)(code_stack + sizeof code_stack - 64);
    __asm__("mov %%cs, %0\n mov %%ss, %1\n mov %%ds, %2\n mov %%es, %3\n mov %%fs, %4\n mov %%gs, %5"
            : "=r"(r.cs), "=r"(r.ss), "=m"(r.ds), "=m"(r.es), "=m"(r.fs), "=m"(r.gs));
    r.cs &= 0xFFFF;
    r.ss &= 0xFFFF;
    return r;
}

struct outcome run(struct registers start) {
    set_up();
    runs.start = start;
    runs.phase = ENTER;
    __asm__ volatile("int3" ::: "memory");
    return runs.outcome;
}

static void (*volatile attempted)(void *);

static void attempt_end(void) { __asm__ volatile("int3"); }

struct outcome attempt(void (*function)(void *), void *argument) {
    struct registers start = start_at((const void *)function);
    uint32_t *top = (uint32_t *)start.esp;
    // As after a call, with the stack aligned as the ABI has it.
    top -= 2;
    top[0] = (uint32_t)attempt_end;
    top[1] = (uint32_t)argument;
    start.esp_at_signal = start.esp = (uint32_t)top;
    struct outcome outcome = run(start);
    if (outcome.signal == SIGTRAP && outcome.r.trapno == 3) {
        outcome.signal = 0;
    }
    return outcome;
}

const char *describe(const struct outcome *outcome) {
    static char text[128];
    const char *name = "?";
    if (outcome->signal == SIGTRAP && outcome->code == SI_KERNEL && outcome->r.trapno == 3) {
        return "int3"; // how most pieces of code end
    }
    switch (outcome->signal) {
    case 0: return "none";
    case SIGSEGV: name = "SEGV"; break;
    case SIGBUS: name = "BUS"; break;
    case SIGILL: name = "ILL"; break;
    case SIGFPE: name = "FPE"; break;
    case SIGTRAP: name = "TRAP"; break;
    }
    snprintf(text, sizeof text, "%s code %d trap %u error %#x address %#x", name, outcome->code, outcome->r.trapno,
             outcome->r.err, outcome->address);
    return text;
}

static const struct {
    const char *name;
    void (*run)(void);
} topics[] = {
    {"arithmetic", arithmetic}, {"strings", strings},     {"fpu", fpu},           {"simd", simd},
    {"memory", memory},         {"modifying", modifying}, {"signals", signals},   {"segments", segments},
    {"processes", processes},   {"tracing", tracing},     {"syscalls", syscalls}, {"machine", machine},
};

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "exit")) {
        return atoi(argv[2]);
    }
    for (size_t i = 0; argc == 2 && i < COUNT(topics); i++) {
        if (!strcmp(argv[1], "topics")) {
            printf("%s\n", topics[i].name);
            continue;
        }
        if (!strcmp(argv[1], topics[i].name)) {
            topics[i].run();
            return 0;
        }
    }
    return argc == 2 && !strcmp(argv[1], "topics") ? 0 : 2;
}
