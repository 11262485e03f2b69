//! Display memory: four planes, stored side by side, so that the Bochs extensions see one linear
//! frame buffer.

use crate::Nanos;
use crate::device::{AccessSize, MmioDevice};

use super::graphics::Planes;

/// Display memory. Byte `offset` of plane `p` is at `4 * offset + p`.
///
/// As a device it is the linear frame buffer, open while the Bochs extensions show it.
#[derive(Clone)]
pub struct VideoMemory {
    bytes: Vec<u8>,
    pub(super) linear_open: bool,
    /// Trapped accesses to the linear frame buffer since it was opened.
    pub(super) accesses: u32,
}

impl VideoMemory {
    /// Zeroed memory of a power of two of bytes, at least the VGA's 256 KiB.
    pub(super) fn new(bytes: u32) -> Self {
        let bytes = bytes.clamp(256 << 10, 64 << 20).next_power_of_two();
        Self {
            bytes: vec![0; bytes as usize],
            linear_open: false,
            accesses: 0,
        }
    }

    /// Opens or closes the linear frame buffer.
    pub(super) fn set_linear_open(&mut self, open: bool) {
        if self.linear_open != open {
            self.linear_open = open;
            self.accesses = 0;
        }
    }

    /// Bytes of memory.
    pub(super) fn len(&self) -> u32 {
        self.bytes.len() as u32
    }

    fn mask(&self) -> usize {
        self.bytes.len() - 1
    }

    /// Byte `offset` of all four planes.
    pub(super) fn planes(&self, offset: u32) -> Planes {
        let at = (offset as usize) << 2 & self.mask();
        match self.bytes.get(at..at + 4) {
            Some(&[a, b, c, d]) => [a, b, c, d],
            _ => [0; 4],
        }
    }

    /// Writes byte `offset` of the planes in `mask`.
    pub(super) fn set_planes(&mut self, offset: u32, values: Planes, mask: u8) {
        let at = (offset as usize) << 2 & self.mask();
        let Some(bytes) = self.bytes.get_mut(at..at + 4) else {
            return;
        };
        for (plane, (byte, value)) in bytes.iter_mut().zip(values).enumerate() {
            if mask >> plane & 1 != 0 {
                *byte = value;
            }
        }
    }

    /// A byte by its linear address.
    pub(super) fn byte(&self, at: u32) -> u8 {
        let at = at as usize & self.mask();
        self.bytes.get(at).copied().unwrap_or(0)
    }

    /// Writes a byte by its linear address.
    pub(super) fn set_byte(&mut self, at: u32, value: u8) {
        let at = at as usize & self.mask();
        if let Some(byte) = self.bytes.get_mut(at) {
            *byte = value;
        }
    }

    /// Linear bytes from `at`, up to the end of memory.
    pub(super) fn linear(&self, at: u32, len: usize) -> &[u8] {
        let at = at as usize & self.mask();
        let end = at.saturating_add(len).min(self.bytes.len());
        self.bytes.get(at..end).unwrap_or_default()
    }

    /// Writes linear bytes from `at` on, wrapping around at the end of memory.
    pub(super) fn set_linear(&mut self, at: u32, values: &[u8]) {
        let at = at as usize & self.mask();
        let (low, high) = values.split_at(values.len().min(self.bytes.len() - at));
        for (at, values) in [(at, low), (0, high)] {
            if let Some(bytes) = self.bytes.get_mut(at..at + values.len()) {
                bytes.copy_from_slice(values);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.bytes.fill(0);
    }

    /// All of it, for a snapshot.
    pub(super) fn contents(&self) -> &[u8] {
        &self.bytes
    }

    /// Takes over as much of `contents` as there is room for.
    pub(super) fn restore(&mut self, contents: &[u8]) {
        self.bytes.fill(0);
        for (byte, value) in self.bytes.iter_mut().zip(contents) {
            *byte = *value;
        }
    }
}

impl std::fmt::Debug for VideoMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VideoMemory")
            .field("bytes", &self.bytes.len())
            .field("linear_open", &self.linear_open)
            .finish()
    }
}

impl MmioDevice for VideoMemory {
    fn mmio_read(&mut self, offset: u64, size: AccessSize, _now: Nanos) -> u32 {
        if !self.linear_open {
            return size.ones();
        }
        self.accesses = self.accesses.saturating_add(1);
        let bytes = self.linear(offset as u32, usize::from(size.bytes()));
        bytes.iter().rev().fold(0, |v, b| v << 8 | u32::from(*b))
    }

    fn mmio_write(&mut self, offset: u64, size: AccessSize, value: u32, _now: Nanos) {
        if !self.linear_open {
            return;
        }
        self.accesses = self.accesses.saturating_add(1);
        let bytes = value.to_le_bytes();
        for (at, byte) in (offset as u32..).zip(bytes.iter().take(usize::from(size.bytes()))) {
            self.set_byte(at, *byte);
        }
    }
}
