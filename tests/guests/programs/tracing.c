// A debugger at work: single steps, breakpoints in code and in debug registers, system calls.
#include "guest.h"
#include <sys/ptrace.h>
#include <sys/user.h>

CODE(traced_code, "xor %eax, %eax\n mov $5, %ecx\n traced_loop: add %ecx, %eax\n loop traced_loop\n"
                  "push %eax\n call traced_function\n pop %edx\n pushf\n pop %ebx\n and $~0x10, %ebx\n"
                  "mov $traced_data, %edi\n mov %edi, %esi\n mov $3, %ecx\n rep movsb\n"
                  "traced_store: movl $7, traced_data\n nop\n traced_read: mov traced_data, %ebx\n nop\n"
                  "mov $20, %eax\n int $0x80\n traced_end: nop\n mov $1, %eax\n mov $9, %ebx\n int $0x80\n"
                  "traced_function: mov 4(%esp), %eax\n shl $1, %eax\n ret");
extern const char traced_loop[], traced_store[], traced_read[], traced_end[], traced_function[];
uint32_t traced_data;

static pid_t start(void) {
    pid_t child = fork();
    if (child == 0) {
        ptrace(PTRACE_TRACEME, 0, NULL, NULL);
        raise(SIGSTOP);
        __asm__ volatile("xor %ecx, %ecx\n jmp traced_code");
        _exit(3);
    }
    int status;
    waitpid(child, &status, 0);
    if (!WIFSTOPPED(status)) {
        broken("no stop");
    }
    return child;
}

// The child's EIP, as an offset.
static int place(pid_t child) { return (int)(ptrace(PTRACE_PEEKUSER, child, offsetof(struct user, regs.eip), NULL) - (long)traced_code); }

static int go(pid_t child, int how) {
    int status;
    ptrace(how, child, NULL, NULL);
    waitpid(child, &status, 0);
    return status;
}

static void to_start(pid_t child) {
    long saved = ptrace(PTRACE_PEEKTEXT, child, traced_code, NULL);
    ptrace(PTRACE_POKETEXT, child, traced_code, (void *)((saved & ~0xFF) | 0xCC));
    go(child, PTRACE_CONT);
    ptrace(PTRACE_POKETEXT, child, traced_code, (void *)saved);
    ptrace(PTRACE_POKEUSER, child, offsetof(struct user, regs.eip), traced_code);
}

static void stepping(void) {
    pid_t child = start();
    to_start(child);
    line("breakpoint", "at +%d", place(child));
    hash_t h = HASH;
    int steps = 0, status;
    struct user_regs_struct registers;
    for (;;) {
        status = go(child, PTRACE_SINGLESTEP);
        if (!WIFSTOPPED(status)) {
            break;
        }
        steps++;
        ptrace(PTRACE_GETREGS, child, NULL, &registers);
        h = hash32(h, (uint32_t)(registers.eip - (long)traced_code));
        // The getpid of the child is a process id.
        bool known = registers.eip < (long)traced_end || registers.eip > (long)traced_end + 1;
        h = hash32(hash32(h, known ? (uint32_t)registers.eax : 0), (uint32_t)registers.ecx);
        h = hash32(h, (uint32_t)registers.eflags & ((STATUS & ~AF) | TF));
        if (steps == 21 || steps == 22) {
            char name[16];
            snprintf(name, sizeof name, "step %d", steps);
            line(name, "at +%d eax %lx ebx %lx", place(child), registers.eax, registers.ebx);
        }
    }
    line("steps", "%d %08x status %d", steps, h, WEXITSTATUS(status));
}

static void software(void) {
    pid_t child = start();
    to_start(child);
    int hits = 0, status;
    long saved = ptrace(PTRACE_PEEKTEXT, child, traced_loop, NULL);
    for (;;) {
        ptrace(PTRACE_POKETEXT, child, traced_loop, (void *)((saved & ~0xFF) | 0xCC));
        status = go(child, PTRACE_CONT);
        if (!WIFSTOPPED(status)) {
            break;
        }
        hits++;
        ptrace(PTRACE_POKETEXT, child, traced_loop, (void *)saved);
        ptrace(PTRACE_POKEUSER, child, offsetof(struct user, regs.eip), traced_loop);
        go(child, PTRACE_SINGLESTEP);
    }
    line("breakpoints", "%d status %d", hits, WEXITSTATUS(status));
}

static bool debug_register(pid_t child, int index, uint32_t value) {
    return ptrace(PTRACE_POKEUSER, child, offsetof(struct user, u_debugreg) + 4 * (size_t)index, (void *)value) == 0;
}

static uint32_t debug_status(pid_t child) {
    return (uint32_t)ptrace(PTRACE_PEEKUSER, child, offsetof(struct user, u_debugreg) + 24, NULL);
}

// TYPE: 0 execution, 1 writes, 3 accesses. LENGTH: 0, 1 or 3, bytes less one.
static void hardware(const char *name, const void *address, uint32_t type, uint32_t length, unsigned index) {
    pid_t child = start();
    to_start(child);
    char text[200] = "";
    int status;
    if (!debug_register(child, (int)index, (uint32_t)address) ||
        !debug_register(child, 7, 1u << (2 * index) | (type | length << 2) << (16 + 4 * index))) {
        line(name, "%s", strerror(errno));
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
        return;
    }
    for (int hits = 0; hits < 12; hits++) {
        status = go(child, PTRACE_CONT);
        if (!WIFSTOPPED(status)) {
            break;
        }
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, " +%d:%d/%x", place(child), WSTOPSIG(status), debug_status(child) & 0xF00F);
        debug_register(child, 6, 0);
    }
    if (WIFSTOPPED(status)) {
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
    line(name, "%s status %d", text + 1, WEXITSTATUS(status));
}

static void calls(void) {
    pid_t child = start();
    to_start(child);
    char text[100] = "";
    int status;
    for (int i = 0; i < 6; i++) {
        status = go(child, PTRACE_SYSCALL);
        if (!WIFSTOPPED(status)) {
            break;
        }
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, " %ld at +%d", ptrace(PTRACE_PEEKUSER, child, offsetof(struct user, regs.orig_eax), NULL),
                 place(child));
    }
    line("system calls", "%s status %d", text + 1, WEXITSTATUS(status));
    // Registers changed from outside, floating point included.
    child = start();
    to_start(child);
    struct user_regs_struct registers;
    struct user_fpregs_struct fp;
    ptrace(PTRACE_GETREGS, child, NULL, &registers);
    ptrace(PTRACE_GETFPREGS, child, NULL, &fp);
    registers.eip = (long)traced_end;
    ptrace(PTRACE_SETREGS, child, NULL, &registers);
    line("fpregs", "cw %lx sw %lx", fp.cwd & 0xFFFF, fp.swd & 0xFFFF);
    status = go(child, PTRACE_CONT);
    line("moved", "status %d", WEXITSTATUS(status));
}

void tracing(void) {
    stepping();
    software();
    hardware("execution", traced_loop, 0, 0, 0);
    hardware("execution in a call", traced_function, 0, 0, 3);
    hardware("write", &traced_data, 1, 3, 1);
    hardware("write of one byte", (char *)&traced_data + 1, 1, 0, 2);
    hardware("access", &traced_data, 3, 3, 0);
    hardware("no access", (char *)&traced_data + 4, 3, 3, 0);
    calls();
}
