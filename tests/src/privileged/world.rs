//! The world before a case changes it: tables, tasks, targets of transfers.

use iced_x86::IcedError;

use super::layout::{self as at, Raw, selector};
use super::{driver, real};

/// Bytes of memory below 64 KiB, with writes in little-endian order. Reads and writes beyond the
/// end are ignored; reads give zeros.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Memory(Vec<u8>);

impl Memory {
    /// `size` zeros.
    #[must_use]
    pub fn new(size: u32) -> Memory {
        Memory(vec![0; size as usize])
    }

    /// All bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The byte at `address`.
    #[must_use]
    pub fn byte(&self, address: u32) -> u8 {
        self.0.get(address as usize).copied().unwrap_or(0)
    }

    /// The value of `size` bytes at `address`.
    #[must_use]
    pub fn read(&self, address: u32, size: u32) -> u32 {
        (0..size).rev().fold(0, |value, index| {
            (value << 8) | u32::from(self.byte(address.wrapping_add(index)))
        })
    }

    /// Writes the low `size` bytes of `value`.
    pub fn write(&mut self, address: u32, size: u32, value: u32) {
        let bytes = value.to_le_bytes();
        for (index, byte) in bytes.iter().take(size as usize).enumerate() {
            if let Some(slot) = self.0.get_mut(address.wrapping_add(index as u32) as usize) {
                *slot = *byte;
            }
        }
    }

    /// Writes `bytes`.
    pub fn put(&mut self, address: u32, bytes: &[u8]) {
        for (index, byte) in bytes.iter().enumerate() {
            self.write(address + index as u32, 1, u32::from(*byte));
        }
    }

    /// The descriptor at `address`.
    #[must_use]
    pub fn descriptor(&self, address: u32) -> Raw {
        Raw(u64::from(self.read(address, 4)) | u64::from(self.read(address + 4, 4)) << 32)
    }

    /// Writes a descriptor.
    pub fn put_descriptor(&mut self, address: u32, raw: Raw) {
        self.put(address, &raw.0.to_le_bytes());
    }
}

/// Access byte of a segment or gate: present, with `dpl`; `kind` is S and the type.
#[must_use]
pub const fn access(dpl: u8, kind: u8) -> u8 {
    0x80 | dpl << 5 | kind
}

/// S and type of segments and gates (Intel SDM vol. 3A, tables 3-1 and 3-2).
#[allow(missing_docs)] // the names are the SDM's
pub mod kind {
    pub const TSS_16: u8 = 0x1;
    pub const LDT: u8 = 0x2;
    pub const TSS_16_BUSY: u8 = 0x3;
    pub const CALL_16: u8 = 0x4;
    pub const TASK: u8 = 0x5;
    pub const INTERRUPT_16: u8 = 0x6;
    pub const TRAP_16: u8 = 0x7;
    pub const TSS_32: u8 = 0x9;
    pub const TSS_32_BUSY: u8 = 0xB;
    pub const CALL_32: u8 = 0xC;
    pub const INTERRUPT_32: u8 = 0xE;
    pub const TRAP_32: u8 = 0xF;
    pub const DATA_READ: u8 = 0x11;
    pub const DATA: u8 = 0x13;
    pub const DATA_DOWN_READ: u8 = 0x15;
    pub const DATA_DOWN: u8 = 0x17;
    pub const CODE_EXECUTE: u8 = 0x19;
    pub const CODE: u8 = 0x1B;
    pub const CONFORMING_EXECUTE: u8 = 0x1D;
    pub const CONFORMING: u8 = 0x1F;
}

/// Granularity and size bits of a descriptor's flags.
#[allow(missing_docs)] // the names are the SDM's
pub mod flag {
    pub const G: u8 = 8;
    pub const DB: u8 = 4;
}

/// Address of a descriptor in the GDT or the LDT of the world.
#[must_use]
pub const fn descriptor_address(selector: u16) -> u32 {
    let table = if selector & 4 == 0 { at::GDT } else { at::LDT };
    table + (selector & 0xFFF8) as u32
}

/// Makes the world.
///
/// # Errors
///
/// When an instruction of the driver does not encode, which is a bug.
pub fn pristine() -> Result<Memory, IcedError> {
    let mut world = Memory::new(at::WORLD);
    for (address, code) in real::code()? {
        world.put(address, &code);
    }
    for vector in 0..32 {
        world.write(vector * 4, 4, real::stub_address(vector));
        let stub = at::STUBS + vector * at::STUB_SIZE;
        let gate = if vector == 8 {
            Raw::gate(selector::TSS_DOUBLE_FAULT, 0, access(0, kind::TASK), 0)
        } else {
            Raw::gate(
                selector::DRIVER_CODE,
                stub,
                access(0, kind::INTERRUPT_32),
                0,
            )
        };
        world.put_descriptor(at::IDT + vector * 8, gate);
    }
    tables(&mut world);
    tasks(&mut world);
    for n in 0..16 {
        world.put(at::landing(n), &driver::UD2);
    }
    Ok(world)
}

fn tables(world: &mut Memory) {
    let mut set = |selector: u16, raw: Raw| world.put_descriptor(descriptor_address(selector), raw);
    let flat = flag::G | flag::DB;
    set(
        selector::DRIVER_CODE,
        Raw::segment(0, 0xF_FFFF, access(0, kind::CODE), flat),
    );
    set(
        selector::DRIVER_DATA,
        Raw::segment(0, 0xF_FFFF, access(0, kind::DATA), flat),
    );
    set(
        selector::TSS,
        Raw::segment(at::TSS, at::TSS_LIMIT, access(0, kind::TSS_32_BUSY), 0),
    );
    set(
        selector::LDT,
        Raw::segment(at::LDT, at::LDT_LIMIT.into(), access(0, kind::LDT), 0),
    );
    set(
        selector::TSS_DOUBLE_FAULT,
        Raw::segment(at::TSS_DOUBLE_FAULT, 0x67, access(0, kind::TSS_32), 0),
    );
    set(
        selector::TSS_OTHER,
        Raw::segment(at::TSS_OTHER, 0x67, access(0, kind::TSS_32), 0),
    );
    set(
        selector::TSS_16,
        Raw::segment(at::TSS_16, 0x2B, access(0, kind::TSS_16), 0),
    );
    let small = 0xFFFF;
    set(
        selector::REAL_CODE,
        Raw::segment(0, small, access(0, kind::CODE), 0),
    );
    set(
        selector::REAL_DATA,
        Raw::segment(0, small, access(0, kind::DATA), 0),
    );
    for level in 0..4u8 {
        let step = u16::from(level) * 8;
        let code = access(level, kind::CODE);
        let data = access(level, kind::DATA);
        for (family, byte, flags) in [
            (selector::CODE_32, code, flag::DB),
            (selector::CODE_16, code, 0),
            (selector::DATA_32, data, flag::DB),
            (selector::DATA_16, data, 0),
            (
                selector::CONFORMING,
                access(level, kind::CONFORMING),
                flag::DB,
            ),
        ] {
            set(family + step, Raw::segment(0, small, byte, flags));
        }
    }
}

/// Offsets in a 32-bit TSS (Intel SDM vol. 3A, figure 7-2).
#[allow(missing_docs)] // the names are the SDM's
pub mod tss32 {
    pub const LINK: u32 = 0;
    pub const ESP0: u32 = 4;
    pub const CR3: u32 = 28;
    pub const EIP: u32 = 32;
    pub const EFLAGS: u32 = 36;
    pub const EAX: u32 = 40;
    pub const ESP: u32 = 56;
    pub const ES: u32 = 72;
    pub const LDT: u32 = 96;
    pub const TRAP: u32 = 100;
    pub const IO_MAP: u32 = 102;
}

/// Offsets in a 16-bit TSS (Intel SDM vol. 3A, figure 7-10).
#[allow(missing_docs)] // the names are the SDM's
pub mod tss16 {
    pub const LINK: u32 = 0;
    pub const SP0: u32 = 2;
    pub const IP: u32 = 14;
    pub const FLAGS: u32 = 16;
    pub const AX: u32 = 18;
    pub const SP: u32 = 26;
    pub const ES: u32 = 34;
    pub const LDT: u32 = 42;
}

fn tasks(world: &mut Memory) {
    for task in [at::TSS, at::TSS_OTHER, at::TSS_DOUBLE_FAULT] {
        for (level, top) in [at::STACK_0, at::STACK_1, at::STACK_2]
            .into_iter()
            .enumerate()
        {
            let level = level as u32;
            let stack = u32::from(selector::DATA_32) + 8 * level + level;
            world.write(task + tss32::ESP0 + 8 * level, 4, top);
            world.write(task + tss32::ESP0 + 8 * level + 4, 4, stack);
        }
        // No I/O permission bitmap: it starts beyond the limit.
        world.write(task + tss32::IO_MAP, 2, 0xFFFF);
    }
    world.write(at::TSS + tss32::IO_MAP, 2, 0x68);
    // Ports are denied, but for some that cases allow.
    for byte in 0x68..=at::TSS_LIMIT {
        world.write(at::TSS + byte, 1, 0xFF);
    }

    let mut set = |task: u32, offset: u32, value: u32| world.write(task + offset, 4, value);
    // A task at privilege level 0.
    for register in 0..8 {
        set(
            at::TSS_OTHER,
            tss32::EAX + 4 * register,
            0x7A00_0000 | register,
        );
    }
    set(at::TSS_OTHER, tss32::EIP, at::landing(1));
    set(at::TSS_OTHER, tss32::EFLAGS, 0x0000_3002);
    set(at::TSS_OTHER, tss32::ESP, at::STACK_OTHER);
    for (index, family) in [
        selector::DATA_32,
        selector::CODE_32,
        selector::DATA_32,
        selector::DATA_32,
        0,
        0,
    ]
    .into_iter()
    .enumerate()
    {
        set(
            at::TSS_OTHER,
            tss32::ES + 4 * index as u32,
            u32::from(family),
        );
    }
    set(at::TSS_OTHER, tss32::LDT, u32::from(selector::LDT));

    set(at::TSS_DOUBLE_FAULT, tss32::EIP, at::DOUBLE_FAULT);
    set(at::TSS_DOUBLE_FAULT, tss32::EFLAGS, 2);
    set(at::TSS_DOUBLE_FAULT, tss32::ESP, at::STACK_DOUBLE_FAULT);
    for (index, value) in [
        selector::DRIVER_DATA,
        selector::DRIVER_CODE,
        selector::DRIVER_DATA,
        selector::DRIVER_DATA,
        0,
        0,
    ]
    .into_iter()
    .enumerate()
    {
        let offset = tss32::ES + 4 * index as u32;
        set(at::TSS_DOUBLE_FAULT, offset, u32::from(value));
    }

    let mut set = |offset: u32, value: u32| world.write(at::TSS_16 + offset, 2, value);
    for (level, top) in [at::STACK_0, at::STACK_1, at::STACK_2]
        .into_iter()
        .enumerate()
    {
        let level = level as u32;
        set(tss16::SP0 + 4 * level, top);
        set(
            tss16::SP0 + 4 * level + 2,
            u32::from(selector::DATA_32) + 9 * level,
        );
    }
    for register in 0..8 {
        set(tss16::AX + 2 * register, 0x7B00 | register);
    }
    set(tss16::IP, at::landing(1));
    set(tss16::FLAGS, 0x3002);
    set(tss16::SP, at::STACK_OTHER);
    for (index, value) in [
        selector::DATA_16,
        selector::CODE_16,
        selector::DATA_16,
        selector::DATA_16,
    ]
    .into_iter()
    .enumerate()
    {
        set(tss16::ES + 2 * index as u32, u32::from(value));
    }
    set(tss16::LDT, u32::from(selector::LDT));
}
