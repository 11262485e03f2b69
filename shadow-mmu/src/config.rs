//! Configuration and errors of the whole module.

use nix::errno::Errno;

/// What a machine's memory looks like, and the limits of its shadow MMU.
#[derive(Clone, Debug)]
pub struct MmuConfig {
    /// Bytes of RAM, a multiple of 4 KiB, at most 3 GiB.
    pub ram_bytes: u64,
    /// Bytes that ROM, and RAM above the top of RAM, may take, a multiple of 4 KiB, at most 128 MiB.
    pub extra_bytes: u64,
    /// Most host mappings (VMAs) that the windows may use together. The kernel's own limit for the whole process is
    /// `vm.max_map_count`, usually 65,530.
    pub mapping_budget: usize,
    /// Most spaces kept at a time (2 to 255).
    pub max_spaces: usize,
    /// Most neighbouring 4 KiB pages mapped together at a hidden fault; 1 turns fault-around off.
    pub fault_around: u32,
    /// Width of a guest-physical address. Above 32, a 4 MiB page-directory entry has PSE-36 address bits (Intel SDM vol. 3A,
    /// table 4-4); the others of bits 21:13 are reserved. In PAE entries the bits above it are.
    pub physical_bits: u8,
    /// Record every store into a shadow table for [`Mmu::take_edits`](crate::Mmu::take_edits).
    pub mirror_edits: bool,
    /// Address of the first page of the table pool, as the mirror sees it; a multiple of 4 KiB.
    pub table_pool_base: u64,
}

impl Default for MmuConfig {
    fn default() -> MmuConfig {
        MmuConfig {
            ram_bytes: 64 << 20,
            extra_bytes: 16 << 20,
            mapping_budget: 48_000,
            max_spaces: 64,
            fault_around: 16,
            physical_bits: 32,
            mirror_edits: false,
            table_pool_base: 1 << 40,
        }
    }
}

/// Setting up memory failed.
#[derive(Debug, thiserror::Error)]
pub enum MmuError {
    /// The amount of RAM cannot be had.
    #[error(
        "{0} bytes of guest memory: must be a multiple of 4 KiB, at least 1 MiB and at most 3 GiB"
    )]
    RamSize(u64),
    /// A limit in the configuration makes no sense.
    #[error("bad shadow MMU limit: {0}")]
    Limit(&'static str),
    /// The memory file could not be made.
    #[error("cannot create guest memory: {0}")]
    MemoryFile(Errno),
    /// The memory file could not be mapped.
    #[error("cannot map guest memory: {0}")]
    MapMemory(String),
    /// No host address space for a window.
    #[error("cannot reserve host address space for a window: {0}")]
    Reserve(Errno),
    /// A guest-physical range that is not page-aligned, or beyond 4 GiB.
    #[error("bad guest-physical range: {bytes:#x} bytes at {gpa:#x}")]
    Range {
        /// Its start.
        gpa: u64,
        /// Its size in bytes.
        bytes: u64,
    },
    /// More ROM (or RAM) above the top of RAM than there is room for.
    #[error("no room for another {0:#x} bytes of memory above the top of RAM")]
    ExtraMemory(u64),
    /// A ROM layer where there is no RAM above it.
    #[error("no memory at {0:#x} that a ROM could be shadowed by")]
    NotRam(u64),
}

/// A physical access outside memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no memory at guest-physical {gpa:#x} ({target:?})")]
pub struct PhysError {
    /// The first address that is not memory.
    pub gpa: u64,
    /// What is there instead.
    pub target: crate::PhysTarget,
}

/// A linear access that could not be carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinearError {
    /// The guest's tables forbid it. Nothing was written.
    #[error(transparent)]
    Fault(#[from] PageFault),
    /// It touches something that is not memory. Nothing was written.
    #[error(transparent)]
    Phys(#[from] PhysError),
}

use crate::PageFault;

/// What the audit found wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("shadow MMU audit: {0}")]
pub struct AuditError(pub(crate) String);
