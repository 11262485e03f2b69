//! The adapter's ROM.

use crate::Nanos;
use crate::device::{AccessSize, MmioDevice};

/// A ROM of a power of two of bytes, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OptionRom {
    bytes: Vec<u8>,
}

impl OptionRom {
    /// A ROM with `bytes`, filled up with ones.
    pub(super) fn new(mut bytes: Vec<u8>) -> Self {
        if !bytes.is_empty() {
            let size = bytes.len().next_power_of_two().clamp(0x1000, 16 << 20);
            bytes.resize(size, 0xff);
        }
        Self { bytes }
    }

    /// What it holds; empty if there is none.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl MmioDevice for OptionRom {
    fn mmio_read(&mut self, offset: u64, size: AccessSize, _now: Nanos) -> u32 {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let end = start.saturating_add(usize::from(size.bytes()));
        match self.bytes.get(start..end) {
            Some(bytes) => bytes.iter().rev().fold(0, |v, b| v << 8 | u32::from(*b)),
            None => size.ones(),
        }
    }

    fn mmio_write(&mut self, _offset: u64, _size: AccessSize, _value: u32, _now: Nanos) {}
}
