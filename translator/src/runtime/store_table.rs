//! Store tables: where a store may go on a page that holds code and data.
//!
//! A page that code was translated from is read-only in every window. Stores that keep meeting such
//! pages are translated in a checked form (`AccessHint::CheckedStore`): a byte for every linear
//! address of a space picks one of a few host bases, to which the linear address is added.
//!
//! - 0, nearly everywhere: the window itself;
//! - on a page that has an *alias*: the VMM's own mapping of the page, which can be written, for
//!   operands that end in front of the next byte of code (and of the end of the page); otherwise
//!   the trap region, in which every access faults and tells its linear address.
//!
//! So a checked store costs three dependent loads and no comparison, and a store into code is
//! noticed as before.
#![allow(unsafe_code)] // sparse tables of 4 GiB

use super::units::FastMap;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use shadow_mmu::SpaceId;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

/// Operand sizes that are told apart: up to 1, 2, 4, 8 and 16 bytes.
pub(crate) const SIZES: usize = 5;
/// Values of a table's bytes.
pub(crate) const VALUES: usize = 256;
/// Values for one alias base: how many of the sizes fit, 0 to [`SIZES`].
const CLASSES: usize = SIZES + 1;
/// Different alias bases; one is enough where linear and physical addresses differ by a constant.
const MAX_BASES: usize = (VALUES - 1) / CLASSES;

const PAGE: usize = 4096;
const FOUR_GIB: usize = 1 << 32;
/// Most spaces that have a table.
const MAX_TABLES: usize = 64;

/// For each size the host base that a table byte stands for: what translated code indexes.
pub(crate) type StoreBases = [[u64; VALUES]; SIZES];

/// The row of [`StoreBases`] for an operand, if checked stores know its size.
pub(crate) fn row(size: u32) -> Option<usize> {
    match size {
        1 => Some(0),
        2 => Some(1),
        3..=4 => Some(2),
        5..=8 => Some(3),
        9..=16 => Some(4),
        _ => None,
    }
}

/// How many of the sizes fit into `room` bytes.
fn class_of(room: u32) -> u8 {
    match room {
        0 => 0,
        1 => 1,
        2..=3 => 2,
        4..=7 => 3,
        8..=15 => 4,
        _ => 5,
    }
}

/// The bytes of a page that code was translated from, one bit each.
pub(crate) type CodeMap = [u64; PAGE / 64];

/// Sets the bits of bytes `first..end`, as far as they are in the page.
pub(crate) fn mark(map: &mut CodeMap, first: u32, end: u32) {
    for at in first..end.min(PAGE as u32) {
        if let Some(word) = map.get_mut((at / 64) as usize) {
            *word |= 1 << (at % 64);
        }
    }
}

/// The first byte of code at or behind `offset`; the end of the page if there is none.
pub(crate) fn next_code(map: &CodeMap, offset: u32) -> u32 {
    let mut at = offset;
    while at < PAGE as u32 {
        let word = map.get((at / 64) as usize).map_or(0, |w| w >> (at % 64));
        if word != 0 {
            return at + word.trailing_zeros();
        }
        at = (at | 63) + 1;
    }
    PAGE as u32
}

/// 4 GiB of reserved address space.
#[derive(Debug)]
struct Reservation(NonNull<u8>);

// SAFETY: owns its mapping.
unsafe impl Send for Reservation {}

impl Reservation {
    fn new(bytes: usize, protection: ProtFlags) -> io::Result<Reservation> {
        let bytes =
            NonZeroUsize::new(bytes).ok_or_else(|| io::Error::other("an empty reservation"))?;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address the kernel chooses.
        let mapping = unsafe { mmap_anonymous(None, bytes, protection, flags)? };
        // SAFETY: advice about the mapping just made; huge pages would fill a sparse table.
        let _ = unsafe { madvise(mapping, bytes.get(), MmapAdvise::MADV_NOHUGEPAGE) };
        Ok(Reservation(mapping.cast()))
    }

    fn address(&self) -> u64 {
        self.0.as_ptr() as u64
    }
}

/// Bytes reserved for a table or the trap region: an operand may reach beyond 4 GiB.
const RESERVED: usize = FOUR_GIB + PAGE;

impl Drop for Reservation {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`.
        let _ = unsafe { munmap(self.0.cast(), RESERVED) };
    }
}

/// The table of one space.
#[derive(Debug)]
struct StoreTable {
    bytes: Reservation,
    /// Linear pages with an alias, and the number of its base.
    pages: FastMap<u32, u8>,
}

impl StoreTable {
    /// The bytes of a linear page.
    fn page(&mut self, page: u32) -> &mut [u8] {
        let start = (page as usize & 0xF_FFFF) * PAGE;
        // SAFETY: within the reservation; the borrow of the table makes the slice unique, and
        // translated code does not run meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.bytes.0.as_ptr().add(start), PAGE) }
    }
}

/// All store tables of a vCPU.
#[derive(Debug)]
pub(crate) struct Stores {
    tables: FastMap<SpaceId, StoreTable>,
    empty: Reservation,
    trap: Reservation,
    /// Alias bases: host address of a page minus its linear address.
    bases: Vec<u64>,
}

impl Stores {
    pub(crate) fn new() -> io::Result<Stores> {
        Ok(Stores {
            tables: FastMap::default(),
            empty: Reservation::new(RESERVED, ProtFlags::PROT_READ)?,
            trap: Reservation::new(RESERVED, ProtFlags::PROT_NONE)?,
            bases: Vec::new(),
        })
    }

    /// Address of the table of a space.
    pub(crate) fn address(&self, space: SpaceId) -> u64 {
        let table = self.tables.get(&space).map(|table| &table.bytes);
        table.unwrap_or(&self.empty).address()
    }

    /// The linear address of a store that met the trap region.
    pub(crate) fn trapped(&self, address: u64) -> Option<u32> {
        let offset = address.wrapping_sub(self.trap.address());
        (offset < RESERVED as u64).then_some(offset as u32)
    }

    /// True when a linear page has an alias.
    pub(crate) fn has_alias(&self, space: SpaceId, page: u32) -> bool {
        self.tables
            .get(&space)
            .is_some_and(|table| table.pages.contains_key(&page))
    }

    /// Gives a linear page an alias, whose first byte is at `host`. `None` where there is no room:
    /// [`Stores::clear`] makes some.
    pub(crate) fn add(
        &mut self,
        space: SpaceId,
        page: u32,
        host: u64,
        code: &CodeMap,
        bases: &mut StoreBases,
    ) -> Option<()> {
        let base = host.wrapping_sub(u64::from(page) << 12);
        let number = match self.bases.iter().position(|&known| known == base) {
            Some(number) => number,
            None if self.bases.len() < MAX_BASES => {
                self.bases.push(base);
                self.bases.len() - 1
            }
            None => return None,
        };
        let first = 1 + number * CLASSES;
        for (size, row) in bases.iter_mut().enumerate() {
            for (class, value) in row.iter_mut().skip(first).take(CLASSES).enumerate() {
                *value = if class > size {
                    base
                } else {
                    self.trap.address()
                };
            }
        }
        if !self.tables.contains_key(&space) {
            if self.tables.len() >= MAX_TABLES {
                return None;
            }
            let bytes =
                Reservation::new(RESERVED, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE).ok()?;
            let pages = FastMap::default();
            self.tables.insert(space, StoreTable { bytes, pages });
        }
        self.tables.get_mut(&space)?.pages.insert(page, first as u8);
        self.refresh(space, page, code);
        Some(())
    }

    /// Brings the bytes of a page in line with where its code is now. True if that allows more, or
    /// other, stores than before.
    pub(crate) fn refresh(&mut self, space: SpaceId, page: u32, code: &CodeMap) -> bool {
        let Some(table) = self.tables.get_mut(&space) else {
            return false;
        };
        let Some(&first) = table.pages.get(&page) else {
            return false;
        };
        let mut changed = false;
        let mut next = PAGE as u32;
        for (at, byte) in (0..PAGE as u32).zip(table.page(page)).rev() {
            if code
                .get((at / 64) as usize)
                .is_some_and(|w| w >> (at % 64) & 1 != 0)
            {
                next = at;
            }
            let value = first + class_of(next - at);
            changed |= *byte != value;
            *byte = value;
        }
        changed
    }

    /// Code was translated from bytes `from..end` of a page.
    pub(crate) fn add_code(&mut self, space: SpaceId, page: u32, from: u32, end: u32) {
        let Some(table) = self.tables.get_mut(&space) else {
            return;
        };
        let Some(&first) = table.pages.get(&page) else {
            return;
        };
        let largest = 16;
        let bytes = table.page(page);
        for at in from.saturating_sub(largest)..end.min(PAGE as u32) {
            if let Some(byte) = bytes.get_mut(at as usize) {
                *byte = (*byte).min(first + class_of(from.saturating_sub(at)));
            }
        }
    }

    /// Linear pages that may no longer map what they did lose their aliases.
    pub(crate) fn remove(&mut self, space: SpaceId, first: u32, count: u32) {
        let Some(table) = self.tables.get_mut(&space) else {
            return;
        };
        let gone: Vec<u32> = table
            .pages
            .keys()
            .copied()
            .filter(|page| page.wrapping_sub(first) < count)
            .collect();
        for page in gone {
            table.pages.remove(&page);
            table.page(page).fill(0);
        }
    }

    /// A space is gone.
    pub(crate) fn drop_space(&mut self, space: SpaceId) {
        self.tables.remove(&space);
    }

    /// Forgets all aliases.
    pub(crate) fn clear(&mut self) {
        for table in self.tables.values_mut() {
            let pages: Vec<u32> = table.pages.drain().map(|(page, _)| page).collect();
            for page in pages {
                table.page(page).fill(0);
            }
        }
        self.bases.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_says_which_sizes_fit() {
        let mut code = [0; PAGE / 64];
        mark(&mut code, 100, 103);
        mark(&mut code, 4090, 5000);
        assert_eq!(next_code(&code, 0), 100);
        assert_eq!(next_code(&code, 101), 101);
        assert_eq!(next_code(&code, 103), 4090);
        assert_eq!(next_code(&[0; PAGE / 64], 7), 4096);
        for (room, fits) in [
            (0, 0),
            (1, 1),
            (2, 2),
            (3, 2),
            (4, 3),
            (8, 4),
            (15, 4),
            (16, 5),
        ] {
            assert_eq!(class_of(room), fits);
        }
        assert_eq!(row(10), Some(4));
        assert_eq!(row(28), None);
    }

    #[test]
    fn refreshing_and_adding_code_agree() {
        let mmu = shadow_mmu::Mmu::new(shadow_mmu::MmuConfig {
            ram_bytes: 4 << 20,
            ..shadow_mmu::MmuConfig::default()
        })
        .unwrap();
        let space = mmu.space_of(shadow_mmu::Privilege::Supervisor);
        let mut stores = Stores::new().unwrap();
        let mut bases: Box<StoreBases> = Box::new([[0; VALUES]; SIZES]);
        let mut code = [0; PAGE / 64];
        stores
            .add(space, 5, 0x7000_0000_5000, &code, &mut bases)
            .unwrap();
        for (first, end) in [(40, 43), (3, 5), (50, 80), (4080, 4096), (0, 1)] {
            mark(&mut code, first, end);
            stores.add_code(space, 5, first, end);
            assert!(!stores.refresh(space, 5, &code), "{first}");
        }
        let value =
            |stores: &mut Stores, at: usize| stores.tables.get_mut(&space).unwrap().page(5)[at];
        // Two bytes fit in front of the code at 3.
        let byte = value(&mut stores, 1) as usize;
        assert_eq!(bases[1][byte], 0x7000_0000_0000);
        assert_eq!(bases[2][byte], stores.trap.address());
        stores.remove(space, 4, 2);
        assert_eq!(value(&mut stores, 1), 0);
    }
}
