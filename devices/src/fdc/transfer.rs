//! The execution phase: sectors that pass under the head, and the data of each on its way from or
//! to the host.

use serde::{Deserialize, Serialize};
use tracing::warn;

use super::drive::{Fault, Recording, SectorId};
use super::medium::{DataRate, SECTOR};
use super::spec::{Configure, DMA_PATIENCE_NANOS, ROTATION_NANOS, SECTOR_SIZE_CODE, St0, St1, St2};
use super::{DRIVES, Fdc, Phase};
use crate::Nanos;

/// Bytes that FORMAT TRACK takes for each sector.
const FORMAT_ID: usize = 4;

/// What a command does with each sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Operation {
    Read { deleted: bool },
    Write { deleted: bool },
    ReadTrack,
    Verify,
    ReadId,
    Format,
}

/// Where a command is with the present sector.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    /// The sector has not come yet.
    Wait(Nanos),
    /// Its data moves between buffer and host: bytes that have, and since when it may.
    Move { done: usize, since: Nanos },
}

/// A command in execution.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Transfer {
    pub(super) operation: Operation,
    pub(super) drive: u8,
    pub(super) head: u8,
    pub(super) id: SectorId,
    pub(super) eot: u8,
    pub(super) multi_track: bool,
    pub(super) mfm: bool,
    pub(super) skip: bool,
    /// What FORMAT TRACK fills sectors with.
    pub(super) filler: u8,
    /// Sectors after which the command ends, if that is not EOT's business.
    pub(super) limit: u16,
    /// Sectors that are done.
    passed: u16,
    pub(super) st0: u8,
    st1: u8,
    st2: u8,
    stage: Stage,
    /// Bytes moved by the processor since INT was raised.
    since_int: u8,
}

impl Transfer {
    pub(super) fn new(operation: Operation, unit_and_head: u8, id: SectorId, now: Nanos) -> Self {
        Self {
            operation,
            drive: unit_and_head & 3,
            head: unit_and_head >> 2 & 1,
            id,
            eot: 0,
            multi_track: false,
            mfm: false,
            skip: false,
            filler: 0,
            limit: 0,
            passed: 0,
            st0: 0,
            st1: 0,
            st2: 0,
            stage: Stage::Wait(now),
            since_int: 0,
        }
    }

    /// Whether data goes from the disk to the host.
    pub(super) fn is_towards_host(&self) -> bool {
        !matches!(self.operation, Operation::Write { .. } | Operation::Format)
    }

    /// Brings a damaged snapshot into range.
    pub(super) fn sanitize(&mut self) {
        self.drive &= 3;
        self.head &= 1;
        if let Stage::Move { done, .. } = &mut self.stage {
            *done = (*done).min(SECTOR);
        }
    }

    /// The address of the sector after the present one (data sheet, table 5-6), and whether the
    /// command goes on there without TC.
    fn next_id(&self) -> (SectorId, u8, bool) {
        let mut id = self.id;
        let mut head = self.head;
        if id.r != self.eot {
            id.r = id.r.wrapping_add(1);
            return (id, head, true);
        }
        id.r = 1;
        if !self.multi_track {
            id.c = id.c.wrapping_add(1);
            return (id, head, false);
        }
        id.h ^= 1;
        head ^= 1;
        let second_side = head == 0;
        if second_side {
            id.c = id.c.wrapping_add(1);
        }
        (id, head, !second_side)
    }

    fn add(&mut self, fault: Fault) {
        self.st1 |= fault.st1.bits();
        self.st2 |= fault.st2.bits();
    }
}

impl Fdc {
    /// The command in execution.
    fn transfer(&mut self) -> Option<&mut Transfer> {
        match &mut self.state.phase {
            Phase::Execution(transfer) => Some(transfer),
            _ => None,
        }
    }

    /// Bytes that the host may move now.
    pub(super) fn moving(&self) -> usize {
        match &self.state.phase {
            Phase::Execution(Transfer {
                stage: Stage::Move { done, .. },
                ..
            }) => self.state.buffer.len().saturating_sub(*done),
            _ => 0,
        }
    }

    pub(super) fn transfer_deadline(&self) -> Option<Nanos> {
        let Phase::Execution(transfer) = &self.state.phase else {
            return None;
        };
        match transfer.stage {
            Stage::Wait(at) => Some(at),
            Stage::Move { since, .. } => {
                (!self.state.non_dma()).then(|| since.after(DMA_PATIENCE_NANOS))
            }
        }
    }

    /// Starts a command; its first sector passes the head after `from`.
    pub(super) fn begin(&mut self, transfer: Transfer, from: Nanos) {
        self.state.buffer.clear();
        self.state.phase = Phase::Execution(transfer);
        self.wait(from);
    }

    /// Waits for the present sector: for one that is not there, until the index hole has passed
    /// twice.
    fn wait(&mut self, from: Nanos) {
        let nanos = match self.look() {
            Ok(_) => self.sector_nanos(),
            Err(_) => 2 * ROTATION_NANOS,
        };
        if let Some(transfer) = self.transfer() {
            // At least a nanosecond, or a deadline would not lie ahead.
            transfer.stage = Stage::Wait(from.after(nanos.max(1)));
        }
    }

    fn sector_nanos(&self) -> u64 {
        match &self.state.phase {
            Phase::Execution(transfer) => self
                .drives
                .get(usize::from(transfer.drive))
                .map_or(ROTATION_NANOS, |drive| drive.sector_nanos()),
            _ => ROTATION_NANOS,
        }
    }

    /// The number on the disk of the sector that the command is at. READ ID and FORMAT TRACK want
    /// none in particular, and READ TRACK takes them in the order of the track.
    fn look(&self) -> Result<u32, Fault> {
        const NO_MARK: Fault = Fault::new(St1::MA, St2::empty());
        let Phase::Execution(transfer) = &self.state.phase else {
            return Err(NO_MARK);
        };
        let index = usize::from(transfer.drive);
        let (Some(drive), Some(state)) = (self.drives.get(index), self.state.drives.get(index))
        else {
            return Err(NO_MARK);
        };
        let recording = self.recording(transfer);
        match transfer.operation {
            Operation::ReadId => drive.id_at(state.track, recording, 0).map(|_| 0),
            // A disk of any format can be formatted anew.
            Operation::Format if drive.has_disk() => Ok(0),
            Operation::Format => Err(NO_MARK),
            Operation::ReadTrack => {
                let place = transfer.passed as u8;
                let id = drive.id_at(state.track, recording, place)?;
                drive.find(state.track, recording, id)
            }
            _ => drive.find(state.track, recording, transfer.id),
        }
    }

    fn recording(&self, transfer: &Transfer) -> Recording {
        Recording {
            rate: DataRate::from_select(self.state.dsr),
            mfm: transfer.mfm,
            head: transfer.head,
        }
    }

    /// Does what is due in the execution of a command.
    pub(super) fn advance_transfer(&mut self, now: Nanos) {
        if self.transfer_deadline().is_none_or(|at| at > now) {
            return;
        }
        let Some(transfer) = self.transfer() else {
            return;
        };
        match transfer.stage {
            Stage::Wait(_) => self.arrive(now),
            Stage::Move { .. } => self.fail(Fault::new(St1::OR, St2::empty())),
        }
    }

    /// The sector is under the head.
    fn arrive(&mut self, now: Nanos) {
        let sector = match self.look() {
            Ok(sector) => sector,
            Err(fault) => return self.fail(fault),
        };
        let Phase::Execution(transfer) = &mut self.state.phase else {
            return;
        };
        let Some(drive) = self.drives.get_mut(usize::from(transfer.drive)) else {
            return;
        };
        let is_deleted = drive.is_deleted(sector);
        match transfer.operation {
            Operation::Write { .. } | Operation::Format if drive.is_write_protected() => {
                self.fail(Fault::new(St1::NW, St2::empty()));
            }
            Operation::Write { .. } => self.offer(vec![0; SECTOR], now),
            Operation::Format => self.offer(vec![0; FORMAT_ID], now),
            Operation::ReadId => self.finish_read_id(now),
            Operation::Read { deleted } if is_deleted != deleted && transfer.skip => {
                self.next_sector(now);
            }
            Operation::Verify if is_deleted && transfer.skip => self.next_sector(now),
            Operation::Verify => match drive.read(sector) {
                Ok(_) => self.sector_done(false, now),
                Err(fault) => self.fail(fault),
            },
            Operation::Read { deleted } => match drive.read(sector) {
                Ok(data) => {
                    if is_deleted != deleted {
                        transfer.st2 |= St2::CM.bits();
                    }
                    self.offer(data.to_vec(), now);
                }
                Err(fault) => self.fail(fault),
            },
            Operation::ReadTrack => {
                // Errors do not end it; they are told at its end.
                let data = drive.read(sector).unwrap_or_else(|fault| {
                    transfer.add(fault);
                    [0; SECTOR]
                });
                self.offer(data.to_vec(), now);
            }
        }
    }

    /// Lets the host move `buffer`.
    fn offer(&mut self, buffer: Vec<u8>, now: Nanos) {
        self.state.buffer = buffer;
        if let Some(transfer) = self.transfer() {
            transfer.stage = Stage::Move {
                done: 0,
                since: now,
            };
            transfer.since_int = 0;
        }
        self.state.int |= self.state.non_dma();
    }

    /// The bytes that move next, `length` of them at most, and how many have moved.
    fn next_bytes(&mut self, length: usize) -> Option<(&mut [u8], &mut usize)> {
        let Phase::Execution(Transfer {
            stage: Stage::Move { done, .. },
            ..
        }) = &mut self.state.phase
        else {
            return None;
        };
        let end = (*done + length).min(self.state.buffer.len());
        let bytes = self.state.buffer.get_mut(*done..end)?;
        Some((bytes, done))
    }

    /// The host reads. A command that wants to be written to gets what the host reads then: ones.
    pub(super) fn move_to_host(&mut self, data: &mut [u8]) {
        data.fill(0xff);
        let towards_host = self.transfer().is_some_and(|t| t.is_towards_host());
        let Some((bytes, done)) = self.next_bytes(data.len()) else {
            return;
        };
        *done += bytes.len();
        if !towards_host {
            bytes.fill(0xff);
        } else if let Some(data) = data.get_mut(..bytes.len()) {
            data.copy_from_slice(bytes);
        }
    }

    /// The host writes. A command that wants to be read loses what it has.
    pub(super) fn move_to_disk(&mut self, data: &[u8]) {
        let Some((bytes, done)) = self.next_bytes(data.len()) else {
            return;
        };
        *done += bytes.len();
        if let Some(data) = data.get(..bytes.len()) {
            bytes.copy_from_slice(data);
        }
    }

    /// The host has moved data. With TC the command ends after the sector.
    pub(super) fn moved(&mut self, terminal_count: bool, now: Nanos) {
        if self.transfer().is_none() || (self.moving() > 0 && !terminal_count) {
            return;
        }
        let operation = match self.transfer() {
            Some(transfer) => {
                transfer.stage = Stage::Wait(now);
                transfer.operation
            }
            None => return,
        };
        let written = match operation {
            // What TC cut off is zero: the buffer was.
            Operation::Write { deleted } => self.write_sector(deleted),
            Operation::Format => self.format_sector(),
            _ => Ok(()),
        };
        match written {
            Ok(()) => self.sector_done(terminal_count, now),
            Err(fault) => self.fail(fault),
        }
    }

    fn write_sector(&mut self, deleted: bool) -> Result<(), Fault> {
        let sector = self.look()?;
        let mut data = [0; SECTOR];
        for (to, from) in data.iter_mut().zip(&self.state.buffer) {
            *to = *from;
        }
        let index = self.transfer().map_or(0, |t| usize::from(t.drive));
        match self.drives.get_mut(index) {
            Some(drive) => drive.write(sector, &data, deleted),
            None => Ok(()),
        }
    }

    /// Writes one sector of a track that is formatted. A raw image has a place for the sectors of
    /// its own format only; others get lost, as the guest will find when it reads them.
    fn format_sector(&mut self) -> Result<(), Fault> {
        let (Phase::Execution(transfer), &[c, h, r, n]) =
            (&self.state.phase, self.state.buffer.as_slice())
        else {
            return Ok(());
        };
        let id = SectorId { c, h, r, n };
        let recording = self.recording(transfer);
        let (index, filler) = (usize::from(transfer.drive), transfer.filler);
        let (Some(drive), Some(state)) = (self.drives.get_mut(index), self.state.drives.get(index))
        else {
            return Ok(());
        };
        match drive.find(state.track, recording, id) {
            Ok(sector) => drive.write(sector, &[filler; SECTOR], false),
            Err(_) => {
                if self.log.allow() {
                    warn!(
                        ?id,
                        "a sector was formatted that the image has no place for"
                    );
                }
                Ok(())
            }
        }
    }

    /// A sector has been dealt with.
    fn sector_done(&mut self, terminal_count: bool, now: Nanos) {
        let Some(transfer) = self.transfer() else {
            return;
        };
        transfer.passed += 1;
        let limited = transfer.limit != 0 && transfer.passed >= transfer.limit;
        match transfer.operation {
            // A track ends at its last sector, or, formatted, at the index hole.
            Operation::ReadTrack => {
                let place = (transfer.passed - 1) as u8;
                self.compare_id(place);
                if terminal_count || limited {
                    return self.finish();
                }
                if let Some(transfer) = self.transfer() {
                    transfer.id.r = transfer.id.r.wrapping_add(1);
                }
                return self.wait(now);
            }
            Operation::Format if terminal_count || limited => return self.finish(),
            Operation::Format => return self.wait(now),
            // The sector with the other mark is the last.
            _ if transfer.st2 & St2::CM.bits() != 0 => return self.finish(),
            _ => {}
        }
        if terminal_count || (limited && transfer.operation == Operation::Verify) {
            let (id, head, _) = transfer.next_id();
            (transfer.id, transfer.head) = (id, head);
            return self.finish();
        }
        self.next_sector(now);
    }

    /// READ TRACK tells of sectors whose address is not the one asked for, and reads them.
    fn compare_id(&mut self, place: u8) {
        let Phase::Execution(transfer) = &self.state.phase else {
            return;
        };
        let index = usize::from(transfer.drive);
        let (Some(drive), Some(state)) = (self.drives.get(index), self.state.drives.get(index))
        else {
            return;
        };
        let found = drive.id_at(state.track, self.recording(transfer), place);
        let differs = found.is_ok_and(|id| id != transfer.id);
        if differs && let Some(transfer) = self.transfer() {
            transfer.st1 |= St1::ND.bits();
        }
    }

    /// Goes on to the sector after the present one.
    fn next_sector(&mut self, now: Nanos) {
        let Some(transfer) = self.transfer() else {
            return;
        };
        let (id, head, goes_on) = transfer.next_id();
        // EC = 0: EOT is the end of a VERIFY, not an error.
        let verified = transfer.operation == Operation::Verify && transfer.limit == 0;
        (transfer.id, transfer.head) = (id, head);
        if goes_on {
            self.wait(now);
        } else if verified {
            self.finish();
        } else {
            self.fail(Fault::new(St1::EN, St2::empty()));
        }
    }

    fn finish_read_id(&mut self, now: Nanos) {
        let Phase::Execution(transfer) = &self.state.phase else {
            return;
        };
        let index = usize::from(transfer.drive);
        let (Some(drive), Some(state)) = (self.drives.get(index), self.state.drives.get(index))
        else {
            return;
        };
        // The disk turns: whatever is under the head.
        let angle = now.0 % ROTATION_NANOS;
        let place = (angle / drive.sector_nanos().max(1)) as u8 % drive.sectors().max(1);
        match drive.id_at(state.track, self.recording(transfer), place) {
            Ok(id) => {
                if let Some(transfer) = self.transfer() {
                    transfer.id = id;
                }
                self.finish();
            }
            Err(fault) => self.fail(fault),
        }
    }

    /// Ends the command abnormally.
    fn fail(&mut self, fault: Fault) {
        if let Some(transfer) = self.transfer() {
            transfer.add(fault);
            transfer.st0 |= St0::ABNORMAL.bits();
        }
        self.finish();
    }

    /// The result phase.
    fn finish(&mut self) {
        let Some(transfer) = self.transfer() else {
            return;
        };
        let SectorId { c, h, r, n } = transfer.id;
        let st0 = transfer.st0 | transfer.head << 2 | transfer.drive;
        let result = vec![st0, transfer.st1, transfer.st2, c, h, r, n];
        self.state.phase = Phase::Result(result, true);
        self.state.buffer.clear();
        self.state.int = true;
    }

    /// The processor reads a byte of data.
    pub(super) fn read_by_processor(&mut self, now: Nanos) -> u8 {
        let mut byte = [0];
        if self.state.non_dma() && self.moving() > 0 {
            self.move_to_host(&mut byte);
            self.moved_by_processor(now);
        }
        let [byte] = byte;
        byte
    }

    /// The processor writes a byte of data.
    pub(super) fn write_by_processor(&mut self, value: u8, now: Nanos) {
        if self.state.non_dma() && self.moving() > 0 {
            self.move_to_disk(&[value]);
            self.moved_by_processor(now);
        }
    }

    /// INT falls with the access, and rises again when the FIFO has crossed its threshold.
    fn moved_by_processor(&mut self, now: Nanos) {
        let configure = Configure::from_bits_retain(self.state.configure);
        let threshold = if configure.contains(Configure::EFIFO) {
            1
        } else {
            (self.state.configure & 0x0f) + 1
        };
        self.state.int = false;
        self.drive_wires();
        if let Some(transfer) = self.transfer() {
            transfer.since_int = transfer.since_int.saturating_add(1);
            if transfer.since_int >= threshold {
                transfer.since_int = 0;
                self.state.int = self.moving() > 0;
            }
        }
        self.moved(false, now);
    }
}

/// Every place for a drive has its state.
const _: () = assert!(DRIVES <= super::UNITS && SECTOR == 128 << SECTOR_SIZE_CODE);
