//! Task switches: TSS selectors and task gates, by JMP, CALL, INT n and IRET.

use super::super::Field;
use super::super::case::{Case, Mode};
use super::super::layout::{self as at, Raw, selector};
use super::super::op::{Far, Op};
use super::super::world::{access, descriptor_address, flag, kind, tss32};
use super::{of, protected};

pub(super) fn add(cases: &mut Vec<Case>) {
    for cpl in 0..4 {
        let mode = protected(cpl, true);
        switches(cases, mode);
        returns(cases, mode);
        if cpl == 0 {
            bad_tasks(cases, mode);
        }
    }
}

fn far(mode: Mode, how: Far, selector: u16, name: String) -> Case {
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
fn tss(base: u32, limit: u32, kind: u8, dpl: u8, present: bool) -> Raw {
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

/// Tasks whose state is bad: the exception is the new task's.
fn bad_tasks(cases: &mut Vec<Case>, mode: Mode) {
    let other = at::TSS_OTHER;
    let busy = |case: Case| {
        let address = descriptor_address(selector::TSS_OTHER) + 5;
        case.memory(address, 1, access(3, kind::TSS_32).into())
    };
    let segment = |index: u32| other + tss32::ES + 4 * index;
    let victim = selector::VICTIM;
    for how in [Far::Jump, Far::Call] {
        let mut with = |name: &str, address: u32, value: u32, raw: Raw| {
            let case = far(mode, how, selector::TSS_OTHER, format!("{how:?} {name}"));
            cases.push(busy(case).memory(address, 4, value).descriptor(victim, raw));
        };
        let absent = |kind: u8| Raw::segment(0, 0xFFFF, access(0, kind) & 0x7F, flag::DB);
        let level_3 = |kind: u8| Raw::segment(0, 0xFFFF, access(3, kind), flag::DB);
        let v = u32::from(victim);
        with(
            "LDT beyond",
            other + tss32::LDT,
            selector::BEYOND.into(),
            Raw(0),
        );
        with("LDT local", other + tss32::LDT, 0x0C, Raw(0));
        with("LDT null", other + tss32::LDT, 0, Raw(0));
        with("LDT absent", other + tss32::LDT, v, absent(kind::LDT));
        with(
            "LDT of another type",
            other + tss32::LDT,
            v,
            level_3(kind::DATA),
        );
        with("CS null", segment(1), 0, Raw(0));
        with("CS beyond", segment(1), selector::BEYOND.into(), Raw(0));
        with(
            "CS data",
            segment(1),
            v,
            Raw::segment(0, 0xFFFF, access(0, kind::DATA), flag::DB),
        );
        with("CS dpl 3", segment(1), v, level_3(kind::CODE));
        with("SS null", segment(2), 0, Raw(0));
        with("SS dpl 3", segment(2), v, level_3(kind::DATA));
        with(
            "SS rpl 3",
            segment(2),
            u32::from(selector::DATA_32) + 3,
            Raw(0),
        );
        with("SS absent", segment(2), v, absent(kind::DATA));
        with("DS beyond", segment(3), selector::BEYOND.into(), Raw(0));
        with("DS system", segment(3), v, level_3(kind::LDT));
        with(
            "DS execute-only",
            segment(3),
            v,
            level_3(kind::CODE_EXECUTE),
        );
        with("DS absent", segment(3), v, absent(kind::DATA));
        with("FS null", segment(4), 3, Raw(0));
        with("GS dpl 3", segment(5), v, level_3(kind::DATA));
        with("EIP beyond the limit", other + tss32::EIP, 0x1_0000, Raw(0));
        // A task at level 3.
        let case = far(mode, how, selector::TSS_OTHER, format!("{how:?} level 3"));
        let user = |family: u16| u32::from(of(family, 3));
        cases.push(
            busy(case)
                .memory(segment(0), 4, user(selector::DATA_32))
                .memory(segment(1), 4, user(selector::CODE_32))
                .memory(segment(2), 4, user(selector::DATA_32))
                .memory(segment(3), 4, user(selector::DATA_32)),
        );
    }
}
