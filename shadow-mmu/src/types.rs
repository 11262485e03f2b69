//! The words of the interface: privileges, accesses, faults, targets, events.

use std::fmt;

/// log2 of the page size.
pub const PAGE_SHIFT: u32 = 12;
/// Bytes in a page.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;

/// The privilege an access is made with: the U/S side of a page-table check.
///
/// CPL 3 is [`Privilege::User`]; CPL 0 to 2, and the implicit accesses to descriptor tables and to the TSS at any CPL, are
/// [`Privilege::Supervisor`] (Intel SDM vol. 3A, 4.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Privilege {
    /// A user-mode access.
    User,
    /// A supervisor-mode access.
    Supervisor,
}

/// What an access does to memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AccessKind {
    /// Data read.
    Read,
    /// Data write, or the read of a read-modify-write instruction.
    Write,
    /// Instruction fetch.
    Execute,
}

/// A guest memory access, as far as paging cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// Read, write or fetch.
    pub kind: AccessKind,
    /// The privilege it is made with.
    pub privilege: Privilege,
}

impl Access {
    /// A data read.
    pub const fn read(privilege: Privilege) -> Access {
        Access {
            kind: AccessKind::Read,
            privilege,
        }
    }

    /// A data write.
    pub const fn write(privilege: Privilege) -> Access {
        Access {
            kind: AccessKind::Write,
            privilege,
        }
    }

    /// An instruction fetch.
    pub const fn execute(privilege: Privilege) -> Access {
        Access {
            kind: AccessKind::Execute,
            privilege,
        }
    }

    pub(crate) const fn is_write(self) -> bool {
        matches!(self.kind, AccessKind::Write)
    }
}

bitflags::bitflags! {
    /// The error code of #PF (Intel SDM vol. 3A, 4.7).
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub struct FaultCode: u32 {
        /// The page was present: a protection violation (or a reserved bit).
        const PRESENT = 1 << 0;
        /// The access was a write.
        const WRITE = 1 << 1;
        /// The access was made in user mode.
        const USER = 1 << 2;
        /// A reserved bit was set in a paging-structure entry.
        const RESERVED = 1 << 3;
        /// The access was an instruction fetch; only reported with PAE and EFER.NXE.
        const FETCH = 1 << 4;
    }
}

/// A *true* page fault: one that the guest must see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("page fault at linear {linear:#010x}, error code {code:?}")]
pub struct PageFault {
    /// The faulting guest-linear address: the new CR2.
    pub linear: u32,
    /// The error code to push.
    pub code: FaultCode,
}

/// What a guest-physical address leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PhysTarget {
    /// Writable memory.
    Ram,
    /// Memory that ignores writes from the bus.
    Rom,
    /// Device registers: the access goes to the memory-mapped I/O bus.
    Device,
    /// Nothing: reads float high, writes are lost.
    Hole,
}

/// What [`Mmu::set_range`](crate::Mmu::set_range) makes of a range; the same four kinds.
pub type RangeKind = PhysTarget;

/// Where accesses to memory that a chipset can shadow go: to RAM, or past it to the ROM on the bus behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Shadowing {
    /// Reads come from RAM.
    pub read_ram: bool,
    /// Writes go to RAM; otherwise they are lost.
    pub write_ram: bool,
}

impl Shadowing {
    /// Plain RAM.
    pub const RAM: Shadowing = Shadowing {
        read_ram: true,
        write_ram: true,
    };
    /// The ROM alone.
    pub const ROM: Shadowing = Shadowing {
        read_ram: false,
        write_ram: false,
    };

    /// Reads and writes go to different places.
    pub(crate) fn write_below(self) -> bool {
        self.write_ram && !self.read_ram
    }
}

/// A translated access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The guest-physical address, A20 gate applied.
    pub gpa: u64,
    /// What is there.
    pub target: PhysTarget,
    /// The page is traced: a write must go through [`Mmu::write_phys`](crate::Mmu::write_phys) or
    /// [`Mmu::write_linear`](crate::Mmu::write_linear).
    pub traced: bool,
}

/// The answer to a host fault in translated code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultOutcome {
    /// A hidden fault: the access is legal and its page is now mapped in the window of the access's own privilege. Retry.
    /// For [`AccessKind::Execute`] the shadow entry is there but the window is left alone.
    Filled,
    /// A supervisor access to a U = 1 page, legal, and now mapped in the *user* window.
    UserPage,
    /// Legal, but it cannot be mapped for this access (device, hole, write to ROM or to a traced page, watched page): carry it out by
    /// [`Mmu::read_phys`](crate::Mmu::read_phys), [`Mmu::write_phys`](crate::Mmu::write_phys) or the device.
    Trapped(Resolved),
    /// A true fault.
    PageFault(PageFault),
}

/// How to carry out an access from the VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessPlan {
    /// The bytes are at this host address, for reading, or for writing where a write was asked for. Good until the next call
    /// that takes the [`Mmu`](crate::Mmu) mutably.
    Direct(*mut u8),
    /// Crosses a page, is traced, or is not RAM: go through the linear or physical accessors.
    Slow,
}

/// Names a space for as long as it lives; never used again for another one (up to 16 million later spaces).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpaceId(pub(crate) u32);

impl SpaceId {
    /// A small number (below 256), unique among the spaces alive now, for use as a table index.
    pub const fn slot(self) -> usize {
        (self.0 & 0xff) as usize
    }
}

impl fmt::Debug for SpaceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpaceId({}#{})", self.slot(), self.0 >> 8)
    }
}

/// A window that translated code can run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct View {
    /// The space that the window shows.
    pub space: SpaceId,
    /// The host address of guest-linear address 0; a multiple of 4 GiB.
    pub base: u64,
}

/// The top of a shadow tree, for direct execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShadowRoot {
    /// The space it belongs to.
    pub space: SpaceId,
    /// The address of its PML4 in the table pool's address space: what CR3 is to hold.
    pub address: u64,
}

/// The registers that paging depends on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PagingRegs {
    /// CR0; PG and WP matter.
    pub cr0: u32,
    /// CR3.
    pub cr3: u32,
    /// CR4; PSE and PAE matter.
    pub cr4: u32,
    /// IA32_EFER; NXE matters.
    pub efer: u64,
}

/// Something that what was derived from guest memory has to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MmuEvent {
    /// Bytes of a page traced for code have changed. `gfn` is as given to [`Mmu::trace_code`](crate::Mmu::trace_code).
    CodeWritten {
        /// Guest frame number.
        gfn: u32,
        /// First changed byte within the page.
        offset: u16,
        /// Number of bytes written.
        len: u16,
    },
    /// Linear pages marked by [`Mmu::mark_code`](crate::Mmu::mark_code) or [`Mmu::code_page_alias`](crate::Mmu::code_page_alias)
    /// may no longer map what they did, or be written. The range covers at least one marked page and may cover others.
    Unmapped {
        /// The space.
        space: SpaceId,
        /// First guest-linear page number.
        first_page: u32,
        /// Number of pages.
        pages: u32,
    },
    /// The space is gone; its identifier means nothing any more.
    SpaceDropped(SpaceId),
}

/// One store into a shadow table, for whoever keeps a mirror of the table pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableEdit {
    /// Address of the entry in the table pool's address space.
    pub address: u64,
    /// Its new value.
    pub value: u64,
}

/// The 16 MiB regions of the linear address space that user mode can have pages in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserRegions {
    /// `flags[linear >> 24]`: some present top-level entry of the region has U = 1.
    pub flags: [bool; 256],
    /// Changes whenever `flags` does.
    pub generation: u64,
}
