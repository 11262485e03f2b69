// MMX, SSE and SSE2: results hashed, MXCSR, denormals, unmasked exceptions, alignment.
#include "guest.h"

typedef struct {
    uint32_t word[4];
} __attribute__((aligned(16))) vector;

static const vector vectors[] = {
    {{0, 0x80000000, 0x3F800000, 0xBF800000}},          // +0 -0 1 -1
    {{0x40490FDB, 0x3EAAAAAB, 0x4B800001, 0xC2F6E979}}, // pi 1/3 2^24+ -123.456
    {{0x7F7FFFFF, 0x00800000, 0x7F800000, 0xFF800000}}, // max min +inf -inf
    {{0x7FC00000, 0xFFC12345, 0x7FA00001, 0x00000001}}, // QNaN QNaN SNaN denormal
    {{0x007FFFFF, 0x80000123, 0x12345678, 0x9ABCDEF0}},
    {{0xFFFFFFFF, 0x7FFF8000, 0x80017FFF, 0x00FF0100}},
    {{0x54442D18, 0x400921FB, 0x55555555, 0x3FD55555}}, // doubles: pi 1/3
    {{0x00000000, 0x7FF00000, 0x00000001, 0x00000000}}, // +inf denormal
    {{0xFFFFFFFF, 0x7FEFFFFF, 0x00000000, 0x3FF00000}}, // max 1
    {{0x00000000, 0xC1E00000, 0xFFC00000, 0x41DFFFFF}}, // -2^31 2^31-1
    {{0x00000001, 0x7FF00000, 0x00000000, 0x7FF80000}}, // SNaN QNaN
};

#define SSE(name, text, csr)                                                                                           \
    do {                                                                                                               \
        hash_t h[3] = {HASH, HASH, HASH};                                                                              \
        for (size_t i = 0; i < COUNT(vectors); i++) {                                                                  \
            for (size_t j = 0; j < COUNT(vectors); j++) {                                                              \
                vector a = vectors[i], b = vectors[j];                                                                 \
                uint32_t control = (csr), status, general = 0x89ABCDEF;                                                \
                __asm__ volatile("ldmxcsr %3\n movups %0, %%xmm0\n movups %4, %%xmm1\n" text                           \
                                 "\n movups %%xmm0, %0\n stmxcsr %1\n ldmxcsr %5"                                      \
                                 : "+m"(a), "=m"(status), "+a"(general)                                                \
                                 : "m"(control), "m"(b), "m"(usual)                                                    \
                                 : "memory", "cc");                                                                    \
                h[0] = hash32(hash(h[0], &a, sizeof a), general);                                                      \
                h[1] = hash32(h[1], status & 0x3D);                                                                    \
                h[2] = hash32(h[2], status & 0x02);                                                                    \
            }                                                                                                          \
        }                                                                                                              \
        report_hashes(name, h);                                                                                               \
    } while (0)

static const uint32_t usual = 0x1F80;

#define MODES(op)                                                                                                      \
    SSE(#op, #op " %%xmm1, %%xmm0", 0x1F80);                                                                           \
    SSE(#op " down", #op " %%xmm1, %%xmm0", 0x3F80);                                                                   \
    SSE(#op " zero", #op " %%xmm1, %%xmm0", 0x7F80);                                                                   \
    SSE(#op " flush to zero", #op " %%xmm1, %%xmm0", 0x9F80)

#define PLAIN(op) SSE(#op, #op " %%xmm1, %%xmm0", 0x1F80)

static void sse(void) {
    MODES(addps);
    MODES(subps);
    MODES(mulps);
    MODES(divps);
    MODES(sqrtps);
    MODES(addss);
    MODES(divss);
    PLAIN(maxps);
    PLAIN(minps);
    PLAIN(andnps);
    PLAIN(unpcklps);
    SSE("cmpltps", "cmpltps %%xmm1, %%xmm0", 0x1F80);
    SSE("cmpunordps", "cmpunordps %%xmm1, %%xmm0", 0x1F80);
    SSE("shufps", "shufps $0x1B, %%xmm1, %%xmm0", 0x1F80);
    SSE("comiss", "comiss %%xmm1, %%xmm0\n pushf\n pop %%eax\n and $0x8D5, %%eax", 0x1F80);
    SSE("cvttss2si", "cvttss2si %%xmm1, %%eax", 0x1F80);
    SSE("cvtss2si up", "cvtss2si %%xmm1, %%eax", 0x5F80);
    SSE("cvtsi2ss", "cvtsi2ss %%eax, %%xmm0", 0x1F80);
    SSE("movmskps", "movmskps %%xmm1, %%eax", 0x1F80);
    // The two estimates are the processor's own.
    SSE("rcpps", "rcpps %%xmm1, %%xmm0", 0x1F80);
    SSE("rsqrtps", "rsqrtps %%xmm1, %%xmm0", 0x1F80);
    SSE("cvtps2pi", "cvtps2pi %%xmm1, %%mm0\n cvtpi2ps %%mm0, %%xmm0\n emms", 0x1F80);
}

static void sse2(void) {
    MODES(addpd);
    MODES(mulpd);
    MODES(divpd);
    MODES(sqrtpd);
    MODES(subsd);
    MODES(cvtpd2ps);
    MODES(cvtps2pd);
    PLAIN(maxpd);
    PLAIN(cvtdq2pd);
    PLAIN(cvtpd2dq);
    PLAIN(cvttps2dq);
    PLAIN(cvtdq2ps);
    PLAIN(paddq);
    PLAIN(pmuludq);
    PLAIN(psadbw);
    PLAIN(pmaddwd);
    PLAIN(packssdw);
    PLAIN(packuswb);
    PLAIN(punpckhbw);
    PLAIN(pcmpgtd);
    PLAIN(pavgb);
    PLAIN(psraw);
    PLAIN(psllq);
    SSE("ucomisd", "ucomisd %%xmm1, %%xmm0\n pushf\n pop %%eax\n and $0x8D5, %%eax", 0x1F80);
    SSE("cvtsd2si", "cvtsd2si %%xmm1, %%eax", 0x3F80);
    SSE("pshufd", "pshufd $0x93, %%xmm1, %%xmm0", 0x1F80);
    SSE("pslldq", "pslldq $5, %%xmm0\n psrldq $2, %%xmm0", 0x1F80);
    SSE("pextrw", "pextrw $5, %%xmm1, %%eax\n pinsrw $2, %%eax, %%xmm0", 0x1F80);
    SSE("cmpnlepd", "cmpnlepd %%xmm1, %%xmm0", 0x1F80);
    SSE("pmovmskb", "pmovmskb %%xmm1, %%eax", 0x1F80);
    SSE("movd", "movd %%xmm1, %%eax\n movd %%eax, %%xmm0", 0x1F80);
}

#define MMX(op)                                                                                                        \
    do {                                                                                                               \
        hash_t h = HASH;                                                                                               \
        for (size_t i = 0; i < COUNT(vectors); i++) {                                                                  \
            for (size_t j = 0; j < COUNT(vectors); j++) {                                                              \
                vector a = vectors[i];                                                                                 \
                __asm__ volatile("movq %0, %%mm0\n movq %1, %%mm1\n" #op " %%mm1, %%mm0\n movq %%mm0, %0\n emms"       \
                                 : "+m"(a)                                                                             \
                                 : "m"(vectors[j]));                                                                   \
                h = hash(h, &a, 8);                                                                                    \
            }                                                                                                          \
        }                                                                                                              \
        line("mmx " #op, "%08x", h);                                                                                   \
    } while (0)

static void mmx(void) {
    MMX(paddb);
    MMX(paddsw);
    MMX(paddusb);
    MMX(psubd);
    MMX(psubsb);
    MMX(pmullw);
    MMX(pmulhw);
    MMX(pmaddwd);
    MMX(pcmpeqb);
    MMX(pcmpgtw);
    MMX(packsswb);
    MMX(packuswb);
    MMX(punpcklbw);
    MMX(punpckhdq);
    MMX(psllw);
    MMX(psrad);
    MMX(psrlq);
    MMX(pandn);
    MMX(pxor);
    MMX(pavgw);
    MMX(pmaxub);
    MMX(pminsw);
    MMX(psadbw);
    // MMX instructions make all x87 registers valid, EMMS empty; TOP becomes 0.
    uint32_t env[7], empty[7];
    __asm__ volatile("fninit\n fld1\n movq %2, %%mm3\n fnstenv %0\n emms\n fnstenv %1\n fninit"
                     : "=m"(env), "=m"(empty)
                     : "m"(vectors[3]));
    line("mmx and x87", "%04x %04x, after emms %04x", env[1] & 0xFFFF, env[2] & 0xFFFF, empty[2] & 0xFFFF);
}

// The cause is the instruction itself, and its destination has not changed.
CODE(sse_divide, "ldmxcsr (%edi)\n movaps 16(%edi), %xmm0\n movaps 32(%edi), %xmm1\n divps %xmm1, %xmm0\n int3");
CODE(sse_load, "ldmxcsr (%edi)\n addps 48(%edi), %xmm0\n int3");
CODE(sse_reserved, "ldmxcsr 4(%edi)\n int3");
CODE(sse_aligned, "movaps 8(%edi), %xmm0\n int3");
CODE(sse_unaligned, "movups 8(%edi), %xmm0\n int3");
CODE(sse_aligned_store, "movntps %xmm0, 8(%edi)\n int3");
CODE(sse_gone, "movups (%esi), %xmm0\n int3");

static void exception(const char *name, const char *code, uint32_t control) {
    static struct {
        uint32_t control, reserved, pad[2];
        vector one, zero, denormal;
    } __attribute__((aligned(16))) data = {
        0, 0x11F80, {0}, {{0x3F800000, 0x3F800000, 0, 0x7F800000}}, {{0, 0x3F800000, 0, 0}}, {{1, 2, 0x7FA00001, 0}}};
    data.control = control;
    struct registers start = start_at(code);
    start.edi = (uint32_t)&data;
    start.esi = 0x2FFFFFF8;
    struct outcome out = run(start);
    __asm__ volatile("ldmxcsr %0" ::"m"(usual));
    line(name, "%s at +%u", out.signal == SIGFPE ? (out.code == FPE_FLTDIV   ? "FPE divide"
                                                    : out.code == FPE_FLTINV ? "FPE invalid"
                                                    : out.code == FPE_FLTUND ? "FPE underflow"
                                                                             : "FPE other")
                                                 : describe(&out),
         out.r.eip - start.eip);
}

static void exceptions(void) {
    exception("masked", sse_divide, 0x1F80);
    exception("unmasked divide", sse_divide, 0x1D00);
    exception("unmasked invalid", sse_divide, 0x1F00);
    exception("unmasked denormal", sse_load, 0x1E80);
    exception("unmasked invalid load", sse_load, 0x1F00);
    exception("reserved bit", sse_reserved, 0);
    exception("misaligned", sse_aligned, 0);
    exception("unaligned", sse_unaligned, 0);
    exception("misaligned store", sse_aligned_store, 0);
    exception("unmapped", sse_gone, 0);
}

static volatile sig_atomic_t seen;
static void on_signal(int number) {
    (void)number;
    __asm__ volatile("ldmxcsr %0\n xorps %%xmm0, %%xmm0\n xorps %%xmm7, %%xmm7" ::"m"((const uint32_t){0x9F80}));
    seen++;
}

static void across_signals(void) {
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, NULL);
    vector out[2];
    uint32_t control = 0x3FA1, after;
    int pid = getpid();
    __asm__ volatile("ldmxcsr %5\n movups %6, %%xmm0\n movups %7, %%xmm7\n mov $37, %%eax\n int $0x80\n"
                     "movups %%xmm0, %0\n movups %%xmm7, %1\n stmxcsr %2\n ldmxcsr %8"
                     : "=m"(out[0]), "=m"(out[1]), "=m"(after)
                     : "b"(pid), "c"(SIGUSR1), "m"(control), "m"(vectors[1]), "m"(vectors[5]), "m"(usual)
                     : "eax", "memory");
    line("across a signal", "%d %08x %04x", (int)seen, hash(HASH, out, sizeof out), after);
}

static void together(void) {
    enum { PROCESSES = 10 };
    uint32_t all[PROCESSES] = {0};
    int ends[PROCESSES][2];
    for (uint32_t i = 0; i < PROCESSES; i++) {
        if (pipe(ends[i])) {
            broken("pipe");
        }
        if (fork() == 0) {
            vector v = vectors[i % COUNT(vectors)];
            uint32_t control = usual | (i & 3) << 13;
            __asm__ volatile("ldmxcsr %0\n movups %1, %%xmm5" ::"m"(control), "m"(v));
            hash_t h = HASH;
            for (uint32_t n = 0; n < 40; n++) {
                __asm__ volatile("mulps %%xmm5, %%xmm5\n pushl %0\n cvtsi2ss (%%esp), %%xmm4\n addl $4, %%esp\n addps %%xmm4, %%xmm5" ::"r"(n)
                                 : "memory");
                syscall(SYS_sched_yield);
                __asm__ volatile("movups %%xmm5, %0" : "=m"(v));
                h = hash(h, &v, 4);
            }
            _exit(write(ends[i][1], &h, 4) != 4);
        }
    }
    for (uint32_t i = 0; i < PROCESSES; i++) {
        if (read(ends[i][0], &all[i], 4) != 4) {
            broken("read");
        }
    }
    while (wait(NULL) > 0) {
    }
    line("together", "%08x", hash(HASH, all, sizeof all));
}

void simd(void) {
    mmx();
    sse();
    if (has_sse2()) {
        sse2();
    } else {
        line("sse2", "not on this processor");
    }
    exceptions();
    across_signals();
    together();
}
