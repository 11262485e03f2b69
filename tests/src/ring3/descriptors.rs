//! The descriptors of the machine of the ring-3 tests.

use super::layout::{DESCRIPTORS, LDT_OFFSET, SIZES, TSS, user};
use crate::native::stage::{Descriptor, Kind};

/// A descriptor (Intel SDM vol. 3A, section 3.4.5): `access` is its byte 5, `flags` the upper half of
/// its byte 6.
const fn descriptor(base: u32, limit: u32, access: u8, flags: u8) -> u64 {
    (limit & 0xFFFF) as u64
        | ((base & 0xFF_FFFF) as u64) << 16
        | (access as u64) << 40
        | ((limit >> 16 & 0xF) as u64) << 48
        | ((flags & 0xF) as u64) << 52
        | ((base >> 24) as u64) << 56
}

/// A gate (section 5.8.3 and 6.11).
pub(super) const fn gate(selector: u16, offset: u32, access: u8) -> u64 {
    (offset & 0xFFFF) as u64
        | (selector as u64) << 16
        | (access as u64) << 40
        | ((offset >> 16) as u64) << 48
}

/// Code and data where Linux has them, so that programs run in a process as well; its further
/// entries are not those of Linux. Code has the accessed bit: QEMU's far transfers do not set it.
pub(super) fn gdt(call_gate: u32) -> Vec<(u16, u64)> {
    const FLAT: u32 = 0xF_FFFF;
    vec![
        (0x08, descriptor(0, FLAT, 0x9B, 0xC)),
        (0x10, descriptor(0, FLAT, 0x93, 0xC)),
        (0x18, descriptor(0, FLAT, 0x93, 0xC)),
        (0x20, descriptor(0, FLAT, 0xFB, 0xC)),
        (0x28, descriptor(0, FLAT, 0xF3, 0xC)),
        (0x40, descriptor(TSS, SIZES.tss_limit, 0x89, 0)),
        (
            0x50,
            descriptor(DESCRIPTORS + LDT_OFFSET, LDT_LIMIT, 0x82, 0),
        ),
        (0x60, descriptor(user::DATA, FLAT, 0xF2, 0xC)), // TLS, not accessed
        (0x68, descriptor(user::DATA, 0xFFF, 0xF2, 0x4)), // a page, not accessed
        (0x70, descriptor(0, FLAT, 0xF0, 0xC)),          // read-only
        (0x80, descriptor(user::CODE, 0xFFFF, 0xFB, 0x0)), // 16-bit code
        (0x90, descriptor(DESCRIPTORS, 0x67, 0xE2, 0)),  // an LDT with DPL 3
        (LONG_CODE, descriptor(0, FLAT, 0x1B, 0xE)), // code with L and D, once it is made present
        (0xA0, descriptor(0, FLAT, 0x7A, 0xC)),      // code, not present
        (0xA8, descriptor(0, FLAT, 0x9F, 0xC)),      // conforming code of ring 0
        (0xB0, descriptor(0, FLAT, 0x72, 0xC)),      // data, not present
        (0xB8, gate(0x08, call_gate, 0xEC)),         // call gate, DPL 3
        (0xC0, gate(0x08, call_gate, 0x8C)),         // call gate, DPL 0
        (0xC8, descriptor(user::DATA, 0x0FFF, 0xF6, 0x4)), // expand-down: from 1000h up
    ]
}

/// A descriptor of [`gdt`] that system call 82h gives DPL 3 and P and takes them away. While it has
/// them nothing runs directly: `lar` would show that the monitor hides L.
pub(super) const LONG_CODE: u16 = 0x98;
pub(super) const LONG_BITS: u32 = 0xE000;

const LDT_LIMIT: u32 = 0x57;

/// What `modify_ldt` can make as well: the accessed bit is set, there are no gates.
pub(super) const LDT: [Descriptor; 11] = {
    const FLAT: Descriptor = Descriptor {
        base: 0,
        limit: 0xF_FFFF,
        pages: true,
        big: true,
        kind: Kind::Data,
        present: true,
        dpl: 3,
    };
    /// 64 KiB.
    const SMALL: Descriptor = Descriptor {
        base: user::CODE,
        limit: 0xFFFF,
        pages: false,
        big: false,
        kind: Kind::Code,
        ..FLAT
    };
    [
        // 07h
        Descriptor {
            base: user::DATA + 0x100,
            ..FLAT
        },
        // 0Fh
        Descriptor {
            kind: Kind::Code,
            ..FLAT
        },
        // 17h: 16-bit code
        SMALL,
        // 1Fh
        Descriptor {
            present: false,
            ..SMALL
        },
        // 27h: the last page, where the program's data begins
        Descriptor {
            base: user::DATA + 0x1000,
            limit: 0xF_FFFE,
            kind: Kind::DataDown,
            ..FLAT
        },
        // 2Fh: a 16-bit stack
        Descriptor {
            base: user::STACK - 0x2000,
            limit: 0x1FFF,
            kind: Kind::Data,
            ..SMALL
        },
        // 37h: a page
        Descriptor {
            base: user::DATA,
            limit: 0xFFF,
            pages: false,
            ..FLAT
        },
        // 3Fh: from 1000h up
        Descriptor {
            base: user::DATA,
            limit: 0xFFF,
            pages: false,
            kind: Kind::DataDown,
            ..FLAT
        },
        // 47h
        Descriptor {
            kind: Kind::DataReadOnly,
            ..FLAT
        },
        // 4Fh
        Descriptor {
            kind: Kind::CodeExecuteOnly,
            ..FLAT
        },
        // 57h
        Descriptor {
            present: false,
            ..FLAT
        },
    ]
};
