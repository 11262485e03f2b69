//! The record of traces: which pages of memory the module depends on, and who uses them as page tables.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::ram::HostPage;

bitflags::bitflags! {
    /// Why a page is traced.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) struct Trace: u8 {
        /// It is a guest page table in use.
        const TABLE = 1 << 0;
        /// Code was translated from it.
        const CODE = 1 << 1;
        /// It was a guest page table until lately, and may well be one again: processes come and go. It stays
        /// read-only, and nothing depends on it; the second fault on it ends that. (The first is for an
        /// instruction that fills a page table to be: it learns to write without a fault.)
        const FORMER = 1 << 2;
        /// A former page table has met a fault.
        const FAULTED = 1 << 3;
    }
}

/// Somebody who depends on a guest table: a space, and the (first) region that the table covers there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TableUse {
    pub(crate) slot: u8,
    pub(crate) region: u32,
}

/// Who uses a page of memory as a guest table.
#[derive(Debug, Default)]
pub(crate) struct TableUses {
    /// As a page directory.
    pub(crate) directories: Vec<TableUse>,
    /// As a page table.
    pub(crate) tables: Vec<TableUse>,
    /// Writes since it was last used for a fill that look as if it no longer is a table.
    pub(crate) dead_writes: u32,
}

impl TableUses {
    fn is_empty(&self) -> bool {
        self.directories.is_empty() && self.tables.is_empty()
    }
}

/// Page numbers are dense and not chosen by an attacker of the hash table; a multiplication spreads them well enough.
#[derive(Default)]
pub(crate) struct PageHasher(u64);

impl Hasher for PageHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &b in bytes {
            self.write_u32(u32::from(b));
        }
    }

    fn write_u32(&mut self, n: u32) {
        self.0 = (self.0 ^ u64::from(n))
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_right(20);
    }
}

type PageMap<T> = HashMap<HostPage, T, BuildHasherDefault<PageHasher>>;

/// All traces of a machine.
///
/// Invariant: a page has [`Trace::TABLE`] exactly while it has a use.
#[derive(Debug)]
pub(crate) struct Traces {
    flags: Vec<u8>,
    /// Guarded pages in each 2 MiB of memory.
    chunks: Vec<u16>,
    uses: PageMap<TableUses>,
}

impl Traces {
    pub(crate) fn new(pages: u32) -> Traces {
        Traces {
            flags: vec![0; pages as usize],
            chunks: vec![0; pages.div_ceil(512) as usize],
            uses: PageMap::default(),
        }
    }

    #[inline]
    pub(crate) fn get(&self, page: HostPage) -> Trace {
        Trace::from_bits_retain(self.flags.get(page as usize).copied().unwrap_or(0))
    }

    /// Something depends on the contents of the page.
    #[inline]
    pub(crate) fn is_traced(&self, page: HostPage) -> bool {
        self.get(page).intersects(Trace::TABLE.union(Trace::CODE))
    }

    /// The page is mapped read-only everywhere: it is traced, or was.
    #[inline]
    pub(crate) fn is_guarded(&self, page: HostPage) -> bool {
        !self.get(page).is_empty()
    }

    /// Some page of the 2 MiB around `page` is guarded.
    pub(crate) fn any_in_chunk(&self, page: HostPage) -> bool {
        self.chunks
            .get((page / 512) as usize)
            .is_some_and(|&n| n != 0)
    }

    /// Adds a reason; true if the page was not guarded before.
    pub(crate) fn set(&mut self, page: HostPage, why: Trace) -> bool {
        let Some(flags) = self.flags.get_mut(page as usize) else {
            return false;
        };
        let fresh = *flags == 0;
        *flags = *flags & !(Trace::FORMER | Trace::FAULTED).bits() | why.bits();
        if fresh && let Some(n) = self.chunks.get_mut((page / 512) as usize) {
            *n += 1;
        }
        fresh
    }

    /// Removes a reason; true if the page is no longer guarded and was before. A page table becomes a former one.
    pub(crate) fn clear(&mut self, page: HostPage, why: Trace) -> bool {
        let Some(flags) = self.flags.get_mut(page as usize) else {
            return false;
        };
        let was = *flags != 0;
        let table = *flags & why.bits() & Trace::TABLE.bits() != 0;
        *flags &= !why.bits();
        if table && *flags == 0 {
            *flags = Trace::FORMER.bits();
        }
        let freed = was && *flags == 0;
        if freed && let Some(n) = self.chunks.get_mut((page / 512) as usize) {
            *n -= 1;
        }
        freed
    }

    /// A former page table is about to be written to. True if it is to end being one.
    pub(crate) fn former_faulted(&mut self, page: HostPage) -> bool {
        let again = self.get(page).contains(Trace::FAULTED);
        if let Some(flags) = self.flags.get_mut(page as usize) {
            *flags |= Trace::FAULTED.bits();
        }
        again
    }

    /// The page was a page table, and nothing depends on it now.
    pub(crate) fn is_former(&self, page: HostPage) -> bool {
        self.is_guarded(page) && !self.is_traced(page)
    }

    pub(crate) fn uses(&self, page: HostPage) -> Option<&TableUses> {
        self.uses.get(&page)
    }

    pub(crate) fn uses_mut(&mut self, page: HostPage) -> Option<&mut TableUses> {
        self.uses.get_mut(&page)
    }

    pub(crate) fn add_use(&mut self, page: HostPage, user: TableUse, directory: bool) {
        let uses = self.uses.entry(page).or_default();
        if directory {
            uses.directories.push(user)
        } else {
            uses.tables.push(user)
        }
    }

    /// Removes a use; true if it was the last one.
    pub(crate) fn remove_use(&mut self, page: HostPage, user: TableUse, directory: bool) -> bool {
        let Some(uses) = self.uses.get_mut(&page) else {
            return false;
        };
        let list = if directory {
            &mut uses.directories
        } else {
            &mut uses.tables
        };
        list.retain(|u| *u != user);
        let last = uses.is_empty();
        if last {
            self.uses.remove(&page);
        }
        last
    }

    /// All pages in use as tables.
    pub(crate) fn tables(&self) -> impl Iterator<Item = (HostPage, &TableUses)> {
        self.uses.iter().map(|(&page, uses)| (page, uses))
    }
}
