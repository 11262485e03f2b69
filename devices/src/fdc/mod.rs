//! The floppy disk controller (82077AA) with up to two drives.
//!
//! The contents of a disk are behind the trait [`Medium`]. Sectors pass under the head in time, a
//! good deal faster than on a real drive ([`spec::SPEED`]); when one is there the controller asks
//! for DMA, or for the processor where DMA is off, and waits.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Nanos;
use crate::device::{AccessSize, PortDevice};
use crate::dma::DmaDevice;
use crate::limit::LogLimit;
use crate::line::Line;

mod command;
mod drive;
mod medium;
pub mod spec;
#[cfg(test)]
mod tests;
mod transfer;

pub use medium::{DataRate, DiskFormat, DriveKind, Medium, MediumError, SECTOR};

use drive::{Drive, DriveState};
use spec::{
    CCR, DATA_RATE, DATA_RATE_250K, DISK_CHANGED, DOR, DSR_RESET, Dor, FIFO, MSR, Msr,
    POLLING_NANOS, SRA, SRB, TDR,
};
use transfer::Transfer;

/// Drives that the controller can tell apart.
const UNITS: usize = 4;
/// Drives that there are places for.
pub const DRIVES: usize = 2;
/// Bytes of the longest command.
const LONGEST_COMMAND: usize = 9;
/// Bytes of the longest result.
const LONGEST_RESULT: usize = 10;

/// What the controller does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Phase {
    /// Waits for a command.
    Idle,
    /// Waits for the rest of a command, which begins with these bytes.
    Command(Vec<u8>),
    /// Finds, reads or writes sectors.
    Execution(Transfer),
    /// Has a result, of which these bytes have not been read. The flag: the first of them takes INT
    /// away.
    Result(Vec<u8>, bool),
}

/// A head on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Seek {
    /// When it arrives.
    until: Nanos,
    /// What SENSE INTERRUPT STATUS tells then.
    st0: u8,
}

/// State of the controller and its drives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FdcState {
    dor: u8,
    tdr: u8,
    /// DSR; its data rate is that written to CCR, if that was later.
    dsr: u8,
    /// Bytes of SPECIFY.
    specify: [u8; 2],
    /// Second byte of CONFIGURE.
    configure: u8,
    pretrk: u8,
    lock: bool,
    perpendicular: u8,
    /// SC of the last FORMAT TRACK, or EOT of the last READ or WRITE.
    sc_eot: u8,
    /// Present cylinder numbers.
    pcn: [u8; UNITS],
    phase: Phase,
    /// Data on its way between disk and host.
    buffer: Vec<u8>,
    seeks: [Option<Seek>; UNITS],
    /// What SENSE INTERRUPT STATUS has to tell of seeks.
    arrived: [Option<u8>; UNITS],
    /// After a reset: drives that polling has to tell of.
    polled: u8,
    /// When polling does so.
    polling: Option<Nanos>,
    /// INT, before the gate in DOR.
    int: bool,
    drives: [DriveState; DRIVES],
}

impl FdcState {
    fn power_on() -> Self {
        let drive = DriveState {
            track: 0,
            changed: true,
        };
        Self {
            dor: 0,
            tdr: 0,
            dsr: DATA_RATE_250K,
            specify: [0; 2],
            configure: 0,
            pretrk: 0,
            lock: false,
            perpendicular: 0,
            sc_eot: 0,
            pcn: [0; UNITS],
            phase: Phase::Idle,
            buffer: Vec::new(),
            seeks: [None; UNITS],
            arrived: [None; UNITS],
            polled: 0,
            polling: None,
            int: false,
            drives: [drive.clone(), drive],
        }
    }

    fn dor(&self) -> Dor {
        Dor::from_bits_retain(self.dor)
    }

    /// Whether data goes without DMA.
    fn non_dma(&self) -> bool {
        let [_, second] = self.specify;
        second & 1 != 0
    }
}

/// The floppy disk controller.
pub struct Fdc {
    // Wiring.
    irq: Line,
    dreq: Line,
    // The drives and what is in them.
    drives: [Drive; DRIVES],
    // Volatile.
    state: FdcState,
    log: LogLimit,
}

impl Fdc {
    /// A controller with these drives, empty, that drives `irq` and `dreq`.
    pub fn new(irq: Line, dreq: Line, kinds: [Option<DriveKind>; DRIVES]) -> Self {
        Self {
            irq,
            dreq,
            drives: kinds.map(Drive::new),
            state: FdcState::power_on(),
            log: LogLimit::default(),
        }
    }

    /// The kind of drive `drive`, if there is one.
    pub fn drive_kind(&self, drive: usize) -> Option<DriveKind> {
        self.drives.get(drive).and_then(|drive| drive.kind)
    }

    /// Takes the disk out of drive `drive` and puts `medium` in; returns what was there. The guest
    /// sees the change line. A disk that the drive does not take is as good as none.
    pub fn change(
        &mut self,
        drive: usize,
        medium: Option<Box<dyn Medium>>,
    ) -> Option<Box<dyn Medium>> {
        if let Some(state) = self.state.drives.get_mut(drive) {
            state.changed = true;
        }
        self.drives.get_mut(drive)?.change(medium)
    }

    /// Whether there is a disk in drive `drive`.
    pub fn has_disk(&self, drive: usize) -> bool {
        self.drives.get(drive).is_some_and(Drive::has_disk)
    }

    /// Does what is due up to `now`.
    pub fn advance(&mut self, now: Nanos) {
        if self.state.polling.is_some_and(|at| at <= now) {
            self.state.polling = None;
            self.state.int = true;
        }
        for (seek, arrived) in self.state.seeks.iter_mut().zip(&mut self.state.arrived) {
            if let Some(done) = seek.take_if(|seek| seek.until <= now) {
                *arrived = Some(done.st0);
                self.state.int = true;
                // A driver that has not asked after the reset (OpenBSD's) hears of the seek alone.
                self.state.polled = 0;
                self.state.polling = None;
            }
        }
        self.advance_transfer(now);
        self.drive_wires();
    }

    /// When something is due next.
    pub fn next_event(&self) -> Option<Nanos> {
        let seeks = self.state.seeks.iter().flatten().map(|seek| seek.until);
        seeks
            .chain(self.state.polling)
            .chain(self.transfer_deadline())
            .min()
    }

    /// The RESET pin. The disks stay where they are.
    pub fn reset(&mut self) {
        let drives = self.state.drives.clone();
        self.state = FdcState {
            drives,
            ..FdcState::power_on()
        };
        self.drive_wires();
    }

    /// The state, for a snapshot.
    pub fn state(&self) -> &FdcState {
        &self.state
    }

    /// Goes back to a saved state.
    pub fn restore(&mut self, state: FdcState) {
        self.state = state;
        self.state.polled = self.state.polled.min(UNITS as u8);
        match &mut self.state.phase {
            Phase::Command(bytes) => bytes.truncate(LONGEST_COMMAND),
            Phase::Result(bytes, _) => bytes.truncate(LONGEST_RESULT),
            Phase::Execution(transfer) => transfer.sanitize(),
            Phase::Idle => {}
        }
        self.state.buffer.truncate(SECTOR);
        self.drive_wires();
    }

    /// The drive that DOR selects.
    fn selected(&self) -> Option<(&Drive, &DriveState)> {
        let index = usize::from(self.state.dor & 3);
        let drive = self
            .drives
            .get(index)
            .filter(|drive| drive.kind.is_some())?;
        Some((drive, self.state.drives.get(index)?))
    }

    /// Drives INT and DRQ, behind the gate in DOR.
    fn drive_wires(&mut self) {
        let gate = self.state.dor().contains(Dor::DMA_GATE);
        self.irq.set(self.state.int && gate);
        let wants_dma = !self.state.non_dma() && self.moving() > 0;
        self.dreq.set(wants_dma && gate);
    }

    /// A reset by software: everything but the registers that software has set up for good.
    fn software_reset(&mut self) {
        let fresh = FdcState::power_on();
        let state = &mut self.state;
        if !state.lock {
            state.configure = fresh.configure;
            state.pretrk = fresh.pretrk;
        }
        // GAP and WGATE; the drives' bits stay.
        state.perpendicular &= 0x3c;
        state.pcn = fresh.pcn;
        state.phase = Phase::Idle;
        state.buffer.clear();
        state.seeks = fresh.seeks;
        state.arrived = fresh.arrived;
        state.polled = 0;
        state.polling = None;
        state.int = false;
    }

    /// The end of a reset: polling finds that all drives are ready.
    fn leave_reset(&mut self, now: Nanos) {
        let configure = spec::Configure::from_bits_retain(self.state.configure);
        if !configure.contains(spec::Configure::POLL) {
            self.state.polled = UNITS as u8;
            self.state.polling = Some(now.after(POLLING_NANOS));
        }
    }

    fn write_dor(&mut self, value: u8, now: Nanos) {
        let before = self.state.dor();
        self.state.dor = value;
        let after = self.state.dor();
        if !after.contains(Dor::RESET_N) {
            self.software_reset();
        } else if !before.contains(Dor::RESET_N) {
            self.leave_reset(now);
        }
    }

    fn write_dsr(&mut self, value: u8, now: Nanos) {
        self.state.dsr = value & !DSR_RESET;
        if value & DSR_RESET != 0 {
            self.software_reset();
            if self.state.dor().contains(Dor::RESET_N) {
                self.leave_reset(now);
            }
        }
    }

    fn read_msr(&self) -> u8 {
        if !self.state.dor().contains(Dor::RESET_N) {
            return 0;
        }
        let status = match &self.state.phase {
            Phase::Idle => Msr::RQM,
            Phase::Command(_) => Msr::RQM | Msr::CMD_BUSY,
            Phase::Result(..) => Msr::RQM | Msr::DIO | Msr::CMD_BUSY,
            Phase::Execution(transfer) if self.state.non_dma() => {
                let mut status = Msr::CMD_BUSY | Msr::NON_DMA;
                if self.moving() > 0 {
                    status |= Msr::RQM;
                    status.set(Msr::DIO, transfer.is_towards_host());
                }
                status
            }
            Phase::Execution(_) => Msr::CMD_BUSY,
        };
        let seeking = (0u8..)
            .zip(&self.state.seeks)
            .filter(|(_, seek)| seek.is_some())
            .fold(0, |bits, (unit, _)| bits | 1 << unit);
        status.bits() | seeking
    }

    fn read_sra(&self) -> u8 {
        let second = self.drive_kind(1).is_some();
        let drive = self.selected();
        let at_track_0 = drive.is_some_and(|(_, state)| state.track == 0);
        let protected = drive.is_some_and(|(drive, _)| drive.is_write_protected());
        // The signals but INT are active low.
        u8::from(self.state.int) << 7
            | u8::from(!second) << 6
            | u8::from(!at_track_0) << 4
            | 1 << 2
            | u8::from(!protected) << 1
    }

    fn read_srb(&self) -> u8 {
        let dor = self.state.dor();
        0xc0 | (self.state.dor & 1) << 5
            | u8::from(dor.contains(Dor::MOTOR1)) << 1
            | u8::from(dor.contains(Dor::MOTOR0))
    }

    fn read_dir(&self) -> u8 {
        match self.selected() {
            Some((drive, state)) if state.changed || !drive.has_disk() => DISK_CHANGED,
            _ => 0,
        }
    }
}

impl PortDevice for Fdc {
    fn port_read(&mut self, port: u16, _size: AccessSize, now: Nanos) -> u32 {
        let value = match port {
            SRA => self.read_sra(),
            SRB => self.read_srb(),
            DOR => self.state.dor,
            TDR => self.state.tdr,
            MSR => self.read_msr(),
            FIFO => {
                let value = self.read_fifo(now);
                self.drive_wires();
                value
            }
            _ => self.read_dir(),
        };
        u32::from(value)
    }

    fn port_write(&mut self, port: u16, _size: AccessSize, value: u32, now: Nanos) {
        let value = value as u8;
        match port {
            DOR => self.write_dor(value, now),
            TDR => self.state.tdr = value & 3,
            spec::DSR => self.write_dsr(value, now),
            FIFO => self.write_fifo(value, now),
            CCR => self.state.dsr = self.state.dsr & !DATA_RATE | value & DATA_RATE,
            // SRA and SRB cannot be written to.
            _ => {}
        }
        self.drive_wires();
    }
}

impl DmaDevice for Fdc {
    fn pending(&self) -> usize {
        self.moving()
    }

    fn read(&mut self, data: &mut [u8]) {
        self.move_to_host(data);
    }

    fn write(&mut self, data: &[u8]) {
        self.move_to_disk(data);
    }

    fn served(&mut self, terminal_count: bool, now: Nanos) {
        self.moved(terminal_count, now);
        self.drive_wires();
    }
}

impl fmt::Debug for Fdc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fdc")
            .field("drives", &self.drives)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}
