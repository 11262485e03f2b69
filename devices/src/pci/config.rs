//! The configuration space that most functions have: bytes, some of which can be written.

use serde::{Deserialize, Serialize};

/// Double words of a configuration space.
const DWORDS: usize = 64;

/// Configuration space of one function, by double words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigSpace {
    values: Vec<u32>,
    /// Bits that software can write.
    writable: Vec<u32>,
    /// Bits that software clears by writing 1.
    clearable: Vec<u32>,
}

impl ConfigSpace {
    /// A space of zeros that cannot be written.
    pub fn new() -> Self {
        Self {
            values: vec![0; DWORDS],
            writable: vec![0; DWORDS],
            clearable: vec![0; DWORDS],
        }
    }

    /// Defines the double word at `offset` (a multiple of 4): its value after reset, the bits
    /// that can be written and those that are cleared by writing 1.
    #[must_use]
    pub fn with(mut self, offset: u8, value: u32, writable: u32, clearable: u32) -> Self {
        let index = usize::from(offset / 4);
        for (register, bits) in [
            (&mut self.values, value),
            (&mut self.writable, writable),
            (&mut self.clearable, clearable & !writable),
        ] {
            if let Some(register) = register.get_mut(index) {
                *register = bits;
            }
        }
        self
    }

    /// The double word at `offset`.
    pub fn read(&self, offset: u8) -> u32 {
        self.values
            .get(usize::from(offset / 4))
            .copied()
            .unwrap_or(0)
    }

    /// Takes the values of the bits that can change from a saved space.
    pub fn restore_values(&mut self, saved: &Self) {
        for (index, register) in self.values.iter_mut().enumerate() {
            let changeable = self.writable.get(index).copied().unwrap_or(0)
                | self.clearable.get(index).copied().unwrap_or(0);
            if let Some(saved) = saved.values.get(index) {
                *register = *register & !changeable | saved & changeable;
            }
        }
    }

    /// A write of the bits of `value` that are set in `mask` (the byte enables, as bits).
    pub fn write(&mut self, offset: u8, value: u32, mask: u32) {
        let index = usize::from(offset / 4);
        if let (Some(register), Some(writable), Some(clearable)) = (
            self.values.get_mut(index),
            self.writable.get(index),
            self.clearable.get(index),
        ) {
            let writable = writable & mask;
            *register = *register & !writable | value & writable;
            *register &= !(value & clearable & mask);
        }
    }
}

impl Default for ConfigSpace {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_respect_masks_and_byte_enables() {
        let mut space = ConfigSpace::new().with(0x04, 0x0200_0000, 0x0000_0147, 0xf900_0000);
        space.write(0x04, 0xffff_ffff, 0x0000_ff00);
        assert_eq!(space.read(0x04), 0x0200_0100);
        space.write(0x04, 0x0000_0047, 0x0000_00ff);
        assert_eq!(space.read(0x04), 0x0200_0147);
        space.write(0x08, 0xffff_ffff, 0xffff_ffff);
        assert_eq!(space.read(0x08), 0);
        assert_eq!(space.read(0xfc), 0);
    }

    #[test]
    fn status_bits_are_cleared_by_ones() {
        let mut space = ConfigSpace::new().with(0x04, 0x3000_0000, 0, 0xf000_0000);
        space.write(0x04, 0x1000_0000, 0xffff_0000);
        assert_eq!(space.read(0x04), 0x2000_0000);
        space.write(0x04, 0xf000_0000, 0x0000_ffff);
        assert_eq!(space.read(0x04), 0x2000_0000, "not enabled");
    }
}
