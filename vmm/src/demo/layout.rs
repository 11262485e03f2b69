//! Constants that the guest's assembly and the host share. `image.rs` passes them to the assembler
//! by name.

use devices::pm::spec::{PM1_CNT, Pm1Cnt, SLP_TYP_S5};

/// Guest-physical address at which the image must be loaded; the entry point is its first byte.
pub const LOAD_ADDRESS: u32 = 0x1_0000;
/// Guest-physical address of the result block.
pub const RESULT_ADDRESS: u32 = 0x8000;
/// Guest memory that the demo uses, in bytes, from guest-physical address 0; a machine needs no
/// more.
pub const MEMORY_BYTES: u64 = 16 << 20;

/// First doubleword of a result block ("RSDM").
pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"RSDM");
/// Version of the result block's layout.
pub(super) const RESULT_VERSION: u32 = 1;

/// Pages of the pager's region; a power of two.
pub(super) const SPARSE_PAGES: u32 = 256;
/// Frames that the kernel grants it.
pub(super) const SPARSE_QUOTA: u32 = 96;
/// Distance of two pages of the region in bytes: 81 pages, so that the region spans 21 page tables.
pub(super) const SPARSE_STRIDE: u32 = 81 * 4096;
/// Guest-linear address of the region.
pub(super) const SPARSE: u32 = 0x4000_0000;

/// PM1a control register, whose write below ends the run.
pub(super) const PM1A_CNT: u16 = PM1_CNT;
/// SLP_EN with the SLP_TYP of S5: soft off.
pub(super) const PM1A_S5: u16 = Pm1Cnt::SLP_EN.bits() | (SLP_TYP_S5 as u16) << 10;
