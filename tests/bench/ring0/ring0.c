// A kernel that does nothing but the nanobenchmarks of Adams and Agesen, "A Comparison of Software and
// Hardware Techniques for x86 Virtualization" (2006), section 6.3.
//
// The first bytes of the image are a jump, and the number of the work and how often to do it. It prints
// "S" in front of the work, "E" and a checksum behind it, and halts.
#include <stdint.h>

// Paging maps the first 8 MiB one to one with large pages, for ring 3 as well, and from AREA on small
// pages through TABLE.
#define DIRECTORY ((volatile uint32_t *)0x300000)
#define TABLE ((volatile uint32_t *)0x301000)
#define AREA 0x40000000u
#define ABSENT (AREA + 0x10000)
#define USER_STACK 0x320000u

enum { P = 1, W = 2, U = 4, LARGE = 0x80 };
enum { CODE = 0x08, DATA = 0x10, USER_CODE = 0x1B, USER_DATA = 0x23, TASK = 0x28 };

__asm__(".pushsection .start, \"ax\"\n"
        "  jmp 1f\n"
        "  .balign 8\n"
        "work: .long 0\n"
        "count: .long 0\n"
        "1: mov $0x310000, %esp\n"
        "  jmp ring0\n"
        ".popsection");
extern const uint32_t work, count;

struct __attribute__((packed)) pointer {
    uint16_t limit;
    uint32_t base;
};

static uint64_t gdt[6] = {0,
                          0x00CF9B000000FFFF,
                          0x00CF93000000FFFF,
                          0x00CFFB000000FFFF,
                          0x00CFF3000000FFFF,
                          0};
static uint64_t idt[256];
static uint32_t task[26];

static void out(uint16_t port, uint8_t value) { __asm__ volatile("outb %0, %1" : : "a"(value), "d"(port)); }

static uint8_t in(uint16_t port) {
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "d"(port));
    return value;
}

static void print(char c) {
    while (!(in(0x3FD) & 0x20)) {
    }
    out(0x3F8, c);
}

static void gate(int vector, void (*handler)(void), int privilege) {
    uint32_t at = (uint32_t)handler;
    idt[vector] = (uint64_t)(at & 0xFFFF0000) << 32 | (uint64_t)(0x8E00 | privilege << 13) << 32 |
                  CODE << 16 | (at & 0xFFFF);
}

// A fault returns to the address in EBX.
void divide_error(void), page_fault(void), system_call(void), fast_call(void), leave_ring_3(void);
__asm__("divide_error: mov %ebx, (%esp)\n"
        "  iret\n"
        "page_fault: add $4, %esp\n"
        "  mov %ebx, (%esp)\n"
        "  iret\n"
        "system_call: iret\n"
        "fast_call: mov %ebp, %ecx\n"
        "  mov %ebx, %edx\n"
        "  sysexit\n"
        "leave_ring_3: mov resume_stack, %esp\n"
        "  mov $0x10, %ecx\n"
        "  mov %ecx, %ds\n"
        "  mov %ecx, %es\n"
        "  popa\n"
        "  ret\n"
        // enter_ring_3(address)
        "enter_ring_3: mov 4(%esp), %eax\n"
        "  pusha\n"
        "  mov %esp, resume_stack\n"
        "  mov $0x23, %ecx\n"
        "  mov %ecx, %ds\n"
        "  mov %ecx, %es\n"
        "  push $0x23\n"
        "  push $0x320000\n"
        "  push $2\n"
        "  push $0x1B\n"
        "  push %eax\n"
        "  iret\n");
uint32_t resume_stack;
void enter_ring_3(void (*program)(void));

static void wrmsr(uint32_t msr, uint32_t value) {
    __asm__ volatile("wrmsr" : : "c"(msr), "a"(value), "d"(0));
}

static void set_up(void) {
    uint32_t base = (uint32_t)task;
    task[1] = 0x318000; // ESP0
    task[2] = DATA;
    gdt[TASK / 8] = (uint64_t)(base & 0xFF000000) << 32 | 0x0000890000000000 |
                    (uint64_t)(base & 0xFFFFFF) << 16 | (sizeof task - 1);
    struct pointer gdtr = {sizeof gdt - 1, (uint32_t)gdt}, idtr = {sizeof idt - 1, (uint32_t)idt};
    __asm__ volatile("lgdt %0\n  ljmp $0x08, $1f\n"
                     "1: mov %2, %%ds\n  mov %2, %%es\n  mov %2, %%ss\n"
                     "  lidt %1\n  ltr %w3"
                     : : "m"(gdtr), "m"(idtr), "r"(DATA), "r"(TASK));
    gate(0, divide_error, 0);
    gate(14, page_fault, 0);
    gate(0x80, system_call, 3);
    gate(0x81, leave_ring_3, 3);
    wrmsr(0x174, CODE);
    wrmsr(0x175, 0x318000);
    wrmsr(0x176, (uint32_t)fast_call);
    for (int i = 0; i < 1024; i++)
        DIRECTORY[i] = TABLE[i] = 0;
    DIRECTORY[0] = P | W | U | LARGE;
    DIRECTORY[1] = 0x400000 | P | W | U | LARGE;
    DIRECTORY[AREA >> 22] = (uint32_t)TABLE | P | W;
    TABLE[0] = 0x330000 | P | W;
    TABLE[1] = 0x331000 | P | W;
    __asm__ volatile("mov %%cr4, %%eax\n  or $0x10, %%eax\n  mov %%eax, %%cr4\n"
                     "  mov %0, %%cr3\n"
                     "  mov %%cr0, %%eax\n  or $0x80010000, %%eax\n  mov %%eax, %%cr0"
                     : : "r"(DIRECTORY) : "eax", "memory");
}

// --- The work: each returns a checksum ---------------------------------------------------------------

// SYSENTER from ring 3 and SYSEXIT back.
static void fast_calls(void) {
    __asm__ volatile("  mov count, %%edi\n"
                     "1: mov $2f, %%ebx\n"
                     "  mov %%esp, %%ebp\n"
                     "  sysenter\n"
                     "2: dec %%edi\n"
                     "  jnz 1b\n"
                     "  int $0x81"
                     : : : "memory");
    __builtin_unreachable();
}

// INT 80h from ring 3 and IRET back.
static void interrupts(void) {
    __asm__ volatile("  mov count, %%edi\n"
                     "1: int $0x80\n"
                     "  dec %%edi\n"
                     "  jnz 1b\n"
                     "  int $0x81"
                     : : : "memory");
    __builtin_unreachable();
}

static uint32_t sysenter(void) { return enter_ring_3(fast_calls), 1; }

static uint32_t int_80(void) { return enter_ring_3(interrupts), 2; }

// The mask of the first interrupt controller, which has been set.
static uint32_t port_in(void) {
    uint32_t sum = 0;
    out(0x21, 0xA5);
    for (uint32_t i = 0; i < count; i++)
        sum += in(0x21);
    return sum;
}

// CR0 with TS set and clear in turn.
static uint32_t control_register(void) {
    uint32_t cr0;
    __asm__ volatile("mov %%cr0, %0" : "=r"(cr0));
    for (uint32_t i = 0; i < count; i++) {
        cr0 ^= 8;
        __asm__ volatile("mov %0, %%cr0" : : "r"(cr0) : "memory");
    }
    return cr0;
}

static __attribute__((noinline, noclone)) void nothing(void) { __asm__ volatile(""); }

static uint32_t call_ret(void) {
    for (uint32_t i = 0; i < count; i++)
        nothing();
    return 3;
}

static uint32_t page_faults(void) {
    for (uint32_t i = 0; i < count; i++)
        __asm__ volatile("mov $1f, %%ebx\n  mov (%0), %%eax\n1:" : : "r"(ABSENT) : "eax", "ebx", "memory");
    uint32_t address;
    __asm__ volatile("mov %%cr2, %0" : "=r"(address));
    return address;
}

static uint32_t divisions(void) {
    uint32_t faults = 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t after = 1;
        __asm__ volatile("mov $1f, %%ebx\n  divl %1\n  xor %0, %0\n1:"
                         : "+r"(after) : "r"(0) : "eax", "ebx", "edx", "memory");
        faults += after;
    }
    return faults;
}

// An entry of a page table in use is changed; the page is not touched.
static uint32_t pte_change(void) {
    for (uint32_t i = 0; i < count; i++)
        TABLE[1] = (i & 1 ? 0x331000 : 0x332000) | P | W;
    return TABLE[1] & ~0x60;
}

// The same, the page invalidated and read.
static uint32_t pte_change_used(void) {
    volatile uint32_t *page = (volatile uint32_t *)(AREA + 0x1000);
    uint32_t sum = 0;
    *(volatile uint32_t *)0x331000 = 5;
    *(volatile uint32_t *)0x332000 = 7;
    for (uint32_t i = 0; i < count; i++) {
        TABLE[1] = (i & 1 ? 0x331000 : 0x332000) | P | W;
        __asm__ volatile("invlpg (%0)" : : "r"(page) : "memory");
        sum += *page;
    }
    return sum;
}

__attribute__((used)) void ring0(void) {
    static uint32_t (*const WORK[])(void) = {sysenter,    int_80,    port_in,    control_register, call_ret,
                                             page_faults, divisions, pte_change, pte_change_used};
    set_up();
    print('S');
    print('\n');
    uint32_t sum = WORK[work]();
    print('E');
    print('\n');
    for (int shift = 28; shift >= 0; shift -= 4)
        print("0123456789abcdef"[sum >> shift & 15]);
    print('\n');
    for (;;)
        __asm__ volatile("cli\n  hlt");
}
