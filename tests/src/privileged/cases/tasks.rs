//! Task switches: TSS selectors and task gates, by JMP, CALL, INT n and IRET.

use super::super::Field;
use super::super::case::{Case, Mode};
use super::super::layout::{self as at, Raw, selector};
use super::super::op::{Far, Op, Unit};
use super::super::world::{access, kind, tss32};
use super::{direct, protected, sized};

pub(super) fn add(cases: &mut Vec<Case>) {
    for cpl in 0..4 {
        let mode = protected(cpl, true);
        switches(cases, mode);
        returns(cases, mode);
    }
    for iopl in 0..4 {
        from_virtual_8086(cases, Mode::Virtual8086 { iopl });
    }
}

pub(super) fn far(mode: Mode, how: Far, selector: u16, name: String) -> Case {
    let opcode = match how {
        Far::Jump => 0xEA,
        Far::Call => 0x9A,
    };
    let mut code = vec![opcode, 0, 0, 0, 0];
    code.extend_from_slice(&selector.to_le_bytes());
    let op = Op::FarTo {
        how,
        selector,
        offset: 0,
        size: 4,
    };
    Case::new("task switch", name, mode, code, op)
}

/// A TSS descriptor, with its type and access.
pub(super) fn tss(base: u32, limit: u32, kind: u8, dpl: u8, present: bool) -> Raw {
    let byte = access(dpl, kind) & if present { 0xFF } else { 0x7F };
    Raw::segment(base, limit, byte, 0)
}

fn switches(cases: &mut Vec<Case>, mode: Mode) {
    let victim = selector::VICTIM;
    for how in [Far::Jump, Far::Call] {
        for dpl in 0..4 {
            for rpl in 0..4 {
                let name = format!("{how:?} TSS dpl {dpl} rpl {rpl}");
                let raw = tss(at::TSS_OTHER, 0x67, kind::TSS_32, dpl, true);
                cases.push(far(mode, how, victim + rpl, name).descriptor(victim, raw));
                let name = format!("{how:?} task gate dpl {dpl} rpl {rpl}");
                let gate = Raw::gate(selector::TSS_OTHER, 0, access(dpl, kind::TASK), 0);
                cases.push(far(mode, how, victim + rpl, name).descriptor(victim, gate));
            }
        }
        for (name, kind, limit, present) in [
            ("busy", kind::TSS_32_BUSY, 0x67, true),
            ("absent", kind::TSS_32, 0x67, false),
            ("too small", kind::TSS_32, 0x66, true),
            ("16-bit", kind::TSS_16, 0x2B, true),
            ("16-bit, too small", kind::TSS_16, 0x2A, true),
            ("16-bit, busy", kind::TSS_16_BUSY, 0x2B, true),
            ("an LDT", kind::LDT, 0x67, true),
        ] {
            let base = if kind & 8 == 0 {
                at::TSS_16
            } else {
                at::TSS_OTHER
            };
            let raw = tss(base, limit, kind, 3, present);
            let case = far(mode, how, victim, format!("{how:?} {name}"));
            cases.push(case.descriptor(victim, raw));
            let gate = Raw::gate(victim, 0, access(3, kind::TASK), 0);
            let name = format!("{how:?} gate to {name}");
            cases.push(
                far(mode, how, victim + 8, name)
                    .descriptor(victim, raw)
                    .descriptor(victim + 8, gate),
            );
        }
        for target in [0, selector::BEYOND, 0x0C] {
            let gate = Raw::gate(target, 0, access(3, kind::TASK), 0);
            let case = far(mode, how, victim, format!("{how:?} gate to {target:x}"));
            cases.push(case.descriptor(victim, gate));
        }
        let absent = Raw::gate(selector::TSS_OTHER, 0, access(3, kind::TASK) & 0x7F, 0);
        let case = far(mode, how, victim, format!("{how:?} absent gate"));
        cases.push(case.descriptor(victim, absent));
    }
    for (name, task) in [
        ("32-bit", selector::TSS_OTHER),
        ("16-bit", selector::TSS_16),
        ("itself", selector::TSS),
        ("null", 0),
        ("beyond", selector::BEYOND),
    ] {
        let gate = Raw::gate(task, 0, access(3, kind::TASK), 0);
        let case = Case::new(
            "task switch",
            format!("INT n {name}"),
            mode,
            [0xCD, 0x40],
            Op::Int(0x40),
        );
        cases.push(case.gate(0x40, gate).with_bits(Field::Eflags, 0x4200));
    }
}

/// IRET with NT set.
fn returns(cases: &mut Vec<Case>, mode: Mode) {
    for (name, link, raw) in [
        (
            "good",
            selector::VICTIM,
            tss(at::TSS_OTHER, 0x67, kind::TSS_32_BUSY, 0, true),
        ),
        (
            "16-bit",
            selector::VICTIM,
            tss(at::TSS_16, 0x2B, kind::TSS_16_BUSY, 0, true),
        ),
        (
            "not busy",
            selector::VICTIM,
            tss(at::TSS_OTHER, 0x67, kind::TSS_32, 0, true),
        ),
        (
            "absent",
            selector::VICTIM,
            tss(at::TSS_OTHER, 0x67, kind::TSS_32_BUSY, 0, false),
        ),
        (
            "too small",
            selector::VICTIM,
            tss(at::TSS_OTHER, 0x60, kind::TSS_32_BUSY, 0, true),
        ),
        (
            "local",
            0x0C,
            tss(at::TSS_OTHER, 0x67, kind::TSS_32_BUSY, 0, true),
        ),
        ("beyond", selector::BEYOND, Raw(0)),
        ("null", 0, Raw(0)),
    ] {
        let case = Case::new(
            "IRET",
            format!("NT {name}"),
            mode,
            [0xCF],
            Op::Iret { size: 4 },
        )
        .descriptor(selector::VICTIM, raw)
        .memory(at::TSS + tss32::LINK, 2, link.into())
        .with_bits(Field::Eflags, 0x4000);
        cases.push(case);
    }
}

/// Interrupts and exceptions through a task gate in virtual-8086 mode, and what is none there.
fn from_virtual_8086(cases: &mut Vec<Case>, mode: Mode) {
    let bound = direct(mode, &[0x62], 0, at::DATA);
    let offset = at::DATA;
    for (name, vector, code, op) in [
        ("INT n", 0x40, &[0xCD, 0x40][..], Op::Int(0x40)),
        ("INT3", 3, &[0xCC], Op::Int3),
        ("INTO", 4, &[0xCE], Op::Into),
        ("ICEBP", 1, &[0xF1], Op::Icebp),
        ("BOUND", 5, &bound, Op::Bound { offset, size: 2 }),
        // #UD, #NM and #GP, the last one with an error code.
        ("SLDT", 6, &[0x0F, 0x00, 0xC0], Op::Sldt { size: 2 }),
        ("FLD1", 7, &[0xD9, 0xE8], Op::Unit(Unit::X87)),
        ("LMSW", 13, &[0x0F, 0x01, 0xF0], Op::Lmsw),
        ("CLI", 13, &[0xFA], Op::Cli),
    ] {
        for (task, raw) in [
            ("32-bit", tss(at::TSS_OTHER, 0x67, kind::TSS_32, 0, true)),
            ("16-bit", tss(at::TSS_16, 0x2B, kind::TSS_16, 0, true)),
            ("busy", tss(at::TSS_OTHER, 0x67, kind::TSS_32_BUSY, 0, true)),
            ("absent", tss(at::TSS_OTHER, 0x67, kind::TSS_32, 0, false)),
            ("too small", tss(at::TSS_OTHER, 0x66, kind::TSS_32, 0, true)),
        ] {
            for dpl in [0, 3] {
                let gate = Raw::gate(selector::VICTIM, 0, access(dpl, kind::TASK), 0);
                let name = format!("{name} {task}, gate dpl {dpl}");
                let case = Case::new("task switch", name, mode, code, op);
                let case = case.descriptor(selector::VICTIM, raw).gate(vector, gate);
                // OF, IF and NT; TS.
                let case = case.with_bits(Field::Eflags, 0x4A00);
                let case = case.memory(at::DATA, 4, 0x0020_0010);
                cases.push(case.with_bits(Field::Cr0, if vector == 7 { 8 } else { 0 }));
            }
        }
    }
    // NT means nothing to IRET there.
    for size in [2, 4] {
        let code = sized(mode, size, &[0xCF]);
        let op = Op::Iret { size };
        let case = Case::new("IRET", "NT in virtual-8086 mode", mode, code, op);
        cases.push(
            case.with_bits(Field::Eflags, 0x4000)
                .memory(at::TSS + tss32::LINK, 2, selector::TSS_OTHER.into())
                .memory(at::STACK, size, at::landing(2))
                .memory(at::STACK + size, size, 0)
                .memory(at::STACK + 2 * size, size, 0x4202),
        );
    }
}
