//! Memory that this process and the KVM vCPU both see.
#![allow(unsafe_code)] // mapping memory, and access to memory that a vCPU changes

use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// A mapping, unmapped on drop.
///
/// The vCPU runs only inside `KVM_RUN`, on the thread that made the call, so that there are no
/// concurrent accesses; they are volatile because the compiler cannot see the vCPU's.
#[derive(Debug)]
pub(super) struct SharedMemory {
    address: NonNull<u8>,
    bytes: NonZeroUsize,
}

// SAFETY: the mapping belongs to this value alone and is not tied to a thread.
unsafe impl Send for SharedMemory {}

impl SharedMemory {
    /// Zeroed memory; pages cost nothing until they are touched.
    pub(super) fn anonymous(bytes: u64) -> Result<Self, Errno> {
        let bytes = length(bytes)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe { mmap_anonymous(None, bytes, protection, flags) }?.cast();
        Ok(Self { address, bytes })
    }

    /// The first `bytes` of a file, shared.
    pub(super) fn file(file: impl AsFd, bytes: u64) -> Result<Self, Errno> {
        let bytes = length(bytes)?;
        let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe { mmap(None, bytes, protection, flags, file, 0) }?.cast();
        Ok(Self { address, bytes })
    }

    /// Where it is, for KVM.
    pub(super) fn host_address(&self) -> u64 {
        self.address.as_ptr() as u64
    }

    /// Its size in bytes.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.get() as u64
    }

    /// Reads a plain integer.
    ///
    /// # Panics
    ///
    /// When `offset` is outside or not aligned; offsets are the layout's, never the guest's.
    pub(super) fn read<T: Plain>(&self, offset: u64) -> T {
        let at = self.at::<T>(offset);
        // SAFETY: `at` has checked bounds and alignment; any bits are a valid `T`.
        unsafe { at.read_volatile() }
    }

    /// Writes a plain integer.
    ///
    /// # Panics
    ///
    /// As [`SharedMemory::read`].
    pub(super) fn write<T: Plain>(&self, offset: u64, value: T) {
        let at = self.at::<T>(offset);
        // SAFETY: `at` has checked bounds and alignment; see the type for concurrency.
        unsafe { at.write_volatile(value) }
    }

    /// Writes bytes, a multiple of 8 of them where speed matters.
    pub(super) fn write_bytes(&self, offset: u64, data: &[u8]) {
        let (words, rest) = data.as_chunks::<8>();
        let mut at = offset;
        for word in words {
            self.write(at, u64::from_le_bytes(*word));
            at += 8;
        }
        for byte in rest {
            self.write(at, *byte);
            at += 1;
        }
    }

    /// Reads bytes, a multiple of 8 of them where speed matters.
    pub(super) fn read_bytes(&self, offset: u64, data: &mut [u8]) {
        let (words, rest) = data.as_chunks_mut::<8>();
        let mut at = offset;
        for word in words {
            *word = self.read::<u64>(at).to_le_bytes();
            at += 8;
        }
        for byte in rest {
            *byte = self.read(at);
            at += 1;
        }
    }

    fn at<T>(&self, offset: u64) -> *mut T {
        let size = size_of::<T>() as u64;
        let end = offset.checked_add(size);
        assert!(
            end.is_some_and(|end| end <= self.bytes()) && offset.is_multiple_of(size),
            "offset {offset:#x} of {:#x}",
            self.bytes
        );
        // SAFETY: the offset was just found to be inside the mapping.
        unsafe { self.address.as_ptr().add(offset as usize).cast() }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own and nothing refers to it any more; KVM's memory
        // slots are gone with the VM, which is dropped first.
        let result = unsafe { munmap(self.address.cast(), self.bytes.get()) };
        debug_assert!(result.is_ok(), "munmap: {result:?}");
    }
}

/// Integers that a vCPU and this process can pass to each other.
pub(super) trait Plain: Copy {}
impl Plain for u8 {}
impl Plain for u16 {}
impl Plain for u32 {}
impl Plain for u64 {}

fn length(bytes: u64) -> Result<NonZeroUsize, Errno> {
    let bytes = usize::try_from(bytes).map_err(|_| Errno::ENOMEM)?;
    NonZeroUsize::new(bytes).ok_or(Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_and_bytes_agree() {
        let memory = SharedMemory::anonymous(4096).unwrap();
        memory.write(8, 0x1122_3344_5566_7788u64);
        memory.write(16, 0xAABBu16);
        assert_eq!(memory.read::<u32>(12), 0x1122_3344);
        let mut bytes = [0; 10];
        memory.read_bytes(8, &mut bytes);
        assert_eq!(
            bytes,
            [0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, 0xBB, 0xAA]
        );
        memory.write_bytes(4080, &bytes);
        assert_eq!(memory.read::<u8>(4089), 0xAA);
    }

    #[test]
    #[should_panic(expected = "offset 0xffe")]
    fn nothing_outside_is_reached() {
        SharedMemory::anonymous(4096).unwrap().write(0xFFE, 0u32);
    }
}
