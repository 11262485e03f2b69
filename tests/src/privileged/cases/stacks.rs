//! PUSH and POP on 16- and 32-bit stacks, around their limits.

use super::super::Field;
use super::super::case::{Case, Mode};
use super::super::layout::{self as at, Raw, selector};
use super::super::op::Op;
use super::super::world::{access, flag, kind};
use super::{protected, sized};

/// Limits of stacks are here.
const EDGE: u32 = 0x3000;

pub(super) fn add(cases: &mut Vec<Case>) {
    for cpl in [0, 3] {
        let raw =
            |limit: u32, kind: u8, flags: u8| Raw::segment(0, limit, access(cpl, kind), flags);
        // Above the frames of exceptions at level 0, below a stack's contents.
        let edge = EDGE - 1;
        for (name, stack, offsets) in [
            (
                "up, B=1",
                raw(edge, kind::DATA, flag::DB),
                [EDGE, EDGE + 1, EDGE - 4, EDGE - 2, EDGE + 4, 2],
            ),
            (
                "up, B=0",
                raw(edge, kind::DATA, 0),
                [EDGE, EDGE + 1, EDGE - 4, EDGE - 2, EDGE + 4, 1],
            ),
            (
                "down, B=1",
                raw(edge, kind::DATA_DOWN, flag::DB),
                [EDGE, EDGE + 2, EDGE + 4, EDGE + 0x100, EDGE - 2, 1],
            ),
            (
                "down, B=0",
                raw(edge, kind::DATA_DOWN, 0),
                [EDGE, EDGE + 2, EDGE + 4, EDGE + 0x100, EDGE - 2, 1],
            ),
            (
                "64 KiB, B=0",
                raw(0xFFFF, kind::DATA, 0),
                [EDGE, 1, 3, 0xFFFF, 0xFFFD, EDGE + 0x100],
            ),
        ] {
            for offset in offsets {
                for wide in [true, false] {
                    for size in [2, 4] {
                        let mode = protected(cpl, wide);
                        push_pop(cases, mode, name, stack, offset, size);
                    }
                }
            }
        }
    }
    // The upper half of ESP does not matter to a 16-bit stack, and stays.
    for size in [2, 4] {
        for (instruction, opcode, op) in [
            ("PUSH", 0x50, Op::Push { size }),
            ("POP", 0x58, Op::Pop { size }),
        ] {
            let mode = protected(0, false);
            let code = sized(mode, size, &[opcode]);
            cases.push(
                Case::new(instruction, "upper half of ESP", mode, code, op)
                    .with(Field::Esp, 0xABCD_0000 | at::STACK),
            );
        }
    }
}

fn push_pop(cases: &mut Vec<Case>, mode: Mode, name: &str, stack: Raw, esp: u32, size: u32) {
    for (instruction, opcode, op, offset) in [
        ("PUSH", 0x50, Op::Push { size }, esp.wrapping_sub(size)),
        ("POP", 0x58, Op::Pop { size }, esp),
    ] {
        let big = stack.0 >> 54 & 1 != 0;
        let offset = if big { offset } else { offset & 0xFFFF };
        let down = stack.0 >> 42 & 1 != 0;
        let outside = offset >= at::WORLD - 8 && (down || !big);
        // What is allowed must be in the world.
        if outside && offset.wrapping_add(size - 1) <= 0xFFFF || outside && down && big {
            continue;
        }
        // The interrupt table of real mode is not part of what is compared.
        if !down && offset < at::COMPARED && (offset < EDGE || big) {
            continue;
        }
        // At level 0 a fault has no stack, if the stack is not at least as large as a frame.
        if mode.cpl() == 0 && !(0x100..=EDGE).contains(&esp) && !down {
            continue;
        }
        let name = format!("{name} ESP {esp:x} {}-bit", size * 8);
        cases.push(
            Case::new(instruction, name, mode, sized(mode, size, &[opcode]), op)
                .descriptor(selector::VICTIM, stack)
                .with(
                    Field::Ss,
                    u32::from(selector::VICTIM) + u32::from(mode.cpl()),
                )
                .with(Field::Esp, esp),
        );
    }
}
