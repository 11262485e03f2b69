//! Accesses to device memory.

use crate::device::AccessSize;
use crate::time::Nanos;

use super::Chipset;

impl Chipset {
    /// Reads `size` at a guest-physical address that is not memory.
    pub fn mmio_read(&mut self, address: u64, size: AccessSize, now: Nanos) -> u32 {
        let now = self.tick(now);
        let value = self.mmio.read(&mut self.devices, address, size, now);
        self.after_mmio();
        value
    }

    /// Writes the low `size` of `value` at a guest-physical address that is not memory.
    pub fn mmio_write(&mut self, address: u64, size: AccessSize, value: u32, now: Nanos) {
        let now = self.tick(now);
        self.mmio
            .write(&mut self.devices, address, size, value, now);
        self.after_mmio();
    }

    /// Reads `data` from a guest-physical address on that is not memory, as accesses of `size` in
    /// ascending order: what an instruction does that repeats.
    pub fn mmio_read_span(&mut self, address: u64, size: AccessSize, data: &mut [u8], now: Nanos) {
        let now = self.tick(now);
        self.mmio
            .read_span(&mut self.devices, address, size, data, now);
        self.after_mmio();
    }

    /// Writes `data` from a guest-physical address on, as [`Self::mmio_read_span`] reads it.
    pub fn mmio_write_span(&mut self, address: u64, size: AccessSize, data: &[u8], now: Nanos) {
        let now = self.tick(now);
        self.mmio
            .write_span(&mut self.devices, address, size, data, now);
        self.after_mmio();
    }

    /// Copies `count` elements of `size`, each read before it is written, in ascending order. Neither
    /// address is memory.
    pub fn mmio_copy_span(
        &mut self,
        from: u64,
        to: u64,
        size: AccessSize,
        count: usize,
        now: Nanos,
    ) {
        let now = self.tick(now);
        for offset in (0..).step_by(usize::from(size.bytes())).take(count) {
            let (from, to) = (from.wrapping_add(offset), to.wrapping_add(offset));
            let value = self.mmio.read(&mut self.devices, from, size, now);
            self.mmio.write(&mut self.devices, to, size, value, now);
        }
        self.after_mmio();
    }

    /// Whether device memory is the same at any time: an access to it need not be told what time it
    /// is, and moves no timed event. The board's own is display memory and ROM.
    #[inline]
    pub fn mmio_is_timeless(&self) -> bool {
        self.devices.added.is_empty()
    }

    /// After an access to device memory.
    fn after_mmio(&mut self) {
        if self.mmio_is_timeless() {
            self.follow_video();
        } else {
            self.schedule();
        }
    }
}
