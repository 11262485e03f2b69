//! LGDT, LIDT, SGDT, SIDT, LLDT, LTR, SLDT, STR.

use super::super::Field;
use super::super::case::{Case, Mode};
use super::super::layout::{self as at, selector};
use super::super::op::Op;
use super::{all_kinds, any, direct, levels, plain, protected, sized};

/// Why QEMU cannot run a case.
const LIMITS: &str = "LGDT, LIDT and LMSW from beyond a segment's limit: TCG loads what is there";

pub(super) fn add(cases: &mut Vec<Case>) {
    for mode in levels() {
        registers(cases, mode);
        for size in [2, 4] {
            let code = sized(mode, size, &[0x0F, 0x00, 0xC0]);
            plain(cases, "SLDT", mode, &code, Op::Sldt { size });
            let code = sized(mode, size, &[0x0F, 0x00, 0xC8]);
            plain(cases, "STR", mode, &code, Op::Str { size });
        }
        words(cases, mode);
    }
    for mode in levels() {
        system_segments(cases, mode);
    }
}

fn registers(cases: &mut Vec<Case>, mode: Mode) {
    for (load, store, gdt, reg) in [("LGDT", "SGDT", true, 0), ("LIDT", "SIDT", false, 1)] {
        let code = direct(mode, &[0x0F, 0x01], reg, at::DATA);
        let op = Op::StoreTable {
            gdt,
            offset: at::DATA,
        };
        plain(cases, store, mode, &code, op);
        plain(
            cases,
            store,
            mode,
            &[0x0F, 0x01, 0xC0 | reg << 3],
            Op::Undefined,
        );
        // The last 6 bytes of the segment, and one more.
        for (offset, name) in [(at::DATA, ""), (0xFFFB, "beyond the limit")] {
            for size in [2, 4] {
                let code = direct(mode, &[0x0F, 0x01], reg + 2, offset);
                let op = Op::LoadTable {
                    gdt,
                    offset,
                    wide: size == 4,
                };
                let name = format!("{}-bit {name}", size * 8);
                let (base, limit) = match (gdt, mode) {
                    (true, _) => (at::GDT, 0x16F),
                    (false, Mode::Real) => (0, 0x3FE),
                    (false, _) => (at::IDT, 0x37F),
                };
                let case = Case::new(load, name, mode, sized(mode, size, &code), op)
                    .memory(at::DATA, 2, limit)
                    .memory(at::DATA + 2, 4, base);
                let fatal = mode.cpl() == 0 && offset != at::DATA;
                cases.push(case.fatal_to_qemu(fatal, LIMITS));
            }
        }
        plain(
            cases,
            load,
            mode,
            &[0x0F, 0x01, 0xD0 | reg << 3],
            Op::Undefined,
        );
    }
}

/// SLDT, STR, SMSW and LMSW with a memory operand.
fn words(cases: &mut Vec<Case>, mode: Mode) {
    for size in [2, 4] {
        // The second one has its upper byte beyond the limit.
        for (offset, name) in [(at::DATA, "memory"), (0xFFFF, "memory beyond the limit")] {
            let name = format!("{}-bit {name}", size * 8);
            for (instruction, opcode, reg, field) in [
                ("SLDT", 0, 0, Field::Ldtr),
                ("STR", 0, 1, Field::Tr),
                ("SMSW", 1, 4, Field::Cr0),
            ] {
                let code = sized(mode, size, &direct(mode, &[0x0F, opcode], reg, offset));
                let op = Op::StoreWord { field, offset };
                cases.push(Case::new(instruction, name.clone(), mode, code, op));
            }
            let code = sized(mode, size, &direct(mode, &[0x0F, 1], 6, offset));
            for value in [0, 8, 0xFFFE] {
                let case = Case::new(
                    "LMSW",
                    format!("{name} {value:x}"),
                    mode,
                    code.clone(),
                    Op::LmswMemory { offset },
                )
                .memory(at::DATA, 2, value)
                .with_bits(Field::Cr0, 0x20);
                let fatal = mode.cpl() == 0 && offset != at::DATA;
                cases.push(case.fatal_to_qemu(fatal, LIMITS));
            }
        }
    }
}

fn system_segments(cases: &mut Vec<Case>, mode: Mode) {
    let instructions = [("LLDT", 0xD0, Op::Lldt), ("LTR", 0xD8, Op::Ltr)];
    for (instruction, modrm, op) in instructions {
        let code = [0x0F, 0x00, modrm];
        for value in [
            0,
            3,
            selector::BEYOND,
            selector::BEYOND | 3,
            0x44,
            0x04,
            0xFFFC,
        ] {
            let case = Case::new(instruction, format!("selector {value:x}"), mode, code, op);
            cases.push(case.with(Field::Eax, value.into()));
        }
        if mode != protected(0, true) {
            continue;
        }
        for kind in all_kinds() {
            for (dpl, rpl, present) in [(0, 0, true), (0, 0, false), (3, 0, true), (0, 3, true)] {
                let name = format!("type {kind:x} dpl {dpl} rpl {rpl} p {}", u32::from(present));
                let value = u32::from(selector::VICTIM) + rpl;
                cases.push(
                    Case::new(instruction, name, mode, code, op)
                        .with(Field::Eax, value)
                        .descriptor(selector::VICTIM, any(kind, dpl, present)),
                );
            }
        }
    }
}
