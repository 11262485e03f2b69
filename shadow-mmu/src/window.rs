//! Windows: 4 GiB of host address space in which guest-linear pages are mapped.
//!
//! A window is a cache of a shadow tree, and knows nothing of it: it keeps its own record of what is mapped where.
#![allow(unsafe_code)] // mmap, mprotect and munmap of reserved address space

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::BorrowedFd;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, mprotect, munmap};

use crate::ram::HostPage;
use crate::{MmuStats, PAGE_SHIFT, PAGE_SIZE};

/// Pages in a window.
pub(crate) const WINDOW_PAGES: u32 = 1 << 20;
const WINDOW_BYTES: u64 = 1 << 32;
/// Below: what a negative displacement reaches.
const GUARD_BELOW: u64 = 2 << 30;
/// Above: translated code adds a 32-bit offset to a base below 4 GiB (a segment's, or that of the
/// upper half) without wrapping around, and BT another 256 MiB.
const GUARD_ABOVE: u64 = 5 << 30;
/// Pages covered by one bit of the summary: one host page of the record.
const CHUNK: u32 = 1024;
/// Stretches of mapped pages up to which a window is emptied one by one: program, heap, libraries, stack.
const STRETCHES: usize = 8;

/// A page mapped in a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mapped {
    pub(crate) page: HostPage,
    pub(crate) writable: bool,
}

/// 4 GiB of reserved address space, aligned to 4 GiB, with a guard region of its own on each side.
///
/// Nothing in it is accessible but the pages in the record. Invariant: `pages[l]` is 0, or says what is mapped at linear page
/// `l`: bit 0 writable, bits 31:1 the page of the memory file + 1. A summary bit is set for every chunk with a page mapped.
#[derive(Debug)]
pub(crate) struct Window {
    base: u64,
    pages: Vec<u32>,
    summary: [u64; (WINDOW_PAGES / CHUNK / 64) as usize],
    /// Places where one host mapping ends and another begins.
    boundaries: usize,
}

impl Window {
    pub(crate) fn reserve() -> Result<Window, Errno> {
        // 4 GiB of slack to align the base, which is then given back.
        let length = WINDOW_BYTES * 2 + GUARD_BELOW + GUARD_ABOVE;
        let start = reserve_anywhere(length)?;
        let base = (start + GUARD_BELOW).next_multiple_of(WINDOW_BYTES);
        release(start, base - GUARD_BELOW - start);
        let end = base + WINDOW_BYTES + GUARD_ABOVE;
        release(end, start + length - end);
        Ok(Window {
            base,
            pages: vec![0; WINDOW_PAGES as usize],
            summary: [0; 16],
            boundaries: 0,
        })
    }

    /// The host address of linear address 0.
    pub(crate) fn base(&self) -> u64 {
        self.base
    }

    /// Host mappings in use: each boundary between unlike neighbours starts one.
    pub(crate) fn vmas(&self) -> usize {
        self.boundaries + 1
    }

    /// What is mapped at a linear page.
    pub(crate) fn mapped(&self, page: u32) -> Option<Mapped> {
        decode(self.pages.get(page as usize).copied().unwrap_or(0))
    }

    /// The next linear page at or after `page`, and below `end`, with anything mapped.
    pub(crate) fn next_mapped(&self, mut page: u32, end: u32) -> Option<u32> {
        let end = end.min(WINDOW_PAGES);
        while page < end {
            let chunk = page / CHUNK;
            if !self.chunk_used(chunk) {
                page = (chunk + 1) * CHUNK;
                continue;
            }
            let stop = ((chunk + 1) * CHUNK).min(end);
            let slice = self
                .pages
                .get(page as usize..stop as usize)
                .unwrap_or_default();
            if let Some(at) = slice.iter().position(|&p| p != 0) {
                return Some(page + at as u32);
            }
            page = stop;
        }
        None
    }

    /// Maps `count` consecutive pages of the memory file at linear page `at`, over whatever is there.
    pub(crate) fn map(
        &mut self,
        file: BorrowedFd<'_>,
        at: u32,
        count: u32,
        to: Mapped,
        stats: &mut MmuStats,
    ) -> Result<(), Errno> {
        let Some((address, length)) = self.range(at, count) else {
            return Ok(());
        };
        let offset = i64::from(to.page) * PAGE_SIZE as i64;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
        // SAFETY: the range lies within this window's reservation (checked by `range`), which nothing else uses.
        unsafe {
            mmap(
                Some(address),
                length,
                protection(to.writable),
                flags,
                file,
                offset,
            )
        }?;
        stats.mmaps += 1;
        stats.pages_mapped += u64::from(count);
        self.record(at, count, |i| {
            encode(Mapped {
                page: to.page + i,
                ..to
            })
        });
        Ok(())
    }

    /// Makes pages that are mapped in this window read-only or writable.
    pub(crate) fn protect(
        &mut self,
        at: u32,
        count: u32,
        writable: bool,
        stats: &mut MmuStats,
    ) -> Result<(), Errno> {
        let Some((address, length)) = self.range(at, count) else {
            return Ok(());
        };
        let all_mapped = (at..at + count).all(|l| self.mapped(l).is_some());
        debug_assert!(all_mapped, "protection of a reserved page");
        if !all_mapped {
            return Err(Errno::EINVAL);
        }
        let start = NonNull::<c_void>::new(std::ptr::with_exposed_provenance_mut(address.get()))
            .ok_or(Errno::EINVAL)?;
        // SAFETY: as in `map`; every page of the range is a mapping of the memory file.
        unsafe { mprotect(start, length.get(), protection(writable)) }?;
        stats.mprotects += 1;
        for l in at..at + count {
            if let Some(old) = self.mapped(l) {
                self.record(l, 1, |_| encode(Mapped { writable, ..old }));
            }
        }
        Ok(())
    }

    /// Makes a range inaccessible.
    pub(crate) fn unmap(&mut self, at: u32, count: u32, stats: &mut MmuStats) -> Result<(), Errno> {
        let Some((address, length)) = self.range(at, count) else {
            return Ok(());
        };
        // SAFETY: as in `map`.
        unsafe {
            mmap_anonymous(
                Some(address),
                length,
                ProtFlags::PROT_NONE,
                reserve_flags() | MapFlags::MAP_FIXED,
            )
        }?;
        stats.munmaps += 1;
        self.record(at, count, |_| 0);
        Ok(())
    }

    /// Empties the window: stretch by stretch where there are few of them, because a call for all of it costs the host more than
    /// ten of these.
    pub(crate) fn clear(&mut self, stats: &mut MmuStats) -> Result<(), Errno> {
        match self.stretches() {
            Some(stretches) => {
                for (first, count) in stretches.into_iter().take_while(|&(_, count)| count != 0) {
                    self.unmap(first, count, stats)?;
                }
            }
            None => self.unmap(0, WINDOW_PAGES, stats)?,
        }
        // Chunks are skipped from now on that were not emptied as a whole.
        self.summary.fill(0);
        Ok(())
    }

    /// The stretches with anything mapped that are more than a chunk apart: first page and number of pages, 0 pages where there
    /// are no more. `None`: there are more than that.
    fn stretches(&self) -> Option<[(u32, u32); STRETCHES]> {
        let mut found = [(0, 0); STRETCHES];
        let mut at = 0;
        let mut places = found.iter_mut();
        while let Some(first) = self.next_mapped(at, WINDOW_PAGES) {
            at = first + 1;
            while let Some(next) = self.next_mapped(at, at + CHUNK) {
                at = next + 1;
            }
            *places.next()? = (first, at - first);
        }
        Some(found)
    }

    fn range(&self, at: u32, count: u32) -> Option<(NonZeroUsize, NonZeroUsize)> {
        let inside = at.checked_add(count).is_some_and(|end| end <= WINDOW_PAGES);
        debug_assert!(inside, "range outside the window");
        if !inside {
            return None;
        }
        let address = NonZeroUsize::new((self.base + (u64::from(at) << PAGE_SHIFT)) as usize)?;
        Some((address, NonZeroUsize::new((count as usize) << PAGE_SHIFT)?))
    }

    fn chunk_used(&self, chunk: u32) -> bool {
        self.summary
            .get((chunk / 64) as usize)
            .is_some_and(|s| s >> (chunk % 64) & 1 != 0)
    }

    /// Writes the record of a range, keeping the summary and the number of boundaries right.
    fn record(&mut self, at: u32, count: u32, value: impl Fn(u32) -> u32) {
        let end = at + count;
        self.boundaries -= self.count_boundaries(at, end);
        for chunk in at / CHUNK..end.div_ceil(CHUNK) {
            let (lo, hi) = (at.max(chunk * CHUNK), end.min((chunk + 1) * CHUNK));
            let empty = value(lo - at) == 0;
            if empty && !self.chunk_used(chunk) {
                continue;
            }
            for (l, slot) in (lo..hi).zip(
                self.pages
                    .get_mut(lo as usize..hi as usize)
                    .unwrap_or_default(),
            ) {
                *slot = value(l - at);
            }
            if let Some(s) = self.summary.get_mut((chunk / 64) as usize) {
                if !empty {
                    *s |= 1 << (chunk % 64);
                } else if hi - lo == CHUNK {
                    *s &= !(1 << (chunk % 64));
                }
            }
        }
        self.boundaries += self.count_boundaries(at, end);
    }

    /// Boundaries between the neighbours `at - 1, at` up to `end - 1, end`; the ends of the window are none.
    fn count_boundaries(&self, at: u32, end: u32) -> usize {
        let mut total = 0;
        let mut page = at;
        while page <= end {
            // Between two pages of unused chunks there is none.
            if page.is_multiple_of(CHUNK)
                && !self.chunk_used(page / CHUNK)
                && (page == 0 || !self.chunk_used(page / CHUNK - 1))
            {
                page += 1;
                continue;
            }
            if !page.is_multiple_of(CHUNK) && !self.chunk_used(page / CHUNK) {
                page = (page / CHUNK + 1) * CHUNK;
                continue;
            }
            if page > 0 && page < WINDOW_PAGES {
                let left = self.pages.get(page as usize - 1).copied().unwrap_or(0);
                let right = self.pages.get(page as usize).copied().unwrap_or(0);
                let merged = if left == 0 || right == 0 {
                    left == right
                } else {
                    right == left + 2
                };
                total += usize::from(!merged);
            }
            page += 1;
        }
        total
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        release(
            self.base - GUARD_BELOW,
            GUARD_BELOW + WINDOW_BYTES + GUARD_ABOVE,
        );
    }
}

fn encode(mapped: Mapped) -> u32 {
    (mapped.page + 1) << 1 | u32::from(mapped.writable)
}

fn decode(entry: u32) -> Option<Mapped> {
    let page = (entry >> 1).checked_sub(1)?;
    Some(Mapped {
        page,
        writable: entry & 1 != 0,
    })
}

fn protection(writable: bool) -> ProtFlags {
    if writable {
        ProtFlags::PROT_READ | ProtFlags::PROT_WRITE
    } else {
        ProtFlags::PROT_READ
    }
}

fn reserve_flags() -> MapFlags {
    MapFlags::MAP_PRIVATE | MapFlags::MAP_ANONYMOUS | MapFlags::MAP_NORESERVE
}

fn reserve_anywhere(length: u64) -> Result<u64, Errno> {
    let length = NonZeroUsize::new(length as usize).ok_or(Errno::EINVAL)?;
    // SAFETY: a new mapping at an address of the kernel's choice touches no existing one.
    let start = unsafe { mmap_anonymous(None, length, ProtFlags::PROT_NONE, reserve_flags()) }?;
    Ok(start.as_ptr().expose_provenance() as u64)
}

/// Gives address space of a reservation back.
fn release(address: u64, length: u64) {
    if length == 0 {
        return;
    }
    if let Some(start) =
        NonNull::<c_void>::new(std::ptr::with_exposed_provenance_mut(address as usize))
    {
        // SAFETY: callers pass parts of a reservation that they own and that nobody uses any more.
        let result = unsafe { munmap(start, length as usize) };
        debug_assert!(result.is_ok(), "munmap of a reservation");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ram::GuestRam;

    fn recount(w: &Window) -> usize {
        let mut all = w.summary;
        all.fill(!0);
        let full = Window {
            base: w.base,
            pages: w.pages.clone(),
            summary: all,
            boundaries: 0,
        };
        let n = full.count_boundaries(0, WINDOW_PAGES);
        std::mem::forget(full); // shares the reservation of `w`
        n
    }

    #[test]
    fn record_and_boundaries_follow() {
        let ram = GuestRam::new(4096).unwrap();
        let mut stats = MmuStats::default();
        let mut w = Window::reserve().unwrap();
        assert_eq!(w.base() % WINDOW_BYTES, 0);
        assert_eq!(w.vmas(), 1);
        w.map(
            ram.file(),
            1000,
            2000,
            Mapped {
                page: 5,
                writable: true,
            },
            &mut stats,
        )
        .unwrap();
        assert_eq!(w.vmas(), 3);
        w.protect(1500, 1, false, &mut stats).unwrap();
        assert_eq!(w.vmas(), 5);
        assert_eq!(
            w.mapped(1500),
            Some(Mapped {
                page: 505,
                writable: false
            })
        );
        assert_eq!(w.boundaries, recount(&w));
        w.protect(1500, 1, true, &mut stats).unwrap();
        assert_eq!(w.vmas(), 3);
        w.map(
            ram.file(),
            3000,
            1,
            Mapped {
                page: 2005,
                writable: true,
            },
            &mut stats,
        )
        .unwrap();
        assert_eq!(w.vmas(), 3, "contiguous neighbours are one mapping");
        w.unmap(1024, 1024, &mut stats).unwrap();
        assert_eq!(w.boundaries, recount(&w));
        assert_eq!(w.next_mapped(0, WINDOW_PAGES), Some(1000));
        assert_eq!(w.next_mapped(1024, WINDOW_PAGES), Some(2048));
        assert_eq!(w.next_mapped(1024, 2048), None);
        w.map(
            ram.file(),
            WINDOW_PAGES - 1,
            1,
            Mapped {
                page: 9,
                writable: false,
            },
            &mut stats,
        )
        .unwrap();
        w.map(
            ram.file(),
            0,
            1,
            Mapped {
                page: 9,
                writable: false,
            },
            &mut stats,
        )
        .unwrap();
        assert_eq!(w.boundaries, recount(&w));
        w.clear(&mut stats).unwrap();
        assert_eq!(w.vmas(), 1);
        assert_eq!(w.next_mapped(0, WINDOW_PAGES), None);
        assert_eq!(w.boundaries, recount(&w));
        assert_eq!(stats.munmaps, 4, "three stretches");
        w.clear(&mut stats).unwrap();
        assert_eq!(stats.munmaps, 4, "an empty window needs no call");
    }

    #[test]
    fn a_window_with_many_stretches_is_emptied_at_once() {
        let ram = GuestRam::new(4096).unwrap();
        let mut stats = MmuStats::default();
        let mut w = Window::reserve().unwrap();
        let to = Mapped {
            page: 7,
            writable: true,
        };
        for stretches in [STRETCHES as u32, STRETCHES as u32 + 1] {
            let before = stats.munmaps;
            for at in 0..stretches {
                // The chunks in between are used, and not at their ends.
                w.map(ram.file(), at * 3 * CHUNK + 900, 2, to, &mut stats)
                    .unwrap();
            }
            w.clear(&mut stats).unwrap();
            let calls = if stretches as usize > STRETCHES {
                1
            } else {
                u64::from(stretches)
            };
            assert_eq!(stats.munmaps - before, calls);
            assert_eq!((w.vmas(), w.boundaries), (1, recount(&w)));
            assert!(w.pages.iter().all(|&page| page == 0));
            assert!(w.summary.iter().all(|&s| s == 0));
        }
    }

    #[test]
    fn mapped_pages_are_the_memory_file() {
        let ram = GuestRam::new(8).unwrap();
        let mut stats = MmuStats::default();
        let mut w = Window::reserve().unwrap();
        ram.write(3, 0, b"three");
        w.map(
            ram.file(),
            0xfffff,
            1,
            Mapped {
                page: 3,
                writable: true,
            },
            &mut stats,
        )
        .unwrap();
        let mut buf = [0u8; 5];
        let p: *mut u8 = std::ptr::with_exposed_provenance_mut((w.base() + 0xffff_f000) as usize);
        // SAFETY: the page was just mapped, readable and writable.
        unsafe {
            p.copy_to(buf.as_mut_ptr(), 5);
            p.write(b'T');
        }
        assert_eq!(&buf, b"three");
        ram.read(3, 0, &mut buf);
        assert_eq!(&buf, b"Three");
    }
}
