//! CRT controller: timing, addresses of what is displayed, cursor.

use serde::{Deserialize, Serialize};

/// Number of registers.
const COUNT: usize = 0x19;

/// Register numbers.
mod reg {
    pub(super) const HTOTAL: usize = 0x00;
    pub(super) const HDISPLAY_END: usize = 0x01;
    pub(super) const VTOTAL: usize = 0x06;
    pub(super) const OVERFLOW: usize = 0x07;
    pub(super) const PRESET_ROW_SCAN: usize = 0x08;
    pub(super) const MAX_SCAN_LINE: usize = 0x09;
    pub(super) const CURSOR_START: usize = 0x0a;
    pub(super) const CURSOR_END: usize = 0x0b;
    pub(super) const START_HIGH: usize = 0x0c;
    pub(super) const START_LOW: usize = 0x0d;
    pub(super) const CURSOR_HIGH: usize = 0x0e;
    pub(super) const CURSOR_LOW: usize = 0x0f;
    pub(super) const VRETRACE_START: usize = 0x10;
    pub(super) const VRETRACE_END: usize = 0x11;
    pub(super) const VDISPLAY_END: usize = 0x12;
    pub(super) const OFFSET: usize = 0x13;
    pub(super) const UNDERLINE: usize = 0x14;
    pub(super) const MODE: usize = 0x17;
    pub(super) const LINE_COMPARE: usize = 0x18;
}

/// The CRTC's registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Crtc {
    pub(super) index: u8,
    registers: [u8; COUNT],
}

/// How the memory address counter becomes an address in a plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    Byte,
    Word,
    Dword,
}

/// The text cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CursorRegisters {
    /// Memory address counter at which it is shown.
    pub(super) location: u16,
    /// First scan line of the character row.
    pub(super) start: u8,
    /// Last scan line.
    pub(super) end: u8,
    pub(super) off: bool,
}

impl Default for Crtc {
    fn default() -> Self {
        Self {
            index: 0,
            registers: [0; COUNT],
        }
    }
}

impl Crtc {
    pub(super) fn read(&self) -> u8 {
        self.get(usize::from(self.index))
    }

    pub(super) fn write(&mut self, value: u8) {
        let index = usize::from(self.index);
        let protected = index <= reg::OVERFLOW && self.get(reg::VRETRACE_END) & 0x80 != 0;
        let old = self.get(index);
        let value = match (protected, index) {
            // The line compare bit is not protected.
            (true, reg::OVERFLOW) => old & !0x10 | value & 0x10,
            (true, _) => old,
            (false, _) => value,
        };
        if let Some(register) = self.registers.get_mut(index) {
            *register = value;
        }
    }

    fn get(&self, index: usize) -> u8 {
        self.registers.get(index).copied().unwrap_or(0)
    }

    /// Character clocks in a scan line, blanking included.
    pub(super) fn horizontal_total(&self) -> u32 {
        u32::from(self.get(reg::HTOTAL)) + 5
    }

    /// Displayed character clocks of a scan line.
    pub(super) fn columns(&self) -> u32 {
        u32::from(self.get(reg::HDISPLAY_END)) + 1
    }

    /// Scan lines of a frame.
    pub(super) fn vertical_total(&self) -> u32 {
        self.with_overflow(reg::VTOTAL, 0, 5) + 2
    }

    /// Displayed scan lines.
    pub(super) fn lines(&self) -> u32 {
        self.with_overflow(reg::VDISPLAY_END, 1, 6) + 1
    }

    /// First scan line of the vertical retrace, and how many there are.
    pub(super) fn vertical_retrace(&self) -> (u32, u32) {
        let start = self.with_overflow(reg::VRETRACE_START, 2, 7);
        let end = u32::from(self.get(reg::VRETRACE_END)) & 15;
        let length = end.wrapping_sub(start) & 15;
        (start, if length == 0 { 16 } else { length })
    }

    /// Scan line after which the display goes on at address 0.
    pub(super) fn line_compare(&self) -> u32 {
        let low = u32::from(self.get(reg::LINE_COMPARE));
        let bit8 = u32::from(self.get(reg::OVERFLOW)) >> 4 & 1;
        let bit9 = u32::from(self.get(reg::MAX_SCAN_LINE)) >> 6 & 1;
        low | bit8 << 8 | bit9 << 9
    }

    /// Scan lines of a row of characters, or times a row of pixels is repeated.
    pub(super) fn row_height(&self) -> u32 {
        u32::from(self.get(reg::MAX_SCAN_LINE) & 0x1f) + 1
    }

    /// Each scan line is shown twice.
    pub(super) fn double_scan(&self) -> bool {
        self.get(reg::MAX_SCAN_LINE) & 0x80 != 0
    }

    /// Memory address counter of the first row.
    pub(super) fn start(&self) -> u16 {
        u16::from(self.get(reg::START_HIGH)) << 8 | u16::from(self.get(reg::START_LOW))
    }

    /// Scan line of its row that the display starts with.
    pub(super) fn preset_row_scan(&self) -> u32 {
        u32::from(self.get(reg::PRESET_ROW_SCAN) & 0x1f)
    }

    /// What the start address is ahead by, in bytes of a plane: smooth scrolling in coarse steps.
    pub(super) fn byte_panning(&self) -> u16 {
        u16::from(self.get(reg::PRESET_ROW_SCAN) >> 5 & 3)
    }

    /// What the memory address counter gains from row to row.
    pub(super) fn row_step(&self) -> u16 {
        u16::from(self.get(reg::OFFSET)) * 2
    }

    /// Scan line of a row on which monochrome text is underlined.
    pub(super) fn underline(&self) -> u32 {
        u32::from(self.get(reg::UNDERLINE) & 0x1f)
    }

    /// How many character clocks the memory address counter stays.
    pub(super) fn clocks_per_count(&self) -> u32 {
        if self.get(reg::UNDERLINE) & 0x20 != 0 {
            4
        } else if self.get(reg::MODE) & 8 != 0 {
            2
        } else {
            1
        }
    }

    /// Whether the scan line within a row takes part in the address: the CGA's and Hercules' banks.
    pub(super) fn banked_rows(&self) -> bool {
        self.get(reg::MODE) & 3 != 3
    }

    pub(super) fn cursor(&self) -> CursorRegisters {
        CursorRegisters {
            location: u16::from(self.get(reg::CURSOR_HIGH)) << 8
                | u16::from(self.get(reg::CURSOR_LOW)),
            start: self.get(reg::CURSOR_START) & 0x1f,
            end: self.get(reg::CURSOR_END) & 0x1f,
            off: self.get(reg::CURSOR_START) & 0x20 != 0,
        }
    }

    /// The address in each plane for a state of the memory address counter, in scan line
    /// `row_scan` of its row.
    pub(super) fn address(&self, counter: u16, row_scan: u32) -> u16 {
        let mode = self.get(reg::MODE);
        let mut address = match self.width() {
            Width::Byte => counter,
            Width::Word => {
                let carried = if mode & 0x20 != 0 { 15 } else { 13 };
                counter << 1 | counter >> carried & 1
            }
            // The counterpart of chained planes, which leave three of four places out.
            Width::Dword => counter << 2,
        };
        for (bit, substitute) in [(13, 1u8), (14, 2)] {
            if mode & substitute == 0 {
                let row = (row_scan >> (bit - 13) & 1) as u16;
                address = address & !(1 << bit) | row << bit;
            }
        }
        address
    }

    fn width(&self) -> Width {
        if self.get(reg::UNDERLINE) & 0x40 != 0 {
            Width::Dword
        } else if self.get(reg::MODE) & 0x40 != 0 {
            Width::Byte
        } else {
            Width::Word
        }
    }

    /// A vertical value of ten bits, two of them in the overflow register.
    fn with_overflow(&self, index: usize, bit8: u8, bit9: u8) -> u32 {
        let overflow = self.get(reg::OVERFLOW);
        u32::from(self.get(index))
            | u32::from(overflow >> bit8 & 1) << 8
            | u32::from(overflow >> bit9 & 1) << 9
    }
}
