//! The translation cache: one reservation that holds the context and the code behind it.
//!
//! ```text
//! limit page | pages that always fault | context (RW) | stubs, units (executable view)
//! ```
//! The code has two views of one memfd, one writable and one executable, so that no page is both.
#![allow(unsafe_code)] // maps memory and writes code into it

use super::context::Context;
use crate::codegen::Stubs;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;

const PAGE: usize = 4096;
/// Pages that fault, for limit checks and polls.
const FAULTING: usize = 256 << 10;
const POLL_OFFSET: usize = 128 << 10;
/// A cache line for the beginning of each unit: branch predictors have room for few branches in a line, and
/// units are small and end in one. Indirect calls of short functions were 30 % slower with 16.
const UNIT_ALIGNMENT: usize = 64;

/// The reservation.
#[derive(Debug)]
pub(crate) struct CodeCache {
    reservation: NonNull<u8>,
    reserved: usize,
    context: NonNull<Context>,
    writable: NonNull<u8>,
    /// Bytes of code that fit.
    capacity: usize,
    /// Bytes used, stubs included.
    used: usize,
    /// Bytes that the stubs take.
    stub_bytes: usize,
    pub(crate) stubs: Stubs,
}

// SAFETY: the cache owns its mappings; the pointers are to memory that moves with nothing and is
// only used through the owner.
unsafe impl Send for CodeCache {}

fn nonzero(bytes: usize) -> io::Result<NonZeroUsize> {
    NonZeroUsize::new(bytes).ok_or_else(|| io::Error::other("empty mapping"))
}

impl CodeCache {
    /// Reserves and maps a cache for `bytes` of code. The context is zero-filled: the caller
    /// initializes it.
    pub(crate) fn new(bytes: usize, context: Context) -> io::Result<CodeCache> {
        let capacity = bytes.next_multiple_of(PAGE).clamp(1 << 20, 1 << 30);
        let context_bytes = size_of::<Context>();
        let reserved = PAGE + FAULTING + context_bytes + capacity;
        let private = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        let read_write = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new anonymous mapping at an address the kernel chooses touches no other memory.
        let reservation =
            unsafe { mmap_anonymous(None, nonzero(reserved)?, ProtFlags::PROT_NONE, private)? };
        let reservation = reservation.cast::<u8>();
        let file = nix::sys::memfd::memfd_create(
            c"ringshift-code",
            nix::sys::memfd::MFdFlags::MFD_CLOEXEC,
        )?;
        nix::unistd::ftruncate(&file, capacity as i64)?;
        let fixed = private | MapFlags::MAP_FIXED;
        let at = |offset: usize| NonZeroUsize::new(reservation.as_ptr() as usize + offset);
        let context_offset = PAGE + FAULTING;
        // SAFETY: MAP_FIXED inside the reservation made above, which nothing else uses.
        let (context_pages, writable) = unsafe {
            mmap_anonymous(at(0), nonzero(PAGE)?, read_write, fixed)?;
            let context_pages = mmap_anonymous(
                at(context_offset),
                nonzero(context_bytes)?,
                read_write,
                fixed,
            )?;
            mmap(
                at(context_offset + context_bytes),
                nonzero(capacity)?,
                ProtFlags::PROT_READ | ProtFlags::PROT_EXEC,
                MapFlags::MAP_SHARED | MapFlags::MAP_FIXED,
                file.as_fd(),
                0,
            )?;
            let writable = mmap(
                None,
                nonzero(capacity)?,
                read_write,
                MapFlags::MAP_SHARED,
                file.as_fd(),
                0,
            )?;
            (context_pages.cast::<Context>(), writable.cast::<u8>())
        };
        // SAFETY: the pages were just mapped, are large enough, and page-aligned as Context asks.
        unsafe { context_pages.write(context) };
        let mut cache = CodeCache {
            reservation,
            reserved,
            context: context_pages,
            writable,
            capacity,
            used: 0,
            stub_bytes: 0,
            stubs: Stubs::default(),
        };
        let (stubs, code) = super::switch::stubs(cache.code_start());
        cache.stubs = stubs;
        cache.append(&code);
        cache.stub_bytes = cache.used;
        let (poll, limit) = (cache.quiet_poll(), cache.limit_check());
        let context = cache.context_mut();
        context.sti_poll = poll;
        context
            .poll
            .store(poll, std::sync::atomic::Ordering::SeqCst);
        context.limit_check = limit;
        context.shortcuts.quiet_poll = poll;
        context.shortcuts.leave = super::switch::leave_address();
        Ok(cache)
    }

    pub(crate) fn context(&self) -> &Context {
        // SAFETY: initialized in `new`, lives as long as the cache; &self excludes writers in Rust.
        unsafe { self.context.as_ref() }
    }

    pub(crate) fn context_mut(&mut self) -> &mut Context {
        // SAFETY: as above; &mut self makes the reference unique.
        unsafe { self.context.as_mut() }
    }

    pub(crate) fn context_pointer(&self) -> *mut Context {
        self.context.as_ptr()
    }

    /// Host address of the first byte of code, executable view.
    pub(crate) fn code_start(&self) -> u64 {
        self.context.as_ptr() as u64 + size_of::<Context>() as u64
    }

    /// Host addresses of the executable view.
    pub(crate) fn code_range(&self) -> std::ops::Range<u64> {
        self.code_start()..self.code_start() + self.capacity as u64
    }

    fn faulting_start(&self) -> u64 {
        self.reservation.as_ptr() as u64 + PAGE as u64
    }

    /// Host addresses of the stubs and shortcuts, executable view.
    pub(crate) fn stub_range(&self) -> std::ops::Range<u64> {
        self.code_start()..self.code_start() + self.stub_bytes as u64
    }

    /// The addresses that limit checks fault on.
    pub(crate) fn limit_range(&self) -> std::ops::Range<u64> {
        self.faulting_start()..self.faulting_start() + POLL_OFFSET as u64
    }

    /// The addresses that polls fault on.
    pub(crate) fn poll_range(&self) -> std::ops::Range<u64> {
        self.faulting_start() + POLL_OFFSET as u64..self.faulting_start() + FAULTING as u64
    }

    fn limit_check(&self) -> u64 {
        self.faulting_start() - 1
    }

    /// What [`Context::poll`] holds while nobody wants the vCPU to leave.
    pub(crate) fn quiet_poll(&self) -> u64 {
        self.reservation.as_ptr() as u64
    }

    /// What [`Context::poll`] holds when the vCPU is to leave.
    pub(crate) fn faulting_poll(&self) -> u64 {
        self.poll_range().start
    }

    /// What [`Context::fpu_guard`] holds when guest FPU state is not in the host's registers.
    pub(crate) fn fpu_missing(&self) -> u64 {
        self.poll_range().start + PAGE as u64
    }

    /// Bytes of code that still fit.
    pub(crate) fn free(&self) -> usize {
        self.capacity - self.used
    }

    /// Bytes of code in use.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Host address of the next unit.
    pub(crate) fn next_address(&self) -> u64 {
        self.code_start() + self.used as u64
    }

    /// Appends code; the caller has made sure with [`CodeCache::free`] that it fits.
    pub(crate) fn append(&mut self, code: &[u8]) {
        let length = code.len().min(self.free());
        // SAFETY: the writable view is `capacity` bytes, and used + length <= capacity.
        unsafe {
            std::ptr::copy_nonoverlapping(
                code.as_ptr(),
                self.writable.as_ptr().add(self.used),
                length,
            );
        }
        self.used = (self.used + length)
            .next_multiple_of(UNIT_ALIGNMENT)
            .min(self.capacity);
    }

    /// Gives back the code from host address `at` to the end.
    pub(crate) fn rewind(&mut self, at: u64) {
        let used = at.wrapping_sub(self.code_start()) as usize;
        if (self.stub_bytes..=self.used).contains(&used) {
            self.used = used;
        }
    }

    /// Overwrites code at host address `at`; outside the cache nothing happens.
    pub(crate) fn patch(&mut self, at: u64, bytes: &[u8]) {
        let Some(offset) = at.checked_sub(self.code_start()).map(|o| o as usize) else {
            return;
        };
        if offset + bytes.len() > self.capacity {
            return;
        }
        // SAFETY: within the writable view, checked above.
        unsafe {
            std::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.writable.as_ptr().add(offset),
                bytes.len(),
            );
        }
    }

    /// Sets the rel32 at host address `at` to reach `target`.
    pub(crate) fn patch_rel32(&mut self, at: u64, target: u64) {
        let displacement = target.wrapping_sub(at + 4) as u32;
        self.patch(at, &displacement.to_le_bytes());
    }

    /// Code bytes at host address `at`.
    pub(crate) fn read(&self, at: u64, length: usize) -> Vec<u8> {
        let Some(offset) = at.checked_sub(self.code_start()).map(|o| o as usize) else {
            return Vec::new();
        };
        if offset + length > self.capacity {
            return Vec::new();
        }
        // SAFETY: within the writable view, checked above; nothing writes it at the same time,
        // because that takes &mut self.
        unsafe { std::slice::from_raw_parts(self.writable.as_ptr().add(offset), length).to_vec() }
    }

    /// Forgets all units.
    pub(crate) fn clear(&mut self) {
        self.used = self.stub_bytes;
    }
}

impl Drop for CodeCache {
    fn drop(&mut self) {
        // SAFETY: both mappings were made in `new`; nothing runs in them any more, because running
        // borrows the cache.
        unsafe {
            let _ = munmap(self.writable.cast(), self.capacity);
            let _ = munmap(self.reservation.cast(), self.reserved);
        }
    }
}
