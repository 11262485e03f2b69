//! The floppy controller with the DMA controllers, keyboard and mouse, driven with commands that are
//! whole more often than chance would make them, on disks that fail now and then.

use super::bytes::Bytes;
use super::ports::{check, clock, restored};
use crate::generate::Rng;
use devices::fdc::{DiskFormat, DriveKind, Medium, MediumError, SECTOR};
use devices::memory::{GuestMemory, NoMemory};
use devices::{AccessSize, Chipset, ChipsetConfig, ChipsetEvent, Nanos};

/// The floppy controller's ports, those of the DMA controllers that lead to it, keyboard and mouse.
const PORTS: [u16; 32] = [
    0x3F0, 0x3F1, 0x3F2, 0x3F3, 0x3F4, 0x3F5, 0x3F5, 0x3F5, 0x3F5, 0x3F7, 0x04, 0x05, 0x08, 0x09,
    0x0A, 0x0B, 0x0C, 0x0D, 0x0E, 0x0F, 0x81, 0xC0, 0xD0, 0xD2, 0xD4, 0xD6, 0xDE, 0x60, 0x64, 0x00,
    0x01, 0x8B,
];
const OPERATIONS: usize = 10_000;
/// Where the guest's memory ends.
const MEMORY_END: u64 = 1 << 20;
/// Where the ISA bus's addresses end.
const ISA_END: u64 = 1 << 24;

/// Memory that forgets, and checks where it is looked for.
struct Memory;

impl Memory {
    fn check(address: u64, length: usize) -> Result<(), NoMemory> {
        let end = address + length as u64;
        assert!(end <= ISA_END, "DMA at {address:#x}");
        if end <= MEMORY_END {
            Ok(())
        } else {
            Err(NoMemory { address })
        }
    }
}

impl GuestMemory for Memory {
    fn read(&mut self, address: u64, data: &mut [u8]) -> Result<(), NoMemory> {
        data.fill(address as u8);
        Self::check(address, data.len())
    }

    fn write(&mut self, address: u64, data: &[u8]) -> Result<(), NoMemory> {
        Self::check(address, data.len())
    }
}

/// A disk without contents.
struct Disk {
    format: DiskFormat,
    protected: bool,
    /// Sectors from here on cannot be accessed.
    end: u32,
}

impl Disk {
    fn access(&self, sector: u32) -> Result<(), MediumError> {
        assert!(sector < self.format.total_sectors(), "sector {sector}");
        match sector.cmp(&self.end) {
            std::cmp::Ordering::Less => Ok(()),
            std::cmp::Ordering::Equal => Err(std::io::Error::other("the host fails").into()),
            std::cmp::Ordering::Greater => Err(MediumError::NoSector(sector)),
        }
    }
}

impl Medium for Disk {
    fn format(&self) -> DiskFormat {
        self.format
    }

    fn is_write_protected(&self) -> bool {
        self.protected
    }

    fn read(&mut self, sector: u32, data: &mut [u8; SECTOR]) -> Result<(), MediumError> {
        data.fill(sector as u8);
        self.access(sector)
    }

    fn write(&mut self, sector: u32, _data: &[u8; SECTOR]) -> Result<(), MediumError> {
        assert!(!self.protected, "a protected disk is written to");
        self.access(sector)
    }
}

/// Each operation takes one byte that says what it is, one for the clock, and what it needs.
pub fn run(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let kinds = [
        DriveKind::F360,
        DriveKind::F1200,
        DriveKind::F720,
        DriveKind::F1440,
        DriveKind::F2880,
    ];
    let drive = |choice: u8| kinds.get(usize::from(choice % 6)).copied();
    let mut chipset = Chipset::new(ChipsetConfig {
        floppy_drives: [drive(bytes.u8()), drive(bytes.u8())],
        ..ChipsetConfig::new()
    })
    .expect("no two devices of the board claim one port");
    let mut now = Nanos::ZERO;
    let mut latest = Nanos::ZERO;
    for _ in 0..OPERATIONS {
        if bytes.is_empty() {
            break;
        }
        let operation = bytes.u8();
        now = clock(&mut bytes, now, &chipset);
        latest = latest.max(now);
        operate(&mut chipset, operation, &mut bytes, now);
        if chipset.has_events() && chipset.take_events().contains(&ChipsetEvent::Dma) {
            chipset.transfer(&mut Memory);
        }
        check(&mut chipset, latest);
    }
    restored(&mut chipset);
}

fn operate(chipset: &mut Chipset, operation: u8, bytes: &mut Bytes<'_>, now: Nanos) {
    let mut out = |port, value: u8| {
        chipset.port_write(port, AccessSize::Byte, u32::from(value), now);
    };
    match operation & 15 {
        0..4 => {
            let port = bytes.pick(&PORTS);
            chipset.port_read(port, AccessSize::Byte, now);
        }
        4..7 => {
            let port = bytes.pick(&PORTS);
            out(port, bytes.u8());
        }
        // A command that reads or writes, with an address that may well be there.
        7 | 8 => {
            let command = bytes.pick(&[0x46, 0xC6, 0x45, 0xC5, 0x4D, 0x42, 0x56, 0x4C, 0x49, 0x66]);
            let place = bytes.u8();
            let head = place >> 7;
            for value in [
                command,
                head << 2 | operation >> 7,
                place & 3,
                head,
                place >> 2 & 15,
            ] {
                out(0x3F5, value);
            }
            for value in [2, 18, 0x1B, 0xFF] {
                out(0x3F5, value);
            }
        }
        // One that moves the head or tells of something.
        9 => {
            let command = bytes.pick(&[0x0F, 0x07, 0x08, 0x4A, 0x8F, 0xCF, 0x0E, 0x10, 0x04, 0x13]);
            for value in [command, operation >> 7, bytes.u8(), bytes.u8()] {
                out(0x3F5, value);
            }
        }
        // Channel 2, ready to go.
        10 => {
            let mode = bytes.pick(&[0x46, 0x4A, 0x42, 0x56, 0x66, 0x86, 0xC2, 0x06]);
            let count = bytes.u16();
            for (port, value) in [
                (0x0C, 0),
                (0x0B, mode),
                (0x04, bytes.u8()),
                (0x04, bytes.u8()),
                (0x05, count as u8),
                (0x05, (count >> 8) as u8),
                (0x81, bytes.u8()),
                (0x0A, 2),
            ] {
                out(port, value);
            }
        }
        // Out of reset, at a rate.
        11 => {
            out(0x3F2, 0x1C | operation >> 7);
            out(0x3F7, bytes.u8() & 3);
        }
        12 => {
            let choice = bytes.u8();
            let format = bytes.pick(&DiskFormat::ALL);
            let disk = Disk {
                format,
                protected: choice & 1 != 0,
                end: u32::from(choice >> 1) * 40,
            };
            let there = choice & 0x0E != 0;
            let disk = there.then(|| Box::new(disk) as Box<dyn Medium>);
            chipset.change_floppy(usize::from(operation >> 6), disk);
        }
        13 => {
            chipset.keyboard_input(
                &bytes.u32().to_le_bytes()[..1 + usize::from(operation >> 6)],
                now,
            );
        }
        14 if operation == 0xFE => chipset.reset(now),
        14 => chipset.mouse_input(i32::from(bytes.u8()) - 128, 1, -1, bytes.u8(), now),
        _ if operation == 0xFF => restored(chipset),
        _ => chipset.advance(now),
    }
}

/// Puts disks in, takes the controller out of reset, and goes on at random.
pub fn make(random: &mut Rng) -> Vec<u8> {
    let mut input = vec![3, random.below(6) as u8];
    if !random.one_in(4) {
        // A 1.44M disk, reset, SPECIFY with DMA.
        input.extend([12, 0, 0xFE, 8, 11, 0, 0]);
        for value in [0x03, 0xDF, 0x02] {
            input.extend([4, 0, 5, value]);
        }
    }
    let mut rest = vec![0; random.below(4000) as usize];
    random.fill(&mut rest);
    input.extend(rest);
    input
}
