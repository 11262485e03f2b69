//! The guest's page tables as the processor reads them (Intel SDM vol. 3A, chapter 4): 32-bit and PAE paging.
//!
//! A walk is pure: it reads tables and says what it found. Accessed and dirty bits are set by the caller.

use crate::phys::PhysMap;
use crate::ram::{GuestRam, HostPage};
use crate::types::{Access, AccessKind, FaultCode, PagingRegs, Privilege};

bitflags::bitflags! {
    /// The paging role: what, besides the root, decides how guest tables are read.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub(crate) struct Role: u8 {
        /// CR4.PAE.
        const PAE = 1 << 0;
        /// CR4.PSE; no meaning with PAE.
        const PSE = 1 << 1;
        /// EFER.NXE; only with PAE.
        const NXE = 1 << 2;
        /// CR0.WP.
        const WP = 1 << 3;
        /// The A20 gate is closed.
        const A20_CLOSED = 1 << 4;
    }
}

/// Present, in every kind of entry.
pub(crate) const P: u64 = 1 << 0;
/// Writable.
pub(crate) const W: u64 = 1 << 1;
/// User-accessible.
pub(crate) const U: u64 = 1 << 2;
/// Accessed.
pub(crate) const A: u64 = 1 << 5;
/// Dirty.
pub(crate) const D: u64 = 1 << 6;
/// Page size: a directory entry that maps a large page.
pub(crate) const PS: u64 = 1 << 7;
/// Execute-disable.
pub(crate) const XD: u64 = 1 << 63;

const CR0_PG: u32 = 1 << 31;
const CR0_WP: u32 = 1 << 16;
const CR4_PSE: u32 = 1 << 4;
const CR4_PAE: u32 = 1 << 5;
const EFER_NXE: u64 = 1 << 11;

/// Where and how to walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Paging {
    pub(crate) role: Role,
    /// The physical address in CR3: of the page directory, or of the page-directory-pointer table.
    pub(crate) root: u32,
    /// With PAE, the four PDPTE registers, as loaded with CR3.
    pub(crate) pdptes: [u64; 4],
    physical_bits: u8,
}

impl Paging {
    /// The paging that the registers select, or `None` with paging off. `pdptes` are left for [`Paging::load_pdptes`].
    pub(crate) fn from_regs(regs: &PagingRegs, a20: bool, physical_bits: u8) -> Option<Paging> {
        if regs.cr0 & CR0_PG == 0 {
            return None;
        }
        let mut role = Role::empty();
        role.set(Role::WP, regs.cr0 & CR0_WP != 0);
        role.set(Role::A20_CLOSED, !a20);
        let root = if regs.cr4 & CR4_PAE != 0 {
            role |= Role::PAE;
            role.set(Role::NXE, regs.efer & EFER_NXE != 0);
            regs.cr3 & !0x1f
        } else {
            role.set(Role::PSE, regs.cr4 & CR4_PSE != 0);
            regs.cr3 & !0xfff
        };
        Some(Paging {
            role,
            root,
            pdptes: [0; 4],
            physical_bits,
        })
    }

    pub(crate) fn load_pdptes(&mut self, memory: Tables<'_>) {
        if self.role.contains(Role::PAE) {
            for (i, pdpte) in (0u32..).zip(&mut self.pdptes) {
                *pdpte = memory.load(u64::from(self.root + i * 8), true).value;
            }
        }
    }

    pub(crate) fn geometry(&self) -> Geometry {
        Geometry::of(self.role)
    }

    /// Physical address of the page directory that holds the entry of a region, if there is one.
    pub(crate) fn directory(&self, region: u32) -> Option<u64> {
        if self.role.contains(Role::PAE) {
            let pdpte = self
                .pdptes
                .get((region >> 9) as usize)
                .copied()
                .unwrap_or(0);
            (pdpte & P != 0).then_some(pdpte & self.pae_address_mask())
        } else {
            Some(u64::from(self.root))
        }
    }

    /// The directory entry of a region; 0 (not present) where there is no directory.
    pub(crate) fn directory_entry(&self, memory: Tables<'_>, region: u32) -> Entry {
        let geometry = self.geometry();
        match self.directory(region) {
            Some(directory) => {
                let index = region & (geometry.entries - 1);
                memory.load(
                    directory + u64::from(index) * geometry.entry_bytes(),
                    geometry.pae,
                )
            }
            None => Entry {
                at: None,
                value: 0,
                cacheable: true,
            },
        }
    }

    /// Walks the tables for a linear address.
    pub(crate) fn walk(&self, memory: Tables<'_>, linear: u32) -> Walk {
        let geometry = self.geometry();
        let region = linear >> geometry.region_shift;
        let directory = self.directory_entry(memory, region);
        let mut walk = Walk {
            linear,
            region,
            directory,
            table_entry: None,
            outcome: WalkOutcome::NotPresent,
            cacheable: directory.cacheable,
        };
        let pde = directory.value;
        if pde & P == 0 {
            return walk;
        }
        let large = pde & PS != 0 && (geometry.pae || self.role.contains(Role::PSE));
        if pde & self.reserved_in_directory(large) != 0 {
            walk.outcome = WalkOutcome::Reserved;
            return walk;
        }
        if large {
            walk.outcome = WalkOutcome::Mapped(Translation {
                gpa: self.large_address(pde)
                    | u64::from(linear & ((1 << geometry.region_shift) - 1)),
                write: pde & W != 0,
                user: pde & U != 0,
                no_execute: self.execute_disabled(pde),
                large: true,
            });
            return walk;
        }
        let index = (linear >> 12) & (geometry.entries - 1);
        let table = self.table_address(pde);
        let entry = memory.load(
            table + u64::from(index) * geometry.entry_bytes(),
            geometry.pae,
        );
        walk.table_entry = Some(entry);
        walk.cacheable &= entry.cacheable;
        let pte = entry.value;
        if pte & P == 0 {
            return walk;
        }
        if pte & self.reserved_in_table() != 0 {
            walk.outcome = WalkOutcome::Reserved;
            return walk;
        }
        walk.outcome = WalkOutcome::Mapped(Translation {
            gpa: self.page_address(pte) | u64::from(linear & 0xfff),
            write: pde & pte & W != 0,
            user: pde & pte & U != 0,
            no_execute: self.execute_disabled(pde | pte),
            large: false,
        });
        walk
    }

    /// Physical address of the page table that a (not large) directory entry points to.
    pub(crate) fn table_address(&self, pde: u64) -> u64 {
        self.page_address(pde)
    }

    /// Physical address of the page that a page-table entry maps.
    pub(crate) fn page_address(&self, pte: u64) -> u64 {
        if self.role.contains(Role::PAE) {
            pte & self.pae_address_mask()
        } else {
            pte & 0xffff_f000
        }
    }

    /// A directory entry maps a large page (and is neither absent nor reserved).
    pub(crate) fn is_large(&self, pde: u64) -> bool {
        pde & (P | PS) == P | PS
            && self.role.intersects(Role::PAE | Role::PSE)
            && pde & self.reserved_in_directory(true) == 0
    }

    /// Physical address of a large page.
    pub(crate) fn large_address(&self, pde: u64) -> u64 {
        if self.role.contains(Role::PAE) {
            return pde & self.pae_address_mask() & !0x1f_ffff;
        }
        // PSE-36: bits 20:13 are address bits 39:32, as far as the processor has them.
        let high = (pde >> 13 & 0xff) & ((1 << (self.physical_bits.clamp(32, 40) - 32)) - 1);
        (pde & 0xffc0_0000) | high << 32
    }

    pub(crate) fn execute_disabled(&self, entries: u64) -> bool {
        self.role.contains(Role::NXE) && entries & XD != 0
    }

    fn pae_address_mask(&self) -> u64 {
        ((1 << self.physical_bits.clamp(32, 52)) - 1) & !0xfff
    }

    fn reserved_in_directory(&self, large: bool) -> u64 {
        if self.role.contains(Role::PAE) {
            return self.reserved_in_table() | if large { 0x1f_e000 } else { 0 };
        }
        if !large {
            return 0;
        }
        let address_bits = ((1u64 << (self.physical_bits.clamp(32, 40) - 32)) - 1) << 13;
        0x3f_e000 & !address_bits
    }

    pub(crate) fn reserved_in_table(&self) -> u64 {
        if !self.role.contains(Role::PAE) {
            return 0;
        }
        let above = !(self.pae_address_mask() | 0xfff) & !XD;
        if self.role.contains(Role::NXE) {
            above
        } else {
            above | XD
        }
    }
}

/// The sizes that differ between 32-bit and PAE paging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    pub(crate) pae: bool,
    /// log2 of the bytes that a directory entry covers.
    pub(crate) region_shift: u32,
    /// Entries in a table.
    pub(crate) entries: u32,
}

impl Geometry {
    pub(crate) fn of(role: Role) -> Geometry {
        if role.contains(Role::PAE) {
            Geometry {
                pae: true,
                region_shift: 21,
                entries: 512,
            }
        } else {
            Geometry {
                pae: false,
                region_shift: 22,
                entries: 1024,
            }
        }
    }

    /// Pages that a directory entry covers.
    pub(crate) fn region_pages(self) -> u32 {
        1 << (self.region_shift - 12)
    }

    /// Directory entries of the whole linear address space.
    pub(crate) fn regions(self) -> u32 {
        1 << (32 - self.region_shift)
    }

    pub(crate) fn entry_bytes(self) -> u64 {
        if self.pae { 8 } else { 4 }
    }
}

/// Read access to guest tables.
#[derive(Clone, Copy)]
pub(crate) struct Tables<'a> {
    pub(crate) ram: &'a GuestRam,
    pub(crate) map: &'a PhysMap,
}

impl Tables<'_> {
    fn load(self, gpa: u64, wide: bool) -> Entry {
        let frame = self.map.lookup(gpa);
        let Some(page) = frame.page() else {
            // Nothing answers on the bus: all ones. What a device answers cannot be traced either.
            let value = if wide { u64::MAX } else { u64::from(u32::MAX) };
            return Entry {
                at: None,
                value,
                cacheable: false,
            };
        };
        let offset = (gpa & 0xfff) as u32;
        let value = if wide {
            self.ram.load_u64(page, offset / 8)
        } else {
            u64::from(self.ram.load_u32(page, offset / 4))
        };
        let at = matches!(frame, crate::phys::Frame::Ram(_)).then_some(EntryAt {
            page,
            word: offset / 4,
        });
        Entry {
            at,
            value,
            cacheable: true,
        }
    }
}

/// A paging-structure entry and where it was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Where; `None` if it cannot be written.
    pub(crate) at: Option<EntryAt>,
    pub(crate) value: u64,
    /// It is in memory, where changes are seen.
    pub(crate) cacheable: bool,
}

/// The low doubleword of an entry in the memory file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EntryAt {
    pub(crate) page: HostPage,
    pub(crate) word: u32,
}

/// What a walk found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    pub(crate) linear: u32,
    /// Number of the directory entry, counted over the whole linear address space.
    pub(crate) region: u32,
    pub(crate) directory: Entry,
    pub(crate) table_entry: Option<Entry>,
    pub(crate) outcome: WalkOutcome,
    /// Every entry read was in memory, where changes are seen.
    pub(crate) cacheable: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WalkOutcome {
    NotPresent,
    Reserved,
    Mapped(Translation),
}

/// A present mapping, before rights are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Translation {
    /// Guest-physical address, before the A20 gate.
    pub(crate) gpa: u64,
    pub(crate) write: bool,
    pub(crate) user: bool,
    pub(crate) no_execute: bool,
    /// By a directory entry.
    pub(crate) large: bool,
}

impl Walk {
    /// The entry whose dirty bit counts.
    pub(crate) fn last_entry(&self) -> Entry {
        self.table_entry.unwrap_or(self.directory)
    }

    /// The translation if `access` is allowed, otherwise the error code.
    pub(crate) fn check(&self, access: Access, role: Role) -> Result<Translation, FaultCode> {
        let mut code = FaultCode::empty();
        code.set(FaultCode::WRITE, access.is_write());
        code.set(FaultCode::USER, access.privilege == Privilege::User);
        code.set(
            FaultCode::FETCH,
            access.kind == AccessKind::Execute && role.contains(Role::NXE),
        );
        let t = match self.outcome {
            WalkOutcome::NotPresent => return Err(code),
            WalkOutcome::Reserved => return Err(code | FaultCode::PRESENT | FaultCode::RESERVED),
            WalkOutcome::Mapped(t) => t,
        };
        let allowed = match access.privilege {
            Privilege::User => t.user && (t.write || !access.is_write()),
            Privilege::Supervisor => t.write || !access.is_write() || !role.contains(Role::WP),
        };
        let executable = access.kind != AccessKind::Execute || !t.no_execute;
        if allowed && executable {
            Ok(t)
        } else {
            Err(code | FaultCode::PRESENT)
        }
    }
}
