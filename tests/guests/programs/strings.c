// String instructions: every size, both directions, odd forms, faults in the middle.
#include "guest.h"

static uint8_t *const area = (uint8_t *)0x20000000;
enum { AREA = 4 * PAGE };

// What is allowed of the third page while the code runs.
static int third = PROT_READ | PROT_WRITE;

static void fill(void) {
    mprotect(area + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE);
    for (uint32_t i = 0; i < AREA; i++) {
        area[i] = (uint8_t)(i * 7 + i / 251);
    }
    mprotect(area + 2 * PAGE, PAGE, third);
}

// Runs CODE with these registers on a fresh area and prints what is left of both.
static struct outcome string(const char *name, const char *code, uint32_t esi, uint32_t edi, uint32_t ecx, uint32_t eax,
                             uint32_t eflags) {
    fill();
    struct registers start = start_at(code);
    start.esi = esi;
    start.edi = edi;
    start.ecx = ecx;
    start.eax = eax;
    start.eflags |= eflags;
    struct outcome out = run(start);
    mprotect(area + 2 * PAGE, PAGE, PROT_READ | PROT_WRITE);
    line(name, "esi %x edi %x ecx %x eax %x eip +%u flags %x, %s, memory %08x", out.r.esi, out.r.edi, out.r.ecx, out.r.eax,
         out.r.eip - start.eip, out.r.eflags & (STATUS | DF), describe(&out), hash(HASH, area, AREA));
    return out;
}

#define EACH(name, text)                                                                                               \
    do {                                                                                                               \
        CODE(code_##name, text "\n int3");                                                                             \
        string(#name " up", code_##name, A, A + 0x900, 100, 0x01020304, 0);                                            \
        string(#name " down", code_##name, A + 0xF00, A + 0x1F00, 77, 0x0E070085, DF | CF);                            \
        string(#name " overlap", code_##name, A + 1, A, 300, 0xFFFFFFFF, 0);                                           \
        string(#name " overlap up", code_##name, A, A + 3, 300, 0, 0);                                                 \
        string(#name " zero", code_##name, A, A + 5, 0, 0x77, ZF | CF);                                                \
    } while (0)

CODE(string_pages, "rep movsl\n int3");
CODE(string_pages_b, "rep stosb\n int3");
CODE(string_scan, "repne scasb\n int3");
CODE(string_compare, "repe cmpsw\n int3");
CODE(string_lods, "rep lodsl\n int3");

void strings(void) {
    const uint32_t A = (uint32_t)area;
    map(A, AREA, PROT_READ | PROT_WRITE);
    EACH(movsb, "rep movsb");
    EACH(movsw, "rep movsw");
    EACH(movsl, "rep movsl");
    EACH(movsl_once, "movsl");
    EACH(stosb, "rep stosb");
    EACH(stosw, "rep stosw");
    EACH(stosl, "rep stosl");
    EACH(stosl_once, "stosl");
    EACH(lodsb, "rep lodsb");
    EACH(lodsw, "rep lodsw");
    EACH(lodsl, "lodsl");
    EACH(scasb, "repne scasb");
    EACH(scasw_e, "repe scasw");
    EACH(scasl, "repne scasl");
    EACH(cmpsb, "repe cmpsb");
    EACH(cmpsw_ne, "repne cmpsw");
    EACH(cmpsl, "repe cmpsl");
    EACH(cmpsl_once, "cmpsl");
    // REPNE in front of MOVS, STOS and LODS is REP.
    EACH(repne_movsb, ".byte 0xF2\n movsb");
    EACH(repne_stosl, ".byte 0xF2\n stosl");
    EACH(override, "rep movsl %fs:(%esi), %es:(%edi)");
    EACH(override_cs, "rep movsb %cs:(%esi), %es:(%edi)");
    // 16-bit addresses, whose use of SI, DI and CX leaves the upper halves alone. In flat memory they
    // reach the first 64 KiB, where nothing is mapped.
    EACH(addr16, "addr16 rep movsb");
    EACH(addr16_stos, "addr16 rep stosl");

    // A page without access in the middle of a repetition, both ways and in both operands.
    third = PROT_NONE;
    string("movsl into nothing", string_pages, A, A + 2 * PAGE - 40, 50, 0, 0);
    string("movsl from nothing", string_pages, A + 2 * PAGE - 402, A, 200, 0, 0);
    string("movsl down into nothing", string_pages, A + 0x100, A + 3 * PAGE + 20, 50, 0, DF);
    string("stosb into nothing", string_pages_b, A, A + 2 * PAGE - 1, 50, 0xAB, 0);
    string("scasb into nothing", string_scan, A, A + 2 * PAGE - 4, 50, 0xAB00, 0);
    string("cmpsw across nothing", string_compare, A + 2 * PAGE - 3, A + 2 * PAGE - 3, 50, 0, 0);
    string("lodsl from nothing", string_lods, A + 2 * PAGE - 10, 0, 50, 0, 0);
    third = PROT_READ;
    string("movsl into read-only", string_pages, A, A + 2 * PAGE - 40, 50, 0, 0);
    string("movsl across read-only", string_pages, A, A + 2 * PAGE - 42, 50, 0, 0);
    third = PROT_READ | PROT_WRITE;
    string("movsl across pages", string_pages, A + 1, A + PAGE - 2, 1500, 0, 0);
}
