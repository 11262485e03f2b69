//! Graphics controller: what the processor's accesses do with the four planes.

use serde::{Deserialize, Serialize};

/// Bits of each register that exist: set/reset, enable set/reset, colour compare, data rotate, read
/// map select, mode, miscellaneous, colour don't care, bit mask.
const MASKS: [u8; 9] = [0x0f, 0x0f, 0x0f, 0x1f, 0x03, 0x7b, 0x0f, 0x0f, 0xff];

/// One byte of each plane.
pub(super) type Planes = [u8; 4];

/// The graphics controller's registers and latches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Graphics {
    pub(super) index: u8,
    registers: [u8; 9],
    /// The planes as the last read found them.
    pub(super) latches: Planes,
}

/// How four planes become pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shift {
    /// One bit of each plane is a pixel of four bits.
    Planar,
    /// Two bits of a plane are half a pixel: the CGA's four colours.
    Interleaved,
    /// A byte is a pixel.
    Packed,
}

impl Graphics {
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

    fn mode(&self) -> u8 {
        let [_, _, _, _, _, mode, ..] = self.registers;
        mode
    }

    fn misc(&self) -> u8 {
        let [_, _, _, _, _, _, misc, ..] = self.registers;
        misc
    }

    fn bit_mask(&self) -> u8 {
        let [.., mask] = self.registers;
        mask
    }

    /// Not a text mode.
    pub(super) fn is_graphics(&self) -> bool {
        self.misc() & 1 != 0
    }

    /// Address bit 0 selects odd and even planes, and is not part of the address in them.
    pub(super) fn chain_odd_even(&self) -> bool {
        self.misc() & 2 != 0
    }

    /// Reads take the plane from address bit 0.
    pub(super) fn host_odd_even(&self) -> bool {
        self.mode() & 0x10 != 0
    }

    /// Offset in the legacy window at which display memory begins, and how many bytes it is there.
    pub(super) fn window(&self) -> (u64, u64) {
        match self.misc() >> 2 & 3 {
            0 => (0, 0x2_0000),
            1 => (0, 0x1_0000),
            2 => (0x1_0000, 0x8000),
            _ => (0x1_8000, 0x8000),
        }
    }

    pub(super) fn shift(&self) -> Shift {
        match self.mode() >> 5 & 3 {
            0 => Shift::Planar,
            1 => Shift::Interleaved,
            _ => Shift::Packed,
        }
    }

    /// The plane that read mode 0 returns.
    pub(super) fn read_map(&self) -> u8 {
        let [_, _, _, _, map, ..] = self.registers;
        map
    }

    /// A write stores the byte as it is, a read returns it: nothing here comes in between.
    pub(super) fn is_plain(&self) -> bool {
        let [_, enable, _, rotate, _, mode, ..] = self.registers;
        enable == 0 && rotate == 0 && mode & 0x0b == 0 && self.bit_mask() == 0xff
    }

    /// What the processor reads, once the latches are loaded. `plane` is the one of read mode 0.
    pub(super) fn value_read(&self, plane: u8) -> u8 {
        if self.mode() & 8 == 0 {
            return self.latches.get(usize::from(plane)).copied().unwrap_or(0);
        }
        let [_, _, compare, _, _, _, _, care, _] = self.registers;
        let mut equal = 0xff;
        for (plane, latch) in self.latches.iter().enumerate() {
            if care >> plane & 1 != 0 {
                equal &= !(latch ^ fill(compare >> plane & 1));
            }
        }
        equal
    }

    /// What a write of `value` stores in each plane that it reaches.
    pub(super) fn value_written(&self, value: u8) -> Planes {
        let [set_reset, enable, _, rotate, ..] = self.registers;
        let rotated = value.rotate_right(u32::from(rotate & 7));
        let mut planes = [0; 4];
        let mask = match self.mode() & 3 {
            1 => return self.latches,
            3 => self.bit_mask() & rotated,
            _ => self.bit_mask(),
        };
        for (plane, (result, latch)) in planes.iter_mut().zip(self.latches).enumerate() {
            let bit = |of: u8| of >> plane & 1;
            let source = match self.mode() & 3 {
                2 => fill(bit(value)),
                3 => fill(bit(set_reset)),
                _ if bit(enable) != 0 => fill(bit(set_reset)),
                _ => rotated,
            };
            let combined = match rotate >> 3 & 3 {
                0 => source,
                1 => source & latch,
                2 => source | latch,
                _ => source ^ latch,
            };
            *result = combined & mask | latch & !mask;
        }
        planes
    }
}

/// A bit in all eight places.
fn fill(bit: u8) -> u8 {
    if bit != 0 { 0xff } else { 0 }
}
