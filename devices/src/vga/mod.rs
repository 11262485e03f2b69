//! A VGA with the Bochs VBE extensions, as the standard VGA of QEMU has them.
//!
//! The parts are those of IBM's adapter: `sequencer`, `crtc`, `graphics` (controller), `attribute`
//! (controller), `dac`, and `memory` with its four planes. [`Vga::text_screen`] tells what a text
//! mode shows, [`Vga::render`] draws every mode. [`VideoWindow`] says where display memory is like
//! RAM.

use serde::{Deserialize, Serialize};

use crate::Nanos;
use crate::device::{AccessSize, MmioDevice, PortDevice};

mod attribute;
pub mod codepage;
mod crtc;
mod dac;
mod graphics;
mod memory;
pub(crate) mod pci;
mod picture;
mod rom;
mod scan;
mod sequencer;
pub mod spec;
#[cfg(test)]
mod tests;
mod text;
mod timing;
mod vbe;
mod window;

use attribute::Attribute;
use crtc::Crtc;
use dac::Dac;
use graphics::{Graphics, Planes};
use sequencer::Sequencer;
use spec::*;
use timing::Timing;
use vbe::{Effect, Vbe};

pub use dac::Rgb;
pub use memory::VideoMemory;
pub use picture::Picture;
pub use rom::OptionRom;
pub use text::{TextCell, TextCursor, TextScreen};
pub use window::VideoWindow;

/// What a VGA is built from.
#[derive(Clone, Debug)]
pub struct VgaConfig {
    /// Bytes of display memory: a power of two from 256 KiB to 64 MiB.
    pub memory: u32,
    /// The VGA BIOS, for the function's ROM; may be empty.
    pub rom: Vec<u8>,
}

impl Default for VgaConfig {
    /// 16 MiB, no BIOS.
    fn default() -> Self {
        Self {
            memory: 16 << 20,
            rom: Vec::new(),
        }
    }
}

/// State of the adapter, for a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VgaState {
    misc: u8,
    feature: u8,
    enable: u8,
    sequencer: Sequencer,
    crtc: Crtc,
    graphics: Graphics,
    attribute: Attribute,
    dac: Dac,
    vbe: Vbe,
    memory: Vec<u8>,
}

/// The adapter.
#[derive(Debug)]
pub struct Vga {
    rom: OptionRom,
    // Volatile.
    misc: u8,
    feature: u8,
    enable: u8,
    sequencer: Sequencer,
    crtc: Crtc,
    graphics: Graphics,
    attribute: Attribute,
    dac: Dac,
    vbe: Vbe,
    memory: VideoMemory,
    /// Where the machine has RAM in place of display memory.
    window: Option<VideoWindow>,
    window_changed: bool,
    /// Windows that were offered, or taken back.
    windows: u32,
    /// Guest-physical address of the linear frame buffer, where the guest has given it one.
    frame_buffer_at: Option<u64>,
    /// What the machine holds of the window is older than display memory.
    stale: bool,
    /// Trapped accesses since a register was written.
    accesses: u32,
}

impl Vga {
    /// An adapter after power-on: everything is zero, and the screen blank.
    pub fn new(config: VgaConfig) -> Self {
        Self {
            rom: OptionRom::new(config.rom),
            misc: 0,
            feature: 0,
            enable: 0,
            sequencer: Sequencer::default(),
            crtc: Crtc::default(),
            graphics: Graphics::default(),
            attribute: Attribute::default(),
            dac: Dac::default(),
            vbe: Vbe::default(),
            memory: VideoMemory::new(config.memory),
            window: None,
            window_changed: false,
            windows: 0,
            frame_buffer_at: None,
            stale: false,
            accesses: 0,
        }
    }

    /// RESET#: the registers go back, display memory keeps what it holds.
    pub fn reset(&mut self) {
        self.misc = 0;
        self.feature = 0;
        self.enable = 0;
        self.sequencer = Sequencer::default();
        self.crtc = Crtc::default();
        self.graphics = Graphics::default();
        self.attribute = Attribute::default();
        self.dac = Dac::default();
        self.vbe = Vbe::default();
        self.memory.set_linear_open(false);
        self.note_register();
    }

    /// The state. What a [`VideoWindow`] holds has to be stored before.
    pub fn state(&self) -> VgaState {
        VgaState {
            misc: self.misc,
            feature: self.feature,
            enable: self.enable,
            sequencer: self.sequencer.clone(),
            crtc: self.crtc.clone(),
            graphics: self.graphics.clone(),
            attribute: self.attribute.clone(),
            dac: self.dac.clone(),
            vbe: self.vbe.clone(),
            memory: self.memory.contents().to_vec(),
        }
    }

    /// Goes back to a saved state.
    pub fn restore(&mut self, state: VgaState) {
        self.drop_window();
        self.misc = state.misc;
        self.feature = state.feature;
        self.enable = state.enable;
        self.sequencer = state.sequencer;
        self.crtc = state.crtc;
        self.graphics = state.graphics;
        self.attribute = state.attribute;
        self.dac = state.dac;
        self.dac.sanitize();
        self.vbe = state.vbe;
        self.memory.restore(&state.memory);
        self.memory.set_linear_open(self.vbe.linear_open());
        self.note_register();
    }

    /// The linear frame buffer, which answers at base address 0.
    pub fn frame_buffer(&mut self) -> &mut VideoMemory {
        &mut self.memory
    }

    /// Bytes of the linear frame buffer.
    pub fn frame_buffer_bytes(&self) -> u32 {
        self.memory.len()
    }

    /// The VGA BIOS, which answers at the ROM base address.
    pub fn rom(&mut self) -> &mut OptionRom {
        &mut self.rom
    }

    /// The VGA BIOS, to look at.
    pub fn rom_ref(&self) -> &OptionRom {
        &self.rom
    }

    /// A graphics mode is set.
    pub fn is_graphics(&self) -> bool {
        self.vbe.enabled() || self.graphics.is_graphics()
    }

    /// Nothing is shown: the screen is off, or the palette in the processor's hands.
    pub fn is_blank(&self) -> bool {
        !self.vbe.enabled() && (self.sequencer.screen_off() || !self.attribute.display_on())
    }

    fn misc(&self) -> Misc {
        Misc::from_bits_retain(self.misc)
    }

    fn timing(&self) -> Timing {
        Timing::new(&self.crtc, &self.sequencer, self.misc())
    }

    /// The port with the CRTC's monochrome addresses turned into colour ones; `None` where the
    /// CRTC does not answer.
    fn decode(&self, port: u16) -> Option<u16> {
        let colour = self.misc().contains(Misc::COLOUR);
        match port {
            0x3b4..=0x3bb if !colour => Some(port + MONO_OFFSET),
            0x3d0..=0x3df if colour => Some(port),
            0x3c0..=0x3cf => Some(port),
            _ => None,
        }
    }

    fn read_register(&mut self, port: u16, now: Nanos) -> Option<u8> {
        Some(match self.decode(port)? {
            ATTRIBUTE_INDEX => self.attribute.index(),
            ATTRIBUTE_DATA => self.attribute.read(),
            // Input status 0.
            MISC_WRITE => STATUS0_SENSE,
            SUBSYSTEM_ENABLE => self.enable,
            SEQUENCER_INDEX => self.sequencer.index,
            SEQUENCER_DATA => self.sequencer.read(),
            DAC_MASK => self.dac.mask,
            DAC_READ => self.dac.state(),
            DAC_WRITE => self.dac.write_index(),
            DAC_DATA => self.dac.read(),
            FEATURE_READ => self.feature,
            MISC_READ => self.misc,
            GRAPHICS_INDEX => self.graphics.index,
            GRAPHICS_DATA => self.graphics.read(),
            CRTC_INDEX => self.crtc.index,
            CRTC_DATA => self.crtc.read(),
            STATUS1 => {
                self.attribute.reset_flip_flop();
                self.timing().status(now).bits()
            }
            _ => return None,
        })
    }

    fn write_register(&mut self, port: u16, value: u8) {
        match self.decode(port) {
            Some(ATTRIBUTE_INDEX) => self.attribute.write(value),
            Some(MISC_WRITE) => {
                self.misc = value & 0xef;
                self.note_register();
            }
            Some(SUBSYSTEM_ENABLE) => self.enable = value & 1,
            Some(SEQUENCER_INDEX) => self.sequencer.index = value & 7,
            Some(SEQUENCER_DATA) => {
                self.sequencer.write(value);
                self.note_register();
            }
            Some(DAC_MASK) => self.dac.mask = value,
            Some(DAC_READ) => self.dac.set_read_index(value),
            Some(DAC_WRITE) => self.dac.set_write_index(value),
            Some(DAC_DATA) => self.dac.write(value),
            Some(GRAPHICS_INDEX) => self.graphics.index = value & 15,
            Some(GRAPHICS_DATA) => {
                self.graphics.write(value);
                self.note_register();
            }
            Some(CRTC_INDEX) => self.crtc.index = value & 0x3f,
            Some(CRTC_DATA) => self.crtc.write(value),
            // Feature control.
            Some(STATUS1) => self.feature = value & 0x0b,
            _ => {}
        }
    }

    fn write_vbe(&mut self, value: u16) {
        let effect = self.vbe.write(value, self.memory.len());
        if effect == Effect::None {
            return;
        }
        self.dac.wide = self.vbe.wide_dac();
        self.memory.set_linear_open(self.vbe.linear_open());
        if effect == Effect::Cleared {
            self.memory.clear();
            self.drop_window();
        }
        self.note_register();
    }

    /// The address within display memory's own window, or `None` where it does not answer.
    fn window_offset(&self, offset: u64) -> Option<u32> {
        if !self.misc().contains(Misc::RAM_ENABLE) {
            return None;
        }
        let (start, bytes) = self.graphics.window();
        let offset = offset.checked_sub(start)?;
        (offset < bytes).then_some(offset as u32)
    }

    /// Where an address of the window is: the byte's offset in the planes, and the planes that odd
    /// and even addresses, or chained ones, reach.
    fn locate(&self, address: u32) -> (u32, u8) {
        let bank = self.vbe.bank_offset();
        if self.sequencer.chain4() {
            (bank + (address & !3), 1 << (address & 3))
        } else {
            let offset = if self.graphics.chain_odd_even() {
                address & !1
            } else {
                address
            };
            let planes = match self.sequencer.odd_even() {
                true if address & 1 == 0 => 0b0101,
                true => 0b1010,
                false => 0b1111,
            };
            (bank + offset, planes)
        }
    }

    fn read_byte(&mut self, offset: u64) -> u8 {
        let Some(address) = self.window_offset(offset) else {
            return 0xff;
        };
        if self.vbe.is_linear() {
            return self.memory.byte(self.vbe.bank_offset() + address);
        }
        let (at, _) = self.locate(address);
        self.graphics.latches = self.memory.planes(at);
        let low = address as u8;
        let plane = if self.sequencer.chain4() {
            low & 3
        } else if self.graphics.host_odd_even() {
            self.graphics.read_map() & 2 | low & 1
        } else {
            self.graphics.read_map()
        };
        self.graphics.value_read(plane)
    }

    fn write_byte(&mut self, offset: u64, value: u8) {
        let values = self.graphics.value_written(value);
        self.write_planes(offset, value, values);
    }

    /// Writes a byte, of which the graphics controller makes `values` where there are planes.
    fn write_planes(&mut self, offset: u64, value: u8, values: Planes) {
        let Some(address) = self.window_offset(offset) else {
            return;
        };
        if self.vbe.is_linear() {
            self.memory
                .set_byte(self.vbe.bank_offset() + address, value);
            return;
        }
        let (at, planes) = self.locate(address);
        self.memory
            .set_planes(at, values, planes & self.sequencer.map_mask());
    }
}

impl PortDevice for Vga {
    fn port_read(&mut self, port: u16, size: AccessSize, now: Nanos) -> u32 {
        let vbe = self.vbe.read(self.memory.len());
        match (port, size) {
            (VBE_INDEX, AccessSize::Word) => u32::from(self.vbe.index),
            (VBE_DATA_EVEN, AccessSize::Word) => u32::from(vbe),
            (VBE_DATA, AccessSize::Byte) => u32::from(vbe & 0xff),
            (VBE_DATA_EVEN, AccessSize::Byte) => u32::from(vbe >> 8),
            (FIRST_PORT..=LAST_PORT, _) => self.read_register(port, now).map_or(0xff, u32::from),
            _ => size.ones(),
        }
    }

    fn port_write(&mut self, port: u16, size: AccessSize, value: u32, _now: Nanos) {
        match (port, size) {
            (VBE_INDEX, AccessSize::Word) => self.vbe.index = value as u16,
            (VBE_DATA_EVEN, AccessSize::Word) => self.write_vbe(value as u16),
            (VBE_DATA, AccessSize::Byte) => self.vbe.low = value as u8,
            (VBE_DATA_EVEN, AccessSize::Byte) => {
                self.write_vbe(u16::from(self.vbe.low) | (value as u16) << 8);
            }
            (FIRST_PORT..=LAST_PORT, _) => self.write_register(port, value as u8),
            _ => {}
        }
    }
}

/// The legacy window, A0000h to BFFFFh. Wide accesses are carried out byte by byte, as the ISA bus
/// does.
impl MmioDevice for Vga {
    fn mmio_read(&mut self, offset: u64, size: AccessSize, _now: Nanos) -> u32 {
        let value = (0..u64::from(size.bytes())).fold(0, |value, index| {
            value | u32::from(self.read_byte(offset + index)) << (8 * index)
        });
        self.note_access(1);
        value
    }

    fn mmio_write(&mut self, offset: u64, size: AccessSize, value: u32, _now: Nanos) {
        let bytes = value.to_le_bytes();
        for (index, byte) in (0..u64::from(size.bytes())).zip(bytes) {
            self.write_byte(offset + index, byte);
        }
        self.note_access(1);
    }

    fn mmio_write_span(&mut self, offset: u64, size: AccessSize, data: &[u8], _now: Nanos) {
        let mut known = None;
        for (at, byte) in (offset..).zip(data) {
            // A span is a pattern more often than not, and only what the planes take of it is costly.
            let values = match known {
                Some((value, planes)) if value == *byte => planes,
                _ => self.graphics.value_written(*byte),
            };
            known = Some((*byte, values));
            self.write_planes(at, *byte, values);
        }
        self.note_access((data.len() / usize::from(size.bytes())) as u32);
    }

    fn mmio_read_span(&mut self, offset: u64, size: AccessSize, data: &mut [u8], _now: Nanos) {
        let accesses = (data.len() / usize::from(size.bytes())) as u32;
        for (at, byte) in (offset..).zip(data) {
            *byte = self.read_byte(at);
        }
        self.note_access(accesses);
    }
}
