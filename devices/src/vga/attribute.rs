//! Attribute controller: from pixels to colour numbers.

use serde::{Deserialize, Serialize};

/// The attribute controller's registers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attribute {
    /// Index; bit 5 is the palette address source: the display is on.
    index: u8,
    /// The next write is data.
    data_next: bool,
    /// Palette, 10h mode control, 11h overscan, 12h plane enable, 13h panning, 14h colour select.
    registers: [u8; 21],
}

/// Register numbers.
const MODE: usize = 0x10;
const OVERSCAN: usize = 0x11;
const PLANE_ENABLE: usize = 0x12;
const PANNING: usize = 0x13;
const COLOUR_SELECT: usize = 0x14;

impl Attribute {
    /// Input status 1 was read: the next write is an index.
    pub(super) fn reset_flip_flop(&mut self) {
        self.data_next = false;
    }

    /// A write of index or data.
    pub(super) fn write(&mut self, value: u8) {
        if !std::mem::replace(&mut self.data_next, true) {
            self.index = value & 0x3f;
            return;
        }
        self.data_next = false;
        let index = usize::from(self.index & 0x1f);
        let mask = match index {
            0..MODE | PLANE_ENABLE => 0x3f,
            MODE => 0xef,
            OVERSCAN => 0xff,
            _ => 0x0f,
        };
        if let Some(register) = self.registers.get_mut(index) {
            *register = value & mask;
        }
    }

    pub(super) fn index(&self) -> u8 {
        self.index
    }

    pub(super) fn read(&self) -> u8 {
        self.get(usize::from(self.index & 0x1f))
    }

    fn get(&self, index: usize) -> u8 {
        self.registers.get(index).copied().unwrap_or(0)
    }

    /// The palette belongs to the display, not to the processor.
    pub(super) fn display_on(&self) -> bool {
        self.index & 0x20 != 0
    }

    /// Attributes are those of a monochrome adapter: underline.
    pub(super) fn mono(&self) -> bool {
        self.get(MODE) & 2 != 0
    }

    /// The ninth dot of characters C0h to DFh repeats the eighth.
    pub(super) fn line_graphics(&self) -> bool {
        self.get(MODE) & 4 != 0
    }

    /// Attribute bit 7 is blinking, not background intensity.
    pub(super) fn blink(&self) -> bool {
        self.get(MODE) & 8 != 0
    }

    /// The lower part of a split screen is not panned.
    pub(super) fn panning_stops_at_split(&self) -> bool {
        self.get(MODE) & 0x20 != 0
    }

    /// Two dots make a pixel of eight bits.
    pub(super) fn eight_bit(&self) -> bool {
        self.get(MODE) & 0x40 != 0
    }

    /// Dots that the picture is shifted to the left, for characters `dots` wide.
    pub(super) fn panning(&self, dots: u32) -> u32 {
        let value = u32::from(self.get(PANNING));
        match dots {
            9 if value >= 8 => 0,
            9 => value + 1,
            _ => value & 7,
        }
    }

    /// The number in the DAC of a pixel of four bits.
    pub(super) fn colour(&self, pixel: u8) -> u8 {
        let enabled = pixel & self.get(PLANE_ENABLE) & 15;
        let palette = self.get(usize::from(enabled));
        let select = self.get(COLOUR_SELECT);
        let high = select << 4 & 0xc0;
        if self.get(MODE) & 0x80 != 0 {
            high | select << 4 & 0x30 | palette & 15
        } else {
            high | palette
        }
    }
}
