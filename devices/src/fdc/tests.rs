//! Register semantics from the data sheet, driven as guests drive them.

use std::sync::{Arc, Mutex};

use super::spec::{DIR, DSR, ROTATION_NANOS, St1, St2};
use super::*;
use crate::line::LineBank;
use crate::testing::{Random, fuzz_ports};

mod commands;
mod data;

/// What a test can see of a disk while it is in the drive.
#[derive(Clone)]
pub(super) struct Disk {
    pub(super) bytes: Arc<Mutex<Vec<u8>>>,
    format: DiskFormat,
    protected: bool,
    /// Host errors from this sector on.
    pub(super) fails_from: u32,
}

impl Disk {
    /// A disk on which each sector is filled with the low byte of its number.
    pub(super) fn new(format: DiskFormat) -> Self {
        let sectors = (0..format.total_sectors()).flat_map(|sector| [sector as u8; SECTOR]);
        Self {
            bytes: Arc::new(Mutex::new(sectors.collect())),
            format,
            protected: false,
            fails_from: u32::MAX,
        }
    }

    pub(super) fn protected(self) -> Self {
        Self {
            protected: true,
            ..self
        }
    }

    pub(super) fn sector(&self, sector: usize) -> Vec<u8> {
        self.bytes.lock().unwrap()[sector * SECTOR..][..SECTOR].to_vec()
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
        if sector >= self.fails_from {
            return Err(std::io::Error::other("the host fails").into());
        }
        data.copy_from_slice(&self.sector(sector as usize));
        Ok(())
    }

    fn write(&mut self, sector: u32, data: &[u8; SECTOR]) -> Result<(), MediumError> {
        if sector >= self.fails_from {
            return Err(std::io::Error::from(std::io::ErrorKind::StorageFull).into());
        }
        self.bytes.lock().unwrap()[sector as usize * SECTOR..][..SECTOR].copy_from_slice(data);
        Ok(())
    }
}

/// A format by its size in KiB.
pub(super) fn format(kib: u64) -> DiskFormat {
    let mut formats = DiskFormat::ALL.into_iter();
    formats.find(|f| f.bytes() == kib * 1024).unwrap()
}

pub(super) struct Bench {
    pub(super) fdc: Fdc,
    pub(super) bank: LineBank,
    pub(super) now: Nanos,
    /// Bytes that DMA moves before it says TC; `None`: it is masked.
    pub(super) dma: Option<usize>,
    /// What DMA moved to the host, or moves from it.
    pub(super) data: Vec<u8>,
}

const DREQ_WIRE: u8 = 20;

impl Bench {
    /// A controller out of reset, its first interrupts taken, SPECIFY done, 500 kbit/s.
    pub(super) fn new(kinds: [Option<DriveKind>; DRIVES]) -> Self {
        let bank = LineBank::new();
        let fdc = Fdc::new(bank.line(spec::IRQ), bank.line(DREQ_WIRE), kinds);
        let mut bench = Self {
            fdc,
            bank,
            now: Nanos::ZERO,
            dma: None,
            data: Vec::new(),
        };
        bench.out(DOR, 0x1c);
        bench.wait_for_int();
        for unit in 0..4 {
            assert_eq!(bench.command(&[0x08]), [0xc0 | unit, 0]);
        }
        assert_eq!(bench.command(&[0x03, 0xdf, 0x02]), []);
        bench.out(CCR, 0);
        bench
    }

    /// One 1.44M drive with a disk.
    pub(super) fn with_disk() -> (Self, Disk) {
        let disk = Disk::new(format(1440));
        let mut bench = Self::new([Some(DriveKind::F1440), None]);
        bench.fdc.change(0, Some(Box::new(disk.clone())));
        (bench, disk)
    }

    pub(super) fn out(&mut self, port: u16, value: u8) {
        self.fdc
            .port_write(port, AccessSize::Byte, u32::from(value), self.now);
    }

    pub(super) fn inb(&mut self, port: u16) -> u8 {
        self.fdc.port_read(port, AccessSize::Byte, self.now) as u8
    }

    pub(super) fn msr(&mut self) -> Msr {
        Msr::from_bits_retain(self.inb(MSR))
    }

    pub(super) fn int(&self) -> bool {
        self.bank.is_high(spec::IRQ)
    }

    /// Lets time pass to the next event, and DMA do its work.
    pub(super) fn step(&mut self) -> bool {
        let Some(at) = self.fdc.next_event() else {
            return false;
        };
        assert!(at > self.now, "a deadline lies ahead");
        self.now = at;
        self.fdc.advance(at);
        self.serve();
        true
    }

    fn serve(&mut self) {
        while self.bank.is_high(DREQ_WIRE) {
            let Some(left) = self.dma.filter(|&left| left > 0) else {
                return;
            };
            let length = self.fdc.pending().min(left);
            let terminal = length == left;
            let to_host =
                matches!(&self.fdc.state.phase, Phase::Execution(t) if t.is_towards_host());
            if to_host {
                let mut part = vec![0; length];
                self.fdc.read(&mut part);
                self.data.extend(part);
            } else {
                let part: Vec<u8> = self.data.drain(..length).collect();
                DmaDevice::write(&mut self.fdc, &part);
            }
            self.dma = Some(left - length);
            self.fdc.served(terminal, self.now);
        }
    }

    pub(super) fn wait_for_int(&mut self) {
        while !self.int() {
            assert!(self.step(), "nothing will ever interrupt");
        }
    }

    /// Writes a command. Its result, if one is there at once.
    pub(super) fn command(&mut self, bytes: &[u8]) -> Vec<u8> {
        for &byte in bytes {
            let status = self.msr();
            assert!(status.contains(Msr::RQM) && !status.contains(Msr::DIO));
            self.out(FIFO, byte);
        }
        self.result()
    }

    /// Reads what there is of a result.
    pub(super) fn result(&mut self) -> Vec<u8> {
        let mut result = Vec::new();
        while self.msr().contains(Msr::RQM | Msr::DIO | Msr::CMD_BUSY)
            && !self.msr().contains(Msr::NON_DMA)
        {
            result.push(self.inb(FIFO));
        }
        result
    }

    /// A command that ends with an interrupt, and its result.
    pub(super) fn run(&mut self, bytes: &[u8]) -> Vec<u8> {
        assert_eq!(self.command(bytes), []);
        self.wait_for_int();
        let result = self.result();
        assert!(!self.int(), "the first byte of the result takes INT away");
        result
    }

    /// As [`Self::run`], with DMA of so many bytes.
    pub(super) fn run_dma(&mut self, bytes: &[u8], length: usize) -> Vec<u8> {
        self.dma = Some(length);
        self.run(bytes)
    }

    /// Moves the head, and takes the interrupt.
    pub(super) fn seek(&mut self, unit: u8, cylinder: u8) -> Vec<u8> {
        assert_eq!(self.command(&[0x0f, unit, cylinder]), []);
        self.wait_for_int();
        self.command(&[0x08])
    }
}

#[test]
fn a_reset_is_followed_by_four_interrupt_statuses() {
    let mut b = Bench::new([Some(DriveKind::F1440), None]);
    b.out(DOR, 0x08);
    assert_eq!(b.msr(), Msr::empty(), "in reset");
    b.out(FIFO, 0x08);
    b.out(DOR, 0x0c);
    assert!(!b.int(), "polling takes some time");
    b.wait_for_int();
    assert_eq!(b.command(&[0x08]), [0xc0, 0]);
    assert!(!b.int());
    for unit in 1..4 {
        assert_eq!(b.command(&[0x08]), [0xc0 | unit, 0]);
    }
    assert_eq!(b.command(&[0x08]), [0x80], "nothing more to tell");

    // The same through DSR, which lets go by itself.
    b.out(DSR, 0x80);
    b.wait_for_int();
    assert_eq!(b.command(&[0x08]), [0xc0, 0]);
    // The gate in DOR holds INT back, but not the status.
    b.out(DOR, 0x04);
    b.out(DSR, 0x80);
    while b.step() {}
    assert!(!b.int());
    b.out(DOR, 0x0c);
    assert!(b.int());
}

#[test]
fn the_end_of_a_seek_goes_before_what_polling_has_to_tell() {
    // OpenBSD resets the controller, never asks why it interrupted, and looks for drives by
    // recalibrating them with the interrupt held back.
    let mut b = Bench::new([Some(DriveKind::F1440), None]);
    b.out(DOR, 0x00);
    b.out(DOR, 0x04);
    while b.step() {}
    b.command(&[0x07, 0]);
    while b.step() {}
    assert_eq!(b.command(&[0x08]), [0x20, 0]);
    assert_eq!(b.command(&[0x08]), [0x80], "nothing more to tell");
    b.command(&[0x07, 1]);
    while b.step() {}
    assert_eq!(b.command(&[0x08])[0] & 0xf8, 0x70, "no drive, no track 0");
}

#[test]
fn without_polling_a_reset_is_silent() {
    let mut b = Bench::new([None; DRIVES]);
    // LOCK keeps what CONFIGURE has set up over a software reset.
    b.command(&[0x13, 0, 0x57, 3]);
    assert_eq!(b.command(&[0x94]), [0x10]);
    b.out(DSR, 0x80);
    assert!(!b.step() && !b.int());
    assert_eq!(b.command(&[0x0e])[7..], [0x80, 0x57, 3]);
    assert_eq!(b.command(&[0x14]), [0x00]);
    b.out(DSR, 0x80);
    assert_eq!(b.command(&[0x0e])[7..], [0, 0, 0]);
}

#[test]
fn the_change_line_is_cleared_by_a_step_with_a_disk() {
    let (mut b, disk) = Bench::with_disk();
    assert_eq!(b.inb(DIR), 0x80);
    b.seek(0, 0);
    assert_eq!(b.inb(DIR), 0x80, "no step was made");
    b.seek(0, 1);
    assert_eq!(b.inb(DIR), 0);
    let old = b.fdc.change(0, None);
    assert!(old.is_some() && !b.fdc.has_disk(0));
    b.seek(0, 0);
    assert_eq!(b.inb(DIR), 0x80, "no disk");
    b.fdc.change(0, Some(Box::new(disk)));
    assert_eq!(b.inb(DIR), 0x80, "another one, perhaps");
    b.seek(0, 2);
    assert_eq!(b.inb(DIR), 0);
    // The line of the drive that DOR selects; there is no other.
    b.out(DOR, 0x1d);
    assert_eq!(b.inb(DIR), 0);
}

#[test]
fn status_registers_a_and_b_follow_the_wires() {
    let (mut b, _) = Bench::with_disk();
    assert_eq!(b.inb(SRA), 0x46, "no INT, one drive, track 0");
    b.command(&[0x0f, 0, 5]);
    b.wait_for_int();
    assert_eq!(b.inb(SRA), 0xd6, "INT, and no track 0");
    assert_eq!(b.inb(SRB), 0xc1);
    b.out(DOR, 0x2d);
    assert_eq!(b.inb(SRB), 0xe2);
    assert_eq!(b.inb(DOR), 0x2d);
    b.out(TDR, 0xff);
    assert_eq!(b.inb(TDR), 3);
}

#[test]
fn state_survives_a_round_trip_in_the_middle_of_a_read() {
    let (mut b, _) = Bench::with_disk();
    b.dma = Some(100);
    b.command(&[0x46, 0, 0, 0, 3, 2, 18, 0x1b, 0xff]);
    let saved = b.fdc.state().clone();
    b.fdc.reset();
    assert_eq!(b.fdc.next_event(), None);
    b.fdc.restore(saved);
    b.wait_for_int();
    assert_eq!(b.result()[..3], [0, 0, 0]);
    assert_eq!(b.data, [2; 100]);
}

#[test]
fn random_accesses_do_not_panic() {
    let ports = [SRA, SRB, DOR, TDR, MSR, FIFO, FIFO, FIFO, FIFO, DIR];
    for seed in 0..4 {
        let mut random = Random::new(seed + 90);
        let bank = LineBank::new();
        let kinds = [Some(DriveKind::F1440), Some(DriveKind::F1200)];
        let mut fdc = Fdc::new(bank.line(spec::IRQ), bank.line(DREQ_WIRE), kinds);
        fdc.port_write(DOR, AccessSize::Byte, 0x0c, Nanos::ZERO);
        let (large, small) = (Disk::new(format(1440)), Disk::new(format(360)));
        let mut latest = Nanos::ZERO;
        fuzz_ports(seed, &mut fdc, &ports, AccessSize::Byte, |fdc, now| {
            latest = latest.max(now);
            fdc.advance(latest);
            match random.below(64) {
                0 => drop(fdc.change(0, Some(Box::new(large.clone())))),
                1 => drop(fdc.change(1, Some(Box::new(small.clone().protected())))),
                2 => drop(fdc.change(random.below(3) as usize, None)),
                3 => fdc.port_write(DOR, AccessSize::Byte, 0x0c, latest),
                4 => fdc.restore(fdc.state().clone()),
                _ => {}
            }
            if bank.is_high(DREQ_WIRE) {
                let length = fdc.pending();
                assert!((1..=SECTOR).contains(&length));
                let part = (random.below(length as u64) + 1) as usize;
                if random.below(2) == 0 {
                    fdc.read(&mut vec![0; part]);
                } else {
                    DmaDevice::write(fdc, &vec![0; part]);
                }
                fdc.served(random.below(4) == 0, latest);
            }
            if latest != Nanos::MAX {
                assert!(fdc.next_event().is_none_or(|at| at > latest));
            }
        });
    }
}
