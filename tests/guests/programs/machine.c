// What depends on the processor model or needs a machine of one's own: never run on a host.
#include "guest.h"
#include <cpuid.h>
#include <sys/io.h>

CODE(rdtsc_now, "rdtsc\n int3");
CODE(port_in, "in %dx, %al\n int3");
CODE(port_in_long, "in %dx, %eax\n int3");
CODE(port_outs, "cld\n mov $3, %ecx\n rep outsb\n int3");
CODE(port_cli, "cli\n nop\n sti\n mov $1, %ecx\n int3");
CODE(port_popf, "pushf\n orl $0x3000, (%esp)\n popf\n pushf\n pop %eax\n and $0x3000, %eax\n int3");
CODE(ask_smsw, "xor %eax, %eax\n smsw %ax\n int3");
CODE(ask_sldt, "xor %eax, %eax\n sldt %ax\n int3");
CODE(ask_str, "xor %eax, %eax\n str %ax\n int3");
CODE(ask_sgdt, "sub $8, %esp\n sgdt (%esp)\n movzwl (%esp), %eax\n int3");
CODE(ask_sidt, "sub $8, %esp\n sidt (%esp)\n movzwl (%esp), %eax\n int3");

static void port(const char *name, const char *code, uint32_t edx) {
    static uint8_t bytes[4] = {1, 2, 3, 4};
    struct registers start = start_at(code);
    start.edx = edx;
    start.eax = start.ecx = 0;
    start.esi = (uint32_t)bytes;
    struct outcome out = run(start);
    line(name, "%s eax %x ecx %x", describe(&out), out.r.eax, out.r.ecx);
}

static void ports(void) {
    port("in without permission", port_in, 0x71);
    if (ioperm(0x80, 1, 1) || ioperm(0x61, 1, 1)) {
        broken("ioperm");
    }
    outb(0x5A, 0x80);
    port("outs with permission", port_outs, 0x80);
    port("in beside the permission", port_in, 0x62);
    port("wide in across the permission", port_in_long, 0x80);
    pid_t child = fork();
    if (child == 0) {
        outb(1, 0x80);
        port("permission in a child", port_outs, 0x80);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    ioperm(0x80, 1, 0);
    port("permission taken", port_outs, 0x80);
    if (iopl(3)) {
        broken("iopl");
    }
    port("outs with iopl", port_outs, 0x80);
    // This kernel emulates IOPL with the permission bitmap.
    port("cli with iopl", port_cli, 0);
    port("popf with iopl", port_popf, 0);
    iopl(0);
    port("outs without iopl", port_outs, 0x80);
}

static void model(void) {
    uint32_t a, b, c, d;
    for (uint32_t group = 0; group <= 0x80000000; group += 0x80000000) {
        __cpuid(group, a, b, c, d);
        uint32_t last = a;
        for (uint32_t leaf = group; leaf <= last && leaf < group + 0x20; leaf++) {
            char name[24];
            __cpuid_count(leaf, 0, a, b, c, d);
            snprintf(name, sizeof name, "cpuid %08x", leaf);
            line(name, "%08x %08x %08x %08x", a, b, c, d);
        }
        if (group) {
            break;
        }
    }
    struct registers start = start_at(rdtsc_now);
    uint64_t before = 0;
    uint32_t backwards = 0;
    for (int i = 0; i < 50; i++) {
        struct outcome out = run(start);
        uint64_t now = (uint64_t)out.r.edx << 32 | out.r.eax;
        backwards += now <= before;
        before = now;
    }
    line("rdtsc", "backwards %u", backwards);
}

static void queries(void) {
    port("smsw", ask_smsw, 0);
    port("sldt", ask_sldt, 0);
    port("str", ask_str, 0);
    port("sgdt limit", ask_sgdt, 0);
    port("sidt limit", ask_sidt, 0);
}

void machine(void) {
    model();
    queries();
    ports();
}
