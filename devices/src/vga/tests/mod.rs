//! Register semantics, from IBM's reference and what programs of the time rely on.

mod modes;
mod pictures;
mod planes;
mod registers;
mod windows;

use super::*;
use modes::Mode;

const NOW: Nanos = Nanos::ZERO;

/// An adapter with little memory.
fn vga() -> Vga {
    Vga::new(VgaConfig {
        memory: 256 << 10,
        rom: Vec::new(),
    })
}

/// An adapter in a mode, with the 16 colours of the CGA in the DAC.
fn in_mode(mode: &Mode) -> Vga {
    let mut vga = vga();
    mode.set(&mut vga);
    vga
}

fn out(vga: &mut Vga, port: u16, value: u8) {
    vga.port_write(port, AccessSize::Byte, u32::from(value), NOW);
}

fn input(vga: &mut Vga, port: u16) -> u8 {
    vga.port_read(port, AccessSize::Byte, NOW) as u8
}

/// Writes a register behind an index.
fn set(vga: &mut Vga, port: u16, index: u8, value: u8) {
    out(vga, port, index);
    out(vga, port + 1, value);
}

/// Reads a register behind an index.
fn get(vga: &mut Vga, port: u16, index: u8) -> u8 {
    out(vga, port, index);
    input(vga, port + 1)
}

/// Writes a register of the attribute controller, display on.
fn set_attribute(vga: &mut Vga, index: u8, value: u8) {
    input(vga, STATUS1);
    out(vga, ATTRIBUTE_INDEX, index | 0x20);
    out(vga, ATTRIBUTE_INDEX, value);
}

/// A byte at a guest-physical address of the legacy window.
fn peek(vga: &mut Vga, address: u64) -> u8 {
    vga.mmio_read(address - WINDOW, AccessSize::Byte, NOW) as u8
}

fn poke(vga: &mut Vga, address: u64, value: u8) {
    vga.mmio_write(address - WINDOW, AccessSize::Byte, u32::from(value), NOW);
}

fn set_vbe(vga: &mut Vga, index: u16, value: u16) {
    vga.port_write(VBE_INDEX, AccessSize::Word, u32::from(index), NOW);
    vga.port_write(VBE_DATA_EVEN, AccessSize::Word, u32::from(value), NOW);
}

fn get_vbe(vga: &mut Vga, index: u16) -> u16 {
    vga.port_write(VBE_INDEX, AccessSize::Word, u32::from(index), NOW);
    vga.port_read(VBE_DATA_EVEN, AccessSize::Word, NOW) as u16
}
