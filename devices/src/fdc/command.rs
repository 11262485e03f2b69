//! The command and result phases: what the bytes in the FIFO mean.

use tracing::warn;

use super::drive::SectorId;
use super::spec::{
    Configure, DUMPREG_LOCK, Dor, ENHANCED, LOCKED, RECALIBRATE_STEPS, STEP_NANOS, St0, St3,
};
use super::transfer::{Operation, Transfer};
use super::{Fdc, Phase, Seek, UNITS};
use crate::Nanos;

/// A command, by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Command {
    ReadTrack,
    Specify,
    SenseDrive,
    Write { deleted: bool },
    Read { deleted: bool },
    Recalibrate,
    SenseInterrupt,
    ReadId,
    Format,
    Dumpreg,
    Seek,
    Version,
    Perpendicular,
    Configure,
    Lock,
    Verify,
    RelativeSeek,
}

impl Command {
    /// Options in the first byte: MT, MFM and SK.
    const MT: u8 = 0x80;
    const MFM: u8 = 0x40;
    const SK: u8 = 0x20;

    /// Data sheet, table 5-1. `None`: invalid.
    fn decode(first: u8) -> Option<Self> {
        let (command, options) = match first & 0x1f {
            0x02 => (Self::ReadTrack, Self::MFM | Self::SK),
            0x03 => (Self::Specify, 0),
            0x04 => (Self::SenseDrive, 0),
            0x05 => (Self::Write { deleted: false }, Self::MT | Self::MFM),
            0x06 => (Self::Read { deleted: false }, 0xe0),
            0x07 => (Self::Recalibrate, 0),
            0x08 => (Self::SenseInterrupt, 0),
            0x09 => (Self::Write { deleted: true }, Self::MT | Self::MFM),
            0x0a => (Self::ReadId, Self::MFM),
            0x0c => (Self::Read { deleted: true }, 0xe0),
            0x0d => (Self::Format, Self::MFM),
            0x0e => (Self::Dumpreg, 0),
            // Bit 7 makes it relative; bit 6 is the direction then.
            0x0f if first & 0xa0 == 0x80 => (Self::RelativeSeek, 0xc0),
            0x0f => (Self::Seek, 0),
            0x10 => (Self::Version, 0),
            0x12 => (Self::Perpendicular, 0),
            0x13 => (Self::Configure, 0),
            0x14 => (Self::Lock, Self::MT),
            0x16 => (Self::Verify, 0xe0),
            _ => return None,
        };
        (first & 0xe0 & !options == 0).then_some(command)
    }

    /// Bytes of the command, the first included.
    const fn length(self) -> usize {
        match self {
            Self::SenseInterrupt | Self::Dumpreg | Self::Version | Self::Lock => 1,
            Self::SenseDrive | Self::Recalibrate | Self::ReadId | Self::Perpendicular => 2,
            Self::Specify | Self::Seek | Self::RelativeSeek => 3,
            Self::Configure => 4,
            Self::Format => 6,
            Self::ReadTrack | Self::Write { .. } | Self::Read { .. } | Self::Verify => 9,
        }
    }
}

impl Fdc {
    pub(super) fn read_fifo(&mut self, now: Nanos) -> u8 {
        match &mut self.state.phase {
            Phase::Result(bytes, ends_int) => {
                if std::mem::take(ends_int) {
                    self.state.int = false;
                }
                let byte = if bytes.is_empty() { 0 } else { bytes.remove(0) };
                if bytes.is_empty() {
                    self.state.phase = Phase::Idle;
                }
                byte
            }
            Phase::Execution(transfer) if transfer.is_towards_host() => self.read_by_processor(now),
            _ => 0,
        }
    }

    pub(super) fn write_fifo(&mut self, value: u8, now: Nanos) {
        if !self.state.dor().contains(Dor::RESET_N) {
            return;
        }
        let mut bytes = match &mut self.state.phase {
            Phase::Idle => Vec::new(),
            Phase::Command(bytes) => std::mem::take(bytes),
            Phase::Execution(transfer) if !transfer.is_towards_host() => {
                return self.write_by_processor(value, now);
            }
            Phase::Execution(_) | Phase::Result(..) => return,
        };
        bytes.push(value);
        let first = bytes.first().copied().unwrap_or(0);
        match Command::decode(first) {
            None => {
                if self.log.allow() {
                    warn!(
                        command = format_args!("{first:#04x}"),
                        "unknown floppy controller command"
                    );
                }
                self.result(&[St0::INVALID.bits()]);
            }
            Some(command) if bytes.len() < command.length() => {
                self.state.phase = Phase::Command(bytes);
            }
            Some(command) => {
                self.state.phase = Phase::Idle;
                self.execute(command, &bytes, now);
            }
        }
    }

    /// A result that no interrupt announces.
    fn result(&mut self, bytes: &[u8]) {
        self.state.phase = Phase::Result(bytes.to_vec(), false);
    }

    fn execute(&mut self, command: Command, bytes: &[u8], now: Nanos) {
        // Missing bytes cannot be: the command is complete.
        let byte = |index: usize| bytes.get(index).copied().unwrap_or(0);
        let unit = byte(1) & 3;
        match command {
            Command::Specify => self.state.specify = [byte(1), byte(2)],
            Command::SenseDrive => {
                let status = self.st3(byte(1) & 7);
                self.result(&[status]);
            }
            Command::Recalibrate => self.recalibrate(unit, now),
            Command::Seek => {
                let from = self.pcn(unit);
                self.seek(byte(1) & 7, from, byte(2), now);
            }
            Command::RelativeSeek => {
                let from = self.pcn(unit);
                let to = if byte(0) & Command::MFM != 0 {
                    from.wrapping_add(byte(2))
                } else {
                    from.wrapping_sub(byte(2))
                };
                self.step(unit, i16::from(byte(2)), byte(0) & Command::MFM != 0);
                self.arrive_later(byte(1) & 7, byte(2), to, now);
            }
            Command::SenseInterrupt => self.sense_interrupt(),
            Command::Dumpreg => self.dumpreg(),
            Command::Version => self.result(&[ENHANCED]),
            Command::Perpendicular => {
                let keep = if byte(1) & 0x80 == 0 {
                    self.state.perpendicular & 0x3c
                } else {
                    byte(1) & 0x3c
                };
                self.state.perpendicular = keep | byte(1) & 3;
            }
            Command::Configure => {
                self.state.configure = byte(2) & 0x7f;
                self.state.pretrk = byte(3);
            }
            Command::Lock => {
                self.state.lock = byte(0) & Command::MT != 0;
                let answer = if self.state.lock { LOCKED } else { 0 };
                self.result(&[answer]);
            }
            Command::ReadTrack => self.start(Operation::ReadTrack, bytes, now),
            Command::Read { deleted } => self.start(Operation::Read { deleted }, bytes, now),
            Command::Write { deleted } => self.start(Operation::Write { deleted }, bytes, now),
            Command::Verify => self.start(Operation::Verify, bytes, now),
            Command::ReadId => self.start(Operation::ReadId, bytes, now),
            Command::Format => self.start(Operation::Format, bytes, now),
        }
    }

    /// Begins to execute a command that reads or writes the disk.
    fn start(&mut self, operation: Operation, bytes: &[u8], now: Nanos) {
        let byte = |index: usize| bytes.get(index).copied().unwrap_or(0);
        let id = SectorId {
            c: byte(2),
            h: byte(3),
            r: byte(4),
            n: byte(5),
        };
        let mut transfer = Transfer::new(operation, byte(1) & 7, id, now);
        transfer.multi_track = byte(0) & Command::MT != 0;
        transfer.mfm = byte(0) & Command::MFM != 0;
        transfer.skip = byte(0) & Command::SK != 0;
        transfer.eot = byte(6);
        match operation {
            Operation::Format => {
                // Its bytes are N, SC, GPL, D.
                transfer.id = SectorId {
                    n: byte(2),
                    ..SectorId::default()
                };
                transfer.limit = u16::from(byte(3));
                transfer.filler = byte(5);
                self.state.sc_eot = byte(3);
            }
            Operation::ReadTrack => {
                transfer.limit = u16::from(byte(6));
                self.state.sc_eot = byte(6);
            }
            Operation::Verify if byte(1) & 0x80 != 0 => {
                // EC: SC in the place of DTL ends the command; 0 stands for 256.
                let sectors = byte(8);
                transfer.limit = if sectors == 0 { 256 } else { sectors.into() };
                self.state.sc_eot = byte(6);
            }
            Operation::ReadId => {}
            _ => self.state.sc_eot = byte(6),
        }
        let configure = Configure::from_bits_retain(self.state.configure);
        let moves = !matches!(operation, Operation::Format | Operation::ReadId);
        let mut delay = 0;
        if configure.contains(Configure::EIS) && moves {
            let unit = byte(1) & 3;
            let from = self.pcn(unit);
            if from != id.c {
                self.step(unit, i16::from(from.abs_diff(id.c)), id.c > from);
                self.set_pcn(unit, id.c);
                delay = self.step_nanos(from.abs_diff(id.c));
            }
            transfer.st0 |= St0::SE.bits();
        }
        self.begin(transfer, now.after(delay));
    }

    fn pcn(&self, unit: u8) -> u8 {
        self.state.pcn.get(usize::from(unit)).copied().unwrap_or(0)
    }

    fn set_pcn(&mut self, unit: u8, cylinder: u8) {
        if let Some(pcn) = self.state.pcn.get_mut(usize::from(unit)) {
            *pcn = cylinder;
        }
    }

    /// Time for `steps` steps at the rate of SPECIFY.
    fn step_nanos(&self, steps: u8) -> u64 {
        let [first, _] = self.state.specify;
        u64::from(steps) * u64::from(16 - (first >> 4)) * STEP_NANOS
    }

    /// Moves the head of a drive. Step pulses clear the change line if there is a disk.
    fn step(&mut self, unit: u8, steps: i16, inwards: bool) {
        let index = usize::from(unit);
        let (Some(drive), Some(state)) = (self.drives.get(index), self.state.drives.get_mut(index))
        else {
            return;
        };
        let Some(kind) = drive.kind else { return };
        if steps == 0 {
            return;
        }
        let steps = if inwards { steps } else { -steps };
        let track = (i16::from(state.track) + steps).clamp(0, i16::from(kind.tracks()) - 1);
        state.track = track as u8;
        if drive.has_disk() {
            state.changed = false;
        }
    }

    fn seek(&mut self, unit_and_head: u8, from: u8, to: u8, now: Nanos) {
        let steps = from.abs_diff(to);
        self.step(unit_and_head & 3, i16::from(steps), to > from);
        self.arrive_later(unit_and_head, steps, to, now);
    }

    /// The interrupt at the end of a seek.
    fn arrive_later(&mut self, unit_and_head: u8, steps: u8, to: u8, now: Nanos) {
        let unit = unit_and_head & 3;
        self.set_pcn(unit, to);
        // Even a seek that moves nothing interrupts after the command, not in it.
        let until = now.after(self.step_nanos(steps).max(STEP_NANOS));
        let st0 = St0::SE.bits() | unit_and_head;
        self.travel(unit, Seek { until, st0 });
    }

    fn travel(&mut self, unit: u8, seek: Seek) {
        let index = usize::from(unit);
        if let (Some(slot), Some(arrived)) = (
            self.state.seeks.get_mut(index),
            self.state.arrived.get_mut(index),
        ) {
            *slot = Some(seek);
            *arrived = None;
        }
    }

    fn recalibrate(&mut self, unit: u8, now: Nanos) {
        let index = usize::from(unit);
        let there = self.drives.get(index).is_some_and(|d| d.kind.is_some());
        let track = self.state.drives.get(index).map_or(0, |drive| drive.track);
        let steps = if there {
            track.min(RECALIBRATE_STEPS)
        } else {
            RECALIBRATE_STEPS
        };
        self.step(unit, i16::from(steps), false);
        self.set_pcn(unit, 0);
        let mut st0 = St0::SE.bits() | unit;
        if !there || track > RECALIBRATE_STEPS {
            st0 |= (St0::ABNORMAL | St0::EC).bits();
        }
        let until = now.after(self.step_nanos(steps).max(STEP_NANOS));
        self.travel(unit, Seek { until, st0 });
    }

    /// Tells of seeks that are complete and of polling after a reset, one at a time.
    fn sense_interrupt(&mut self) {
        if self.state.polled > 0 {
            let unit = UNITS as u8 - self.state.polled;
            self.state.polled -= 1;
            self.state.polling = None;
            self.state.int = self.state.arrived.iter().any(Option::is_some);
            let pcn = self.pcn(unit);
            return self.result(&[St0::POLLING.bits() | unit, pcn]);
        }
        let arrived = (0u8..)
            .zip(&mut self.state.arrived)
            .find_map(|(unit, arrived)| arrived.take().map(|st0| (unit, st0)));
        match arrived {
            Some((unit, st0)) => {
                self.state.int = self.state.arrived.iter().any(Option::is_some);
                let pcn = self.pcn(unit);
                self.result(&[st0, pcn]);
            }
            None => self.result(&[St0::INVALID.bits()]),
        }
    }

    fn st3(&self, unit_and_head: u8) -> u8 {
        let index = usize::from(unit_and_head & 3);
        let mut status = St3::ONES;
        if let (Some(drive), Some(state)) = (self.drives.get(index), self.state.drives.get(index))
            && drive.kind.is_some()
        {
            status.set(St3::T0, state.track == 0);
            status.set(St3::WP, drive.is_write_protected());
        }
        status.bits() | unit_and_head
    }

    fn dumpreg(&mut self) {
        let [p0, p1, p2, p3] = self.state.pcn;
        let [first, second] = self.state.specify;
        let lock = if self.state.lock { DUMPREG_LOCK } else { 0 };
        self.result(&[
            p0,
            p1,
            p2,
            p3,
            first,
            second,
            self.state.sc_eot,
            lock | self.state.perpendicular,
            self.state.configure,
            self.state.pretrk,
        ]);
    }
}
