//! Loads of segment registers and accesses through them.

use super::super::Field;
use super::super::case::{Case, Mode};
use super::super::layout::{self as at, Raw, selector};
use super::super::op::{Op, Seg};
use super::super::world::{access, flag, kind};
use super::{all_kinds, any, direct, levels, protected, sized, user_data};

pub(super) fn add(cases: &mut Vec<Case>) {
    loads(cases);
    special_loads(cases);
    limits(cases);
    rights(cases);
}

fn name_of(seg: Seg) -> &'static str {
    match seg {
        Seg::Es => "MOV ES",
        Seg::Cs => "MOV CS",
        Seg::Ss => "MOV SS",
        Seg::Ds => "MOV DS",
        Seg::Fs => "MOV FS",
        Seg::Gs => "MOV GS",
    }
}

fn mov(seg: Seg) -> [u8; 2] {
    [0x8E, 0xC0 | (seg as u8) << 3]
}

/// Every type, DPL, RPL and CPL.
fn loads(cases: &mut Vec<Case>) {
    for cpl in 0..4 {
        let mode = protected(cpl, true);
        for kind in all_kinds().chain([0x10, 0x12, 0x18, 0x1A, 0x1C, 0x1E]) {
            for dpl in 0..4 {
                for rpl in 0..4 {
                    for (seg, present) in [
                        (Seg::Ds, true),
                        (Seg::Ss, true),
                        (Seg::Ds, false),
                        (Seg::Ss, false),
                    ] {
                        let name =
                            format!("type {kind:x} dpl {dpl} rpl {rpl} p {}", u32::from(present));
                        let case = Case::new(name_of(seg), name, mode, mov(seg), Op::MovSeg(seg))
                            .with(Field::Eax, u32::from(selector::VICTIM) + rpl);
                        // A stack at address 0, for what is pushed later.
                        let raw = if seg == Seg::Ss && kind & 0x10 != 0 {
                            let byte = access(dpl, kind) & if present { 0xFF } else { 0x7F };
                            Raw::segment(0, 0xFFFF, byte, flag::DB)
                        } else {
                            any(kind, dpl, present)
                        };
                        // An expand-down stack of level 0 has no room for a frame.
                        let skip = cpl == 0 && seg == Seg::Ss && kind & 0x1E == 0x16;
                        let unaccessed = kind > 0xF && kind & 1 == 0;
                        let usual = present && !unaccessed;
                        if !skip && (usual || rpl == u32::from(cpl) && dpl >= cpl) {
                            cases.push(case.descriptor(selector::VICTIM, raw));
                        }
                    }
                }
            }
        }
    }
}

/// Selectors that name no descriptor, all registers, and the other instructions that load them.
fn special_loads(cases: &mut Vec<Case>) {
    let local = selector::LDT_FIRST;
    for mode in levels() {
        let cpl = mode.cpl();
        for value in [
            0,
            3,
            selector::BEYOND,
            0x44,
            local,
            local | u16::from(cpl),
            0xFFFF,
        ] {
            let raw = Raw::segment(0, 0xFFFF, access(cpl, kind::DATA), flag::DB);
            let set = |case: Case| {
                case.with(Field::Eax, 0x7777_0000 | u32::from(value))
                    .memory(at::STACK, 4, 0x5555_0000 | u32::from(value))
                    .descriptor(local, raw)
            };
            let name = format!("selector {value:x}");
            for seg in Seg::ALL {
                if seg == Seg::Ss && !mode.is_protected() {
                    continue;
                }
                let op = Op::MovSeg(seg);
                cases.push(set(Case::new(
                    name_of(seg),
                    name.clone(),
                    mode,
                    mov(seg),
                    op,
                )));
                for size in [2, 4] {
                    let code: &[u8] = match seg {
                        Seg::Es => &[0x07],
                        Seg::Ss => &[0x17],
                        Seg::Ds => &[0x1F],
                        Seg::Fs => &[0x0F, 0xA1],
                        Seg::Gs => &[0x0F, 0xA9],
                        Seg::Cs => continue,
                    };
                    let op = Op::PopSeg { seg, size };
                    let code = sized(mode, size, code);
                    let name = format!("{}-bit selector {value:x}", size * 8);
                    cases.push(set(Case::new("POP segment", name, mode, code, op)));
                }
            }
            for (seg, opcode) in [
                (Seg::Es, &[0xC4][..]),
                (Seg::Ds, &[0xC5]),
                (Seg::Ss, &[0x0F, 0xB2]),
                (Seg::Fs, &[0x0F, 0xB4]),
                (Seg::Gs, &[0x0F, 0xB5]),
            ] {
                if seg == Seg::Ss && !mode.is_protected() {
                    continue;
                }
                for size in [2, 4] {
                    let op = Op::LoadFar {
                        seg,
                        offset: at::DATA,
                        size,
                    };
                    let code = sized(mode, size, &direct(mode, opcode, 0, at::DATA));
                    let name = format!("{seg:?} {}-bit selector {value:x}", size * 8);
                    let case = Case::new("LDS and others", name, mode, code, op)
                        .memory(at::DATA, size, 0x0102_0304)
                        .memory(at::DATA + size, 2, value.into());
                    cases.push(set(case));
                }
            }
        }
    }
}

/// A load or a store of AL, AX or EAX with a 32-bit offset.
fn access_code(mode: Mode, seg: Seg, offset: u32, size: u32, write: bool) -> Vec<u8> {
    let mut code = Vec::new();
    match seg {
        Seg::Es => code.push(0x26),
        Seg::Cs => code.push(0x2E),
        Seg::Ss => code.push(0x36),
        Seg::Ds => {}
        Seg::Fs => code.push(0x64),
        Seg::Gs => code.push(0x65),
    }
    if mode.size() != 4 {
        code.push(0x67);
    }
    if size != 1 && size != mode.size() {
        code.push(0x66);
    }
    code.push(if write { 0x88 } else { 0x8A } | u8::from(size != 1));
    code.push(0x05);
    code.extend_from_slice(&offset.to_le_bytes());
    code
}

/// Offsets around the limits of expand-up and expand-down segments.
fn limits(cases: &mut Vec<Case>) {
    let up = Raw::segment(0, at::DATA + 0xFF, user_data(), flag::DB);
    let up_16 = Raw::segment(0, at::DATA + 0xFF, user_data(), 0);
    let pages = Raw::segment(0, 2, user_data(), flag::G | flag::DB);
    let down = Raw::segment(0, at::DATA + 0xFF, access(3, kind::DATA_DOWN), flag::DB);
    let down_16 = Raw::segment(0, at::DATA + 0xFF, access(3, kind::DATA_DOWN), 0);
    for (descriptor, raw, offsets) in [
        (
            "up",
            up,
            vec![
                at::DATA + 0xFC,
                at::DATA + 0xFD,
                at::DATA + 0xFF,
                at::DATA + 0x100,
                0xFFFF_FFFF,
            ],
        ),
        (
            "up, B=0",
            up_16,
            vec![
                at::DATA + 0xFC,
                at::DATA + 0xFF,
                at::DATA + 0x100,
                0x1_0000 + at::DATA,
            ],
        ),
        ("pages", pages, vec![0x2FFC, 0x2FFD, 0x2FFF, 0x3000]),
        (
            "down",
            down,
            vec![
                at::DATA + 0xFC,
                at::DATA + 0xFF,
                at::DATA + 0x100,
                at::DATA + 0x120,
                0xFFFF_FFFD,
                0xFFFF_FFFE,
                0xFFFF_FFFF,
            ],
        ),
        (
            "down, B=0",
            down_16,
            vec![at::DATA + 0xFF, at::DATA + 0x100, 0xFFFE, 0xFFFF, 0x1_0000],
        ),
    ] {
        for wide in [true, false] {
            for seg in [Seg::Ds, Seg::Es, Seg::Fs] {
                let mode = protected(3, wide);
                for &offset in &offsets {
                    for (size, write) in [(1, false), (2, true), (4, false), (4, true)] {
                        // What is inside must be in the world.
                        if offset >= at::WORLD && outside_world(raw, offset, size) {
                            continue;
                        }
                        let name = format!(
                            "{descriptor} {seg:?}:{offset:x} {size} {}",
                            if write { "write" } else { "read" }
                        );
                        let code = access_code(mode, seg, offset, size, write);
                        let op = Op::Access {
                            seg,
                            offset,
                            size,
                            write,
                        };
                        cases.push(
                            Case::new("segment limit", name, mode, code, op)
                                .descriptor(selector::VICTIM, raw)
                                .with(seg.field(), u32::from(selector::VICTIM) + 3),
                        );
                    }
                }
            }
        }
    }
    for mode in [Mode::Real, Mode::Virtual8086 { iopl: 3 }] {
        for offset in [at::DATA, 0xFFFF, 0xFFFE, 0xFFFD, 0x1_0000, 0xFFFF_FFFF] {
            for (size, write) in [(1, false), (2, true), (4, true)] {
                if offset >= at::WORLD && offset + (size - 1) <= 0xFFFF {
                    continue;
                }
                for seg in [Seg::Ds, Seg::Ss, Seg::Gs] {
                    let name = format!("{seg:?}:{offset:x} {size} {write}");
                    let code = access_code(mode, seg, offset, size, write);
                    let op = Op::Access {
                        seg,
                        offset,
                        size,
                        write,
                    };
                    cases.push(Case::new("segment limit", name, mode, code, op));
                }
            }
        }
    }
}

/// The access would be allowed, and is beyond the world.
fn outside_world(raw: Raw, offset: u32, size: u32) -> bool {
    let down = raw.0 >> 42 & 1 != 0;
    let top = if raw.0 >> 54 & 1 != 0 {
        u32::MAX
    } else {
        0xFFFF
    };
    down && offset.checked_add(size - 1).is_some_and(|last| last <= top)
}

/// Reads and writes through segments of every type, and through none.
fn rights(cases: &mut Vec<Case>) {
    for cpl in [0, 3] {
        let mode = protected(cpl, true);
        for seg in [Seg::Es, Seg::Ds, Seg::Fs, Seg::Gs] {
            for (size, write) in [(1, false), (4, true)] {
                let op = Op::Access {
                    seg,
                    offset: at::DATA,
                    size,
                    write,
                };
                let code = access_code(mode, seg, at::DATA, size, write);
                let how = if write { "write" } else { "read" };
                for kind in [kind::DATA_READ, kind::DATA, kind::CODE, kind::CONFORMING] {
                    let raw = Raw::segment(0, 0xFFFF, access(3, kind), flag::DB);
                    let name = format!("{how} {seg:?} type {kind:x}");
                    cases.push(
                        Case::new("segment rights", name, mode, code.clone(), op)
                            .descriptor(selector::VICTIM, raw)
                            .with(seg.field(), u32::from(selector::VICTIM) + 3),
                    );
                }
                let name = format!("{how} {seg:?} null");
                let case = Case::new("segment rights", name, mode, code, op);
                cases.push(case.with(seg.field(), 0));
            }
        }
        for (size, write) in [(1, false), (4, true)] {
            let op = Op::Access {
                seg: Seg::Cs,
                offset: at::DATA,
                size,
                write,
            };
            let code = access_code(mode, Seg::Cs, at::DATA, size, write);
            let name = format!("CS write={write}");
            cases.push(Case::new("segment rights", name, mode, code, op));
        }
    }
}
