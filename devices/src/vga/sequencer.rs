//! Sequencer: clocking, and which planes the processor writes.

use serde::{Deserialize, Serialize};

/// Bits of each register that exist: reset, clocking mode, map mask, character map select, memory
/// mode.
const MASKS: [u8; 5] = [0x03, 0x3d, 0x0f, 0x3f, 0x0e];

/// The sequencer's registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Sequencer {
    pub(super) index: u8,
    registers: [u8; 5],
}

impl Sequencer {
    pub(super) fn read(&self) -> u8 {
        self.registers
            .get(usize::from(self.index))
            .copied()
            .unwrap_or(0)
    }

    pub(super) fn write(&mut self, value: u8) {
        let index = usize::from(self.index);
        if let (Some(register), Some(mask)) = (self.registers.get_mut(index), MASKS.get(index)) {
            *register = value & mask;
        }
    }

    /// Dots in a character clock.
    pub(super) fn dots(&self) -> u32 {
        if self.clocking() & 1 != 0 { 8 } else { 9 }
    }

    /// The dot clock is half the master clock.
    pub(super) fn half_clock(&self) -> bool {
        self.clocking() & 8 != 0
    }

    pub(super) fn screen_off(&self) -> bool {
        self.clocking() & 0x20 != 0
    }

    /// Planes that the processor may write.
    pub(super) fn map_mask(&self) -> u8 {
        let [_, _, mask, ..] = self.registers;
        mask
    }

    /// Byte offsets in plane 2 of the two fonts: of characters with attribute bit 3 clear, and set.
    pub(super) fn fonts(&self) -> (u32, u32) {
        let [_, _, _, select, _] = self.registers;
        let offset = |high: u8, low: u8| u32::from(low) << 14 | u32::from(high) << 13;
        let b = offset(select >> 4 & 1, select & 3);
        let a = offset(select >> 5 & 1, select >> 2 & 3);
        (b, a)
    }

    /// Even addresses are written to planes 0 and 2, odd ones to 1 and 3.
    pub(super) fn odd_even(&self) -> bool {
        self.memory_mode() & 4 == 0
    }

    /// The two lowest address bits select the plane.
    pub(super) fn chain4(&self) -> bool {
        self.memory_mode() & 8 != 0
    }

    fn clocking(&self) -> u8 {
        let [_, clocking, ..] = self.registers;
        clocking
    }

    fn memory_mode(&self) -> u8 {
        let [.., mode] = self.registers;
        mode
    }
}
