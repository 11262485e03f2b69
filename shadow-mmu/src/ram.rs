//! The memory file and the VMM's own view of it.
#![allow(unsafe_code)] // raw access to the shared mapping of guest memory

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, VolatileSlice,
};

use crate::{MmuError, PAGE_SIZE};

/// A page of the memory file: its offset in the file divided by the page size.
pub(crate) type HostPage = u32;

/// Guest memory: one memfd, mapped once, writable, for the VMM alone.
///
/// The guest can change this memory at any time through its windows, so nothing here hands out Rust references to it.
#[derive(Debug)]
pub(crate) struct GuestRam {
    file: File,
    /// Owns the mapping at `base`.
    _memory: GuestMemoryMmap,
    base: *mut u8,
    pages: u32,
}

// SAFETY: `base` points into the mapping that `_memory` owns; the mapping belongs to the process, not to a thread.
unsafe impl Send for GuestRam {}

impl GuestRam {
    /// Makes a memory file of `pages` zeroed pages.
    pub(crate) fn new(pages: u32) -> Result<GuestRam, MmuError> {
        let bytes = u64::from(pages) * PAGE_SIZE;
        let fd = memfd_create(
            c"ringshift-ram",
            MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING,
        )
        .map_err(MmuError::MemoryFile)?;
        nix::unistd::ftruncate(&fd, bytes as i64).map_err(MmuError::MemoryFile)?;
        // A mapping of a file that shrinks turns into SIGBUS; nobody may do that, whoever the descriptor is passed to.
        let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).map_err(MmuError::MemoryFile)?;
        let file = File::from(fd);
        let view = file
            .try_clone()
            .map_err(|e| MmuError::MapMemory(e.to_string()))?;
        let range = (
            GuestAddress(0),
            bytes as usize,
            Some(FileOffset::new(view, 0)),
        );
        let memory = GuestMemoryMmap::<()>::from_ranges_with_files([range])
            .map_err(|e| MmuError::MapMemory(e.to_string()))?;
        let base = memory
            .get_host_address(GuestAddress(0))
            .map_err(|e| MmuError::MapMemory(e.to_string()))?;
        Ok(GuestRam {
            file,
            _memory: memory,
            base,
            pages,
        })
    }

    /// Number of pages of the file.
    pub(crate) fn pages(&self) -> u32 {
        self.pages
    }

    pub(crate) fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// Reads within the file; a range outside it reads as all ones.
    pub(crate) fn read(&self, page: HostPage, offset: u32, buf: &mut [u8]) {
        let read = self
            .slice(page, offset, buf.len())
            .map(|s| s.read_slice(buf, 0));
        if !matches!(read, Some(Ok(()))) {
            buf.fill(0xff);
        }
    }

    /// Writes within the file; outside it nothing happens.
    pub(crate) fn write(&self, page: HostPage, offset: u32, data: &[u8]) {
        let written = self
            .slice(page, offset, data.len())
            .map(|s| s.write_slice(data, 0));
        debug_assert!(
            matches!(written, Some(Ok(()))),
            "write outside the memory file"
        );
    }

    /// A stretch of the mapping. The accessors of [`GuestMemoryMmap`] would look up the region first, at several times the
    /// cost of a small copy.
    fn slice(&self, page: HostPage, offset: u32, len: usize) -> Option<VolatileSlice<'_>> {
        let start = page as usize * PAGE_SIZE as usize + offset as usize;
        let end = start.checked_add(len)?;
        if end > self.pages as usize * PAGE_SIZE as usize {
            return None;
        }
        // SAFETY: the range lies within the mapping, which lives as long as `self`.
        Some(unsafe { VolatileSlice::new(self.base.add(start), len) })
    }

    /// The host address of a byte, or `None` outside the file.
    pub(crate) fn pointer(&self, page: HostPage, offset: u32) -> Option<*mut u8> {
        if page >= self.pages || u64::from(offset) >= PAGE_SIZE {
            return None;
        }
        // SAFETY: the mapping is `pages` pages long, so that the result stays within it.
        Some(unsafe {
            self.base
                .add((page as usize) * PAGE_SIZE as usize + offset as usize)
        })
    }

    /// The aligned doubleword number `index` of a page.
    pub(crate) fn load_u32(&self, page: HostPage, index: u32) -> u32 {
        self.word(page, index)
            .map_or(u32::MAX, |w| w.load(Ordering::Relaxed))
    }

    /// The aligned quadword number `index` of a page.
    pub(crate) fn load_u64(&self, page: HostPage, index: u32) -> u64 {
        match self.pointer(page, (index & 511) * 8) {
            // SAFETY: in bounds (checked by `pointer`), 8-byte aligned, and only ever accessed atomically or by the guest.
            Some(p) => unsafe { AtomicU64::from_ptr(p.cast()) }.load(Ordering::Relaxed),
            None => u64::MAX,
        }
    }

    /// Sets bits of an aligned doubleword, atomically as the processor does for accessed and dirty flags.
    pub(crate) fn set_bits_u32(&self, page: HostPage, index: u32, bits: u32) {
        if let Some(w) = self.word(page, index) {
            w.fetch_or(bits, Ordering::Relaxed);
        }
    }

    fn word(&self, page: HostPage, index: u32) -> Option<&AtomicU32> {
        let p = self.pointer(page, (index & 1023) * 4)?;
        // SAFETY: in bounds (checked by `pointer`), 4-byte aligned, alive as long as `self`, and only ever accessed atomically
        // or by the guest.
        Some(unsafe { AtomicU32::from_ptr(p.cast()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_bytes_agree() {
        let ram = GuestRam::new(4).unwrap();
        ram.write(3, 8, &0x1122_3344_5566_7788u64.to_le_bytes());
        assert_eq!(ram.load_u64(3, 1), 0x1122_3344_5566_7788);
        assert_eq!(ram.load_u32(3, 3), 0x1122_3344);
        ram.set_bits_u32(3, 2, 0x8000_0000);
        let mut b = [0; 4];
        ram.read(3, 8, &mut b);
        assert_eq!(u32::from_le_bytes(b), 0xd566_7788);
    }

    #[test]
    fn outside_the_file_reads_ones() {
        let ram = GuestRam::new(1).unwrap();
        assert_eq!(ram.load_u32(1, 0), u32::MAX);
        assert!(ram.pointer(1, 0).is_none());
        ram.set_bits_u32(1, 0, 1);
    }
}
