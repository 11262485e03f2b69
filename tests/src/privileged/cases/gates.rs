//! INT n, INT3, INTO, BOUND and ICEBP through gates of every kind.

use super::super::Field;
use super::super::case::{Case, Mode};
use super::super::layout::{self as at, Raw, selector};
use super::super::op::{Far, Op};
use super::super::world::{access, flag, kind, tss32};
use super::{direct, levels, of, protected};

/// The vector that cases use.
const VECTOR: u8 = 0x40;
/// A vector beyond the limit of the IDT.
const BEYOND: u8 = 0x80;

pub(super) fn add(cases: &mut Vec<Case>) {
    kinds(cases);
    targets(cases);
    stacks(cases);
    short_forms(cases);
    icebp(cases);
    upper_half(cases);
    for iopl in 0..4 {
        let mode = Mode::Virtual8086 { iopl };
        let gate = |dpl| {
            Raw::gate(
                selector::CODE_32,
                at::landing(3),
                access(dpl, kind::INTERRUPT_32),
                0,
            )
        };
        for dpl in [0, 3] {
            int(cases, mode, VECTOR, format!("gate dpl {dpl}"), gate(dpl));
        }
        // To a level that virtual-8086 mode cannot go to.
        for (name, target) in [
            ("level 3", of(selector::CODE_32, 3)),
            ("level 1", of(selector::CODE_32, 1)),
            ("conforming", selector::CONFORMING),
        ] {
            let gate = Raw::gate(target, at::landing(3), access(3, kind::INTERRUPT_32), 0);
            int(cases, mode, VECTOR, format!("to {name}"), gate);
        }
    }
}

fn int(cases: &mut Vec<Case>, mode: Mode, vector: u8, name: String, gate: Raw) {
    let case = Case::new("INT n", name, mode, [0xCD, vector], Op::Int(vector));
    cases.push(case.gate(vector, gate).with_bits(Field::Eflags, 0x200));
}

/// A gate of every type and DPL.
fn kinds(cases: &mut Vec<Case>) {
    for mode in levels().into_iter().filter(|mode| mode.is_protected()) {
        for kind in 0..0x20 {
            for dpl in 0..4 {
                for present in [true, false] {
                    let target = if kind == kind::TASK {
                        selector::TSS_OTHER
                    } else {
                        selector::CODE_32
                    };
                    let byte = access(dpl, kind) & if present { 0xFF } else { 0x7F };
                    let gate = Raw::gate(target, at::landing(3), byte, 0);
                    let name = format!("type {kind:x} dpl {dpl} p {}", u32::from(present));
                    int(cases, mode, VECTOR, name, gate);
                }
            }
        }
        let code = [0xCD, BEYOND];
        cases.push(Case::new(
            "INT n",
            "beyond the limit",
            mode,
            code,
            Op::Int(BEYOND),
        ));
    }
    let case = Case::new("INT n", "", Mode::Real, [0xCD, VECTOR], Op::Int(VECTOR));
    cases.push(
        case.memory(u32::from(VECTOR) * 4, 4, at::landing(3))
            .with_bits(Field::Eflags, 0x4_0200),
    );
}

/// A code segment of every type and DPL behind the gate, and what is not one.
fn targets(cases: &mut Vec<Case>) {
    for cpl in 0..4 {
        let mode = protected(cpl, true);
        for gate_kind in [
            kind::INTERRUPT_16,
            kind::TRAP_16,
            kind::INTERRUPT_32,
            kind::TRAP_32,
        ] {
            for target_kind in [
                kind::CODE,
                kind::CODE_EXECUTE,
                kind::CONFORMING,
                kind::DATA,
                kind::LDT,
            ] {
                for dpl in 0..4 {
                    for (present, limit) in [(true, 0xFFFF), (false, 0xFFFF), (true, 0x100)] {
                        let byte = access(dpl, target_kind) & if present { 0xFF } else { 0x7F };
                        let raw = Raw::segment(0, limit, byte, flag::DB);
                        let target = selector::VICTIM + u16::from(cpl & 1) * 3;
                        let gate = Raw::gate(target, at::landing(3), access(3, gate_kind), 0);
                        let name = format!(
                            "gate {gate_kind:x} to type {target_kind:x} dpl {dpl} p {} limit {limit:x}",
                            u32::from(present)
                        );
                        let case = Case::new("INT n", name, mode, [0xCD, VECTOR], Op::Int(VECTOR))
                            .gate(VECTOR, gate)
                            .descriptor(selector::VICTIM, raw);
                        cases.push(case.with_bits(Field::Eflags, 0x200));
                    }
                }
            }
            for target in [0, 3, selector::BEYOND, 0x44] {
                let gate = Raw::gate(target, at::landing(3), access(3, gate_kind), 0);
                int(
                    cases,
                    mode,
                    VECTOR,
                    format!("gate {gate_kind:x} to {target:x}"),
                    gate,
                );
            }
        }
    }
}

/// Bad stacks in the TSS for an inner level. The exceptions that they raise go to level 0, so the
/// bad one is that of level 1.
fn stacks(cases: &mut Vec<Case>) {
    for cpl in [2, 3] {
        let mode = protected(cpl, true);
        let target = of(selector::CODE_32, 1);
        let gate = Raw::gate(target, at::landing(3), access(3, kind::INTERRUPT_32), 0);
        let esp1 = at::TSS + tss32::ESP0 + 8;
        let mut with = |name: &str, stack: u16, esp: u32, raw: Raw| {
            let case = Case::new(
                "INT n",
                format!("stack {name}"),
                mode,
                [0xCD, VECTOR],
                Op::Int(VECTOR),
            )
            .gate(VECTOR, gate)
            .descriptor(selector::VICTIM, raw)
            .memory(esp1, 4, esp)
            .memory(esp1 + 4, 2, stack.into());
            cases.push(case);
        };
        let good = Raw::segment(0, 0xFFFF, access(1, kind::DATA), flag::DB);
        let victim = selector::VICTIM;
        with("null", 0, at::STACK_1, good);
        with("beyond the limit", selector::BEYOND + 1, at::STACK_1, good);
        with("rpl 0", victim, at::STACK_1, good);
        with("rpl 3", victim + 3, at::STACK_1, good);
        with("good", victim + 1, at::STACK_1, good);
        let raw = |access: u8, limit: u32, flags: u8| Raw::segment(0, limit, access, flags);
        with(
            "dpl 0",
            victim + 1,
            at::STACK_1,
            raw(access(0, kind::DATA), 0xFFFF, flag::DB),
        );
        with(
            "dpl 3",
            victim + 1,
            at::STACK_1,
            raw(access(3, kind::DATA), 0xFFFF, flag::DB),
        );
        with(
            "read-only",
            victim + 1,
            at::STACK_1,
            raw(access(1, kind::DATA_READ), 0xFFFF, flag::DB),
        );
        with(
            "code",
            victim + 1,
            at::STACK_1,
            raw(access(1, kind::CODE), 0xFFFF, flag::DB),
        );
        with(
            "not present",
            victim + 1,
            at::STACK_1,
            raw(access(1, kind::DATA) & 0x7F, 0xFFFF, flag::DB),
        );
        with(
            "too small",
            victim + 1,
            at::STACK_1,
            raw(access(1, kind::DATA), 0x1000, flag::DB),
        );
        with("no room", victim + 1, 16, good);
        with(
            "16-bit",
            victim + 1,
            at::STACK_1,
            raw(access(1, kind::DATA), 0xFFFF, 0),
        );
    }
}

/// F1, a trap to vector 1 that no privilege level is checked for.
fn icebp(cases: &mut Vec<Case>) {
    let case = |mode, name: String| Case::new("ICEBP", name, mode, [0xF1], Op::Icebp);
    let virtual_8086 = (0..3).map(|iopl| Mode::Virtual8086 { iopl });
    for mode in levels().into_iter().chain(virtual_8086) {
        cases.push(case(mode, "the usual gate".to_owned()));
        cases.push(case(mode, "the usual gate, IF".to_owned()).with_bits(Field::Eflags, 0x200));
        if mode == Mode::Real {
            continue;
        }
        for kind in 0..0x20 {
            for dpl in [0, 3] {
                for present in [true, false] {
                    let target = if kind == kind::TASK {
                        selector::TSS_OTHER
                    } else {
                        selector::CODE_32
                    };
                    let byte = access(dpl, kind) & if present { 0xFF } else { 0x7F };
                    let gate = Raw::gate(target, at::landing(3), byte, 0);
                    let name = format!("type {kind:x} dpl {dpl} p {}", u32::from(present));
                    cases.push(case(mode, name).gate(1, gate));
                }
            }
        }
        // What the error code says of an event that is not the program's own.
        for target in [
            0,
            selector::BEYOND,
            of(selector::CODE_32, 3),
            selector::DATA_32,
        ] {
            let gate = Raw::gate(target, at::landing(3), access(0, kind::TRAP_32), 0);
            cases.push(case(mode, format!("gate to {target:x}")).gate(1, gate));
        }
    }
}

/// The upper half of ESP on the way to an inner stack of 16 or 32 bits, by an interrupt and by a call.
fn upper_half(cases: &mut Vec<Case>) {
    const GATE: u16 = selector::VICTIM + 8;
    let modes = [2, 3].map(|cpl| protected(cpl, true));
    for mode in modes.into_iter().chain([Mode::Virtual8086 { iopl: 3 }]) {
        // The driver can set the upper half of ESP in virtual-8086 mode, from where the way leads to level 0.
        let (level, top, outers) = if mode.is_protected() {
            (1, at::STACK_1, &[0][..])
        } else {
            (0, at::STACK_0, &[0, 0xABCD][..])
        };
        let entry = at::TSS + tss32::ESP0 + 8 * u32::from(level);
        for (kind, call) in [
            (kind::INTERRUPT_16, kind::CALL_16),
            (kind::INTERRUPT_32, kind::CALL_32),
        ] {
            for (big, inner) in [(true, 0), (false, 0), (false, 0x1234)] {
                for outer in outers {
                    let flags = if big { flag::DB } else { 0 };
                    let stack = Raw::segment(0, 0xFFFF, access(level, kind::DATA), flags);
                    let set = |case: Case| {
                        case.descriptor(selector::VICTIM, stack)
                            .memory(entry, 4, inner << 16 | top)
                            .memory(entry + 4, 2, u32::from(selector::VICTIM) + u32::from(level))
                            .with_bits(Field::Esp, outer << 16)
                    };
                    let bits = if big { 32 } else { 16 };
                    let name = |gate: u8| {
                        format!("ESP {inner:x}:, from {outer:x}:, gate {gate:x}, {bits}-bit stack")
                    };
                    let target = of(selector::CODE_32, level);
                    let gate = |kind| Raw::gate(target, at::landing(3), access(3, kind), 0);
                    let code = [0xCD, VECTOR];
                    let case = Case::new("INT n", name(kind), mode, code, Op::Int(VECTOR));
                    cases.push(set(case).gate(VECTOR, gate(kind)));
                    if !mode.is_protected() {
                        continue;
                    }
                    let mut code = vec![0x9A, 0, 0, 0, 0];
                    code.extend_from_slice(&GATE.to_le_bytes());
                    let op = Op::FarTo {
                        how: Far::Call,
                        selector: GATE,
                        offset: 0,
                        size: 4,
                    };
                    let case = Case::new("far CALL", name(call), mode, code, op);
                    cases.push(set(case).descriptor(GATE, gate(call)));
                }
            }
        }
    }
}

fn short_forms(cases: &mut Vec<Case>) {
    for mode in levels() {
        // In real mode the handler itself would end the case.
        let taken = mode != Mode::Real;
        let gate = |dpl| {
            Raw::gate(
                selector::CODE_32,
                at::landing(3),
                access(dpl, kind::TRAP_32),
                0,
            )
        };
        for dpl in if taken { &[0, 3][..] } else { &[] } {
            let dpl = *dpl;
            for (instruction, code, op, vector, flags) in [
                ("INT3", 0xCC, Op::Int3, 3, 0),
                ("INTO", 0xCE, Op::Into, 4, 0),
                ("INTO", 0xCE, Op::Into, 4, 0x800),
            ] {
                let name = format!("gate dpl {dpl} flags {flags:x}");
                let case = Case::new(instruction, name, mode, [code], op);
                let case = case.with_bits(Field::Eflags, flags);
                cases.push(if mode == Mode::Real {
                    case
                } else {
                    case.gate(vector, gate(dpl))
                });
            }
        }
        for (eax, name) in [
            (5, "inside"),
            (10, "at the end"),
            (11, "above"),
            (0xFFFF_FFFF, "below"),
        ] {
            let size = mode.size();
            let op = Op::Bound {
                offset: at::DATA,
                size,
            };
            let code = direct(mode, &[0x62], 0, at::DATA);
            cases.push(
                Case::new("BOUND", name, mode, code, op)
                    .with(Field::Eax, eax)
                    .memory(at::DATA, size, 1)
                    .memory(at::DATA + size, size, 10),
            );
        }
        cases.push(Case::new(
            "BOUND",
            "register",
            mode,
            [0x62, 0xC0],
            Op::Undefined,
        ));
    }
}
