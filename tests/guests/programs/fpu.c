// The x87 unit: arithmetic, rounding, precision, exceptions, environment, signals, many processes.
#include "guest.h"

static const double values[] = {
    0.0, -0.0, 1.0, -1.0, 0.5, 1.5, -2.75, 3.141592653589793, 1e10, -1e-10, 1.0 / 3, 4503599627370497.5, 1e300, -1e-300,
    5e-324, 2.2250738585072014e-308, __builtin_inf(), -__builtin_inf(), __builtin_nan(""),
};

enum { FLAGS = 0x3F, DENORMAL = 0x02, CONDITIONS = 0x4700 };

struct result {
    uint8_t value[10];
    uint16_t status; // C3..C0, exception flags
};

static void add_result(hash_t h[3], const struct result *result, uint16_t mask) {
    h[0] = hash(h[0], result->value, sizeof result->value);
    h[1] = hash32(h[1], result->status & mask & ~DENORMAL);
    h[2] = hash32(h[2], result->status & mask & DENORMAL);
}

// TEXT runs with ST(0) = %2, ST(1) = %3 under control word %1.
#define X87(name, text, control, mask)                                                                                 \
    do {                                                                                                               \
        hash_t h[3] = {HASH, HASH, HASH};                                                                              \
        uint16_t cw = (control);                                                                                       \
        for (size_t i = 0; i < COUNT(values); i++) {                                                                   \
            for (size_t j = 0; j < COUNT(values); j++) {                                                               \
                struct result result;                                                                                  \
                __asm__ volatile("fninit\n fldl %4\n fldl %3\n fldcw %2\n" text "\n fnstsw %1\n fninit\n fldcw %5\n"           \
                                 : "=m"(result.value), "=m"(result.status)                                             \
                                 : "m"(cw), "m"(values[i]), "m"(values[j]), "m"(wide)                                  \
                                 : "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)", "memory", "cc", "eax"); \
                add_result(h, &result, mask);                                                                          \
            }                                                                                                          \
        }                                                                                                              \
        report_hashes(name, h);                                                                                               \
    } while (0)

static const uint16_t wide = 0x37F;
#define CONTROLS(op, text)                                                                                             \
    do {                                                                                                               \
        X87(op " extended", text, 0x37F, FLAGS);                                                                       \
        X87(op " double", text, 0x27F, FLAGS);                                                                         \
        X87(op " single", text, 0x07F, FLAGS);                                                                         \
        X87(op " down", text, 0x77F, FLAGS);                                                                           \
        X87(op " up", text, 0xA7F, FLAGS);                                                                             \
        X87(op " zero", text, 0xF7F, FLAGS);                                                                           \
    } while (0)

static void operations(void) {
    CONTROLS("fadd", "fadd %%st(1), %%st\n fstpt %0");
    CONTROLS("fsub", "fsub %%st(1), %%st\n fstpt %0");
    CONTROLS("fmul", "fmul %%st(1), %%st\n fstpt %0");
    CONTROLS("fdiv", "fdiv %%st(1), %%st\n fstpt %0");
    CONTROLS("fsqrt", "fsqrt\n fstpt %0");
    CONTROLS("frndint", "frndint\n fstpt %0");
    X87("fsubrp", "fsubrp\n fstpt %0", 0x37F, FLAGS);
    X87("fdivrp", "fdivrp\n fstpt %0", 0x37F, FLAGS);
    X87("fchs fabs", "fchs\n fxch\n fabs\n fadd %%st(1), %%st\n fstpt %0", 0x37F, FLAGS);
    X87("fcom", "fcom %%st(1)\n fstpt %0", 0x37F, FLAGS | 0x4500);
    X87("fucompp", "fstl %0\n fucompp\n fldz\n fstpt %0", 0x37F, FLAGS | 0x4500);
    X87("fcomi", "fcomi %%st(1), %%st\n pushf\n pop %%eax\n and $0x45, %%eax\n fstpt %0\n mov %%al, %0", 0x37F, FLAGS);
    X87("fcmov", "fcomi %%st(1), %%st\n fcmovb %%st(1), %%st\n fstpt %0", 0x37F, FLAGS);
    X87("ftst", "ftst\n fstpt %0", 0x37F, FLAGS | 0x4500);
    X87("fxam", "fxam\n fstpt %0", 0x37F, FLAGS | CONDITIONS);
    X87("fprem", "fprem\n fstpt %0", 0x37F, FLAGS | 0x400);
    X87("fprem1", "fprem1\n fstpt %0", 0x37F, FLAGS | 0x400);
    X87("fscale", "fscale\n fstpt %0", 0x37F, FLAGS);
    X87("fxtract", "fxtract\n fadd %%st(1), %%st\n fstpt %0", 0x37F, FLAGS);
    X87("fstps", "sub $4, %%esp\n fstps (%%esp)\n flds (%%esp)\n add $4, %%esp\n fstpt %0", 0x37F, FLAGS);
    X87("fstpl", "sub $8, %%esp\n fstpl (%%esp)\n fldl (%%esp)\n add $8, %%esp\n fstpt %0", 0x37F, FLAGS);
    X87("fistp 16", "sub $8, %%esp\n fistps (%%esp)\n filds (%%esp)\n add $8, %%esp\n fstpt %0", 0x37F, FLAGS);
    X87("fistp 32", "sub $8, %%esp\n fistpl (%%esp)\n fildl (%%esp)\n add $8, %%esp\n fstpt %0", 0x77F, FLAGS);
    X87("fistp 64", "sub $8, %%esp\n fistpll (%%esp)\n fildll (%%esp)\n add $8, %%esp\n fstpt %0", 0x37F, FLAGS);
    X87("fbstp", "sub $16, %%esp\n fbstp (%%esp)\n fbld (%%esp)\n add $16, %%esp\n fstpt %0", 0x37F, FLAGS);
    X87("constants", "fldl2t\n fldl2e\n fldpi\n fldlg2\n fldln2\n faddp\n faddp\n faddp\n faddp\n fstpt %0", 0xB7F, FLAGS);
    // C1 and the last bit of the transcendental functions are the processor's own.
    X87("fsin", "fsin\n fstpt %0", 0x37F, 0x400);
    X87("fcos", "fcos\n fstpt %0", 0x37F, 0x400);
    X87("fsincos", "fsincos\n fsub %%st(1), %%st\n fstpt %0", 0x37F, 0x400);
    X87("fptan", "fptan\n fmulp\n fstpt %0", 0x37F, 0);
    X87("fpatan", "fpatan\n fstpt %0", 0x37F, 0);
    X87("f2xm1", "fld1\n fxch\n fprem\n f2xm1\n fstpt %0", 0x37F, 0);
    X87("fyl2x", "fyl2x\n fstpt %0", 0x37F, 0);
    X87("fyl2xp1", "fld1\n fadd %%st, %%st(0)\n fadd %%st, %%st(0)\n fdivrp\n fyl2xp1\n fstpt %0", 0x37F, 0);
}

// Unmasked exceptions: each arrives at the next waiting instruction, with the address of the cause.
CODE(x87_zero, "fninit\n fldcw (%edi)\n fld1\n fldz\n x87_zero_at: fdivrp\n nop\n mov $1, %eax\n fwait\n int3");
CODE(x87_invalid, "fninit\n fldcw (%edi)\n fldz\n fldz\n fdivp\n mov $1, %eax\n fldz\n int3");
CODE(x87_overflow, "fninit\n fldcw (%edi)\n fldl 8(%edi)\n fmul %st, %st(0)\n fstps (%esp)\n mov $1, %eax\n fwait\n int3");
CODE(x87_denormal, "fninit\n fldcw (%edi)\n fldl 16(%edi)\n mov $1, %eax\n fld1\n int3");
CODE(x87_precise, "fninit\n fldcw (%edi)\n fld1\n fldl 24(%edi)\n fdivrp\n mov $1, %eax\n fwait\n int3");
CODE(x87_stack, "fninit\n fldcw (%edi)\n faddp\n mov $1, %eax\n fwait\n int3");
CODE(x87_overfull, "fninit\n fldcw (%edi)\n fld1\n fld1\n fld1\n fld1\n fld1\n fld1\n fld1\n fld1\n fld1\n mov $1, %eax\n fwait\n int3");
CODE(x87_no_wait, "fninit\n fldcw (%edi)\n fld1\n fldz\n fdivrp\n fnstsw %ax\n fnclex\n fwait\n int3");
CODE(x87_unmask_later, "fninit\n fld1\n fldz\n fdivrp\n fldcw (%edi)\n mov $1, %eax\n fnop\n int3");

static void exception(const char *name, const char *code, uint16_t control) {
    static struct {
        uint16_t control;
        double values[3];
    } __attribute__((aligned(8))) data = {0, {1e300, 5e-324, 3.0}};
    data.control = control;
    struct registers start = start_at(code);
    start.edi = (uint32_t)&data;
    start.eax = 0;
    struct outcome out = run(start);
    uint16_t status;
    __asm__ volatile("fnstsw %0\n fninit" : "=m"(status));
    line(name, "signal %d code %d trap %u at +%u eax %x", out.signal, out.code, out.r.trapno, out.r.eip - start.eip, out.r.eax);
}

static void exceptions(void) {
    exception("unmasked zero", x87_zero, 0x37B);
    exception("masked zero", x87_zero, 0x37F);
    exception("unmasked invalid", x87_invalid, 0x37E);
    exception("unmasked overflow", x87_overflow, 0x377);
    exception("unmasked underflow", x87_overflow, 0x36F);
    exception("unmasked denormal", x87_denormal, 0x37D);
    exception("unmasked precision", x87_precise, 0x35F);
    exception("stack underflow", x87_stack, 0x37E);
    exception("stack overflow", x87_overfull, 0x37E);
    exception("cleared without waiting", x87_no_wait, 0x37B);
    exception("unmasked later", x87_unmask_later, 0x37B);
}

// The environment as FNSTENV and FNSAVE store it.
CODE(fpu_environment, "fninit\n fldl (%edi)\n fldcw 16(%edi)\n fpu_last: fadd 8(%edi)\n fld %st(0)\n fnstenv 32(%edi)\n"
                      "fpu_load: fmull 8(%edi)\n fnsave 64(%edi)\n fnstcw 18(%edi)\n frstor 64(%edi)\n fstl 24(%edi)\n int3");

static void environment(void) {
    static struct {
        double a, b;
        uint16_t control, cleared;
        uint32_t pad;
        double result;
        uint32_t env[8];
        uint8_t save[108];
    } __attribute__((aligned(16))) data = {1.25, 3.0, 0x27F, 0, 0, 0, {0}, {0}};
    _Static_assert(offsetof(typeof(data), save) == 64, "the offsets in the code");
    struct registers start = start_at(fpu_environment);
    start.edi = (uint32_t)&data;
    struct outcome out = run(start);
    uint32_t base = (uint32_t)fpu_environment;
    line("fnstenv", "%08x %08x %08x eip +%u opcode %03x", data.env[0], data.env[1], data.env[2], data.env[3] - base,
         data.env[4] >> 16 & 0x7FF);
    line("fnstenv operand", "+%d", (int)(data.env[5] - (uint32_t)&data));
    uint32_t saved[7];
    memcpy(saved, data.save, sizeof saved);
    line("fnsave", "%08x %08x %08x eip +%u operand +%d", saved[0], saved[1], saved[2], saved[3] - base,
         (int)(saved[5] - (uint32_t)&data));
    line("fnsave registers", "%08x", hash(HASH, data.save + 28, 80));
    line("frstor", "cleared %04x result %g, %s", data.cleared, data.result, describe(&out) + 0);
    // FXSAVE has the same in another form, and the tags abridged.
    static uint8_t image[512] __attribute__((aligned(16)));
    __asm__ volatile("fninit\n fld1\n fldpi\n fxsave %0\n fninit" : "=m"(image)::"memory");
    line("fxsave", "%02x%02x %02x%02x %02x, registers %08x", image[1], image[0], image[3], image[2], image[4],
         hash(HASH, image + 32, 32));
    image[32] ^= 1;
    long double value;
    __asm__ volatile("fxrstor %1\n fstpt %0\n fninit" : "=m"(value) : "m"(image));
    line("fxrstor", "%08x", hash(HASH, &value, 10));
}

// Register contents across a signal handler that uses the unit itself.
static volatile long double in_handler;
static void on_alarm(int number) {
    (void)number;
    in_handler = in_handler * 1.5L + 2;
    __asm__ volatile("fninit\n fldpi\n fldpi");
}

static void across_signals(void) {
    struct sigaction action = {.sa_handler = on_alarm};
    sigaction(SIGUSR1, &action, NULL);
    long double sums[8];
    int pid = getpid();
    __asm__ volatile("fninit\n fld1\n fldpi\n fldl2e\n fldln2\n fldlg2\n fldl2t\n fldz\n"
                     "mov $37, %%eax\n int $0x80\n"
                     "fstpt 0(%2)\n fstpt 12(%2)\n fstpt 24(%2)\n fstpt 36(%2)\n fstpt 48(%2)\n fstpt 60(%2)\n fstpt 72(%2)\n fninit"
                     :
                     : "b"(pid), "c"(SIGUSR1), "r"(sums)
                     : "eax", "memory", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");
    hash_t h = HASH;
    for (int i = 0; i < 7; i++) {
        h = hash(h, (uint8_t *)sums + 12 * i, 10);
    }
    line("across a signal", "%08x handler %g", h, (double)in_handler);
}

// Many processes that all keep state in the unit and give up the processor.
static void together(void) {
    enum { PROCESSES = 12 };
    int results[2];
    if (pipe(results)) {
        broken("pipe");
    }
    for (int i = 0; i < PROCESSES; i++) {
        if (fork() == 0) {
            uint16_t control = (uint16_t)(i % 2 ? 0x37F : 0x27F) | (uint16_t)(i % 4 << 10);
            __asm__ volatile("fldcw %0" ::"m"(control));
            long double x = i + 1, sum = 0;
            for (int n = 1; n < 3000; n++) {
                sum += x / n;
                if (n % 300 == 0) {
                    syscall(SYS_sched_yield);
                }
            }
            uint16_t after;
            __asm__ volatile("fnstcw %0" : "=m"(after));
            struct {
                uint32_t index, hash;
            } result = {(uint32_t)i, hash32(hash(HASH, &sum, 10), after)};
            _exit(write(results[1], &result, sizeof result) != sizeof result);
        }
    }
    uint32_t all[PROCESSES] = {0};
    for (int i = 0; i < PROCESSES; i++) {
        struct {
            uint32_t index, hash;
        } result;
        if (read(results[0], &result, sizeof result) != sizeof result) {
            broken("read");
        }
        all[result.index] = result.hash;
    }
    while (wait(NULL) > 0) {
    }
    line("together", "%08x", hash(HASH, all, sizeof all));
}

void fpu(void) {
    operations();
    exceptions();
    environment();
    across_signals();
    together();
}
