// Descriptors of a local descriptor table, thread-local segments, 16-bit code, the queries about them.
#include "guest.h"
#include <asm/ldt.h>

enum {
    DATA = 0,      // contents of <asm/ldt.h>
    DOWN = 1,      // expand-down data
    CODE_SEGMENT = 2,
    CONFORMING = 3,
};

static uint8_t *const area = (uint8_t *)0x20000000;

static uint16_t selector(unsigned index) { return (uint16_t)(index << 3 | 7); }

static void descriptor(unsigned index, uintptr_t address, uint32_t limit, unsigned contents, bool big, bool pages,
                       bool read_only, bool present) {
    struct user_desc entry = {
        .entry_number = index,
        .base_addr = address,
        .limit = limit,
        .seg_32bit = big,
        .contents = contents,
        .read_exec_only = read_only,
        .limit_in_pages = pages,
        .seg_not_present = !present,
        .useable = 1,
    };
    if (syscall(SYS_modify_ldt, 0x11, &entry, sizeof entry)) {
        broken("modify_ldt");
    }
}

// The entries that the cases use.
enum {
    BASED = 1,   // data at area, limit 0xFFF
    SMALL,       // data at area + 0x800, limit 0x10
    READ_ONLY,   // data at area, not writable
    BELOW_32,    // expand-down, big, from 0x1000
    BELOW_16,    // expand-down, small, from 0x1000 to 0xFFFF
    ABSENT,      // not present data
    STACK_16,    // 16-bit stack at area, limit 0xFFF
    STACK_DOWN,  // 16-bit expand-down stack from 0x3000 to 0xFFFF at area - 0
    STACK_32,    // 32-bit stack at area, limit 0x3FFF
    CODE_16,     // 16-bit code at area + 0x4000
    CODE_32,     // 32-bit code at area + 0x5000, based
    CODE_SHORT,  // 32-bit code at area + 0x5000, limit 0x7
    CODE_HIDDEN, // execute-only code at area + 0x5000
    CODE_ABSENT, // not present
    CODE_CONF,   // conforming code, which Linux allows only where it is not present
    STACK_ABSENT,
    WRAPPED,     // data whose base makes addresses wrap around 4 GiB
    PAGES,       // data at area, limit in pages
    EMPTY,       // all zero
    LAST = 8191,
};

static void fill(void) {
    for (uint32_t i = 0; i < 4 * PAGE; i += 4) {
        *(uint32_t *)(area + i) = 0x1000000 + i;
    }
}

static void set_up(void) {
    map((uintptr_t)area, 32 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
    uintptr_t a = (uintptr_t)area;
    descriptor(BASED, a, 0xFFF, DATA, true, false, false, true);
    descriptor(SMALL, a + 0x800, 0x10, DATA, true, false, false, true);
    descriptor(READ_ONLY, a, 0xFFFF, DATA, true, false, true, true);
    descriptor(BELOW_32, a - 0x1000, 0xFFF, DOWN, true, false, false, true);
    descriptor(BELOW_16, a, 0xFFF, DOWN, false, false, false, true);
    descriptor(ABSENT, a, 0xFFF, DATA, true, false, false, false);
    descriptor(STACK_16, a, 0xFFF, DATA, false, false, false, true);
    descriptor(STACK_DOWN, a, 0x2FFF, DOWN, false, false, false, true);
    descriptor(STACK_32, a, 0x3FFF, DATA, true, false, false, true);
    descriptor(CODE_16, a + 0x4000, 0xFFFF, CODE_SEGMENT, false, false, false, true);
    descriptor(CODE_32, a + 0x5000, 0xFFFF, CODE_SEGMENT, true, false, false, true);
    descriptor(CODE_SHORT, a + 0x5000, 7, CODE_SEGMENT, true, false, false, true);
    descriptor(CODE_HIDDEN, a + 0x5000, 0xFFFF, CODE_SEGMENT, true, false, true, true);
    descriptor(CODE_ABSENT, a + 0x5000, 0xFFFF, CODE_SEGMENT, true, false, false, false);
    descriptor(CODE_CONF, a + 0x5000, 0xFFFF, CONFORMING, true, false, false, false);
    descriptor(STACK_ABSENT, a, 0xFFF, DATA, true, false, false, false);
    descriptor(WRAPPED, a + 0x80000000, 0xFFFFF, DATA, true, true, false, true);
    descriptor(PAGES, a, 1, DATA, true, true, false, true);
}

// What `run` left, short.
static void report(const char *name, const struct registers *start, const struct outcome *out) {
    // The kernel tells SIGSEGV's address only for page faults.
    line(name, "%s eax %x ecx %x at +%u esp %+d", describe(out), out->r.eax, out->r.ecx, out->r.eip - start->eip,
         (int)(out->r.esp - start->esp));
}

CODE(seg_load, "mov %fs:(%edx), %eax\n int3");
CODE(seg_load_byte, "movzbl %fs:(%edx), %eax\n int3");
CODE(seg_store, "movl $0x777, %fs:(%edx)\n mov %fs:(%edx), %eax\n int3");
CODE(seg_modify, "addw $0x111, %fs:(%edx)\n mov %fs:(%edx), %ax\n int3");
CODE(seg_wide, "fninit\n fldt %fs:(%edx)\n fninit\n mov $1, %eax\n int3");
CODE(seg_string, "mov %edx, %esi\n mov $4, %ecx\n rep lodsl %fs:(%esi), %eax\n int3");
CODE(seg_16, "addr16 mov %fs:(%bx), %eax\n int3");
CODE(seg_execute, "mov %fs:(%edx), %eax\n int3");

static void reach(const char *name, const char *code, unsigned index, uint32_t offset) {
    char text[80];
    snprintf(text, sizeof text, "%s %s %x", name, code == seg_load     ? "load"
                                                  : code == seg_store  ? "store"
                                                  : code == seg_modify ? "modify"
                                                  : code == seg_wide   ? "wide"
                                                  : code == seg_string ? "string"
                                                  : code == seg_16     ? "16"
                                                                       : "byte",
             offset);
    fill();
    struct registers start = start_at(code);
    start.fs = index == 0 ? 0 : selector(index);
    start.eax = start.ecx = 0;
    start.edx = start.ebx = offset;
    struct outcome out = run(start);
    report(text, &start, &out);
}

static void limits(void) {
    reach("based", seg_load, BASED, 0);
    reach("based", seg_load, BASED, 0xFFC);
    reach("based", seg_load, BASED, 0xFFD);
    reach("based", seg_load_byte, BASED, 0xFFF);
    reach("based", seg_load_byte, BASED, 0x1000);
    reach("based", seg_load, BASED, 0xFFFFFFFC);
    reach("based", seg_load, BASED, 0xFFFFFFFE);
    reach("based", seg_store, BASED, 0x10);
    reach("based", seg_store, BASED, 0xFFE);
    reach("based", seg_modify, BASED, 0xFFE);
    reach("based", seg_modify, BASED, 0xFFF);
    reach("based", seg_wide, BASED, 0xFF6);
    reach("based", seg_wide, BASED, 0xFF7);
    reach("based", seg_string, BASED, 0xFF0);
    reach("based", seg_string, BASED, 0xFF4);
    reach("based", seg_16, BASED, 0x10FF8);
    reach("small", seg_load, SMALL, 0xD);
    reach("small", seg_load, SMALL, 0xE);
    reach("small", seg_load_byte, SMALL, 0x10);
    reach("small", seg_load_byte, SMALL, 0x11);
    reach("read-only", seg_load, READ_ONLY, 0x20);
    reach("read-only", seg_store, READ_ONLY, 0x20);
    reach("read-only", seg_modify, READ_ONLY, 0x20);
    reach("below 32", seg_load, BELOW_32, 0xFFF);
    reach("below 32", seg_load, BELOW_32, 0x1000);
    reach("below 32", seg_store, BELOW_32, 0x1010);
    reach("below 32", seg_load, BELOW_32, 0x800);
    reach("below 16", seg_load, BELOW_16, 0xFFF);
    reach("below 16", seg_load, BELOW_16, 0x1000);
    reach("below 16", seg_load, BELOW_16, 0xFFFC);
    reach("below 16", seg_load, BELOW_16, 0xFFFD);
    reach("below 16", seg_load_byte, BELOW_16, 0x10000);
    reach("wrapped", seg_load, WRAPPED, 0x80000010);
    reach("wrapped", seg_store, WRAPPED, 0x80000020);
    reach("pages", seg_load, PAGES, 0x1FFC);
    reach("pages", seg_load, PAGES, 0x1FFD);
    reach("code", seg_load, CODE_32, 0x10);
    reach("code", seg_store, CODE_32, 0x10);
    reach("null", seg_load, 0, 0x10);
}

// Loads of segment registers: what they accept.
CODE(load_fs, "mov %eax, %fs\n mov %fs, %ecx\n int3");
CODE(load_es, "mov %eax, %es\n mov %es, %ecx\n int3");
CODE(load_ss, "mov %eax, %ss\n mov %ss, %ecx\n int3");
CODE(pop_fs, "push %eax\n pop %fs\n mov %fs, %ecx\n int3");
CODE(lfs, "push %eax\n push $0x1234\n lfs (%esp), %ecx\n add $8, %esp\n mov %fs, %eax\n int3");
CODE(ask_lar, "xor %ecx, %ecx\n lar %eax, %ecx\n pushf\n pop %eax\n and $0x40, %eax\n int3");
CODE(ask_lsl, "xor %ecx, %ecx\n lsl %eax, %ecx\n pushf\n pop %eax\n and $0x40, %eax\n int3");
CODE(ask_verr, "verr %ax\n sete %cl\n verw %ax\n sete %ch\n and $0xFFFF, %ecx\n int3");
CODE(ask_arpl, "mov $3, %ecx\n mov $0x10, %eax\n arpl %cx, %ax\n pushf\n pop %ecx\n and $0x40, %ecx\n int3");

static void one_load(const char *how, const char *code, const char *what, uint32_t value) {
    char text[80];
    snprintf(text, sizeof text, "%s %s", how, what);
    struct registers start = start_at(code);
    start.eax = value;
    start.ecx = 0;
    struct outcome out = run(start);
    report(text, &start, &out);
}

static void loads(void) {
    static const struct {
        const char *name;
        unsigned index;
    } kinds[] = {
        {"data", BASED},           {"read-only", READ_ONLY},    {"expand-down", BELOW_32}, {"absent", ABSENT},
        {"16-bit code", CODE_16},  {"code", CODE_32},           {"hidden code", CODE_HIDDEN},
        {"absent code", CODE_ABSENT}, {"conforming", CODE_CONF}, {"pages", PAGES},         {"empty", EMPTY},
        {"outside", LAST},
    };
    for (size_t i = 0; i < COUNT(kinds); i++) {
        uint32_t value = selector(kinds[i].index);
        one_load("mov fs", load_fs, kinds[i].name, value);
        one_load("mov es", load_es, kinds[i].name, value);
        one_load("mov ss", load_ss, kinds[i].name, value);
        one_load("pop fs", pop_fs, kinds[i].name, value);
        one_load("lfs", lfs, kinds[i].name, value);
        one_load("lar", ask_lar, kinds[i].name, value);
        one_load("lsl", ask_lsl, kinds[i].name, value);
        one_load("verr verw", ask_verr, kinds[i].name, value);
        char text[80];
        snprintf(text, sizeof text, "%s, RPL 0", kinds[i].name);
        one_load("mov fs", load_fs, text, value & ~3u);
        one_load("mov ss", load_ss, text, value & ~3u);
        one_load("lar", ask_lar, text, value & ~3u);
    }
    one_load("lar", ask_lar, "null", 0);
    one_load("verr verw", ask_verr, "null", 0);
    one_load("mov fs", load_fs, "null with RPL", 3);
    one_load("arpl", ask_arpl, "", 0);
}

// 16-bit code, called from flat code with a far call, and back with a far return.
__asm__(".pushsection .text.snippets,\"ax\"\n.code16\n"
        "code_16:\n"
        "1: mov %sp, %bp\n mov 4(%bp), %ax\n .byte 0x66\n lret\n" // 32-bit far return
        "code_16_end:\n"
        "wide_16:\n"
        "mov %dx, %ax\n mov $0x1000, %bx\n mov %fs:(%bx), %cx\n add %cx, %ax\n adc $0, %dx\n pushf\n pop %si\n mov %sp, %di\n int3\n"
        "wide_16_end:\n"
        "stack_16:\n"
        "push %ax\n push %cx\n call 1f\n 1: pop %dx\n pop %ax\n pop %cx\n pusha\n mov %sp, %bp\n mov (%bp), %bx\n popa\n enter $16, $2\n leave\n int3\n"
        "stack_16_end:\n"
        "wrap_16:\n"
        "mov $0xFFFF, %bx\n mov (%bx), %ax\n int3\n"
        "wrap_16_end:\n"
        "loop_16:\n"
        "xor %ax, %ax\n mov $300, %cx\n 1: add %cx, %ax\n rol $3, %ax\n loop 1b\n mov $0x10005, %ecx\n 2: inc %dx\n loop 2b\n int3\n"
        "loop_16_end:\n"
        ".code32\n.popsection");
extern const char wide_16[], wide_16_end[], stack_16[], stack_16_end[], wrap_16[], wrap_16_end[], loop_16[], loop_16_end[];

static struct outcome enter(unsigned code, const char *from, const char *end, uint32_t offset, struct registers *start) {
    memcpy(area + (code == CODE_16 ? 0x4000 : 0x5000) + offset, from, (size_t)(end - from));
    start->cs = selector(code);
    start->eip = offset;
    return run(*start);
}

static void everything(const char *name, const struct registers *start, const struct outcome *out) {
    line(name, "%s eax %x ecx %x edx %x ebx %x esi %x edi %x ebp %x esp %+d at +%d cs %x ss %x flags %x", describe(out),
         out->r.eax, out->r.ecx, out->r.edx, out->r.ebx, out->r.esi, out->r.edi, out->r.ebp,
         (int)(out->r.esp - start->esp), (int)(out->r.eip - start->eip), out->r.cs, out->r.ss & 4 ? out->r.ss : 0,
         out->r.eflags & STATUS);
}

CODE(seg_relay, "push %ds\n pop %es\n mov $7, %eax\n lcall *(%edx)\n seg_relay_back: add $0x100, %eax\n int3");
CODE(seg_return, "add $0x10, %eax\n mov (%esp), %ecx\n lret");
CODE(seg_return_4, "add $0x20, %eax\n lret $8");
CODE(seg_jump, "ljmp *(%edx)");
CODE(seg_iret, "pushf\n pushl 4(%edx)\n pushl (%edx)\n iret");
CODE(seg_landed, "mov %cs, %ecx\n int3");
CODE(seg_run_out, "nop\n nop\n nop\n nop\n nop\n mov $5, %eax\n int3");
CODE(stack_based, "push %eax\n push $0x55\n pop %ecx\n mov %esp, %ebp\n mov (%ebp), %edx\n pusha\n popa\n pushf\n popf\n mov %ss:(%ebp), %ebx\n int3");
CODE(stack_deep, "push %eax\n int3");
CODE(stack_pop, "pop %eax\n int3");
CODE(stack_enter, "enter $8, $0\n int3");
CODE(stack_call, "call 1f\n 1: int3");
CODE(stack_ebp, "mov (%ebp), %eax\n int3");

static void code(void) {
    fill();
    struct registers start = start_at(NULL);
    start.eax = 0xAAAA0000, start.ecx = 0xCCCC0000, start.edx = 0xDDDD8001, start.ebx = 0xBBBB0000;
    start.esi = 0x51510000, start.edi = 0xD1D10000, start.ebp = 0xB9B90000;
    start.fs = selector(STACK_32);
    struct outcome out = enter(CODE_16, wide_16, wide_16_end, 0x10, &start);
    everything("16-bit code", &start, &out);

    start.ss = selector(STACK_16);
    start.esp = start.esp_at_signal = 0x800;
    start.ebp = 0xB9B90900;
    out = enter(CODE_16, stack_16, stack_16_end, 0x20, &start);
    everything("16-bit stack", &start, &out);
    line("16-bit stack memory", "%08x", hash(HASH, area + 0x700, 0x100));
    // Bits 31..16 of ESP are left alone by a 16-bit stack.
    start.esp = start.esp_at_signal = 0x12340800;
    out = enter(CODE_16, stack_16, stack_16_end, 0x20, &start);
    everything("16-bit stack, high ESP", &start, &out);
    // SP wraps around, and the segment ends before that.
    start.esp = start.esp_at_signal = 0x0000;
    out = enter(CODE_16, stack_16, stack_16_end, 0x20, &start);
    everything("16-bit stack, limit", &start, &out);
    start.ss = selector(STACK_DOWN);
    out = enter(CODE_16, stack_16, stack_16_end, 0x20, &start);
    everything("expand-down stack", &start, &out);
    start.esp = start.esp_at_signal = 0x3001;
    out = enter(CODE_16, stack_16, stack_16_end, 0x20, &start);
    everything("expand-down stack, limit", &start, &out);
    start.ss = selector(STACK_16);
    start.esp = start.esp_at_signal = 0x800;
    start.ds = selector(CODE_16);
    out = enter(CODE_16, wrap_16, wrap_16_end, 0x20, &start);
    everything("word at FFFF", &start, &out);
    out = enter(CODE_16, loop_16, loop_16_end, 0x300, &start);
    everything("16-bit loops", &start, &out);

    start = start_at(NULL);
    start.eax = 1;
    out = enter(CODE_32, seg_landed, seg_landed_end, 0x40, &start);
    everything("based code", &start, &out);
    out = enter(CODE_SHORT, seg_run_out, seg_run_out_end, 0x4, &start);
    everything("code runs into the limit", &start, &out);
    out = enter(CODE_HIDDEN, seg_landed, seg_landed_end, 0x40, &start);
    everything("execute-only code", &start, &out);
    out = enter(CODE_CONF, seg_landed, seg_landed_end, 0x40, &start);
    everything("conforming code", &start, &out);
}

static void far(const char *name, const char *from, unsigned index, uint32_t offset, const char *target, size_t size) {
    struct {
        uint32_t offset;
        uint16_t selector;
    } pointer = {offset, selector(index)};
    memcpy(area + 0x5000 + offset, target, size);
    struct registers start = start_at(from);
    start.eax = start.ecx = 0;
    start.edx = (uint32_t)&pointer;
    struct outcome out = run(start);
    line(name, "%s eax %x ecx %x esp %+d cs %d at %x", describe(&out), out.r.eax,
         out.r.ecx == (uint32_t)seg_relay + (uint32_t)0 ? 0 : (out.r.ecx & 0xFFFF0000) ? 1 : out.r.ecx, (int)(out.r.esp - start.esp),
         out.r.cs == start.cs ? 0 : (int)out.r.cs,
         out.r.cs == start.cs ? out.r.eip - start.eip : out.r.eip);
}

#define FAR(name, from, index, offset, target) far(name, from, index, offset, target, (size_t)(target##_end - target))

static void transfers(void) {
    FAR("far call", seg_relay, CODE_32, 0x80, seg_return);
    FAR("far call, arguments", seg_relay, CODE_32, 0x90, seg_return_4);
    FAR("far jump", seg_jump, CODE_32, 0xA0, seg_landed);
    FAR("iret", seg_iret, CODE_32, 0xA0, seg_landed);
    FAR("far call beyond the limit", seg_relay, CODE_SHORT, 0x90, seg_return);
    FAR("far jump to absent code", seg_jump, CODE_ABSENT, 0xA0, seg_landed);
    FAR("far call to absent code", seg_relay, CODE_ABSENT, 0xA0, seg_landed);
    FAR("iret to absent code", seg_iret, CODE_ABSENT, 0xA0, seg_landed);
    FAR("far jump to data", seg_jump, BASED, 0xA0, seg_landed);
    FAR("far jump to nothing", seg_jump, EMPTY, 0xA0, seg_landed);
    FAR("far jump outside", seg_jump, LAST, 0xA0, seg_landed);
    FAR("far call to conforming code", seg_relay, CODE_CONF, 0xB0, seg_return);
}

static void stack(const char *name, const char *code, unsigned index, uint32_t esp) {
    fill();
    struct registers start = start_at(code);
    start.ss = selector(index);
    start.eax = 0xA5, start.ecx = start.edx = start.ebx = 0;
    start.esp = start.esp_at_signal = start.ebp = esp;
    struct outcome out = run(start);
    line(name, "%s eax %x ecx %x edx %x ebx %x esp %x ebp %x at +%u, memory %08x", describe(&out), out.r.eax, out.r.ecx,
         out.r.edx, out.r.ebx, out.r.esp, out.r.ebp, out.r.eip - start.eip, hash(HASH, area, 4 * PAGE));
}

static void stacks(void) {
    stack("based stack", stack_based, STACK_32, 0x2000);
    stack("based stack, push at 0", stack_deep, STACK_32, 0);
    stack("based stack, push at 2", stack_deep, STACK_32, 2);
    stack("based stack, push at the end", stack_deep, STACK_32, 0x4000);
    stack("based stack, push beyond", stack_deep, STACK_32, 0x4001);
    stack("based stack, pop at the end", stack_pop, STACK_32, 0x3FFC);
    stack("based stack, pop beyond", stack_pop, STACK_32, 0x3FFD);
    stack("based stack, enter", stack_enter, STACK_32, 4);
    stack("based stack, enter beyond", stack_enter, STACK_32, 0x4008);
    stack("based stack, call beyond", stack_call, STACK_32, 0x4002);
    stack("based stack, EBP beyond", stack_ebp, STACK_32, 0x4000);
    stack("16-bit stack, 32-bit code", stack_based, STACK_16, 0x400);
    stack("16-bit stack, 32-bit code, high", stack_based, STACK_16, 0xABCD0400);
    stack("16-bit stack, push at 2", stack_deep, STACK_16, 2);
    stack("16-bit stack, pop at the end", stack_pop, STACK_16, 0xFFC);
    stack("16-bit stack, pop beyond", stack_pop, STACK_16, 0xFFE);
    stack("expand-down stack, 32-bit code", stack_based, STACK_DOWN, 0x3F00);
    stack("expand-down stack, at the limit", stack_deep, STACK_DOWN, 0x3004);
    stack("expand-down stack, below the limit", stack_deep, STACK_DOWN, 0x3003);
}

// A thread-local segment as thread libraries use it.
static void thread_local_segment(void) {
    uint32_t *block = (uint32_t *)(area + 0x8000);
    for (uint32_t i = 0; i < 64; i++) {
        block[i] = i * 3;
    }
    struct user_desc entry = {
        .entry_number = (unsigned)-1, .base_addr = (uint32_t)block, .limit = 99, .seg_32bit = 1, .useable = 1};
    if (syscall(SYS_set_thread_area, &entry)) {
        broken("set_thread_area");
    }
    uint32_t fs = entry.entry_number << 3 | 3;
    struct registers start = start_at(seg_load);
    start.fs = fs;
    start.eax = start.ecx = 0;
    static const uint32_t offsets[] = {0, 40, 96, 97, 100, 0xFFFFFFFC};
    for (size_t i = 0; i < COUNT(offsets); i++) {
        char text[40];
        snprintf(text, sizeof text, "thread area %x", offsets[i]);
        start.edx = offsets[i];
        struct outcome out = run(start);
        report(text, &start, &out);
    }
    // Changed under the loaded register: the next load of it sees the new one.
    entry.base_addr += 16;
    syscall(SYS_set_thread_area, &entry);
    start.edx = 4;
    struct outcome out = run(start);
    report("thread area moved", &start, &out);
    // Negative offsets, as thread libraries have them, need a limit of 4 GiB.
    entry.limit = 0xFFFFF;
    entry.limit_in_pages = 1;
    syscall(SYS_set_thread_area, &entry);
    start.edx = (uint32_t)-4;
    out = run(start);
    report("thread area below", &start, &out);
    // An LDT entry changed while the register is loaded, and inherited by a child.
    descriptor(BASED, (uintptr_t)area + 0x40, 0xFFF, DATA, true, false, false, true);
    reach("moved", seg_load, BASED, 0);
    pid_t child = fork();
    if (child == 0) {
        reach("inherited", seg_load, BASED, 4);
        descriptor(BASED, (uintptr_t)area + 0x80, 0xFFF, DATA, true, false, false, true);
        reach("changed in the child", seg_load, BASED, 0);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    reach("not in the parent", seg_load, BASED, 0);
    struct {
        uint64_t entry[20];
    } table;
    long size = syscall(SYS_modify_ldt, 0, &table, sizeof table);
    line("table read", "%ld %08x", size, hash(HASH, &table, sizeof table));
}

void segments(void) {
    line("vm86", "%s", syscall(SYS_vm86old, NULL) < 0 && errno == ENOSYS ? "not in this kernel" : "in this kernel");
    set_up();
    limits();
    loads();
    code();
    transfers();
    stacks();
    thread_local_segment();
}
