// Code that is written, run and rewritten, in all the ways that a JIT compiler and an old program have.
#include "guest.h"

typedef uint32_t function_t(uint32_t);

// mov eax, VALUE; add eax, [esp+4]; ret
static void emit(uint8_t *where, uint32_t value) {
    const uint8_t code[] = {0xB8, 0, 0, 0, 0, 0x03, 0x44, 0x24, 0x04, 0xC3};
    memcpy(where, code, sizeof code);
    memcpy(where + 1, &value, 4);
}

static uint32_t call(const void *code, uint32_t argument) { return ((function_t *)(uintptr_t)code)(argument); }

static void rewritten(uint8_t *page) {
    uint32_t sum = 0;
    for (uint32_t i = 0; i < 300; i++) {
        emit(page, i * 17);
        sum = sum * 5 + call(page, i);
    }
    line("rewritten", "%08x", sum);
    // Only one byte of the immediate, by every size of write.
    emit(page, 0);
    sum = 0;
    for (uint32_t i = 0; i < 300; i++) {
        page[1] = (uint8_t)i;
        sum = sum * 5 + call(page, 1);
        *(uint16_t *)(page + 3) = (uint16_t)(i * 7);
        sum = sum * 5 + call(page, 2);
    }
    line("patched", "%08x", sum);
    // Data beside code in one page.
    volatile uint32_t *counter = (uint32_t *)(page + 64);
    sum = 0;
    for (uint32_t i = 0; i < 3000; i++) {
        *counter += call(page, i & 3) & 0xFF;
        sum += *counter;
    }
    line("mixed", "%08x", sum);
}

static void across(uint8_t *pages) {
    uint32_t sum = 0;
    for (uint32_t back = 0; back <= 10; back++) {
        uint8_t *where = pages + PAGE - back;
        for (uint32_t i = 0; i < 8; i++) {
            emit(where, i * 0x01010101 + back);
            sum = sum * 5 + call(where, i);
            where[4] ^= 0x80; // in either page
            sum = sum * 5 + call(where, i);
        }
    }
    line("across pages", "%08x", sum);
    // The second page goes away and comes back with other code.
    uint8_t *where = pages + PAGE - 3;
    emit(where, 0x11223344);
    sum = call(where, 0);
    munmap(pages + PAGE, PAGE);
    struct outcome outcome = attempt((void (*)(void *))where, NULL);
    line("second page gone", "%s at +%u", describe(&outcome), outcome.r.eip - (uint32_t)where);
    map((uintptr_t)pages + PAGE, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
    const uint8_t rest[] = {0x55, 0x66, 0xC3};
    memcpy(pages + PAGE, rest, sizeof rest);
    line("second page back", "%08x %08x", sum, call(where, 0));
}

// The same page at two addresses: written at one, run at the other.
static void aliased(void) {
    int file = memfd_create("code", 0);
    if (file < 0 || ftruncate(file, 2 * PAGE)) {
        broken("memfd");
    }
    uint8_t *writable = mmap((void *)0x26000000, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
    uint8_t *runnable = mmap((void *)0x27000000, 2 * PAGE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, file, 0);
    uint8_t *second = mmap((void *)0x27800000, 2 * PAGE, PROT_READ | PROT_EXEC, MAP_SHARED | MAP_FIXED, file, 0);
    uint32_t sum = 0;
    for (uint32_t i = 0; i < 200; i++) {
        emit(writable + (i % 3) * (PAGE - 5), i * 0x10001);
        sum = sum * 5 + call(runnable + (i % 3) * (PAGE - 5), i);
        sum = sum * 5 + call(second + (i % 3) * (PAGE - 5), i);
    }
    line("aliased", "%08x", sum);
    // Written by the kernel.
    uint8_t code[10];
    sum = 0;
    for (uint32_t i = 0; i < 50; i++) {
        emit(code, i * 3);
        if (pwrite(file, code, sizeof code, 16) != sizeof code) {
            broken("pwrite");
        }
        sum = sum * 5 + call(runnable + 16, i);
    }
    line("written by the kernel", "%08x", sum);
    // A child writes, the parent runs.
    sum = 0;
    for (uint32_t i = 0; i < 10; i++) {
        pid_t child = fork();
        if (child == 0) {
            emit(writable + 16, 1000 + i);
            _exit((int)(call(second + 16, 0) & 0x7F));
        }
        int status;
        waitpid(child, &status, 0);
        sum = sum * 5 + call(runnable + 16, i) + (uint32_t)WEXITSTATUS(status);
    }
    line("written by a child", "%08x", sum);
    munmap(writable, 2 * PAGE);
    munmap(runnable, 2 * PAGE);
    munmap(second, 2 * PAGE);
    close(file);
}

// Code that changes the instruction behind itself. Behind a jump, so that a processor with a prefetch
// queue would see it as well.
CODE(modify_next, "mov 4(%esp), %eax\n movb %al, modify_here+1-modify_next(%edx)\n jmp modify_here\n nop\n"
                  "modify_here: mov $0, %al\n movzbl %al, %eax\n int3");
CODE(modify_loop, "xor %eax, %eax\n mov $50, %ecx\n"
                  "1: incl modify_operand+2-modify_loop(%edx)\n modify_operand: add $0, %eax\n loop 1b\n int3");
CODE(modify_straight, "movl $0x42424242, 1f+1-modify_straight(%edx)\n 1: mov $1, %eax\n int3");
CODE(modify_opcode, "mov $20, %ecx\n xor %eax, %eax\n"
                    "2: xorb $0x28 ^ 0x00, 1f-modify_opcode(%edx)\n 1: .byte 0x01, 0xC8\n loop 2b\n int3");
CODE(modify_string, "mov $12, %ecx\n lea 1f-modify_string(%edx), %edi\n lea 2f-modify_string(%edx), %esi\n xor %eax, %eax\n"
                    "rep movsb\n 1: .fill 12, 1, 0x90\n int3\n 2: .fill 6, 2, 0xC0FE\n int3");
CODE(modify_push, "mov %esp, %ebx\n lea 1f+6-modify_push(%edx), %esp\n push $0x40404040\n 1: nop\n nop\n inc %eax\n inc %eax\n"
                  "inc %eax\n inc %eax\n mov %ebx, %esp\n int3");

static void itself(uint8_t *page, const char *name, const char *code, const char *end) {
    memcpy(page, code, (size_t)(end - code));
    hash_t h = HASH;
    for (uint32_t i = 0; i < 3; i++) {
        struct registers start = start_at(page);
        start.edx = (uint32_t)page;
        start.eax = 0;
        ((uint32_t *)start.esp)[1] = i + 40;
        struct outcome out = run(start);
        h = hash32(hash32(h, out.r.eax), out.r.eip - start.eip);
        if (i == 0) {
            line(name, "eax %x ecx %x eip +%u %s", out.r.eax, out.r.ecx, out.r.eip - start.eip, describe(&out));
        }
    }
    char again[64];
    snprintf(again, sizeof again, "%s again", name);
    line(again, "%08x %08x", h, hash(HASH, page, (size_t)(end - code)));
}

#define ITSELF(name) itself(page, #name, name, name##_end)

// A threaded compiler: long runs of code in many pages, each replaced in turn.
static void compiled(uint8_t *pages, uint32_t count) {
    uint32_t sum = 0;
    for (uint32_t round = 0; round < 3; round++) {
        for (uint32_t p = 0; p < count; p++) {
            uint8_t *at = pages + p * PAGE;
            *at++ = 0x31, *at++ = 0xC0; // xor eax, eax
            for (uint32_t i = 0; i < 400; i++) {
                *at++ = 0x69, *at++ = 0xC0, *at++ = 33, *at++ = 0, *at++ = 0, *at++ = 0; // imul eax, eax, 33
                *at++ = 0x83, *at++ = 0xC0, *at++ = (uint8_t)(i + p + round);           // add eax, imm8
            }
            *at++ = 0xC3;
            sum = sum * 7 + call(pages + p * PAGE, 0);
        }
        for (uint32_t p = 0; p < count; p++) {
            sum = sum * 7 + call(pages + p * PAGE, 0);
        }
    }
    line("compiled", "%08x", sum);
}

// The same linear page holds one function after another by remapping, not by writing.
static void switched(uint8_t *page) {
    for (uint32_t i = 0; i < 8; i++) {
        uint8_t *copy = map(0x28000000 + i * PAGE, PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
        emit(copy, 1u << i);
        call(copy, 0);
    }
    uint32_t sum = 0;
    for (uint32_t i = 0; i < 8; i++) {
        if (mremap((void *)(0x28000000 + i * PAGE), PAGE, PAGE, MREMAP_MAYMOVE | MREMAP_FIXED, page) != page) {
            broken("mremap");
        }
        sum = sum * 5 + call(page, i);
    }
    line("remapped", "%08x", sum);
}

void modifying(void) {
    uint8_t *page = map(0x25000000, 16 * PAGE, PROT_READ | PROT_WRITE | PROT_EXEC);
    rewritten(page);
    across(page);
    aliased();
    ITSELF(modify_next);
    ITSELF(modify_loop);
    ITSELF(modify_straight);
    ITSELF(modify_opcode);
    ITSELF(modify_string);
    ITSELF(modify_push);
    compiled(page, 16);
    switched(page);
    // A write that is undone before the code runs again, and code that runs from a read-only page.
    emit(page, 5);
    uint32_t first = call(page, 0);
    page[1] = 6;
    page[1] = 5;
    mprotect(page, PAGE, PROT_READ | PROT_EXEC);
    line("read-only", "%u %u", first, call(page, 0));
    struct outcome outcome = attempt((void (*)(void *))page, NULL);
    line("called by signal", "%s %u", describe(&outcome), outcome.r.eax);
}
