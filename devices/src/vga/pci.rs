//! The adapter as a PCI function: QEMU's standard VGA (1234:1111), with the linear frame buffer at
//! base address 0 and the VGA BIOS at the ROM base address.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::pci::PciDevice;
use crate::pci::config::ConfigSpace;
use crate::pci::spec::{Bdf, COMMAND, REVISION, SUBSYSTEM, VENDOR_ID};

/// Where on the bus the adapter is.
pub(crate) const PLACE: Bdf = Bdf::root(2, 0);

const ID: u32 = 0x1111_1234;
const SUBSYSTEM_ID: u32 = 0x1100_1af4;
/// Class 03h (display), subclass 00h (VGA), revision 2.
const CLASS_REVISION: u32 = 0x0300_0002;
/// Command: I/O and memory access.
const COMMAND_WRITABLE: u32 = 0x0003;
const COMMAND_MEMORY: u32 = 0x0002;
/// Base address 0: the frame buffer.
const BAR0: u8 = 0x10;
/// Base address 0: prefetchable.
const BAR_PREFETCHABLE: u32 = 0x8;
/// ROM base address.
const ROM: u8 = 0x30;
/// ROM base address: the ROM answers.
const ROM_ENABLE: u32 = 1;

/// No address.
const NOWHERE: u64 = u64::MAX;

/// Where the function's memory is: the wires between it and the board.
#[derive(Debug)]
pub(crate) struct VgaBars {
    frame_buffer: AtomicU64,
    rom: AtomicU64,
    changed: AtomicBool,
}

impl VgaBars {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            frame_buffer: AtomicU64::new(NOWHERE),
            rom: AtomicU64::new(NOWHERE),
            changed: AtomicBool::new(false),
        })
    }

    /// Guest-physical addresses of the frame buffer and of the ROM, where they answer.
    pub(crate) fn addresses(&self) -> [Option<u64>; 2] {
        [&self.frame_buffer, &self.rom].map(|address| {
            let address = address.load(Ordering::Acquire);
            (address != NOWHERE).then_some(address)
        })
    }

    /// Whether one of them has moved since the last call.
    pub(crate) fn take_change(&self) -> bool {
        self.changed.load(Ordering::Acquire) && self.changed.swap(false, Ordering::AcqRel)
    }

    fn set(&self, frame_buffer: u64, rom: u64) {
        let old = self.frame_buffer.swap(frame_buffer, Ordering::AcqRel);
        let old_rom = self.rom.swap(rom, Ordering::AcqRel);
        if (old, old_rom) != (frame_buffer, rom) {
            self.changed.store(true, Ordering::Release);
        }
    }
}

/// The PCI function.
#[derive(Debug)]
pub(crate) struct VgaFunction {
    space: ConfigSpace,
    fresh: ConfigSpace,
    bars: Arc<VgaBars>,
}

impl VgaFunction {
    /// A function with a frame buffer and a ROM of these sizes, powers of two; 0 for no ROM.
    pub(crate) fn new(frame_buffer: u32, rom: u32, bars: Arc<VgaBars>) -> Self {
        let rom_mask = match rom {
            0 => 0,
            size => !(size.max(0x800) - 1) | ROM_ENABLE,
        };
        let fresh = ConfigSpace::new()
            .with(VENDOR_ID, ID, 0, 0)
            .with(COMMAND, 0, COMMAND_WRITABLE, 0)
            .with(REVISION, CLASS_REVISION, 0, 0)
            .with(BAR0, BAR_PREFETCHABLE, !(frame_buffer.max(16) - 1), 0)
            .with(SUBSYSTEM, SUBSYSTEM_ID, 0, 0)
            .with(ROM, 0, rom_mask, 0)
            // A firmware keeps the interrupt's number here, pin or no pin.
            .with(0x3c, 0, 0xff, 0);
        Self {
            space: fresh.clone(),
            fresh,
            bars,
        }
    }

    fn decode(&self) {
        let memory = self.space.read(COMMAND) & COMMAND_MEMORY != 0;
        let place = |address: u32, on: bool| {
            let usable = memory && on && address != 0;
            if usable { u64::from(address) } else { NOWHERE }
        };
        let rom = self.space.read(ROM);
        self.bars.set(
            place(self.space.read(BAR0) & !0xf, true),
            place(rom & !0x7ff, rom & ROM_ENABLE != 0),
        );
    }
}

impl PciDevice for VgaFunction {
    fn config_read(&mut self, offset: u8) -> u32 {
        self.space.read(offset)
    }

    fn config_write(&mut self, offset: u8, value: u32, mask: u32) {
        self.space.write(offset, value, mask);
        self.decode();
    }

    fn reset(&mut self) {
        self.space = self.fresh.clone();
        self.decode();
    }

    fn config_space(&self) -> Option<&ConfigSpace> {
        Some(&self.space)
    }

    fn restore_config_space(&mut self, space: ConfigSpace) {
        let mut fresh = self.fresh.clone();
        fresh.restore_values(&space);
        self.space = fresh;
        self.decode();
    }
}
