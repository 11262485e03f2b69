//! IN, OUT, INS, OUTS, and the I/O permission bitmap.

use super::super::Field;
use super::super::case::{Case, Mode};
use super::super::layout::{self as at};
use super::super::op::Op;
use super::super::world::tss32;
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
        accesses(cases, mode, "all allowed", |case| {
            case.memory(MAP, 2, 0).memory(WIDE_MAP, 2, 0)
        });
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

fn accesses(cases: &mut Vec<Case>, mode: Mode, name: &str, set: fn(Case) -> Case) {
    let mut push = |instruction, code: Vec<u8>, op, port: u16| {
        let case = Case::new(instruction, format!("{port:x} {name}"), mode, code, op);
        cases.push(set(case.with(Field::Edx, 0x3333_0000 | u32::from(port))));
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
