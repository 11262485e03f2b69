// 8-, 16- and 32-bit arithmetic: results and defined flags, hashed over many operands.
#include "guest.h"

static const uint32_t values[] = {
    0,      1,      2,      3,       7,          8,          0xF,        0x10,       0x1F,       0x55,
    0x7F,   0x80,   0x81,   0xAA,    0xFE,       0xFF,       0x100,      0x7FFF,     0x8000,     0x8001,
    0xFFFF, 0x10000, 0x12345678, 0x7FFFFFFF, 0x80000000, 0x80000001, 0xFFFFFFFE, 0xFFFFFFFF, 0xDEADBEEF,
};

// LAHF and SETO give AH = SF ZF AF PF CF, AL = OF.
static uint32_t flags_of(uint32_t eax) { return (eax >> 8 & 0xD5) | (eax & 1) << 11; }

// Sets all status flags or none, without POPF: OF by an addition, the others by SAHF.
#define FLAGS_IN "addb $0x7F, %%al\n sahf\n"
#define FLAGS_OUT "\n lahf\n seto %%al"

#define TWO(name, text, defined)                                                                                       \
    do {                                                                                                               \
        hash_t h = HASH;                                                                                               \
        for (size_t i = 0; i < COUNT(values); i++) {                                                                   \
            for (size_t j = 0; j < 2 * COUNT(values); j++) {                                                           \
                uint32_t eax = j & 1 ? 0xD501 : 0;                                                                     \
                uint32_t d = values[i], c = values[j / 2];                                                             \
                __asm__ volatile(FLAGS_IN text FLAGS_OUT : "+a"(eax), "+d"(d), "+c"(c)::"cc", "memory");               \
                h = hash32(hash32(hash32(h, flags_of(eax) & (defined)), d), c);                                        \
            }                                                                                                          \
        }                                                                                                              \
        line(name, "%08x", h);                                                                                         \
    } while (0)

#define SIZES(op, defined)                                                                                             \
    TWO(#op " 8", #op " %%cl, %%dl", defined);                                                                         \
    TWO(#op " 8 high", #op " %%ch, %%dh", defined);                                                                    \
    TWO(#op " 16", #op " %%cx, %%dx", defined);                                                                        \
    TWO(#op " 32", #op " %%ecx, %%edx", defined);                                                                      \
    TWO(#op " memory", "push %%edx\n" #op " %%ecx, (%%esp)\n pop %%edx", defined);                                     \
    TWO(#op " from memory", "push %%ecx\n" #op " (%%esp), %%dx\n pop %%ecx", defined)

#define ONE(op, defined)                                                                                               \
    TWO(#op " 8", #op " %%dl", defined);                                                                               \
    TWO(#op " 8 high", #op " %%ch", defined);                                                                          \
    TWO(#op " 16", #op " %%dx", defined);                                                                              \
    TWO(#op " 32", #op " %%edx", defined);                                                                             \
    TWO(#op " memory", "push %%edx\n" #op "w (%%esp)\n pop %%edx", defined)

// With a count of 0 all flags stay, above 1 OF is not defined: the flags of single shifts are
// checked with the form that has no count.
#define SHIFTS(op, defined)                                                                                            \
    TWO(#op " 8 once", #op " %%dl", (defined) | OF);                                                                   \
    TWO(#op " 16 once", #op " %%dx", (defined) | OF);                                                                  \
    TWO(#op " 32 once", #op " %%edx", (defined) | OF);                                                                 \
    TWO(#op " 8", #op " %%cl, %%dl", 0);                                                                               \
    TWO(#op " 16", #op " %%cl, %%dx", 0);                                                                              \
    TWO(#op " 32", #op " %%cl, %%edx", 0);                                                                             \
    TWO(#op " 5", #op " $5, %%edx", defined)

#define CONDITION(cc) TWO("set" #cc, "cmp %%ecx, %%edx\n set" #cc " %%dl\n j" #cc " 1f\n xor %%ecx, %%ecx\n 1:", 0)

CODE(div_8, "div %cl\n int3");
CODE(div_16, "div %cx\n int3");
CODE(div_32, "div %ecx\n int3");
CODE(idiv_8, "idiv %cl\n int3");
CODE(idiv_16, "idiv %cx\n int3");
CODE(idiv_32, "idiv %ecx\n int3");
CODE(aam_0, ".byte 0xD4, 0\n int3");
CODE(into_0, "into\n int3");
CODE(bound_0, "bound %ecx, (%edx)\n int3");

// Quotients, remainders, and the faults with their EIP.
static void divide(const char *name, const char *code) {
    hash_t h = HASH;
    int faults = 0;
    for (size_t i = 0; i < COUNT(values); i++) {
        for (size_t j = i % 5; j < COUNT(values); j += 5) {
            struct registers start = start_at(code);
            start.eax = values[i];
            start.edx = values[(i * 7 + j) % COUNT(values)] >> (j % 3 * 8);
            start.ecx = values[j];
            struct outcome out = run(start);
            faults += out.signal == SIGFPE;
            h = hash32(hash32(h, out.r.eax), out.r.edx);
            h = hash32(hash32(h, (uint32_t)out.signal), out.r.eip - (uint32_t)code);
        }
    }
    line(name, "%08x faults %d", h, faults);
}

static void multiplications(void) {
    TWO("mul 8", "mov %%dl, %%al\n mul %%cl\n mov %%ax, %%dx", CF | OF);
    TWO("mul 16", "mov %%dx, %%ax\n mul %%cx\n push %%ax\n push %%dx\n pop %%edx", CF | OF);
    TWO("mul 32", "mov %%edx, %%eax\n mul %%ecx\n mov %%eax, %%ecx", CF | OF);
    TWO("imul 8", "mov %%dl, %%al\n imul %%cl\n mov %%ax, %%dx", CF | OF);
    TWO("imul 16", "mov %%dx, %%ax\n imul %%cx\n push %%ax\n push %%dx\n pop %%edx", CF | OF);
    TWO("imul 32", "mov %%edx, %%eax\n imul %%ecx\n mov %%eax, %%ecx", CF | OF);
    TWO("imul two 16", "imul %%cx, %%dx", CF | OF);
    TWO("imul two 32", "imul %%ecx, %%edx", CF | OF);
    TWO("imul three", "imul $-77, %%ecx, %%edx", CF | OF);
}

static void bits(void) {
    TWO("bt", "and $31, %%ecx\n bt %%ecx, %%edx", CF);
    TWO("bts 16", "and $15, %%cx\n bts %%cx, %%dx", CF);
    TWO("btr 32", "and $31, %%ecx\n btr %%ecx, %%edx", CF);
    TWO("btc 5", "btc $5, %%edx", CF);
    TWO("bsf", "or $1 << 20, %%ecx\n bsf %%ecx, %%edx", ZF);
    TWO("bsr", "or $1, %%ecx\n bsr %%ecx, %%edx", ZF);
    TWO("bswap", "bswap %%edx", STATUS);
    TWO("shld", "shld $7, %%ecx, %%edx", CF | ZF | SF | PF);
    TWO("shrd", "shrd $7, %%ecx, %%edx", CF | ZF | SF | PF);
    TWO("xadd", "xadd %%ecx, %%edx", STATUS);
    TWO("cmpxchg", "mov %%ecx, %%eax\n cmpxchg %%ecx, %%edx", STATUS);
    TWO("movsx", "movsx %%cl, %%edx", STATUS);
    TWO("movzx", "movzx %%cx, %%edx", STATUS);
    TWO("xchg high", "xchg %%ch, %%dl", STATUS);
    TWO("lock", "push %%edx\n lock xadd %%ecx, (%%esp)\n lock btsl $9, (%%esp)\n pop %%edx", CF);
    TWO("lea 32", "lea 0x7FFFFFFF(%%ecx,%%edx,8), %%edx", STATUS);
    TWO("lea 16", "mov %%cx, %%bx\n addr16 lea 0x7FFF(%%bx,%%si), %%cx\n sub %%si, %%cx", 0);
    TWO("cmov", "cmp %%ecx, %%edx\n cmovg %%ecx, %%edx\n cmovb %%edx, %%ecx", STATUS);
    TWO("loop", "and $7, %%ecx\n inc %%ecx\n xor %%edx, %%edx\n 1: add %%ecx, %%edx\n loop 1b", STATUS);
    TWO("jecxz", "jecxz 1f\n inc %%edx\n 1:", 0);
    TWO("pushf", "pushf\n pop %%edx\n and $0x8D5, %%edx", STATUS);
    TWO("popf", "and $0x8D5, %%edx\n push %%edx\n popf", STATUS);
    TWO("pusha", "pusha\n pop %%edx\n pop %%ecx\n add $24, %%esp", 0);
    TWO("cwd", "mov %%ecx, %%eax\n cwtd\n cltd\n cwtl", 0);
    TWO("xlat", "push %%ebx\n mov $arithmetic_table, %%ebx\n mov %%cl, %%al\n xlat\n movzbl %%al, %%edx\n pop %%ebx", 0);
    TWO("enter", "push %%ebp\n enter $24, $3\n mov %%ebp, %%edx\n sub %%esp, %%edx\n leave\n pop %%ebp", 0);
}

static void decimal(void) {
    TWO("daa", "mov %%dl, %%al\n daa\n movzbl %%al, %%edx", CF | AF | ZF | SF | PF);
    TWO("das", "mov %%dl, %%al\n das\n movzbl %%al, %%edx", CF | AF | ZF | SF | PF);
    TWO("aaa", "mov %%dx, %%ax\n aaa\n movzwl %%ax, %%edx", CF | AF);
    TWO("aas", "mov %%dx, %%ax\n aas\n movzwl %%ax, %%edx", CF | AF);
    TWO("aam", "mov %%dl, %%al\n aam\n movzwl %%ax, %%edx", ZF | SF | PF);
    TWO("aad", "mov %%dx, %%ax\n aad\n movzwl %%ax, %%edx", ZF | SF | PF);
    TWO("aam 7", "mov %%dl, %%al\n .byte 0xD4, 7\n movzwl %%ax, %%edx", ZF | SF | PF);
    TWO("salc", ".byte 0xD6\n movzbl %%al, %%edx", 0);
}

const uint8_t arithmetic_table[256] = {1, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233, [128] = 7, [255] = 9};

void arithmetic(void) {
    SIZES(add, STATUS);
    SIZES(adc, STATUS);
    SIZES(sub, STATUS);
    SIZES(sbb, STATUS);
    SIZES(cmp, STATUS);
    SIZES(and, STATUS & ~AF);
    SIZES(or, STATUS & ~AF);
    SIZES(xor, STATUS & ~AF);
    SIZES(test, STATUS & ~AF);
    ONE(inc, STATUS);
    ONE(dec, STATUS);
    ONE(neg, STATUS);
    ONE(not, STATUS);
    SHIFTS(shl, CF | ZF | SF | PF);
    SHIFTS(shr, CF | ZF | SF | PF);
    SHIFTS(sar, CF | ZF | SF | PF);
    SHIFTS(rol, CF | ZF | SF | PF | AF);
    SHIFTS(ror, CF | ZF | SF | PF | AF);
    SHIFTS(rcl, CF | ZF | SF | PF | AF);
    SHIFTS(rcr, CF | ZF | SF | PF | AF);
    CONDITION(o);
    CONDITION(b);
    CONDITION(e);
    CONDITION(be);
    CONDITION(s);
    CONDITION(p);
    CONDITION(l);
    CONDITION(le);
    multiplications();
    bits();
    decimal();
    divide("div 8", div_8);
    divide("div 16", div_16);
    divide("div 32", div_32);
    divide("idiv 8", idiv_8);
    divide("idiv 16", idiv_16);
    divide("idiv 32", idiv_32);

    struct registers start = start_at(aam_0);
    struct outcome out = run(start);
    line("aam 0", "%s at +%u", describe(&out), out.r.eip - start.eip);
    start = start_at(into_0);
    out = run(start);
    line("into without OF", "%d at +%u", out.signal, out.r.eip - start.eip);
    start.eflags |= OF;
    out = run(start);
    line("into", "signal %d trap %u at +%u", out.signal, out.r.trapno, out.r.eip - start.eip);
    static const int32_t limits[2] = {-5, 10};
    start = start_at(bound_0);
    start.edx = (uint32_t)limits;
    for (int i = -6; i <= 11; i += 17) {
        for (int inside = 0; inside <= 1; inside++) {
            char name[32];
            int index = i < 0 ? i + inside : i - inside;
            start.ecx = (uint32_t)index;
            out = run(start);
            snprintf(name, sizeof name, "bound %d", index);
            line(name, "signal %d trap %u at +%u", out.signal, out.r.trapno, out.r.eip - start.eip);
        }
    }
}
