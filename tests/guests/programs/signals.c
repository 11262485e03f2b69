// Signals: alternate stack, registers in the frame, nesting, every exception that becomes one, timers.
#include "guest.h"
#include <setjmp.h>
#include <sys/time.h>
#include <ucontext.h>

// Every exception, with the registers as the frame has them.
CODE(sig_int3, "mov $0x1111, %eax\n int3\n int3");
CODE(sig_int_3, "nop\n .byte 0xCD, 3\n int3");
CODE(sig_int_4, "nop\n int $4\n int3");
CODE(sig_int_99, "nop\n int $0x99\n int3");
CODE(sig_int_13, "nop\n int $13\n int3");
CODE(sig_icebp, "nop\n .byte 0xF1\n int3");
CODE(sig_ud2, "nop\n ud2\n int3");
CODE(sig_hlt, "hlt\n int3");
CODE(sig_cli, "cli\n int3");
CODE(sig_sti, "sti\n int3");
CODE(sig_in, "in $0x61, %al\n int3");
CODE(sig_outs, "mov $0x3F8, %dx\n rep outsb\n int3");
CODE(sig_mov_cr, "mov %cr0, %eax\n int3");
CODE(sig_mov_dr, "mov %eax, %dr7\n int3");
CODE(sig_lgdt, "lgdt (%esp)\n int3");
CODE(sig_lldt, "lldt %ax\n int3");
CODE(sig_ltr, "ltr %ax\n int3");
CODE(sig_lmsw, "lmsw %ax\n int3");
CODE(sig_clts, "clts\n int3");
CODE(sig_invlpg, "invlpg (%esp)\n int3");
CODE(sig_wbinvd, "wbinvd\n int3");
CODE(sig_rdmsr, "rdmsr\n int3");
CODE(sig_wrmsr, "wrmsr\n int3");
CODE(sig_rdpmc, "rdpmc\n int3");
CODE(sig_sysexit, "sysexit\n int3");
CODE(sig_rsm, "rsm\n int3");
CODE(sig_iret_bad, "push $0x202\n push $0x28\n push $0\n iret\n int3");
CODE(sig_lock_reg, ".byte 0xF0, 0x01, 0xC8\n int3");
CODE(sig_lock_mov, ".byte 0xF0, 0x89, 0x04, 0x24\n int3");
CODE(sig_lock_cmp, ".byte 0xF0, 0x39, 0x04, 0x24\n int3");
CODE(sig_long, ".fill 15, 1, 0x66\n nop\n int3");
CODE(sig_prefixes, ".fill 13, 1, 0x66\n nop\n nop\n int3");
CODE(sig_mov_cs, ".byte 0x8E, 0xC8\n int3");
CODE(sig_les_reg, ".byte 0xC4, 0xC0\n int3");
CODE(sig_divide, "xor %ecx, %ecx\n mov $5, %eax\n cltd\n stc\n div %ecx\n int3");
CODE(sig_stack, "mov $0x1000, %esp\n push %eax\n int3");
CODE(sig_pop, "mov $0x1000, %esp\n pop %eax\n int3");
CODE(sig_call, "mov $0x1000, %esp\n call 1f\n 1: int3");
CODE(sig_ret_bad, "push $0x1000\n ret\n int3");
CODE(sig_pusha, "mov $0x1000, %esp\n pusha\n int3");
CODE(sig_popf_iopl, "pushf\n orl $0x3200, (%esp)\n popf\n pushf\n pop %eax\n and $0x3200, %eax\n int3");
CODE(sig_popf_nt, "pushf\n orl $0x4000, (%esp)\n popf\n pushf\n pop %eax\n and $0x4000, %eax\n push $0x202\n popf\n int3");
CODE(sig_popf_id, "pushf\n xorl $0x200000, (%esp)\n popf\n pushf\n pop %eax\n and $0x200000, %eax\n int3");
CODE(sig_far, "ljmp $0x28, $0\n int3");
CODE(sig_load_null, "xor %eax, %eax\n mov %eax, %fs\n mov %fs:(%eax), %eax\n int3");
CODE(sig_load_bad, "mov $0x1234, %eax\n mov %eax, %fs\n int3");
CODE(sig_load_system, "mov $0x80 | 3, %eax\n mov %eax, %es\n int3");
CODE(sig_load_stack_null, "xor %eax, %eax\n mov %eax, %ss\n int3");

static void exception(const char *name, const char *code) {
    struct registers start = start_at(code);
    start.eax = 0xA0A0A0A0, start.ecx = 0xC1C1C1C1, start.edx = 0xD2D2D2D2, start.ebx = 0xB3B3B3B3;
    start.ebp = 0xB5B5B5B5, start.esi = 0x56565656, start.edi = 0xD7D7D7D7;
    struct outcome out = run(start);
    line(name, "%s +%u eax %x esp %+d flags %x others %d", describe(&out), out.r.eip - start.eip, out.r.eax,
         (int)(out.r.esp - start.esp), out.r.eflags & (STATUS | TF | DF | NT),
         out.r.edx == start.edx && out.r.ebx == start.ebx && out.r.ebp == start.ebp && out.r.esi == start.esi &&
             out.r.edi == start.edi);
}

#define EXCEPTION(name) exception(#name, sig_##name)

static void exceptions(void) {
    EXCEPTION(int3);
    EXCEPTION(int_3);
    EXCEPTION(int_4);
    EXCEPTION(int_99);
    EXCEPTION(int_13);
    EXCEPTION(icebp);
    EXCEPTION(ud2);
    EXCEPTION(hlt);
    EXCEPTION(cli);
    EXCEPTION(sti);
    EXCEPTION(in);
    EXCEPTION(outs);
    EXCEPTION(mov_cr);
    EXCEPTION(mov_dr);
    EXCEPTION(lgdt);
    EXCEPTION(lldt);
    EXCEPTION(ltr);
    EXCEPTION(lmsw);
    EXCEPTION(clts);
    EXCEPTION(invlpg);
    EXCEPTION(wbinvd);
    EXCEPTION(rdmsr);
    EXCEPTION(wrmsr);
    EXCEPTION(rdpmc);
    EXCEPTION(sysexit);
    EXCEPTION(rsm);
    EXCEPTION(iret_bad);
    EXCEPTION(lock_reg);
    EXCEPTION(lock_mov);
    EXCEPTION(lock_cmp);
    EXCEPTION(long);
    EXCEPTION(prefixes);
    EXCEPTION(mov_cs);
    EXCEPTION(les_reg);
    EXCEPTION(divide);
    EXCEPTION(stack);
    EXCEPTION(pop);
    EXCEPTION(call);
    EXCEPTION(ret_bad);
    EXCEPTION(pusha);
    EXCEPTION(popf_iopl);
    EXCEPTION(popf_nt);
    EXCEPTION(popf_id);
    EXCEPTION(far);
    EXCEPTION(load_null);
    EXCEPTION(load_bad);
    EXCEPTION(load_system);
    EXCEPTION(load_stack_null);
    // A fault leaves RF set in the frame, so that a breakpoint there does not hit again; a trap does not.
    struct registers start = start_at(sig_ud2);
    struct outcome fault = run(start);
    start = start_at(sig_int3);
    struct outcome trap = run(start);
    line("resume flag", "fault %d trap %d", (fault.r.eflags & RF) != 0, (trap.r.eflags & RF) != 0);
}

// Single step: from the instruction behind the one that sets TF.
CODE(step_popf, "pushf\n orl $0x100, (%esp)\n popf\n nop\n nop\n int3");
CODE(step_start, "step_first: mov $1, %eax\n nop\n int3");
CODE(step_clear, "pushf\n andl $~0x100, (%esp)\n popf\n nop\n int3");
CODE(step_rep, "mov $3, %ecx\n rep stosb\n int3");
CODE(step_stack, "mov %ss, %eax\n mov %eax, %ss\n nop\n nop\n int3");
CODE(step_int80, "mov $20, %eax\n int $0x80\n nop\n int3");
CODE(step_fault, "ud2");
CODE(step_jump, "jmp 1f\n nop\n 1: nop\n int3");
CODE(step_jcc, "xor %eax, %eax\n jnz 1f\n jz 1f\n nop\n 1: call 2f\n 2: nop\n int3");

static void steps(const char *name, const char *code, unsigned count) {
    char text[256] = "";
    static uint8_t buffer[16];
    struct registers start = start_at(code);
    start.edi = (uint32_t)buffer;
    start.eflags |= TF;
    for (unsigned i = 0; i < count; i++) {
        struct outcome out = run(start);
        size_t used = strlen(text);
        snprintf(text + used, sizeof text - used, " +%u:%d/%d%s", out.r.eip - (uint32_t)code, out.signal, out.code,
                 out.r.eflags & TF ? "" : "-");
        if (out.signal != SIGTRAP || out.r.trapno != 1) {
            break;
        }
        start = out.r;
    }
    line(name, "%s", text + 1);
}

static void stepping(void) {
    struct registers start = start_at(step_popf);
    struct outcome out = run(start);
    line("step by popf", "%s +%u", describe(&out), out.r.eip - start.eip);
    steps("step from the start", step_start, 5);
    steps("step cleared", step_clear, 6);
    steps("step rep", step_rep, 8);
    steps("step mov ss", step_stack, 6);
    steps("step int 80", step_int80, 6);
    steps("step fault", step_fault, 2);
    steps("step jump", step_jump, 5);
    steps("step jcc", step_jcc, 8);
}

// A handler on the alternate stack that changes the registers it returns to.
static char stack_area[32768];
static volatile uint32_t handler_esp, depth;
static volatile char order[32];

static void altering(int number, siginfo_t *info, void *context) {
    ucontext_t *frame = context;
    uint32_t here;
    (void)info;
    __asm__("mov %%esp, %0" : "=r"(here));
    handler_esp = here;
    frame->uc_mcontext.gregs[REG_EAX] = 0xCAFE + number;
    frame->uc_mcontext.gregs[REG_EIP] += 2; // UD2
    frame->uc_mcontext.gregs[REG_EFL] |= CF | DF;
}

static void alternate(void) {
    stack_t stack = {.ss_sp = stack_area, .ss_size = sizeof stack_area};
    sigaltstack(&stack, NULL);
    struct sigaction action = {.sa_sigaction = altering, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaction(SIGILL, &action, NULL);
    uint32_t eax = 1, flags;
    __asm__ volatile("clc\n ud2\n pushf\n pop %1\n cld" : "+a"(eax), "=r"(flags)::"memory");
    line("altered", "%x carry %d direction %d on its stack %d", eax, flags & CF, (flags & DF) != 0,
         handler_esp > (uint32_t)stack_area && handler_esp < (uint32_t)stack_area + sizeof stack_area);
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGILL, &action, NULL);
    __asm__ volatile("ud2\n cld" : "+a"(eax)::"memory", "cc");
    line("ordinary stack", "%x %d", eax, handler_esp > (uint32_t)stack_area && handler_esp < (uint32_t)stack_area + sizeof stack_area);
    uint32_t sum = 0;
    for (int i = 0; i < 500; i++) {
        __asm__ volatile("ud2\n cld" : "=a"(eax)::"memory", "cc");
        sum += eax;
    }
    line("many", "%x", sum);
}

static void note(char c) {
    for (size_t i = 0; i < COUNT(order) - 1; i++) {
        if (!order[i]) {
            order[i] = c;
            return;
        }
    }
}

static void nested(int number) {
    note((char)('A' + number % 26));
    if (number == SIGUSR1) {
        raise(SIGUSR2);
        note('-');
        raise(SIGTERM); // blocked until the end of this handler
        note('-');
    }
    note((char)('a' + number % 26));
}

static void nesting(void) {
    struct sigaction action = {.sa_handler = nested};
    sigaddset(&action.sa_mask, SIGTERM);
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGUSR2, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    raise(SIGUSR1);
    line("nested", "%s", (const char *)order);
    sigset_t set, old;
    sigemptyset(&set);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, &old);
    raise(SIGUSR2);
    sigpending(&set);
    note('.');
    sigprocmask(SIG_SETMASK, &old, NULL);
    line("blocked", "%s pending %d", (const char *)order, sigismember(&set, SIGUSR2));
    // Real-time signals queue, in order, with their values.
}

static volatile int queued[8];
static volatile int queue_length;
static void real_time(int number, siginfo_t *info, void *context) {
    (void)context;
    queued[queue_length++ & 7] = (number - SIGRTMIN) * 100 + info->si_value.sival_int;
}

static void queueing(void) {
    struct sigaction action = {.sa_sigaction = real_time, .sa_flags = SA_SIGINFO};
    sigfillset(&action.sa_mask);
    sigset_t set, old;
    sigfillset(&set);
    sigprocmask(SIG_BLOCK, &set, &old);
    for (int i = 0; i < 3; i++) {
        sigaction(SIGRTMIN + i, &action, NULL);
    }
    for (int i = 5; i >= 0; i--) {
        sigqueue(getpid(), SIGRTMIN + i % 3, (union sigval){.sival_int = i});
    }
    sigprocmask(SIG_SETMASK, &old, NULL);
    line("queued", "%d: %d %d %d %d %d %d", queue_length, queued[0], queued[1], queued[2], queued[3], queued[4], queued[5]);
}

static sigjmp_buf back;
static volatile uint32_t faults;
static void jumping(int number, siginfo_t *info, void *context) {
    (void)context;
    faults = faults * 3 + (uint32_t)info->si_addr + (uint32_t)number;
    siglongjmp(back, 1 + (int)((uint32_t)info->si_addr & 7));
}

static void jumps(void) {
    struct sigaction action = {.sa_sigaction = jumping, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaction(SIGSEGV, &action, NULL);
    volatile uint32_t sum = 0;
    for (volatile int i = 0; i < 300; i++) {
        int way = sigsetjmp(back, 1);
        if (way == 0) {
            *(volatile char *)(uintptr_t)(0x1000 + (uint32_t)i) = 1;
        }
        sum = sum * 5 + (uint32_t)way;
    }
    line("siglongjmp", "%08x %08x", sum, faults);
}

// Timers that interrupt loops; what is computed must not show it.
static volatile uint32_t ticks;
static void tick(int number) {
    (void)number;
    ticks++;
}

static uint32_t __attribute__((noinline)) work(uint32_t rounds) {
    uint32_t x = 1;
    for (uint32_t i = 0; i < rounds; i++) {
        x = x * 1664525 + 1013904223;
        x ^= x >> 7;
    }
    return x;
}

static long double __attribute__((noinline)) series(void) {
    long double sum = 0;
    for (int i = 1; i < 20000; i++) {
        sum += 1.0L / i;
    }
    return sum;
}

static void timers(void) {
    struct sigaction action = {.sa_handler = tick, .sa_flags = SA_RESTART};
    sigaction(SIGALRM, &action, NULL);
    sigaction(SIGVTALRM, &action, NULL);
    uint32_t expected = work(200000);
    struct itimerval every = {{0, 4000}, {0, 4000}}, off = {{0, 0}, {0, 0}};
    setitimer(ITIMER_REAL, &every, NULL);
    ticks = 0;
    uint32_t wrong = 0;
    while (ticks < 20) {
        wrong += work(200000) != expected;
    }
    // Loops with nothing in them, and one instruction that jumps to itself.
    ticks = 0;
    while (ticks < 5) {
    }
    ticks = 0;
    __asm__ volatile("1: cmpl $5, %0\n jb 1b" ::"m"(ticks));
    // A long string instruction.
    static uint8_t block[1 << 20];
    ticks = 0;
    while (ticks < 5) {
        uint32_t edi = (uint32_t)block, ecx = sizeof block;
        __asm__ volatile("rep stosb" : "+D"(edi), "+c"(ecx) : "a"(ticks) : "memory");
        wrong += edi != (uint32_t)block + sizeof block || ecx != 0;
    }
    // Floating point.
    long double total = series();
    ticks = 0;
    while (ticks < 5) {
        wrong += series() != total;
    }
    setitimer(ITIMER_REAL, &off, NULL);
    line("timers", "wrong %u", wrong);
    setitimer(ITIMER_VIRTUAL, &every, NULL);
    ticks = 0;
    while (ticks < 5) {
        wrong += work(20000) == expected;
    }
    setitimer(ITIMER_VIRTUAL, &off, NULL);
    line("virtual timer", "wrong %u", wrong);
}

void signals(void) {
    exceptions();
    stepping();
    nesting();
    queueing();
    timers();
    // These change the handlers that `run` needs.
    alternate();
    jumps();
}
