//! Far JMP, CALL, RET and IRET.

use super::super::Field;
use super::super::case::{Case, Mode};
use super::super::layout::{self as at, Raw, selector};
use super::super::op::{Far, Op};
use super::super::world::{access, flag, kind};
use super::{of, protected, sized};

pub(super) fn add(cases: &mut Vec<Case>) {
    for mode in [
        Mode::Real,
        Mode::Virtual8086 { iopl: 3 },
        Mode::Virtual8086 { iopl: 0 },
    ] {
        for how in [Far::Jump, Far::Call] {
            for (size, offset) in [(2, at::landing(3)), (4, at::landing(3)), (4, 0x1_4230)] {
                cases.push(far(
                    mode,
                    how,
                    0,
                    offset,
                    size,
                    format!("{}-bit {offset:x}", size * 8),
                ));
            }
        }
        returns_to_paragraphs(cases, mode);
    }
    for cpl in 0..4 {
        for wide in [true, false] {
            let mode = protected(cpl, wide);
            direct_transfers(cases, mode);
            call_gates(cases, mode);
            returns(cases, mode);
        }
    }
    returns_to_v86(cases);
}

fn far(mode: Mode, how: Far, selector: u16, offset: u32, size: u32, name: String) -> Case {
    let (instruction, opcode) = match how {
        Far::Jump => ("far JMP", 0xEA),
        Far::Call => ("far CALL", 0x9A),
    };
    let mut code = vec![opcode];
    code.extend_from_slice(&offset.to_le_bytes()[..size as usize]);
    code.extend_from_slice(&selector.to_le_bytes());
    let op = Op::FarTo {
        how,
        selector,
        offset,
        size,
    };
    Case::new(instruction, name, mode, sized(mode, size, &code), op)
}

/// To segments of every type, DPL and RPL. A 16-bit far CALL is tried where the code is 16-bit.
fn direct_transfers(cases: &mut Vec<Case>, mode: Mode) {
    let victim = selector::VICTIM;
    let size = mode.size();
    for how in [Far::Jump, Far::Call] {
        for kind in [
            kind::CODE_EXECUTE,
            kind::CODE,
            kind::CODE & !1,
            kind::CONFORMING_EXECUTE,
            kind::CONFORMING,
            kind::DATA,
            kind::LDT,
            kind::INTERRUPT_32,
        ] {
            let is_code = kind >= kind::CODE_EXECUTE & !1;
            for dpl in 0..4 {
                for rpl in 0..if is_code { 4 } else { 1 } {
                    for (present, limit) in [(true, 0xFFFF), (false, 0xFFFF), (true, 0x1FF)] {
                        let usual = present && limit == 0xFFFF;
                        if !usual && (mode.size() == 2 || dpl != mode.cpl()) {
                            continue;
                        }
                        let byte = access(dpl, kind) & if present { 0xFF } else { 0x7F };
                        let raw = Raw::segment(0, limit, byte, flag::DB);
                        let name = format!(
                            "type {kind:x} dpl {dpl} rpl {rpl} p {} limit {limit:x}",
                            u32::from(present)
                        );
                        let case = far(mode, how, victim + rpl, at::landing(3), size, name);
                        cases.push(case.descriptor(victim, raw));
                    }
                }
            }
        }
        for selector in [0, 3, selector::BEYOND, 0x44] {
            let name = format!("selector {selector:x}");
            cases.push(far(mode, how, selector, at::landing(3), size, name));
        }
    }
}

/// Through call gates of every DPL and RPL to code of every DPL.
fn call_gates(cases: &mut Vec<Case>, mode: Mode) {
    let victim = selector::VICTIM;
    let target = victim + 8;
    let cpl = mode.cpl();
    let size = mode.size();
    for how in [Far::Jump, Far::Call] {
        let mut push = |name: String, rpl: u16, gate: Raw, code: Raw| {
            let case = far(mode, how, victim + rpl, 0x1234, size, name);
            cases.push(
                case.descriptor(victim, gate)
                    .descriptor(target, code)
                    .memory(at::STACK, 4, 0xA1A2_A3A4)
                    .memory(at::STACK + 4, 4, 0xB1B2_B3B4)
                    .memory(at::STACK + 8, 4, 0xC1C2_C3C4),
            );
        };
        for gate_kind in [kind::CALL_16, kind::CALL_32] {
            let gate = |dpl: u8, parameters: u8| {
                Raw::gate(target, at::landing(3), access(dpl, gate_kind), parameters)
            };
            let code = |dpl: u8, kind: u8| Raw::segment(0, 0xFFFF, access(dpl, kind), flag::DB);
            for gate_dpl in 0..4 {
                for rpl in 0..4 {
                    let name = format!("gate {gate_kind:x} dpl {gate_dpl} rpl {rpl}");
                    push(name, rpl, gate(gate_dpl, 0), code(cpl, kind::CODE));
                }
            }
            for dpl in 0..4 {
                for kind in [kind::CODE, kind::CONFORMING, kind::DATA] {
                    for parameters in [0, 3, 31] {
                        let name = format!(
                            "gate {gate_kind:x} to type {kind:x} dpl {dpl}, {parameters} words"
                        );
                        push(name, cpl.into(), gate(3, parameters), code(dpl, kind));
                    }
                }
            }
            let good = code(0, kind::CODE);
            let absent = Raw(gate(3, 0).0 & !(1 << 47));
            push(
                format!("gate {gate_kind:x} absent"),
                cpl.into(),
                absent,
                good,
            );
            let absent = Raw(good.0 & !(1 << 47));
            push(
                format!("gate {gate_kind:x} to absent"),
                cpl.into(),
                gate(3, 0),
                absent,
            );
            let small = Raw::segment(0, 0x1FF, access(0, kind::CODE), flag::DB);
            push(
                format!("gate {gate_kind:x} beyond"),
                cpl.into(),
                gate(3, 0),
                small,
            );
            for bad in [0, selector::BEYOND] {
                let gate = Raw::gate(bad, at::landing(3), access(3, gate_kind), 0);
                push(
                    format!("gate {gate_kind:x} to {bad:x}"),
                    cpl.into(),
                    gate,
                    good,
                );
            }
        }
    }
}

/// RETF and IRET, 16 and 32 bits.
fn return_cases(mode: Mode, size: u32, name: &str) -> Vec<Case> {
    let ret = |release: u16| {
        let mut code = vec![if release == 0 { 0xCB } else { 0xCA }];
        if release != 0 {
            code.extend_from_slice(&release.to_le_bytes());
        }
        let op = Op::RetFar { size, release };
        Case::new(
            "far RET",
            format!("{}-bit +{release} {name}", size * 8),
            mode,
            sized(mode, size, &code),
            op,
        )
    };
    let name = format!("{}-bit {name}", size * 8);
    let iret = Case::new(
        "IRET",
        name,
        mode,
        sized(mode, size, &[0xCF]),
        Op::Iret { size },
    );
    vec![ret(0), ret(8), iret]
}

/// The stack of a return: offset and code segment; flags for IRET; then the outer stack.
fn with_frame(case: Case, size: u32, eip: u32, cs: u16, flags: u32, ss: u16, esp: u32) -> Case {
    let mut values = vec![eip, u32::from(cs)];
    let mut place = at::STACK;
    if let Op::RetFar { release, .. } = case.op {
        let case = values.drain(..).fold(case, |case, value| {
            let case = case.memory(place, size, value);
            place += size;
            case
        });
        place += u32::from(release);
        return case
            .memory(place, size, esp)
            .memory(place + size, size, ss.into());
    }
    values.extend([flags, esp, u32::from(ss)]);
    values.into_iter().fold(case, |case, value| {
        let case = case.memory(place, size, value);
        place += size;
        case
    })
}

fn returns(cases: &mut Vec<Case>, mode: Mode) {
    let victim = selector::VICTIM;
    let stack = victim + 8;
    let user_stack = Raw::segment(0, 0xFFFF, access(3, kind::DATA), flag::DB);
    let flags = 0x0024_0A97;
    // 16-bit code has frames of its own size, 32-bit code those of either.
    let sizes: &[u32] = if mode.size() == 2 { &[2] } else { &[2, 4] };
    for &size in sizes {
        // Code of every type, DPL and RPL, with a stack that fits it.
        for kind in [kind::CODE, kind::CONFORMING, kind::DATA, kind::CALL_32] {
            for dpl in 0..4u8 {
                for rpl in 0..4u8 {
                    for (present, limit) in [(true, 0xFFFF), (false, 0xFFFF), (true, 0x1FF)] {
                        let usual = present && limit == 0xFFFF;
                        if !usual && (mode.size() == 2 || dpl != rpl)
                            || mode.size() == 2 && size == 2 && kind == kind::CALL_32
                        {
                            continue;
                        }
                        let byte = access(dpl, kind) & if present { 0xFF } else { 0x7F };
                        let name = format!(
                            "to type {kind:x} dpl {dpl} rpl {rpl} p {} limit {limit:x}",
                            u32::from(present)
                        );
                        for case in return_cases(mode, size, &name) {
                            let cs = victim + u16::from(rpl);
                            let outer = of(selector::DATA_32, rpl);
                            let case = with_frame(
                                case,
                                size,
                                at::landing(3),
                                cs,
                                flags,
                                outer,
                                at::STACK_OTHER,
                            );
                            let raw = Raw::segment(0, limit, byte, flag::DB);
                            cases.push(case.descriptor(victim, raw));
                        }
                    }
                }
            }
        }
        for cs in [0, 3, selector::BEYOND, 0x44] {
            for case in return_cases(mode, size, &format!("to {cs:x}")) {
                let outer = of(selector::DATA_32, 3);
                cases.push(with_frame(
                    case,
                    size,
                    at::landing(3),
                    cs,
                    flags,
                    outer,
                    at::STACK_OTHER,
                ));
            }
        }
        // To level 3 with every kind of stack, and with what the data segments hold.
        let cs = of(selector::CODE_32, 3);
        for (name, ss, raw) in [
            ("null", 0, user_stack),
            ("beyond", selector::BEYOND + 3, user_stack),
            ("rpl 0", stack, user_stack),
            (
                "dpl 0",
                stack + 3,
                Raw::segment(0, 0xFFFF, access(0, kind::DATA), flag::DB),
            ),
            (
                "read-only",
                stack + 3,
                Raw::segment(0, 0xFFFF, access(3, kind::DATA_READ), flag::DB),
            ),
            (
                "code",
                stack + 3,
                Raw::segment(0, 0xFFFF, access(3, kind::CODE), flag::DB),
            ),
            (
                "absent",
                stack + 3,
                Raw::segment(0, 0xFFFF, access(3, kind::DATA) & 0x7F, flag::DB),
            ),
            (
                "16-bit",
                stack + 3,
                Raw::segment(0, 0xFFFF, access(3, kind::DATA), 0),
            ),
            ("good", stack + 3, user_stack),
        ] {
            for case in return_cases(mode, size, &format!("stack {name}")) {
                let case = with_frame(case, size, at::landing(3), cs, flags, ss, at::STACK_OTHER);
                cases.push(case.descriptor(stack, raw));
            }
        }
        if mode.cpl() < 3 {
            for kind in [kind::DATA, kind::CODE, kind::CONFORMING] {
                for dpl in mode.cpl()..4 {
                    for case in return_cases(mode, size, &format!("DS type {kind:x} dpl {dpl}")) {
                        let ss = of(selector::DATA_32, 3);
                        let case =
                            with_frame(case, size, at::landing(3), cs, flags, ss, at::STACK_OTHER);
                        let ds = u32::from(stack) + u32::from(mode.cpl());
                        let raw = Raw::segment(0, 0xFFFF, access(dpl, kind), flag::DB);
                        cases.push(
                            case.descriptor(stack, raw)
                                .with(Field::Fs, ds)
                                .with(Field::Gs, ds),
                        );
                    }
                }
            }
        }
        // The flags of IRET, within the level.
        for image in [0x0027_3ED7, 0x0000_0002, 0x0024_0202] {
            for iopl in 0..4 {
                let mode = Mode::Protected {
                    cpl: mode.cpl(),
                    iopl,
                    wide: mode.size() == 4,
                };
                let cs = of(selector::CODE_32, mode.cpl());
                // VM is for level 0 alone, and tried by itself.
                let image = if mode.cpl() == 0 {
                    image & !(1 << 17)
                } else {
                    image
                };
                let name = format!("{}-bit flags {image:x}", size * 8);
                let code = sized(mode, size, &[0xCF]);
                let case = Case::new("IRET", name, mode, code, Op::Iret { size });
                cases.push(with_frame(case, size, at::landing(3), cs, image, 0, 0));
            }
        }
    }
}

fn returns_to_paragraphs(cases: &mut Vec<Case>, mode: Mode) {
    for size in [2, 4] {
        for image in [0x0024_7ED7, 2, 0x0003_0002] {
            for eip in [at::landing(3), 0x1_4230] {
                for case in return_cases(mode, size, &format!("to {eip:x} flags {image:x}")) {
                    if size == 4 || eip < 0x1_0000 {
                        cases.push(with_frame(case, size, eip, 0, image, 0, 0));
                    }
                }
            }
        }
    }
}

fn returns_to_v86(cases: &mut Vec<Case>) {
    for cpl in 0..4 {
        let mode = protected(cpl, true);
        for (flags, eip) in [
            (0x0002_0002, at::landing(3)),
            (0x0006_3202, at::landing(3)),
            (0x0002_0002, 0x1_4230),
        ] {
            let case = Case::new(
                "IRET",
                format!("VM flags {flags:x} to {eip:x}"),
                mode,
                [0xCF],
                Op::Iret { size: 4 },
            );
            let values = [eip, 0, flags, at::STACK_OTHER, 0x10, 0x20, 0x30, 0x40, 0x50];
            let case = values
                .into_iter()
                .enumerate()
                .fold(case, |case, (n, value)| {
                    case.memory(at::STACK + 4 * n as u32, 4, value)
                });
            cases.push(case);
        }
    }
}
