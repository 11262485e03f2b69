//! Disks and drives: what a disk holds, and how a disk of one format looks to a drive.

use std::io;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Bytes of a sector.
pub const SECTOR: usize = 512;

/// A disk's contents could not be read or written: the guest sees a data error.
#[derive(Debug, Error)]
pub enum MediumError {
    /// the disk has no such sector
    #[error("the disk has no sector {0}")]
    NoSector(u32),
    /// the host failed
    #[error("the disk's contents cannot be accessed")]
    Host(#[from] io::Error),
}

/// A disk.
pub trait Medium: Send {
    /// How it is formatted.
    fn format(&self) -> DiskFormat;
    /// Whether its write-protect notch is covered.
    fn is_write_protected(&self) -> bool;
    /// Reads sector `sector`, counted from 0 over all sectors, heads and cylinders.
    ///
    /// # Errors
    ///
    /// The disk ends before that sector, or the host cannot read it.
    fn read(&mut self, sector: u32, data: &mut [u8; SECTOR]) -> Result<(), MediumError>;
    /// Writes sector `sector`.
    ///
    /// # Errors
    ///
    /// The disk ends before that sector, or the host cannot write it (its disk is full).
    fn write(&mut self, sector: u32, data: &[u8; SECTOR]) -> Result<(), MediumError>;
}

/// Speed of the bits under the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DataRate {
    /// 250 kbit/s: double density.
    K250,
    /// 300 kbit/s: double density in a 1.2 MB drive, which turns faster.
    K300,
    /// 500 kbit/s: high density.
    K500,
    /// 1 Mbit/s: extra density.
    M1,
}

impl DataRate {
    /// The rate that bits 1:0 of DSR and CCR choose.
    pub const fn from_select(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::K500,
            1 => Self::K300,
            2 => Self::K250,
            _ => Self::M1,
        }
    }
}

/// How a disk with sectors of 512 bytes is formatted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskFormat {
    /// Tracks on a side.
    pub cylinders: u8,
    /// Sides: 1 or 2.
    pub heads: u8,
    /// Sectors on a track.
    pub sectors: u8,
    /// The drive it is made for.
    pub drive: DriveKind,
}

impl DiskFormat {
    const fn new(cylinders: u8, heads: u8, sectors: u8, drive: DriveKind) -> Self {
        Self {
            cylinders,
            heads,
            sectors,
            drive,
        }
    }

    /// Formats in use, smallest first: those of DOS, and some that put more on a disk
    /// (1680K is Microsoft's DMF).
    pub const ALL: [Self; 13] = [
        Self::new(40, 1, 8, DriveKind::F360),
        Self::new(40, 1, 9, DriveKind::F360),
        Self::new(40, 2, 8, DriveKind::F360),
        Self::new(40, 2, 9, DriveKind::F360),
        Self::new(80, 2, 9, DriveKind::F720),
        Self::new(80, 2, 10, DriveKind::F720),
        Self::new(82, 2, 10, DriveKind::F720),
        Self::new(80, 2, 15, DriveKind::F1200),
        Self::new(80, 2, 18, DriveKind::F1440),
        Self::new(82, 2, 18, DriveKind::F1440),
        Self::new(80, 2, 21, DriveKind::F1440),
        Self::new(82, 2, 21, DriveKind::F1440),
        Self::new(80, 2, 36, DriveKind::F2880),
    ];

    /// Sectors on the whole disk.
    pub const fn total_sectors(self) -> u32 {
        self.cylinders as u32 * self.heads as u32 * self.sectors as u32
    }

    /// Bytes on the whole disk.
    pub const fn bytes(self) -> u64 {
        self.total_sectors() as u64 * SECTOR as u64
    }

    /// The place of a sector in the order of a raw image. `sector` counts from 1. `None` if the
    /// disk has no such sector.
    pub fn sector_number(self, cylinder: u8, head: u8, sector: u8) -> Option<u32> {
        let there =
            cylinder < self.cylinders && head < self.heads && (1..=self.sectors).contains(&sector);
        there.then(|| {
            let track = u32::from(cylinder) * u32::from(self.heads) + u32::from(head);
            track * u32::from(self.sectors) + u32::from(sector) - 1
        })
    }
}

/// What a drive can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DriveKind {
    /// 5.25", 360 KB.
    F360,
    /// 5.25", 1.2 MB.
    F1200,
    /// 3.5", 720 KB.
    F720,
    /// 3.5", 1.44 MB.
    F1440,
    /// 3.5", 2.88 MB.
    F2880,
}

impl DriveKind {
    /// The number that CMOS location 10h holds for such a drive.
    pub const fn cmos_type(self) -> u8 {
        match self {
            Self::F360 => 1,
            Self::F1200 => 2,
            Self::F720 => 3,
            Self::F1440 => 4,
            Self::F2880 => 5,
        }
    }

    /// Tracks that the head can reach: a few more than are used.
    pub(super) const fn tracks(self) -> u8 {
        match self {
            Self::F360 => 42,
            _ => 83,
        }
    }

    /// Whether a disk of `format` fits in and can be read.
    pub const fn accepts(self, format: DiskFormat) -> bool {
        // A drive takes the disks of its size that hold no more than its own.
        match format.drive {
            Self::F360 => matches!(self, Self::F360 | Self::F1200),
            Self::F1200 => matches!(self, Self::F1200),
            Self::F720 => matches!(self, Self::F720 | Self::F1440 | Self::F2880),
            Self::F1440 => matches!(self, Self::F1440 | Self::F2880),
            Self::F2880 => matches!(self, Self::F2880),
        }
    }

    /// The rate at which a disk of `format` passes the head of this drive.
    pub(super) const fn rate(self, format: DiskFormat) -> DataRate {
        match (self, format.drive) {
            (Self::F1200, DriveKind::F360) => DataRate::K300,
            (_, DriveKind::F360 | DriveKind::F720) => DataRate::K250,
            (_, DriveKind::F1200 | DriveKind::F1440) => DataRate::K500,
            (_, DriveKind::F2880) => DataRate::M1,
        }
    }

    /// The cylinder of a disk of `format` under the head at `track`: the tracks of a 360 KB disk
    /// are twice as far apart as the steps of a 1.2 MB drive.
    pub(super) const fn cylinder(self, format: DiskFormat, track: u8) -> u8 {
        match (self, format.drive) {
            (Self::F1200, DriveKind::F360) => track / 2,
            _ => track,
        }
    }
}
