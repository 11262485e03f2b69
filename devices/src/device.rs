//! What a device looks like to the buses and to the chipset.

use crate::Nanos;

/// Width of one access to a port or to device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AccessSize {
    /// 8 bits.
    Byte,
    /// 16 bits.
    Word,
    /// 32 bits.
    Dword,
}

impl AccessSize {
    /// The size that is `bytes` bytes wide, if there is one.
    pub const fn from_bytes(bytes: usize) -> Option<Self> {
        match bytes {
            1 => Some(Self::Byte),
            2 => Some(Self::Word),
            4 => Some(Self::Dword),
            _ => None,
        }
    }

    /// Width in bytes: 1, 2 or 4.
    pub const fn bytes(self) -> u8 {
        match self {
            Self::Byte => 1,
            Self::Word => 2,
            Self::Dword => 4,
        }
    }

    /// All ones in this width: what nobody answers to.
    pub const fn ones(self) -> u32 {
        match self {
            Self::Byte => 0xff,
            Self::Word => 0xffff,
            Self::Dword => 0xffff_ffff,
        }
    }

    /// The number that bytes in memory stand for.
    pub(crate) fn value(self, bytes: &[u8]) -> u32 {
        let bytes = bytes.iter().take(usize::from(self.bytes()));
        bytes
            .rev()
            .fold(0, |value, byte| value << 8 | u32::from(*byte))
    }

    /// Puts a number into memory.
    pub(crate) fn store(self, value: u32, bytes: &mut [u8]) {
        for (byte, value) in bytes.iter_mut().zip(value.to_le_bytes()) {
            *byte = value;
        }
    }

    /// The next smaller width.
    pub(crate) const fn half(self) -> Option<Self> {
        match self {
            Self::Byte => None,
            Self::Word => Some(Self::Byte),
            Self::Dword => Some(Self::Word),
        }
    }
}

/// A device with I/O ports.
///
/// The bus calls it only for ports registered for it, with naturally aligned accesses no wider
/// than was registered: a device registered for byte accesses may ignore `size`.
pub trait PortDevice {
    /// Reads `size` at `port`. Bits above `size` are ignored.
    fn port_read(&mut self, port: u16, size: AccessSize, now: Nanos) -> u32;

    /// Writes `size` at `port`. Bits of `value` above `size` are zero.
    fn port_write(&mut self, port: u16, size: AccessSize, value: u32, now: Nanos);
}

/// A device with registers or memory in the guest-physical address space.
///
/// `offset` counts from the start of the registered range; the same promises hold as for
/// [`PortDevice`].
pub trait MmioDevice {
    /// Reads `size` at `offset`. Bits above `size` are ignored.
    fn mmio_read(&mut self, offset: u64, size: AccessSize, now: Nanos) -> u32;

    /// Writes `size` at `offset`. Bits of `value` above `size` are zero.
    fn mmio_write(&mut self, offset: u64, size: AccessSize, value: u32, now: Nanos);

    /// Writes `data` from `offset` on, as accesses of `size` in ascending order: what an
    /// instruction does that repeats.
    fn mmio_write_span(&mut self, offset: u64, size: AccessSize, data: &[u8], now: Nanos) {
        let step = usize::from(size.bytes());
        for (at, element) in (offset..).step_by(step).zip(data.chunks_exact(step)) {
            self.mmio_write(at, size, size.value(element), now);
        }
    }

    /// Reads `data` from `offset` on, as [`Self::mmio_write_span`] writes it.
    fn mmio_read_span(&mut self, offset: u64, size: AccessSize, data: &mut [u8], now: Nanos) {
        let step = usize::from(size.bytes());
        for (at, element) in (offset..).step_by(step).zip(data.chunks_exact_mut(step)) {
            size.store(self.mmio_read(at, size, now), element);
        }
    }
}

/// A device that is added to a chipset from outside.
pub trait Device: Send {
    /// The port interface, for a device that registers ports.
    fn as_port(&mut self) -> Option<&mut dyn PortDevice> {
        None
    }

    /// The memory-mapped interface, for a device that registers memory.
    fn as_mmio(&mut self) -> Option<&mut dyn MmioDevice> {
        None
    }

    /// Does what is due up to `now`.
    fn advance(&mut self, _now: Nanos) {}

    /// When [`advance`](Self::advance) has something to do next, if ever.
    fn next_event(&self) -> Option<Nanos> {
        None
    }

    /// The RESET# wire: volatile state goes back to its power-on values.
    fn reset(&mut self, now: Nanos);
}
