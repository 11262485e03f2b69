//! A floppy drive with or without a disk.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::medium::{DataRate, DriveKind, Medium, MediumError, SECTOR};
use super::spec::{ROTATION_NANOS, SECTOR_SIZE_CODE, St1, St2};

/// What a controller has to tell of a sector that it did not find, or could not use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) st1: St1,
    pub(super) st2: St2,
}

impl Fault {
    pub(super) const fn new(st1: St1, st2: St2) -> Self {
        Self { st1, st2 }
    }
}

/// The address of a sector, as in its ID field.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SectorId {
    pub(super) c: u8,
    pub(super) h: u8,
    pub(super) r: u8,
    pub(super) n: u8,
}

/// How the controller reads: what has to fit the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Recording {
    pub(super) rate: DataRate,
    /// MFM, and not FM.
    pub(super) mfm: bool,
    /// The side.
    pub(super) head: u8,
}

/// Volatile state of a drive.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct DriveState {
    /// Where the head is.
    pub(super) track: u8,
    /// DSKCHG.
    pub(super) changed: bool,
}

/// A place for a drive.
pub(super) struct Drive {
    pub(super) kind: Option<DriveKind>,
    medium: Option<Box<dyn Medium>>,
    /// Sectors with deleted data address marks, which raw images have no place for. They live as
    /// long as the disk is in the drive.
    deleted: BTreeSet<u32>,
}

impl Drive {
    pub(super) fn new(kind: Option<DriveKind>) -> Self {
        Self {
            kind,
            medium: None,
            deleted: BTreeSet::new(),
        }
    }

    pub(super) fn change(&mut self, medium: Option<Box<dyn Medium>>) -> Option<Box<dyn Medium>> {
        self.deleted.clear();
        std::mem::replace(&mut self.medium, medium)
    }

    pub(super) fn has_disk(&self) -> bool {
        self.medium.is_some()
    }

    /// The write-protect line; an empty drive asserts it too.
    pub(super) fn is_write_protected(&self) -> bool {
        self.medium
            .as_ref()
            .is_none_or(|medium| medium.is_write_protected())
    }

    /// How long a sector takes to pass the head.
    pub(super) fn sector_nanos(&self) -> u64 {
        let sectors = self.medium.as_ref().map_or(18, |m| m.format().sectors);
        ROTATION_NANOS / u64::from(sectors.max(1))
    }

    /// Looks for a sector where the head at `track` is: its number on the disk.
    pub(super) fn find(&self, track: u8, recording: Recording, id: SectorId) -> Result<u32, Fault> {
        const NO_DATA: Fault = Fault::new(St1::ND, St2::empty());
        let on_track = self.id_at(track, recording, 0)?;
        if id.c != on_track.c {
            return Err(Fault::new(St1::ND, St2::WC));
        }
        if id.h != on_track.h || id.n != on_track.n {
            return Err(NO_DATA);
        }
        let format = self.medium.as_ref().map(|medium| medium.format());
        format
            .and_then(|format| format.sector_number(id.c, id.h, id.r))
            .ok_or(NO_DATA)
    }

    /// The ID field of the sector in place `index` (from 0) of the track.
    pub(super) fn id_at(
        &self,
        track: u8,
        recording: Recording,
        index: u8,
    ) -> Result<SectorId, Fault> {
        const NO_MARK: Fault = Fault::new(St1::MA, St2::empty());
        let (Some(kind), Some(medium)) = (self.kind, &self.medium) else {
            return Err(NO_MARK);
        };
        let format = medium.format();
        let cylinder = kind.cylinder(format, track);
        let readable = recording.mfm
            && recording.rate == kind.rate(format)
            && recording.head < format.heads
            && cylinder < format.cylinders;
        if !readable {
            return Err(NO_MARK);
        }
        Ok(SectorId {
            c: cylinder,
            h: recording.head,
            r: index % format.sectors.max(1) + 1,
            n: SECTOR_SIZE_CODE,
        })
    }

    /// Sectors on a track.
    pub(super) fn sectors(&self) -> u8 {
        self.medium.as_ref().map_or(0, |m| m.format().sectors)
    }

    pub(super) fn is_deleted(&self, sector: u32) -> bool {
        self.deleted.contains(&sector)
    }

    pub(super) fn read(&mut self, sector: u32) -> Result<[u8; SECTOR], Fault> {
        let mut data = [0; SECTOR];
        let result = match &mut self.medium {
            Some(medium) => medium.read(sector, &mut data),
            None => return Err(Fault::new(St1::MA, St2::empty())),
        };
        match result {
            Ok(()) => Ok(data),
            Err(error) => Err(data_error(&error)),
        }
    }

    pub(super) fn write(
        &mut self,
        sector: u32,
        data: &[u8; SECTOR],
        deleted: bool,
    ) -> Result<(), Fault> {
        let result = match &mut self.medium {
            Some(medium) if medium.is_write_protected() => {
                return Err(Fault::new(St1::NW, St2::empty()));
            }
            Some(medium) => medium.write(sector, data),
            None => return Err(Fault::new(St1::MA, St2::empty())),
        };
        result.map_err(|error| data_error(&error))?;
        if deleted {
            self.deleted.insert(sector);
        } else {
            self.deleted.remove(&sector);
        }
        Ok(())
    }
}

/// The host's failures look like a bad disk; the owner of the image has the details.
fn data_error(error: &MediumError) -> Fault {
    match error {
        MediumError::NoSector(_) => Fault::new(St1::ND, St2::empty()),
        MediumError::Host(_) => Fault::new(St1::DE, St2::DD),
    }
}

impl fmt::Debug for Drive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drive")
            .field("kind", &self.kind)
            .field("format", &self.medium.as_ref().map(|m| m.format()))
            .finish_non_exhaustive()
    }
}
