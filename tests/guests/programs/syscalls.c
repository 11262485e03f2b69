// The ways into the kernel: INT 80h, the vDSO's SYSENTER, restarts, seccomp.
#include "guest.h"
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <time.h>

static uint32_t kernel_vsyscall;

// All six arguments and what they are afterwards.
CODE(call_int, "int $0x80\n int3");
CODE(call_vdso, "call *kernel_entry\n int3");
uint32_t kernel_entry;

static void one(const char *name, const char *code, uint32_t number, uint32_t a, uint32_t b, uint32_t c) {
    struct registers start = start_at(code);
    start.eax = number;
    start.ebx = a, start.ecx = b, start.edx = c, start.esi = 0x51515151, start.edi = 0xD1D1D1D1, start.ebp = 0xB1B1B1B1;
    start.eflags |= CF | ZF | OF;
    struct outcome out = run(start);
    line(name, "%s eax %x kept %d flags %x esp %+d", describe(&out), out.r.eax,
         out.r.ebx == a && out.r.ecx == b && out.r.edx == c && out.r.esi == start.esi && out.r.edi == start.edi &&
             out.r.ebp == start.ebp,
         out.r.eflags & STATUS, (int)(out.r.esp - start.esp));
}

static void entries(void) {
    kernel_vsyscall = (uint32_t)getauxval(AT_SYSINFO);
    kernel_entry = kernel_vsyscall;
    line("vdso", "%d", kernel_vsyscall != 0);
    one("int 80, umask", call_int, SYS_umask, 022, 2, 3);
    one("int 80, bad number", call_int, 9999, 1, 2, 3);
    one("int 80, bad pointer", call_int, SYS_write, 1, 0x10, 3);
    if (kernel_vsyscall) {
        one("vdso, umask", call_vdso, SYS_umask, 022, 2, 3);
        one("vdso, bad number", call_vdso, 9999, 1, 2, 3);
        one("vdso, bad descriptor", call_vdso, SYS_close, 999, 2, 3);
    }
    // Six arguments.
    int file = memfd_create("six", 0);
    ftruncate(file, 4 * PAGE);
    pwrite(file, "second page", 11, PAGE);
    uint8_t *at = mmap((void *)0x2A000000, PAGE, PROT_READ, MAP_SHARED | MAP_FIXED, file, PAGE);
    line("six arguments", "%p %.11s", (void *)at, at);
    uint32_t before = (uint32_t)getpid(), same = 0;
    for (int i = 0; i < 2000; i++) {
        same += (uint32_t)syscall(SYS_getpid) == before;
    }
    line("many calls", "%u", same);
    struct timespec a, b;
    uint32_t backwards = 0;
    clock_gettime(CLOCK_MONOTONIC, &a);
    for (int i = 0; i < 2000; i++) {
        clock_gettime(CLOCK_MONOTONIC, &b);
        backwards += b.tv_sec < a.tv_sec || (b.tv_sec == a.tv_sec && b.tv_nsec < a.tv_nsec);
        a = b;
    }
    line("clock", "backwards %u", backwards);
}

static volatile sig_atomic_t alarms;
static void on_alarm(int number) {
    (void)number;
    alarms++;
}

static void restarts(void) {
    int ends[2];
    if (pipe(ends)) {
        broken("pipe");
    }
    struct sigaction action = {.sa_handler = on_alarm};
    sigaction(SIGALRM, &action, NULL);
    // Again and again: the first may come in front of the read.
    struct itimerval often = {{0, 20000}, {0, 20000}}, off = {{0, 0}, {0, 0}};
    char c = 0;
    setitimer(ITIMER_REAL, &often, NULL);
    ssize_t got = read(ends[0], &c, 1);
    line("interrupted", "%zd %s", got, strerror(errno));
    action.sa_flags = SA_RESTART;
    sigaction(SIGALRM, &action, NULL);
    int before = alarms;
    if (fork() == 0) {
        usleep(80000);
        _exit(write(ends[1], "x", 1) != 1);
    }
    got = read(ends[0], &c, 1);
    while (alarms == before) {
    }
    setitimer(ITIMER_REAL, &off, NULL);
    line("restarted", "%zd %c", got, c);
    wait(NULL);
    // A sleep that a stop and continuation interrupts goes on through restart_syscall.
    pid_t child = fork();
    if (child == 0) {
        struct timespec nap = {0, 60000000};
        _exit(nanosleep(&nap, NULL) == 0 ? 4 : 5);
    }
    usleep(10000);
    kill(child, SIGSTOP);
    kill(child, SIGCONT);
    int status;
    waitpid(child, &status, 0);
    line("sleep goes on", "%d", WEXITSTATUS(status));
}

static int trapped;
static void on_sys(int number, siginfo_t *info, void *context) {
    (void)number;
    (void)context;
    trapped = info->si_syscall;
}

static void filters(void) {
    pid_t child = fork();
    if (child == 0) {
        struct sigaction action = {.sa_sigaction = on_sys, .sa_flags = SA_SIGINFO};
        sigaction(SIGSYS, &action, NULL);
        struct sock_filter filter[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getuid32, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | 77),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getgid32, 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog program = {COUNT(filter), filter};
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)) {
            broken("seccomp");
        }
        long result = syscall(SYS_getuid32);
        int error = errno;
        syscall(SYS_getgid32);
        line("filter", "%ld errno %d trapped %d", result, error, trapped == SYS_getgid32);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    child = fork();
    if (child == 0) {
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
        syscall(SYS_getpid);
        _exit(1);
    }
    int status;
    waitpid(child, &status, 0);
    line("strict", "killed %d", WIFSIGNALED(status) ? WTERMSIG(status) : 0);
}

void syscalls(void) {
    entries();
    filters();
    restarts();
}
