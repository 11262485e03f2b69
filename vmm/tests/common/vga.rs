//! Modes of the display adapter, set register by register.
#![allow(dead_code)] // each test uses some of them

use iced_x86::IcedError;
use iced_x86::code_asm::*;

pub(crate) type Assembled = Result<(), IcedError>;

/// Size of the picture in [`planar`].
pub(crate) const WIDTH: u32 = 640;
/// Size of the picture in [`planar`].
pub(crate) const HEIGHT: u32 = 480;

/// Writes `values` to registers behind the index port `port`, each an index and a value.
pub(crate) fn registers(a: &mut CodeAssembler, port: u32, values: &[(u32, u32)]) -> Assembled {
    a.mov(dx, port)?;
    for (index, value) in values {
        a.mov(ax, value << 8 | index)?;
        a.out(dx, ax)?;
    }
    Ok(())
}

/// Mode 12h as far as memory and picture depend on it: 640x480, four planes.
pub(crate) fn planar(a: &mut CodeAssembler) -> Assembled {
    a.mov(dx, 0x3C2)?;
    a.mov(al, 0xE3)?;
    a.out(dx, al)?;
    registers(a, 0x3C4, &[(0, 1), (1, 1), (2, 15), (3, 0), (4, 6), (0, 3)])?;
    registers(
        a,
        0x3D4,
        &[
            (0x11, 0),
            (0x00, 0x5F),
            (0x01, 0x4F),
            (0x06, 0x0B),
            (0x07, 0x3E),
            (0x09, 0x40),
            (0x0C, 0),
            (0x0D, 0),
            (0x12, 0xDF),
            (0x13, 0x28),
            (0x14, 0),
            (0x17, 0xE3),
            (0x18, 0xFF),
        ],
    )?;
    registers(
        a,
        0x3CE,
        &[
            (0, 0),
            (1, 0),
            (3, 0),
            (4, 0),
            (5, 0),
            (6, 5),
            (7, 15),
            (8, 0xFF),
        ],
    )?;
    palette(a, 1)
}

/// Attribute n is colour n, and colour n is n times 4 in red; the mode control register.
fn palette(a: &mut CodeAssembler, mode: u32) -> Assembled {
    a.mov(dx, 0x3DA)?;
    a.in_(al, dx)?;
    a.mov(dx, 0x3C0)?;
    for index in 0..16u32 {
        for value in [index, index] {
            a.mov(al, value)?;
            a.out(dx, al)?;
        }
    }
    for (index, value) in [(0x10u32, mode), (0x12, 15), (0x13, 0)] {
        a.mov(al, index)?;
        a.out(dx, al)?;
        a.mov(al, value)?;
        a.out(dx, al)?;
    }
    a.mov(al, 0x20)?;
    a.out(dx, al)?;
    a.mov(dx, 0x3C8)?;
    a.mov(al, 0)?;
    a.out(dx, al)?;
    a.inc(dx)?;
    for colour in 0..16u32 {
        for component in [colour * 4, 0, 0] {
            a.mov(al, component)?;
            a.out(dx, al)?;
        }
    }
    Ok(())
}

/// 80x25 characters of 8 dots, with a cursor at `cursor`, counted in characters.
pub(crate) fn text(a: &mut CodeAssembler, cursor: u32) -> Assembled {
    a.mov(dx, 0x3C2)?;
    a.mov(al, 0x67)?;
    a.out(dx, al)?;
    registers(a, 0x3C4, &[(0, 1), (1, 1), (2, 3), (3, 0), (4, 2), (0, 3)])?;
    registers(
        a,
        0x3D4,
        &[
            (0x11, 0),
            (0x00, 0x5F),
            (0x01, 0x4F),
            (0x06, 0xBF),
            (0x07, 0x1F),
            (0x08, 0),
            (0x09, 0x4F),
            (0x0A, 0x0D),
            (0x0B, 0x0E),
            (0x0C, 0),
            (0x0D, 0),
            (0x0E, cursor >> 8),
            (0x0F, cursor & 0xFF),
            (0x12, 0x8F),
            (0x13, 0x28),
            (0x14, 0x1F),
            (0x17, 0xA3),
            (0x18, 0xFF),
        ],
    )?;
    registers(
        a,
        0x3CE,
        &[
            (0, 0),
            (1, 0),
            (3, 0),
            (4, 0),
            (5, 0x10),
            (6, 0x0E),
            (8, 0xFF),
        ],
    )?;
    palette(a, 0x0C)
}

/// Mode 13h: 320x200 pixels of a byte.
pub(crate) fn packed(a: &mut CodeAssembler) -> Assembled {
    a.mov(dx, 0x3C2)?;
    a.mov(al, 0x63)?;
    a.out(dx, al)?;
    registers(
        a,
        0x3C4,
        &[(0, 1), (1, 1), (2, 15), (3, 0), (4, 14), (0, 3)],
    )?;
    registers(
        a,
        0x3D4,
        &[
            (0x11, 0),
            (0x00, 0x5F),
            (0x01, 0x4F),
            (0x06, 0xBF),
            (0x07, 0x1F),
            (0x08, 0),
            (0x09, 0x41),
            (0x12, 0x8F),
            (0x13, 0x28),
            (0x14, 0x40),
            (0x17, 0xA3),
            (0x18, 0xFF),
        ],
    )?;
    registers(a, 0x3CE, &[(1, 0), (3, 0), (5, 0x40), (6, 5), (8, 0xFF)])?;
    palette(a, 0x41)
}
