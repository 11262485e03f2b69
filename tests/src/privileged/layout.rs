//! Where things are in the guest: the *world* that cases run in, the lowest 13 KiB, and the driver
//! above 1 MiB that sets it up and looks at it afterwards.
//!
//! All segments of the world start at linear address 0 unless a case says otherwise, so that an
//! offset is a linear address.

/// Size of the world in bytes. Memory from [`COMPARED`] on is compared after each case.
pub const WORLD: u32 = 0x3300;
/// Start of the part of the world that is compared; below are the real-mode interrupt table and
/// the real-mode part of the driver.
pub const COMPARED: u32 = 0x2000;

/// The real-mode part of the driver.
pub const REAL_CODE: u32 = 0x1000;
/// Real-mode interrupt handlers, one each [`STUB_SIZE`] bytes.
pub const REAL_STUBS: u32 = 0x1400;
/// The state that a real-mode case starts with; laid out as [`super::Field`].
pub const REAL_IN: u32 = 0x1E00;
/// The state that a real-mode case ended with.
pub const REAL_OUT: u32 = 0x1F00;
/// What SGDT and SIDT stored behind a real-mode case, 8 bytes each.
pub const REAL_TABLES: u32 = 0x1FA0;
/// The GDT register of the driver, for the way back from real mode.
pub const REAL_GDTR: u32 = 0x1FC0;

/// The global descriptor table.
pub const GDT: u32 = 0x2000;
/// Its limit.
pub const GDT_LIMIT: u16 = 0x17F;
/// The local descriptor table.
pub const LDT: u32 = 0x2180;
/// Its limit.
pub const LDT_LIMIT: u16 = 0x3F;
/// The interrupt descriptor table.
pub const IDT: u32 = 0x2200;
/// Its limit: vectors 0 to 7Fh.
pub const IDT_LIMIT: u16 = 0x3FF;
/// The task-state segment that cases run in.
pub const TSS: u32 = 0x2600;
/// Its limit: 104 bytes, 32 bytes of I/O permission bitmap for ports 0 to FFh, and the rest of the
/// bitmap up to ports 3F0h to 3FFh.
pub const TSS_LIMIT: u32 = 0x68 + 0x80;
/// A 32-bit task-state segment to switch to.
pub const TSS_OTHER: u32 = 0x2700;
/// A 16-bit task-state segment to switch to.
pub const TSS_16: u32 = 0x2780;
/// The task of the double-fault handler.
pub const TSS_DOUBLE_FAULT: u32 = 0x2800;

/// Where the instruction under test is.
pub const CODE: u32 = 0x2880;
/// Targets of transfers; each holds UD2. [`landing`] gives their addresses.
pub const LANDINGS: u32 = 0x2900;
/// Memory operands.
pub const DATA: u32 = 0x2A00;
/// Stack of privilege level 0 in the task-state segment.
pub const STACK_0: u32 = 0x2D00;
/// Stack of privilege level 1.
pub const STACK_1: u32 = 0x2E00;
/// Stack of privilege level 2.
pub const STACK_2: u32 = 0x2F00;
/// Stack that cases start with.
pub const STACK: u32 = 0x3080;
/// Stack of the other tasks.
pub const STACK_OTHER: u32 = 0x3200;
/// Stack of the double-fault task.
pub const STACK_DOUBLE_FAULT: u32 = 0x3280;

/// The `n`-th target of transfers.
#[must_use]
pub const fn landing(n: u32) -> u32 {
    LANDINGS + n * 16
}

/// Bytes from one interrupt stub to the next.
pub const STUB_SIZE: u32 = 16;

/// Selectors of the world. Privilege level `r` of a family is at `family + 8 * r`.
pub mod selector {
    /// Flat code of the driver.
    pub const DRIVER_CODE: u16 = 0x08;
    /// Flat data of the driver.
    pub const DRIVER_DATA: u16 = 0x10;
    /// The task that cases run in.
    pub const TSS: u16 = 0x18;
    /// The LDT.
    pub const LDT: u16 = 0x20;
    /// The double-fault task.
    pub const TSS_DOUBLE_FAULT: u16 = 0x28;
    /// 16-bit code on the way to real mode.
    pub const REAL_CODE: u16 = 0x30;
    /// 16-bit data on the way to real mode.
    pub const REAL_DATA: u16 = 0x38;
    /// 32-bit code, one for each privilege level.
    pub const CODE_32: u16 = 0x40;
    /// 16-bit code, one for each privilege level.
    pub const CODE_16: u16 = 0x60;
    /// Data, and stacks with B = 1, one for each privilege level.
    pub const DATA_32: u16 = 0x80;
    /// Stacks with B = 0, one for each privilege level.
    pub const DATA_16: u16 = 0xA0;
    /// Conforming 32-bit code, one for each privilege level.
    pub const CONFORMING: u16 = 0xC0;
    /// For cases to fill; so are the three that follow.
    pub const VICTIM: u16 = 0xE0;
    /// The other 32-bit task.
    pub const TSS_OTHER: u16 = 0x100;
    /// The 16-bit task.
    pub const TSS_16: u16 = 0x108;
    /// The first of the LDT, for cases to fill.
    pub const LDT_FIRST: u16 = 0x0C;
    /// The first one beyond the limit of the GDT.
    pub const BEYOND: u16 = super::GDT_LIMIT + 1;
}

/// The driver: entry point.
pub const DRIVER: u32 = crate::bzimage::LOAD_ADDRESS;
/// The first code to run.
pub const START: u32 = DRIVER + 0x20;
/// The routine that writes a number.
pub const HEX: u32 = DRIVER + 0x1C0;
/// Interrupt stubs of vectors 0 to 31.
pub const STUBS: u32 = DRIVER + 0x200;
/// Where the stubs lead.
pub const COMMON: u32 = DRIVER + 0x400;
/// Where the double-fault task starts.
pub const DOUBLE_FAULT: u32 = DRIVER + 0x600;
/// The way back from real mode.
pub const BACK: u32 = DRIVER + 0x680;
/// Looks at the state that a case left, sends it, and goes on.
pub const COLLECT: u32 = DRIVER + 0x700;
/// The start of the driver's loop.
pub const MAIN: u32 = DRIVER + 0xB00;
/// The world as it is before a case changes it.
pub const PRISTINE: u32 = DRIVER + 0x1000;
/// What x87 and SSE registers hold where a case asks for it, see [`super::units`].
pub const UNITS: u32 = DRIVER + 0x4800;
/// The same with an x87 exception pending.
pub const UNITS_PENDING: u32 = UNITS + 0x200;
/// The cases.
pub const CASES: u32 = PRISTINE + 0x4000;

/// Memory of the driver, above the cases and [`HOLE`].
pub const VARIABLES: u32 = 0x0180_0000;
/// The state that the case starts with, see [`super::Field`].
pub const IN: u32 = VARIABLES;
/// The state that it ended with.
pub const OUT: u32 = VARIABLES + 0x100;
/// Address of the case.
pub const V_CASE: u32 = VARIABLES + 0x200;
/// Number of the case.
pub const V_NUMBER: u32 = VARIABLES + 0x204;
/// Lowest address of the stack frame of the last exception, which is not compared.
pub const V_FRAME_LOW: u32 = VARIABLES + 0x208;
/// End of that frame.
pub const V_FRAME_HIGH: u32 = VARIABLES + 0x20C;
/// Results of SGDT and SIDT, 8 bytes each.
pub const V_TABLES: u32 = VARIABLES + 0x210;
/// Operands of LGDT and LIDT, 8 bytes each: GDT, IDT, interrupt table of real mode.
pub const V_POINTERS: u32 = VARIABLES + 0x220;
/// The line that is being made.
pub const LINE: u32 = VARIABLES + 0x400;
/// The world as it was when the case started.
pub const SNAPSHOT: u32 = VARIABLES + 0x2_0000;
/// Top of the stack of the driver, below 64 KiB: IRET to a 16-bit stack leaves the upper half of ESP
/// as the driver had it.
pub const DRIVER_STACK: u32 = 0x9F00;

/// A page directory that maps the lowest 32 MiB to themselves, with 4 MiB pages for all levels.
pub const PAGE_DIRECTORY: u32 = 0xA000;
/// The same without 4 MiB of it, from [`HOLE`] on.
pub const PAGE_DIRECTORY_HOLE: u32 = 0xB000;
/// What [`PAGE_DIRECTORY_HOLE`] does not map.
pub const HOLE: u32 = 0x0140_0000;

/// A segment descriptor or a gate as it is in memory (Intel SDM vol. 3A, sections 3.4.5 and 5.8.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw(pub u64);

impl Raw {
    /// A segment: `access` is the byte with P, DPL, S and type, `flags` the nibble G, D/B, L, AVL.
    #[must_use]
    pub const fn segment(base: u32, limit: u32, access: u8, flags: u8) -> Raw {
        Raw((limit as u64 & 0xFFFF)
            | ((base as u64 & 0xFF_FFFF) << 16)
            | ((access as u64) << 40)
            | ((limit as u64 & 0xF_0000) << 32)
            | ((flags as u64 & 0xF) << 52)
            | ((base as u64 >> 24) << 56))
    }

    /// A gate; `parameters` is the count of a call gate.
    #[must_use]
    pub const fn gate(selector: u16, offset: u32, access: u8, parameters: u8) -> Raw {
        Raw((offset as u64 & 0xFFFF)
            | ((selector as u64) << 16)
            | ((parameters as u64 & 0x1F) << 32)
            | ((access as u64) << 40)
            | ((offset as u64 >> 16) << 48))
    }

    /// The two words, low one first.
    #[must_use]
    pub const fn words(self) -> [u32; 2] {
        [self.0 as u32, (self.0 >> 32) as u32]
    }
}
