//! Control and debug registers, model-specific registers, caches, counters, SYSENTER.

use super::super::Field;
use super::super::case::{Case, Mode};
use super::super::layout::{self as at, selector};
use super::super::model::EFER;
use super::super::op::Op;
use super::{levels, modes, plain, sized};

/// Why QEMU cannot run a case.
const RESERVED: &str = "a reserved bit of CR4 at level 0: TCG stays at the instruction for ever";
const PAGING: &str = "CR0.PG without PE: TCG takes it, and the machine does not survive";
const LOCKED: &str = "LOCK is ignored, and HLT waits or IRET takes what is on the stack";

pub(super) fn add(cases: &mut Vec<Case>) {
    for mode in levels() {
        simple(cases, mode);
        control_registers(cases, mode);
        debug_registers(cases, mode);
        machine_status(cases, mode);
        model_specific(cases, mode);
        extended_features(cases, mode);
        system_calls(cases, mode);
        counters(cases, mode);
    }
    // HLT at level 0 would wait for ever.
    for mode in modes().into_iter().filter(|mode| mode.cpl() != 0) {
        plain(cases, "HLT", mode, &[0xF4], Op::Privileged);
    }
}

fn simple(cases: &mut Vec<Case>, mode: Mode) {
    let invlpg = super::direct(mode, &[0x0F, 0x01], 7, at::DATA);
    for (instruction, code, op) in [
        ("CLTS", &[0x0F, 0x06][..], Op::Clts),
        ("INVD", &[0x0F, 0x08], Op::Privileged),
        ("WBINVD", &[0x0F, 0x09], Op::Privileged),
        ("INVLPG", &invlpg, Op::Privileged),
        ("INVLPG", &[0x0F, 0x01, 0xF8 | 2], Op::Undefined),
        ("UD2", &[0x0F, 0x0B], Op::Undefined),
    ] {
        plain(cases, instruction, mode, code, op);
    }
    cases.push(Case::new("CLTS", "TS", mode, [0x0F, 0x06], Op::Clts).with_bits(Field::Cr0, 8));
    let cpuid = Case::new("CPUID", "leaf 0", mode, [0x0F, 0xA2], Op::Nothing);
    let results = [Field::Eax, Field::Ebx, Field::Ecx, Field::Edx];
    cases.push(
        results
            .into_iter()
            .fold(cpuid.with(Field::Eax, 0), Case::undefined),
    );
    // LOCK in front of what cannot have it.
    for code in [
        &[0xF0, 0x90][..],
        &[0xF0, 0x8B, 0xC1],
        &[0xF0, 0x01, 0xC8],
        &[0xF0, 0xFA],
        &[0xF0, 0x0F, 0x20, 0xC0],
        &[0xF0, 0xF4],
        &[0xF0, 0xCF],
        &[0xF0, 0x9D],
        &[0xF0, 0x0F, 0xA2],
        &[0xF0, 0x0F, 0x30],
        &[0xF0, 0x8E, 0xD8],
        &[0xF0, 0xEC],
    ] {
        let case = Case::new("LOCK", "", mode, code, Op::Undefined);
        cases.push(case.fatal_to_qemu(matches!(code[1], 0xF4 | 0xCF), LOCKED));
    }
    // LOCK CMP and LOCK MOV with memory.
    for (opcode, reg) in [(0x39, 0), (0x89, 0), (0x8D, 0)] {
        let mut code = vec![0xF0];
        code.extend(super::direct(mode, &[opcode], reg, at::DATA));
        plain(cases, "LOCK", mode, &code, Op::Undefined);
    }
}

fn control_registers(cases: &mut Vec<Case>, mode: Mode) {
    for n in 0..8u8 {
        let op = if matches!(n, 0 | 2..=4) {
            Op::ReadCr(n)
        } else {
            Op::Undefined
        };
        let code = [0x0F, 0x20, 0xC0 | n << 3];
        cases.push(
            Case::new("MOV from CR", format!("CR{n}"), mode, code, op)
                .with(Field::Cr2, 0x1234_5678),
        );
    }
    let mut write = |n: u8, value: u32| {
        let op = if matches!(n, 0 | 2..=4) {
            Op::WriteCr(n)
        } else {
            Op::Undefined
        };
        let code = [0x0F, 0x22, 0xC0 | n << 3];
        cases.push(
            Case::new("MOV to CR", format!("CR{n} = {value:x}"), mode, code, op)
                .with(Field::Eax, value)
                // PSE and a page directory, for what takes PG.
                .with(Field::Cr4, if n == 4 { 0 } else { 0x10 })
                .with(Field::Cr3, at::PAGE_DIRECTORY)
                .fatal_to_qemu(
                    mode.cpl() == 0
                        && (n == 4 && value >= 0x800
                            || n == 0 && value & 0x8000_0001 == 0x8000_0000),
                    if n == 4 { RESERVED } else { PAGING },
                ),
        );
    };
    for n in [1, 5, 6, 7] {
        write(n, 0);
    }
    // Each bit of CR0 but PE, which would change the mode, and PG, which needs tables.
    let protection = u32::from(mode != Mode::Real);
    for bit in 1..31 {
        let cache = if bit == 29 { 1 << 30 } else { 0 };
        write(0, 0x10 | protection | 1 << bit | cache);
    }
    // Not Write-through without Cache Disable; paging without protection.
    write(0, 0x2000_0010 | protection);
    write(0, 0x8000_0010);
    write(0, 0xA000_0010);
    if mode != Mode::Real {
        write(0, 0x8000_0011);
    }
    write(2, 0x89AB_CDEF);
    write(3, 0x0012_3018);
    for bit in 0..32 {
        write(4, 1 << bit);
    }
}

fn debug_registers(cases: &mut Vec<Case>, mode: Mode) {
    for extensions in [false, true] {
        for n in 0..8u8 {
            let bit = if extensions { 8 } else { 0 };
            let read = Case::new(
                "MOV from DR",
                format!("DR{n}, DE={}", u32::from(extensions)),
                mode,
                [0x0F, 0x21, 0xC0 | n << 3],
                Op::ReadDr(n),
            )
            .with(Field::Cr4, bit);
            cases.push(if n < 4 {
                read.undefined(Field::Eax)
            } else {
                read
            });
            for value in [0, 0x0000_E00F] {
                // Bits of DR7 that do not switch on a breakpoint.
                let value = if matches!(n, 5 | 7) {
                    value & !0xFFFF
                } else {
                    value
                };
                let write = Case::new(
                    "MOV to DR",
                    format!("DR{n} = {value:x}, DE={}", u32::from(extensions)),
                    mode,
                    [0x0F, 0x23, 0xC0 | n << 3],
                    Op::WriteDr(n),
                );
                cases.push(write.with(Field::Cr4, bit).with(Field::Eax, value));
            }
        }
    }
    // The driver does not set DR7 in real mode.
    if mode.cpl() == 0 && mode != Mode::Real {
        for (code, op) in [
            ([0x0F, 0x21, 0xF0], Op::ReadDr(6)),
            ([0x0F, 0x23, 0xF8], Op::WriteDr(7)),
            ([0x0F, 0x23, 0xC0], Op::WriteDr(0)),
        ] {
            let instruction = if code[1] == 0x21 {
                "MOV from DR"
            } else {
                "MOV to DR"
            };
            cases.push(
                Case::new(instruction, "GD", mode, code, op)
                    .with_bits(Field::Dr7, 1 << 13)
                    .with(Field::Eax, 0),
            );
        }
    }
}

fn machine_status(cases: &mut Vec<Case>, mode: Mode) {
    for size in [2, 4] {
        let code = sized(mode, size, &[0x0F, 0x01, 0xE0]);
        let op = Op::Smsw { size };
        cases.push(Case::new(
            "SMSW",
            format!("{}-bit register", size * 8),
            mode,
            code,
            op,
        ));
    }
    // Without PE in real mode, which would change the mode; in protected mode it cannot be cleared.
    for value in [0, 2, 4, 8, 0xFFFE] {
        let code = [0x0F, 0x01, 0xF0];
        let case = Case::new("LMSW", format!("{value:x}"), mode, code, Op::Lmsw);
        cases.push(case.with(Field::Eax, value).with_bits(Field::Cr0, 0x20));
    }
}

fn model_specific(cases: &mut Vec<Case>, mode: Mode) {
    for (register, known) in [
        (0x10, true),
        (0x174, true),
        (0x175, true),
        (0x176, true),
        (0x3FFF_FFFF, false),
        (0xC000_00FF, false),
    ] {
        let name = format!("{register:x}");
        let read = Case::new("RDMSR", name.clone(), mode, [0x0F, 0x32], Op::Rdmsr)
            .with(Field::Ecx, register)
            .with(Field::SysenterCs, 0x40)
            .with(Field::SysenterEsp, 0x0BAD_CAFE)
            .with(Field::SysenterEip, 0x1234_5678);
        let counter = register == 0x10;
        cases.push(if counter {
            read.undefined(Field::Eax).undefined(Field::Edx)
        } else {
            read
        });
        if !counter {
            let value = if register == 0x174 { 0x58 } else { 0x0765_4321 };
            let _ = known;
            cases.push(
                Case::new("WRMSR", name, mode, [0x0F, 0x30], Op::Wrmsr)
                    .with(Field::Ecx, register)
                    .with(Field::Eax, value)
                    .with(Field::Edx, 0),
            );
        }
    }
}

/// IA32_EFER, of which a processor without Intel 64 has NXE alone.
fn extended_features(cases: &mut Vec<Case>, mode: Mode) {
    let case = |instruction, name: String, code: [u8; 2], op| {
        Case::new(instruction, name, mode, code, op).with(Field::Ecx, EFER)
    };
    for efer in [0, 0x800] {
        let name = format!("EFER {efer:x}");
        cases.push(case("RDMSR", name, [0x0F, 0x32], Op::Rdmsr).with(Field::Efer, efer));
    }
    let mut write = |edx: u32, eax: u32, paging: bool, efer: u32| {
        let name = format!(
            "EFER {efer:x} = {edx:x}:{eax:x}{}",
            if paging { " with paging" } else { "" }
        );
        let case = case("WRMSR", name, [0x0F, 0x30], Op::Wrmsr)
            .with(Field::Edx, edx)
            .with(Field::Eax, eax)
            .with(Field::Efer, efer);
        cases.push(if paging {
            case.with(Field::Cr3, at::PAGE_DIRECTORY)
                .with(Field::Cr4, 0x10)
                .with_bits(Field::Cr0, 1 << 31)
        } else {
            case
        });
    };
    for bit in 0..32 {
        write(0, 1 << bit, false, 0);
        write(1 << bit, 0, false, 0);
    }
    write(0, 0, false, 0x800);
    write(0, 0x900, false, 0x800);
    // NXE, SCE, LME and LMA with paging on.
    if mode != Mode::Real {
        for value in [0, 1, 0x100, 0x400, 0x800, 0x900] {
            write(0, value, true, 0);
        }
    }
}

fn system_calls(cases: &mut Vec<Case>, mode: Mode) {
    for cs in [0, 3, selector::CODE_32, selector::CODE_32 + 3] {
        let call = Case::new(
            "SYSENTER",
            format!("CS {cs:x}"),
            mode,
            [0x0F, 0x34],
            Op::Sysenter,
        )
        .with(Field::SysenterCs, cs.into())
        .with(Field::SysenterEsp, at::STACK_OTHER)
        .with(Field::SysenterEip, at::landing(2))
        .with_bits(Field::Eflags, 0x200);
        cases.push(call);
        // Its segments are those of level 3 of another family.
        let back = Case::new(
            "SYSEXIT",
            format!("CS {cs:x}"),
            mode,
            [0x0F, 0x35],
            Op::Sysexit,
        )
        .with(Field::SysenterCs, cs.into())
        .with(Field::Ecx, at::STACK_OTHER)
        .with(Field::Edx, at::landing(2));
        cases.push(back);
    }
}

fn counters(cases: &mut Vec<Case>, mode: Mode) {
    for disable in [0, 4] {
        cases.push(
            Case::new(
                "RDTSC",
                format!("TSD={}", disable / 4),
                mode,
                [0x0F, 0x31],
                Op::Rdtsc,
            )
            .with(Field::Cr4, disable)
            .undefined(Field::Eax)
            .undefined(Field::Edx),
        );
    }
    for (enable, counter) in [(0, 0), (0x100, 0), (0x100, 0x3FFF_FFFF), (0, 0x3FFF_FFFF)] {
        let name = format!("PCE={} ECX={counter:x}", enable >> 8);
        cases.push(
            Case::new("RDPMC", name, mode, [0x0F, 0x33], Op::Rdpmc)
                .with(Field::Cr4, enable)
                .with(Field::Ecx, counter)
                .undefined(Field::Eax)
                .undefined(Field::Edx),
        );
    }
}
