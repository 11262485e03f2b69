//! Jump tables: from EIP to host code, exact and sparse.
//!
//! A table has an entry for every EIP: the offset of the unit from the start of the code cache, 0
//! (the miss stub) where there is none. It is reserved, not allocated: only the pages that hold
//! entries cost memory. Each code space - a space of the shadow MMU, a mode and a code segment -
//! has one, so the lookup needs no comparison and touches no flags.
#![allow(unsafe_code)] // sparse tables of 16 GiB

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use std::collections::HashSet;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

/// Guest code bytes whose entries share a page of the table.
const EIPS_PER_PAGE: u64 = 1024;

/// One table.
#[derive(Debug)]
pub(crate) struct JumpTable {
    entries: NonNull<u32>,
    count: u64,
    /// Guest pages (EIP / 4096) that have entries.
    pages: HashSet<u32>,
}

// SAFETY: owns its mapping.
unsafe impl Send for JumpTable {}

impl JumpTable {
    /// A table for EIPs up to `limit` + 1, all empty.
    pub(crate) fn new(limit: u32) -> io::Result<JumpTable> {
        // One entry beyond the limit: an instruction that ends at the limit is followed by it.
        let count = (u64::from(limit) + 2).next_multiple_of(EIPS_PER_PAGE);
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
            pages: HashSet::new(),
        })
    }

    /// Address of entry 0.
    pub(crate) fn address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }

    pub(crate) fn set(&mut self, eip: u32, offset: u32) {
        if u64::from(eip) < self.count {
            self.pages.insert(eip >> 12);
            // SAFETY: index below count.
            unsafe { self.entries.as_ptr().add(eip as usize).write(offset) };
        }
    }

    /// Empties the entries for the guest page `page` (EIP / 4096), and for the instructions that
    /// reach into it from the page before.
    pub(crate) fn clear_page(&mut self, page: u32) {
        let before = page.wrapping_sub(1);
        if self.pages.contains(&before) {
            self.fill(u64::from(before) * 4096 + 4096 - 15, 15);
        }
        if self.pages.remove(&page) {
            self.fill(u64::from(page) * 4096, 4096);
        }
    }

    /// Empties the pages in `range`; cheap where they have no entries.
    pub(crate) fn clear_pages(&mut self, first: u32, count: u32) {
        if count as usize > self.pages.len() {
            let hit: Vec<u32> = self
                .pages
                .iter()
                .copied()
                .filter(|page| page.wrapping_sub(first) < count)
                .collect();
            for page in hit {
                self.clear_page(page);
            }
            self.clear_page(first);
        } else {
            for page in 0..count {
                self.clear_page(first.wrapping_add(page) & 0xF_FFFF);
            }
        }
    }

    /// Empties the table and gives its memory back.
    pub(crate) fn clear(&mut self) {
        self.pages.clear();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eip_behind_the_limit_has_an_entry() {
        for limit in [0xFFFF, 0xFFE, 0xFFFF_FFFE] {
            let table = JumpTable::new(limit).expect("address space");
            assert!(u64::from(limit) + 1 < table.count, "{limit:#x}");
        }
    }
}
