//! Where the monitor's things are, in guest-physical and in the monitor's linear address space.
//!
//! ```text
//! guest-physical                              linear, while the monitor or the guest runs
//! 0          the machine's memory file        0          the guest's 4 GiB, from its shadow tables
//! 4 GiB      monitor: 2 MiB, see below        512 GiB    monitor, supervisor only
//! + 2 MiB    mirror of the shadow table pool  + 2 MiB    the same mirror, supervisor only
//! ```
//!
//! The guest's code is 32-bit code: nothing it computes reaches a linear address above 4 GiB.

/// Bytes in a page.
pub(super) const PAGE: u64 = 4096;

/// Guest-physical address of the monitor's memory: the first that no 32-bit guest can name.
pub(super) const MONITOR_GPA: u64 = 1 << 32;
/// Bytes of the monitor's own part.
pub(super) const MONITOR_BYTES: u64 = 2 << 20;
/// Guest-physical address of the mirror of the shadow table pool: what
/// [`MmuConfig::table_pool_base`](shadow_mmu::MmuConfig::table_pool_base) must be.
pub const TABLE_POOL_BASE: u64 = MONITOR_GPA + MONITOR_BYTES;
/// Most bytes that the table pool may have: what is left of the gigabyte that one page directory
/// maps.
pub(super) const POOL_BYTES: u64 = (1 << 30) - MONITOR_BYTES;

/// Entry of the top-level page table that maps the monitor.
pub(super) const MONITOR_SLOT: u64 = 1;
/// Linear address at which the monitor sees guest-physical [`MONITOR_GPA`].
pub(super) const MONITOR_LINEAR: u64 = MONITOR_SLOT << 39;

// Offsets in the monitor's memory, in bytes.

/// The monitor's code: at most [`CODE_BYTES`].
pub(super) const CODE: u64 = 0;
/// Room for the code.
pub(super) const CODE_BYTES: u64 = 0x2000;
/// What the VMM and the monitor tell each other, see [`comm`].
pub(super) const COMM: u64 = 0x2000;
/// Stacks of the exception handlers: four of 1 KiB, for IST 1 to 4.
pub(super) const IST_STACKS: u64 = 0x4000;
/// Bytes of one of them.
pub(super) const IST_BYTES: u64 = 0x400;
/// First address after the stack from which the monitor enters the guest.
pub(super) const ENTRY_STACK_TOP: u64 = 0x6000;
/// The 64-bit task state segment.
pub(super) const TSS: u64 = 0x6000;
/// Its last byte, as its descriptor has it: no I/O permission bitmap.
pub(super) const TSS_LIMIT: u64 = 0x67;
/// The interrupt descriptor table.
pub(super) const IDT: u64 = 0x7000;
/// Page-directory-pointer table of the monitor's slot.
pub(super) const PDPT: u64 = 0x8000;
/// Page directory of the monitor's gigabyte.
pub(super) const DIRECTORY: u64 = 0x9000;
/// Page table of the monitor's own 2 MiB.
pub(super) const TABLE: u64 = 0xA000;
/// The shadow of the guest's GDT, with the monitor's own descriptors at its end.
pub(super) const GDT: u64 = 0x1_0000;
/// The shadow of the guest's LDT.
pub(super) const LDT: u64 = 0x2_0000;
/// Bytes of a full descriptor table.
pub(super) const DESCRIPTOR_TABLE_BYTES: u64 = 0x1_0000;
/// The queue of table edits: pairs of (monitor-linear address, value).
pub(super) const EDITS: u64 = 0x3_0000;
/// How many edits fit.
pub(super) const EDIT_CAPACITY: usize = 4096;
/// Top-level page tables, one page each.
pub(super) const ROOTS: u64 = 0x4_0000;
/// How many of them there are.
pub(super) const ROOT_COUNT: usize = 64;

// Selectors. The monitor's descriptors are at the very end of the table, where no known guest has
// any.

/// First selector that is the monitor's.
pub(super) const FIRST_MONITOR_SELECTOR: u16 = 0xFFC8;
/// LDT descriptor (16 bytes).
pub(super) const LDT_SELECTOR: u16 = 0xFFC8;
/// 64-bit TSS descriptor (16 bytes).
pub(super) const TSS_SELECTOR: u16 = 0xFFD8;
/// 64-bit ring-0 code.
pub(super) const CODE_SELECTOR: u16 = 0xFFE8;
/// Ring-0 stack.
pub(super) const STACK_SELECTOR: u16 = 0xFFF0;

/// The vector with which the VMM takes a running guest back into the monitor.
pub(super) const KICK_VECTOR: u8 = 0xF0;

/// Offsets in the communication page, in bytes. The monitor's assembly uses the same constants.
pub(super) mod comm {
    /// Eight general registers of 8 bytes in encoding order (the fifth is RSP).
    pub(in super::super) const GPR: u64 = 0x00;
    /// RIP.
    pub(in super::super) const RIP: u64 = 0x40;
    /// RFLAGS.
    pub(in super::super) const RFLAGS: u64 = 0x48;
    /// CS, 8 bytes as in an interrupt frame.
    pub(in super::super) const CS: u64 = 0x50;
    /// SS, 8 bytes as in an interrupt frame.
    pub(in super::super) const SS: u64 = 0x58;
    /// DS, ES, FS, GS: 2 bytes each.
    pub(in super::super) const DATA_SEGMENTS: u64 = 0x60;
    /// What the monitor loads LDTR with, 2 bytes.
    pub(in super::super) const LDTR: u64 = 0x68;
    /// Vector of the exception or interrupt that came last, 8 bytes; [`PARKED`] before.
    pub(in super::super) const VECTOR: u64 = 0x70;
    /// Its error code, 0 if it has none; 8 bytes.
    pub(in super::super) const ERROR: u64 = 0x78;
    /// CR2 at the last exit.
    pub(in super::super) const CR2: u64 = 0x80;
    /// DR6 at the last exit with vector 1.
    pub(in super::super) const DR6: u64 = 0x88;
    /// What CR3 is loaded with under [`RELOAD_CR3`].
    pub(in super::super) const CR3: u64 = 0x90;
    /// What CR0 is loaded with under [`LOAD_CONTROL`].
    pub(in super::super) const CR0: u64 = 0x98;
    /// What CR4 is loaded with under [`LOAD_CONTROL`].
    pub(in super::super) const CR4: u64 = 0xA0;
    /// What the monitor is to do before it enters the guest, 4 bytes of flags.
    pub(in super::super) const COMMAND: u64 = 0xA8;
    /// How many entries of the edit queue are to be stored, 4 bytes.
    pub(in super::super) const EDIT_COUNT: u64 = 0xAC;
    /// 1 while the guest's FPU state is in the processor's unit, 4 bytes.
    pub(in super::super) const FPU_LIVE: u64 = 0xB0;
    /// 1 if the guest may use the FPU without leaving (its CR0.TS and EM are clear), 4 bytes.
    pub(in super::super) const FPU_ALLOWED: u64 = 0xB4;
    /// The guest's FPU state in the 64-bit FXSAVE layout, 512 bytes.
    pub(in super::super) const FPU: u64 = 0x400;

    /// [`COMMAND`]: load CR3, which also forgets translations of entries that were edited.
    pub(in super::super) const RELOAD_CR3: u32 = 1 << 0;
    /// [`COMMAND`]: load CR4 and CR0.
    pub(in super::super) const LOAD_CONTROL: u32 = 1 << 1;
    /// [`COMMAND`]: stop after that, without entering the guest.
    pub(in super::super) const PARK: u32 = 1 << 2;
    /// [`COMMAND`]: load the FPU.
    pub(in super::super) const LOAD_FPU: u32 = 1 << 3;
    /// [`COMMAND`]: load LDTR, DS, ES, FS, GS.
    pub(in super::super) const LOAD_SEGMENTS: u32 = 1 << 4;

    /// [`VECTOR`] when there was neither exception nor interrupt.
    pub(in super::super) const PARKED: u64 = 0x100;
}
