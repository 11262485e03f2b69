//! Floppy images.

use std::path::{Path, PathBuf};

use devices::fdc::{DiskFormat, DriveKind, Medium, MediumError};

use super::{ImageError, ImageSpec, RawImage, SECTOR};

/// Why a file is no floppy disk.
#[derive(Debug, thiserror::Error)]
pub enum FloppyError {
    /// no image
    #[error(transparent)]
    Image(#[from] ImageError),
    /// nothing in it
    #[error("the floppy image {} is empty", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// not a number of sectors
    #[error(
        "the floppy image {} has {bytes} bytes, which is no multiple of 512; is it compressed, or in another format than raw?",
        path.display()
    )]
    OddSize {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// more than a disk holds
    #[error(
        "the image {} has {bytes} bytes, more than any floppy disk",
        path.display()
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// the boot sector tells of more
    #[error(
        "the floppy image {} is truncated: it has {bytes} bytes, and its boot sector tells of {expected}",
        path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
        /// The size of the file system in it.
        expected: u64,
    },
    /// the host cannot read it
    #[error("the floppy image {} cannot be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The host's reason.
        #[source]
        source: std::io::Error,
    },
    /// the drive is not made for it
    #[error("floppy drive {drive} takes no disks of {} KB", .format.bytes() / 1024)]
    WrongDrive {
        /// 0: A, 1: B.
        drive: usize,
        /// The disk.
        format: DiskFormat,
    },
    /// the drive is not there
    #[error("there is no floppy drive {0}")]
    NoDrive(usize),
}

/// A floppy disk in a file.
#[derive(Debug)]
pub struct FloppyImage {
    image: RawImage,
    format: DiskFormat,
}

impl FloppyImage {
    /// Opens an image and finds out from its size what disk it is of. An image that is smaller
    /// than its disk, and does not say that there should be more, is a disk whose last sectors
    /// cannot be read.
    ///
    /// # Errors
    /// The image cannot be opened, or is of no disk.
    pub fn open(spec: &ImageSpec) -> Result<FloppyImage, FloppyError> {
        let mut image = RawImage::open(spec)?;
        let (path, bytes) = (image.path().to_owned(), image.bytes());
        if bytes == 0 {
            return Err(FloppyError::Empty { path });
        }
        if !bytes.is_multiple_of(SECTOR as u64) {
            return Err(FloppyError::OddSize { path, bytes });
        }
        let Some(format) = format_of(bytes) else {
            return Err(FloppyError::TooLarge { path, bytes });
        };
        let mut boot = [0; SECTOR];
        if let Err(source) = image.read(0, &mut boot) {
            return Err(FloppyError::Read { path, source });
        }
        if let Some(expected) = file_system_bytes(&boot).filter(|&expected| expected > bytes) {
            return Err(FloppyError::Truncated {
                path,
                bytes,
                expected,
            });
        }
        Ok(FloppyImage { image, format })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.image.path()
    }

    /// The disk.
    pub fn format(&self) -> DiskFormat {
        self.format
    }
}

impl Medium for FloppyImage {
    fn format(&self) -> DiskFormat {
        self.format
    }

    fn is_write_protected(&self) -> bool {
        self.image.is_read_only()
    }

    fn read(&mut self, sector: u32, data: &mut [u8; SECTOR]) -> Result<(), MediumError> {
        self.check(sector)?;
        Ok(self.image.read(u64::from(sector), data)?)
    }

    fn write(&mut self, sector: u32, data: &[u8; SECTOR]) -> Result<(), MediumError> {
        self.check(sector)?;
        Ok(self.image.write(u64::from(sector), data)?)
    }
}

impl FloppyImage {
    fn check(&self, sector: u32) -> Result<(), MediumError> {
        if u64::from(sector) < self.image.sectors() {
            Ok(())
        } else {
            Err(MediumError::NoSector(sector))
        }
    }
}

/// The disk that an image of so many bytes is of, or is the beginning of.
fn format_of(bytes: u64) -> Option<DiskFormat> {
    let formats = || DiskFormat::ALL.into_iter();
    let usual = |format: &DiskFormat| format.drive == DriveKind::F1440;
    formats()
        .find(|format| format.bytes() == bytes)
        .or_else(|| formats().filter(usual).find(|f| f.bytes() >= bytes))
        .or_else(|| formats().find(|format| format.bytes() >= bytes))
}

/// The size that the boot sector of a FAT file system gives; `None` if it is not one.
fn file_system_bytes(boot: &[u8; SECTOR]) -> Option<u64> {
    let word = |at: usize| Some(u16::from_le_bytes([*boot.get(at)?, *boot.get(at + 1)?]));
    let small = u32::from(word(0x13)?);
    let large = u32::from(word(0x20)?) | u32::from(word(0x22)?) << 16;
    let sectors = if small == 0 { large } else { small };
    let is_fat = matches!(boot.first()?, 0xe9 | 0xeb)
        && word(0x1fe)? == 0xaa55
        && word(0x0b)? == SECTOR as u16
        && (1..=2).contains(boot.get(0x10)?)
        && *boot.get(0x15)? >= 0xf0
        && (1..=63).contains(&word(0x18)?)
        && (1..=2).contains(&word(0x1a)?);
    // No floppy has as many; something else is there then.
    let plausible = (1..=0xffff).contains(&sectors);
    (is_fat && plausible).then(|| u64::from(sectors) * SECTOR as u64)
}

/// A place for a floppy drive of a machine.
#[derive(Debug, Default)]
pub struct FloppySlot {
    /// The drive, if there is one.
    pub drive: Option<DriveKind>,
    /// The disk in it.
    pub disk: Option<FloppyImage>,
}

impl FloppySlot {
    /// A drive without a disk.
    pub fn empty(drive: DriveKind) -> FloppySlot {
        FloppySlot {
            drive: Some(drive),
            disk: None,
        }
    }

    /// A drive made for a disk, with it.
    pub fn with_disk(disk: FloppyImage) -> FloppySlot {
        FloppySlot {
            drive: Some(disk.format.drive),
            disk: Some(disk),
        }
    }
}
