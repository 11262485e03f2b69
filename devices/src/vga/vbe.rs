//! The Bochs VBE extensions: linear modes of up to 32 bits a pixel behind an index and a data
//! register.

use serde::{Deserialize, Serialize};

/// Register numbers.
mod reg {
    pub(super) const ID: u16 = 0;
    pub(super) const XRES: u16 = 1;
    pub(super) const YRES: u16 = 2;
    pub(super) const BPP: u16 = 3;
    pub(super) const ENABLE: u16 = 4;
    pub(super) const BANK: u16 = 5;
    pub(super) const VIRTUAL_WIDTH: u16 = 6;
    pub(super) const VIRTUAL_HEIGHT: u16 = 7;
    pub(super) const X_OFFSET: u16 = 8;
    pub(super) const Y_OFFSET: u16 = 9;
    pub(super) const VIDEO_MEMORY_64K: u16 = 10;
}

/// The first version of the interface.
const ID_FIRST: u16 = 0xb0c0;
/// The version that is here: with the amount of memory.
const ID_LAST: u16 = 0xb0c5;

/// ENABLE: the extension shows its mode.
const ENABLED: u16 = 1 << 0;
/// ENABLE: resolution registers read as their largest values.
const GET_CAPABILITIES: u16 = 1 << 1;
/// ENABLE: DAC components have eight bits.
const EIGHT_BIT_DAC: u16 = 1 << 5;
/// ENABLE: the linear frame buffer is open.
const LINEAR: u16 = 1 << 6;
/// ENABLE: memory is not cleared.
const KEEP_MEMORY: u16 = 1 << 7;

/// Largest mode.
const MAX_XRES: u16 = 2560;
const MAX_YRES: u16 = 1600;
const MAX_BPP: u16 = 32;

/// The extension's registers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Vbe {
    pub(super) index: u16,
    /// Low byte of an access that the bus has split.
    pub(super) low: u8,
    id: u16,
    xres: u16,
    yres: u16,
    bpp: u16,
    enable: u16,
    bank: u16,
    virtual_width: u16,
    virtual_height: u16,
    x_offset: u16,
    y_offset: u16,
}

/// What follows from a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    None,
    /// The mode, the bank or what is shown has changed.
    Changed,
    /// The same, and memory is to be cleared.
    Cleared,
}

/// A mode of the extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct VbeMode {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) bpp: u16,
    /// Bytes from row to row; with 4 bits a pixel, in each plane.
    pub(super) pitch: u32,
    /// Linear address of the first pixel; with 4 bits a pixel, in each plane.
    pub(super) start: u32,
}

impl Default for Vbe {
    fn default() -> Self {
        Self {
            index: 0,
            low: 0,
            id: ID_LAST,
            xres: 640,
            yres: 480,
            bpp: 8,
            enable: 0,
            bank: 0,
            virtual_width: 640,
            virtual_height: 480,
            x_offset: 0,
            y_offset: 0,
        }
    }
}

impl Vbe {
    pub(super) fn enabled(&self) -> bool {
        self.enable & ENABLED != 0
    }

    /// Memory is linear: not the planar 16-colour mode.
    pub(super) fn is_linear(&self) -> bool {
        self.enabled() && self.bpp != 4
    }

    /// The linear frame buffer is open.
    pub(super) fn linear_open(&self) -> bool {
        self.enabled() && self.enable & LINEAR != 0
    }

    pub(super) fn wide_dac(&self) -> bool {
        self.enable & EIGHT_BIT_DAC != 0
    }

    /// What the legacy window's addresses are ahead by.
    pub(super) fn bank_offset(&self) -> u32 {
        if self.enabled() {
            u32::from(self.bank) << 16
        } else {
            0
        }
    }

    /// What is shown, if the extension shows something.
    pub(super) fn mode(&self) -> Option<VbeMode> {
        if !self.enabled() {
            return None;
        }
        let bytes = |pixels: u16| match self.bpp {
            4 => u32::from(pixels) / 8,
            bpp => u32::from(pixels) * ((u32::from(bpp) + 1) / 8),
        };
        let pitch = bytes(self.virtual_width);
        Some(VbeMode {
            width: u32::from(self.xres),
            height: u32::from(self.yres),
            bpp: self.bpp,
            pitch,
            start: u32::from(self.y_offset) * pitch + bytes(self.x_offset),
        })
    }

    /// Bytes from the start of display memory to the end of what is shown.
    pub(super) fn shown_end(&self, memory: u32) -> u32 {
        let Some(mode) = self.mode() else { return 0 };
        let row = u64::from(mode.width) * ((u64::from(mode.bpp) + 1) / 8);
        let rows = u64::from(mode.pitch) * u64::from(mode.height.saturating_sub(1));
        let end = u64::from(mode.start) + rows + row;
        // What reaches beyond the end goes on at the start.
        u32::try_from(end).map_or(memory, |end| end.min(memory))
    }

    pub(super) fn read(&self, memory: u32) -> u16 {
        let capabilities = self.enable & GET_CAPABILITIES != 0;
        match self.index {
            reg::ID => self.id,
            reg::XRES if capabilities => MAX_XRES,
            reg::XRES => self.xres,
            reg::YRES if capabilities => MAX_YRES,
            reg::YRES => self.yres,
            reg::BPP if capabilities => MAX_BPP,
            reg::BPP => self.bpp,
            reg::ENABLE => self.enable,
            reg::BANK => self.bank,
            reg::VIRTUAL_WIDTH => self.virtual_width,
            reg::VIRTUAL_HEIGHT => self.virtual_height,
            reg::X_OFFSET => self.x_offset,
            reg::Y_OFFSET => self.y_offset,
            reg::VIDEO_MEMORY_64K => u16::try_from(memory >> 16).unwrap_or(u16::MAX),
            _ => 0,
        }
    }

    /// Writes the register of the index. Values that are out of range are not taken.
    pub(super) fn write(&mut self, value: u16, memory: u32) -> Effect {
        match self.index {
            reg::ID if (ID_FIRST..=ID_LAST).contains(&value) => self.id = value,
            reg::XRES if (8..=MAX_XRES).contains(&value) && !self.enabled() => {
                self.xres = value & !7;
            }
            reg::YRES if (1..=MAX_YRES).contains(&value) && !self.enabled() => self.yres = value,
            reg::BPP if !self.enabled() => match value {
                0 => self.bpp = 8,
                4 | 8 | 15 | 16 | 24 | 32 => self.bpp = value,
                _ => {}
            },
            reg::ENABLE => return self.write_enable(value, memory),
            reg::BANK if u32::from(value) < memory >> 16 => {
                self.bank = value;
                return Effect::Changed;
            }
            reg::VIRTUAL_WIDTH if self.enabled() && value >= self.xres => {
                self.set_virtual_width(value & !7, memory);
                return Effect::Changed;
            }
            // The offsets are applied modulo the memory when the picture is drawn.
            reg::X_OFFSET if self.enabled() => {
                self.x_offset = value;
                return Effect::Changed;
            }
            reg::Y_OFFSET if self.enabled() => {
                self.y_offset = value;
                return Effect::Changed;
            }
            _ => {}
        }
        Effect::None
    }

    fn write_enable(&mut self, value: u16, memory: u32) -> Effect {
        let was = self.enabled();
        self.enable = value;
        if !self.enabled() {
            self.bank = 0;
            return Effect::Changed;
        }
        if was {
            return Effect::Changed;
        }
        self.x_offset = 0;
        self.y_offset = 0;
        self.bank = 0;
        self.set_virtual_width(self.xres, memory);
        if value & KEEP_MEMORY == 0 {
            Effect::Cleared
        } else {
            Effect::Changed
        }
    }

    /// The height follows from the memory there is.
    fn set_virtual_width(&mut self, width: u16, memory: u32) {
        self.virtual_width = width;
        let pixels = match self.bpp {
            4 => memory * 2,
            bpp => memory / ((u32::from(bpp) + 1) / 8).max(1),
        };
        let height = pixels.checked_div(u32::from(width)).unwrap_or(0);
        self.virtual_height = u16::try_from(height).unwrap_or(u16::MAX);
    }
}
