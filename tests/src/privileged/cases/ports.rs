//! IN, OUT, INS, OUTS, repeated or not, and the I/O permission bitmap.

use super::super::Field;
use super::super::case::{Case, Mode};
use super::super::layout::{self as at, Raw, selector};
use super::super::op::Op;
use super::super::world::{access, flag, kind, tss32};
use super::{modes, sized};

/// The UART's scratch register, which holds a known value.
const PORT: u16 = 0x3FF;
/// The bitmap's byte for ports 3F8h to 3FFh.
const MAP: u32 = at::TSS + 0x68 + PORT as u32 / 8;

/// No device has it.
const WIDE_PORT: u16 = 0x3E7;
/// The bitmap's byte for it.
const WIDE_MAP: u32 = at::TSS + 0x68 + WIDE_PORT as u32 / 8;

pub(super) fn add(cases: &mut Vec<Case>) {
    let iopl_matters = |mode: &Mode| match *mode {
        Mode::Protected { iopl, wide, .. } => wide || iopl == 0,
        _ => true,
    };
    for mode in modes().into_iter().filter(iopl_matters) {
        accesses(cases, mode, "denied", |case| case);
        accesses(cases, mode, "allowed", |case| {
            case.memory(MAP, 1, 0x7F)
                .memory(MAP + 1, 1, 0xFF)
                .memory(WIDE_MAP, 1, 0x7F)
        });
        // A port is allowed where its bit and those of the bytes behind it are clear.
        accesses(cases, mode, "all allowed", allow);
        repetitions(cases, mode);
        accesses(cases, mode, "no bitmap", |case| {
            case.memory(MAP, 2, 0)
                .memory(at::TSS + tss32::IO_MAP, 2, 0xFFFF)
        });
        // The byte of the port is the last one inside the limit; two bytes are read.
        accesses(cases, mode, "limit", |case| {
            let map = at::TSS_LIMIT - u32::from(PORT / 8);
            case.memory(at::TSS + tss32::IO_MAP, 2, map)
                .memory(at::TSS + at::TSS_LIMIT, 2, 0)
        });
        accesses(cases, mode, "one byte within the limit", |case| {
            let map = at::TSS_LIMIT - 1 - u32::from(PORT / 8);
            case.memory(at::TSS + tss32::IO_MAP, 2, map)
                .memory(at::TSS + at::TSS_LIMIT - 1, 2, 0)
        });
    }
}

/// Allows the ports of all cases.
fn allow(case: Case) -> Case {
    case.memory(MAP, 2, 0).memory(WIDE_MAP, 2, 0)
}

/// REP INS and REP OUTS with counts and directions, and what stops them midway.
fn repetitions(cases: &mut Vec<Case>, mode: Mode) {
    for size in [1, 2, 4] {
        let port = if size == 1 { PORT } else { WIDE_PORT };
        for (instruction, opcode, op, pointer, segment) in [
            ("REP INS", 0x6C, Op::RepIns { size }, Field::Edi, Field::Es),
            (
                "REP OUTS",
                0x6E,
                Op::RepOuts { size },
                Field::Esi,
                Field::Ds,
            ),
        ] {
            let code = if size == 1 {
                vec![0xF3, opcode]
            } else {
                let mut code = vec![0xF3];
                code.extend(sized(mode, size, &[opcode + 1]));
                code
            };
            let case = |name: String| {
                Case::new(
                    instruction,
                    format!("{name}, {size}"),
                    mode,
                    code.clone(),
                    op,
                )
                .with(Field::Edx, 0x3333_0000 | u32::from(port))
            };
            // ECX = 10000h is 0 for a 16-bit address size.
            for count in [0, 1, 3, 0x1_0000] {
                if count == 0x1_0000 && mode.size() == 4 {
                    continue;
                }
                let name = format!("count {count:x}");
                cases.push(case(format!("{name}, denied")).with(Field::Ecx, count));
                cases.push(allow(case(name.clone())).with(Field::Ecx, count));
                cases.push(
                    allow(case(format!("{name}, down")))
                        .with(Field::Ecx, count)
                        .with_bits(Field::Eflags, 0x400),
                );
            }
            let Mode::Protected { cpl, .. } = mode else {
                continue;
            };
            let victim = u32::from(selector::VICTIM) + u32::from(cpl);
            let data = access(cpl, kind::DATA);
            for over in 0..size + 1 {
                // The limit is in the middle of the third element, or behind the second.
                let limit = at::DATA + 2 * size + over - 1;
                let raw = Raw::segment(0, limit, data, flag::DB);
                cases.push(
                    allow(case(format!("a limit {over} bytes behind the second")))
                        .with(Field::Ecx, 5)
                        .with(pointer, at::DATA)
                        .with(segment, victim)
                        .descriptor(selector::VICTIM, raw),
                );
                // The same with a page that is not present, in a segment that offsets of 16 bits
                // cover.
                let base = at::HOLE - 0x8000;
                let raw = Raw::segment(base, 0xFFFF, data, flag::DB);
                cases.push(
                    allow(case(format!("a page {over} bytes behind the second")))
                        .with(Field::Ecx, 5)
                        .with(pointer, 0x8000 - 2 * size - over)
                        .with(segment, victim)
                        .descriptor(selector::VICTIM, raw)
                        .with(Field::Cr3, at::PAGE_DIRECTORY_HOLE)
                        .with(Field::Cr4, 0x10)
                        .with_bits(Field::Cr0, 1 << 31),
                );
            }
        }
    }
}

fn accesses(cases: &mut Vec<Case>, mode: Mode, name: &str, set: fn(Case) -> Case) {
    let mut push = |instruction, code: Vec<u8>, op, port: u16| {
        let case = Case::new(instruction, format!("{port:x} {name}"), mode, code, op);
        let case = case.with(Field::Edx, 0x3333_0000 | u32::from(port));
        // A count for what is repeated.
        cases.push(set(case.with(Field::Ecx, 3)));
    };
    push(
        "IN",
        vec![0xEC],
        Op::In {
            port: PORT,
            size: 1,
        },
        PORT,
    );
    push(
        "OUT",
        vec![0xEE],
        Op::Out {
            port: PORT,
            size: 1,
        },
        PORT,
    );
    push("INS", vec![0x6C], Op::Ins { size: 1 }, PORT);
    push("OUTS", vec![0x6E], Op::Outs { size: 1 }, PORT);
    // Wider ones, whose ports are in two bytes of the bitmap, and where nothing answers.
    for size in [2, 4] {
        let port = WIDE_PORT;
        for (instruction, opcode, op) in [
            ("IN", 0xED, Op::In { port, size }),
            ("OUT", 0xEF, Op::Out { port, size }),
            ("INS", 0x6D, Op::Ins { size }),
            ("OUTS", 0x6F, Op::Outs { size }),
        ] {
            push(instruction, sized(mode, size, &[opcode]), op, port);
        }
    }
    for (instruction, opcode, op) in [
        ("REP INS", 0x6C, Op::RepIns { size: 1 }),
        ("REP OUTS", 0x6E, Op::RepOuts { size: 1 }),
    ] {
        push(instruction, vec![0xF3, opcode], op, PORT);
    }
    // An immediate port, which the bitmap denies: POST codes.
    push(
        "OUT",
        vec![0xE6, 0x80],
        Op::Out {
            port: 0x80,
            size: 1,
        },
        0x80,
    );
}
