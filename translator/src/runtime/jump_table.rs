//! Jump tables: from EIP to host code, exact and sparse.
//!
//! A table has an entry for every EIP: the offset of the unit from the start of the code cache, 0
//! (the miss stub) where there is none. It is reserved, not allocated: only the pages that hold
//! entries cost memory. Each code space - a space of the shadow MMU, a mode and a code segment -
//! has one, so the lookup needs no comparison and touches no flags.
#![allow(unsafe_code)] // sparse tables of 16 GiB

use super::units::FastMap;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

/// Guest code bytes whose entries share a page of the table.
const EIPS_PER_PAGE: u64 = 1024;

/// Number of the last guest page.
const LAST_PAGE: u32 = 0xF_FFFF;

/// One table.
#[derive(Debug)]
pub(crate) struct JumpTable {
    entries: NonNull<u32>,
    count: u64,
    /// Guest pages (EIP / 4096) that have entries, with a bit for each of the four pages of the table that
    /// they take.
    pages: FastMap<u32, u8>,
    /// Guest pages that have got entries since the memory was last given back; one that was emptied in
    /// between counts again.
    touched: usize,
}

// SAFETY: owns its mapping.
unsafe impl Send for JumpTable {}

impl JumpTable {
    /// A table for EIPs up to `limit` + 1, all empty.
    pub(crate) fn new(limit: u32) -> io::Result<JumpTable> {
        let count = JumpTable::entries_for(limit);
        let bytes =
            NonZeroUsize::new(count as usize * 4).ok_or_else(|| io::Error::other("empty table"))?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new anonymous mapping at an address the kernel chooses.
        let mapping = unsafe { mmap_anonymous(None, bytes, protection, flags)? };
        // Huge pages would turn a sparse table into gigabytes; failing to say so is no error.
        // SAFETY: advice about the mapping just made.
        let _ = unsafe { madvise(mapping, bytes.get(), MmapAdvise::MADV_NOHUGEPAGE) };
        Ok(JumpTable {
            entries: mapping.cast(),
            count,
            pages: FastMap::default(),
            touched: 0,
        })
    }

    fn entries_for(limit: u32) -> u64 {
        // One entry beyond the limit: an instruction that ends at the limit is followed by it.
        (u64::from(limit) + 2).next_multiple_of(EIPS_PER_PAGE)
    }

    /// Address of entry 0.
    pub(crate) fn address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }

    /// Bytes of memory that the table takes, at most.
    pub(crate) fn bytes(&self) -> usize {
        self.touched * 4096 * size_of::<u32>()
    }

    /// The guest page of `eip` has entries.
    pub(crate) fn knows_page(&self, eip: u32) -> bool {
        self.pages.contains_key(&(eip >> 12))
    }

    pub(crate) fn set(&mut self, eip: u32, offset: u32) {
        if u64::from(eip) >= self.count {
            return;
        }
        // SAFETY: index below count.
        let entry = unsafe { self.entries.as_ptr().add(eip as usize) };
        // SAFETY: as above; translated code, which reads the table too, is not running.
        unsafe {
            if entry.read() == offset {
                return; // most are set again and again
            }
            entry.write(offset);
        }
        let quarter = u64::from(eip) % 4096 / EIPS_PER_PAGE;
        let quarters = self.pages.entry(eip >> 12).or_default();
        self.touched += usize::from(*quarters == 0);
        *quarters |= 1 << quarter;
    }

    /// The entry for `eip`, if there is one. Does not make memory of the table.
    pub(crate) fn get(&self, eip: u32) -> Option<u32> {
        let quarters = *self.pages.get(&(eip >> 12))?;
        if quarters >> (u64::from(eip) % 4096 / EIPS_PER_PAGE) & 1 == 0
            || u64::from(eip) >= self.count
        {
            return None;
        }
        // SAFETY: index below count.
        let entry = unsafe { self.entries.as_ptr().add(eip as usize).read() };
        (entry != 0).then_some(entry)
    }

    /// Empties the entry for `eip`, if it is `offset`.
    pub(crate) fn forget(&mut self, eip: u32, offset: u32) {
        if self.get(eip) == Some(offset) {
            self.fill(eip.into(), 1);
        }
    }

    /// Empties the table by writing to what was written to, which is less work than giving the memory back
    /// and getting it again.
    fn wipe(&mut self) {
        for (page, quarters) in std::mem::take(&mut self.pages) {
            self.fill_quarters(page, quarters);
        }
    }

    fn fill_quarters(&mut self, page: u32, quarters: u8) {
        for quarter in (0..4).filter(|quarter| quarters >> quarter & 1 != 0) {
            let from = u64::from(page) * 4096 + quarter * EIPS_PER_PAGE;
            self.fill(from, EIPS_PER_PAGE);
        }
    }

    /// Empties the entries for the guest page `page` (EIP / 4096), and for the instructions that
    /// reach into it from the page before.
    pub(crate) fn clear_page(&mut self, page: u32) {
        let before = page.wrapping_sub(1) & LAST_PAGE;
        if self.pages.contains_key(&before) {
            self.fill(u64::from(before) * 4096 + 4096 - 15, 15);
        }
        if let Some(quarters) = self.pages.remove(&page) {
            self.fill_quarters(page, quarters);
        }
    }

    /// Empties `count` pages from `first` on, with page 0 behind the last one (linear addresses wrap around,
    /// and EIP is off by the base of CS); cheap where they have no entries.
    pub(crate) fn clear_pages(&mut self, first: u32, count: u32) {
        if count as usize > self.pages.len() {
            let hit: Vec<u32> = self
                .pages
                .keys()
                .copied()
                .filter(|page| page.wrapping_sub(first) & LAST_PAGE < count)
                .collect();
            for page in hit {
                self.clear_page(page);
            }
            self.clear_page(first);
        } else {
            for page in 0..count {
                self.clear_page(first.wrapping_add(page) & LAST_PAGE);
            }
        }
    }

    /// Empties the table and gives its memory back.
    pub(crate) fn clear(&mut self) {
        self.pages.clear();
        self.touched = 0;
        // SAFETY: private anonymous memory reads as zero afterwards; the range is the mapping.
        let advised = unsafe {
            madvise(
                self.entries.cast(),
                self.count as usize * 4,
                MmapAdvise::MADV_DONTNEED,
            )
        };
        if let Err(error) = advised {
            tracing::warn!(%error, "a jump table could not be emptied; zeroing it");
            self.fill(0, self.count);
        }
    }

    fn fill(&mut self, from: u64, length: u64) {
        let length = length.min(self.count.saturating_sub(from));
        // SAFETY: from + length <= count.
        unsafe {
            self.entries
                .as_ptr()
                .add(from as usize)
                .write_bytes(0, length as usize)
        };
    }
}

impl Drop for JumpTable {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`.
        let _ = unsafe { munmap(self.entries.cast(), self.count as usize * 4) };
    }
}

/// Emptied tables, to be used again: processes come and go, and each has a space of its own.
#[derive(Debug, Default)]
pub(crate) struct SpareTables(Vec<JumpTable>);

impl SpareTables {
    const MOST: usize = 16;
    /// Guest pages above which a table is not worth keeping: its memory would be lost to others.
    const PAGES: usize = 256;

    /// An empty table for EIPs up to `limit` + 1.
    pub(crate) fn take(&mut self, limit: u32) -> io::Result<JumpTable> {
        let count = JumpTable::entries_for(limit);
        match self.0.iter().rposition(|table| table.count == count) {
            Some(index) => Ok(self.0.swap_remove(index)),
            None => JumpTable::new(limit),
        }
    }

    /// Bytes of memory that the tables take, at most.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(JumpTable::bytes).sum()
    }

    /// Gives the tables back.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// Keeps a table that is no longer used.
    pub(crate) fn put(&mut self, mut table: JumpTable) {
        if self.0.len() < Self::MOST && table.pages.len() <= Self::PAGES {
            table.wipe();
            self.0.push(table);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_is_used_again_is_empty() {
        let mut spare = SpareTables::default();
        let mut table = spare.take(u32::MAX).expect("address space");
        let eips = [0, 1023, 1024, 0x1234_5FFF, 0xC000_0000, u32::MAX];
        let read = |table: &JumpTable, eip: u32| {
            // SAFETY: the table covers every EIP.
            unsafe { table.entries.as_ptr().add(eip as usize).read() }
        };
        for eip in eips {
            table.set(eip, 77);
            table.set(eip, 77);
            assert_eq!(read(&table, eip), 77);
        }
        table.clear_page(0xC_0000);
        assert_eq!(read(&table, 0xC000_0000), 0);
        let address = table.address();
        spare.put(table);
        let real = spare.take(0xFFFF).expect("address space");
        assert_ne!(real.address(), address, "of another size");
        let again = spare.take(u32::MAX).expect("address space");
        assert_eq!(again.address(), address);
        for eip in eips {
            assert_eq!(read(&again, eip), 0, "{eip:#x}");
        }
    }

    #[test]
    fn pages_are_cleared_around_the_end_of_the_address_space() {
        let mut table = JumpTable::new(0x3_FFFF).expect("address space");
        let entry = |table: &JumpTable| {
            // SAFETY: the index is below the number of entries.
            unsafe { table.entries.as_ptr().add(0x7004).read() }
        };
        // By the pages of the range, and by the entries that there are.
        for count in [24, 1024] {
            for eip in (4..0x3_0004).step_by(0x1000) {
                table.set(eip, 1);
            }
            assert_eq!(entry(&table), 1);
            table.clear_pages(0xF_FFF0, count);
            assert_eq!(entry(&table), 0, "{count} pages");
        }
    }

    #[test]
    fn the_eip_behind_the_limit_has_an_entry() {
        for limit in [0xFFFF, 0xFFE, 0xFFFF_FFFE] {
            let table = JumpTable::new(limit).expect("address space");
            assert!(u64::from(limit) + 1 < table.count, "{limit:#x}");
        }
    }
}
