//! The cases.

mod control;
mod descriptors;
mod flags;
mod gates;
mod new_tasks;
mod ports;
mod segments;
mod stacks;
mod tables;
mod tasks;
mod transfers;
mod units;

use super::case::{Case, Mode};
use super::layout::Raw;
use super::op::Op;
use super::world::{access, flag, kind};

/// All cases, in the order of the image.
#[must_use]
pub fn all() -> Vec<Case> {
    let mut cases = Vec::new();
    for add in [
        flags::add,
        control::add,
        tables::add,
        ports::add,
        units::add,
        descriptors::add,
        segments::add,
        stacks::add,
        gates::add,
        transfers::add,
        tasks::add,
        new_tasks::add,
    ] {
        add(&mut cases);
    }
    cases
}

/// Every mode with every privilege level and IOPL.
fn modes() -> Vec<Mode> {
    let mut modes = vec![Mode::Real];
    modes.extend([0, 1, 2, 3].map(|iopl| Mode::Virtual8086 { iopl }));
    for wide in [true, false] {
        for cpl in 0..4 {
            modes.extend((0..4).map(|iopl| Mode::Protected { cpl, iopl, wide }));
        }
    }
    modes
}

/// Every mode with every privilege level, for what IOPL does not matter to.
fn levels() -> Vec<Mode> {
    let mut modes = vec![Mode::Real, Mode::Virtual8086 { iopl: 3 }];
    for wide in [true, false] {
        modes.extend((0..4).map(|cpl| Mode::Protected { cpl, iopl: 0, wide }));
    }
    modes
}

/// Protected mode at one level.
const fn protected(cpl: u8, wide: bool) -> Mode {
    Mode::Protected { cpl, iopl: 0, wide }
}

/// An instruction with the prefix that gives it the operand size `size`, where it is not the mode's.
fn sized(mode: Mode, size: u32, code: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    if size != mode.size() {
        bytes.push(0x66);
    }
    bytes.extend_from_slice(code);
    bytes
}

/// An instruction with a memory operand at `offset`: opcode and reg field of ModR/M.
fn direct(mode: Mode, opcode: &[u8], reg: u8, offset: u32) -> Vec<u8> {
    let mut bytes = opcode.to_vec();
    let address = offset.to_le_bytes();
    if mode.size() == 4 {
        bytes.push(reg << 3 | 5);
        bytes.extend_from_slice(&address);
    } else {
        bytes.push(reg << 3 | 6);
        bytes.extend_from_slice(&address[..2]);
    }
    bytes
}

/// A selector of the family at a level, with RPL = DPL.
fn of(family: u16, level: u8) -> u16 {
    family + u16::from(level) * 9
}

/// A segment or system descriptor of any type; a gate to nowhere for the types of gates.
fn any(kind: u8, dpl: u8, present: bool) -> Raw {
    let byte = access(dpl, kind) & if present { 0xFF } else { 0x7F };
    if kind & 0x10 != 0 {
        // LAR leaves bits 16 to 19 of its result undefined, where the limit has its upper bits.
        Raw::segment(0x10_0000, 0x2345, byte, flag::G | flag::DB)
    } else {
        Raw::segment(super::layout::TSS_OTHER, 0x123, byte, 0)
    }
}

/// All types, S included. Those without the accessed bit are tried by [`segments`].
fn all_kinds() -> impl Iterator<Item = u8> {
    (0..0x10).chain((0x10..0x20).filter(|kind| kind & 1 != 0))
}

/// A case in which only the instruction and the mode matter.
fn plain(cases: &mut Vec<Case>, instruction: &'static str, mode: Mode, code: &[u8], op: Op) {
    cases.push(Case::new(instruction, "", mode, code, op));
}

/// Data of level 3.
const fn user_data() -> u8 {
    access(3, kind::DATA)
}
