//! Disk images: raw files, locked against other users, with or without a snapshot on top.

mod floppy;
mod lock;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;

pub use floppy::{FloppyError, FloppyImage, FloppySlot};
pub use lock::Holder;

use lock::LockError;

/// Bytes of a sector.
pub const SECTOR: usize = 512;
/// Warnings about one image at most.
const WARNINGS: u32 = 10;

/// An image as the command line and the monitor console name it:
/// `FILE[,snapshot=on|off][,readonly=on|off]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSpec {
    /// The file.
    pub path: PathBuf,
    /// Writes are kept in memory and dropped at the end.
    pub snapshot: bool,
    /// The guest cannot write.
    pub read_only: bool,
}

impl ImageSpec {
    /// An image that the guest may write to.
    pub fn new(path: impl Into<PathBuf>) -> ImageSpec {
        ImageSpec {
            path: path.into(),
            snapshot: false,
            read_only: false,
        }
    }
}

impl fmt::Display for ImageSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        if self.snapshot {
            f.write_str(",snapshot=on")?;
        }
        if self.read_only {
            f.write_str(",readonly=on")?;
        }
        Ok(())
    }
}

/// Not the name of an image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageSpecError {
    /// no file name
    #[error("'{0}' names no file")]
    NoFile(String),
    /// an option that is not known, or not so
    #[error("'{0}' is no option of an image; there are: snapshot=on, readonly=on")]
    Option(String),
}

impl FromStr for ImageSpec {
    type Err = ImageSpecError;

    /// Options are taken from the end, so that a file name may have a comma in it.
    fn from_str(text: &str) -> Result<Self, ImageSpecError> {
        let mut spec = ImageSpec::new("");
        let mut rest = text;
        while let Some((before, option)) = rest.rsplit_once(',') {
            let Some((name, value)) = option.split_once('=') else {
                break;
            };
            let unknown = || ImageSpecError::Option(option.to_owned());
            let on = match value {
                "on" => true,
                "off" => false,
                _ => return Err(unknown()),
            };
            match name {
                "snapshot" => spec.snapshot = on,
                "readonly" => spec.read_only = on,
                _ => return Err(unknown()),
            }
            rest = before;
        }
        if rest.is_empty() {
            return Err(ImageSpecError::NoFile(text.to_owned()));
        }
        spec.path = rest.into();
        Ok(spec)
    }
}

/// Why an image cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// it cannot be opened
    #[error("the image {} cannot be opened", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// The host's reason.
        #[source]
        source: io::Error,
    },
    /// it cannot be opened for writing
    #[error(
        "the image {} cannot be written to; snapshot=on keeps the guest's writes in memory, readonly=on forbids them",
        path.display()
    )]
    NotWritable {
        /// The file.
        path: PathBuf,
        /// The host's reason.
        #[source]
        source: io::Error,
    },
    /// it is a directory, a pipe, ...
    #[error("{} is no file and no block device", path.display())]
    NoFile {
        /// What was named.
        path: PathBuf,
    },
    /// somebody else uses it
    #[error("the image {} is in use by {holder}", path.display())]
    Locked {
        /// The file.
        path: PathBuf,
        /// Who.
        holder: Holder,
    },
}

/// Where the guest's writes go.
#[derive(Debug)]
enum Writes {
    /// Into the file.
    File,
    /// Nowhere: there are none.
    None,
    /// Into memory.
    Kept(BTreeMap<u64, Box<[u8; SECTOR]>>),
}

/// A raw image: sectors of 512 bytes one after the other.
///
/// As long as it is open it is locked with an open file description lock (fcntl(2)): shared by those
/// who only read the file, otherwise for this image alone. QEMU respects such locks, and is respected.
#[derive(Debug)]
pub struct RawImage {
    path: PathBuf,
    file: File,
    bytes: u64,
    writes: Writes,
    warnings: u32,
}

impl RawImage {
    /// Opens and locks an image.
    ///
    /// # Errors
    /// It is not there, not readable (or writable, where it has to be), no file, or in use.
    pub fn open(spec: &ImageSpec) -> Result<RawImage, ImageError> {
        let path = spec.path.clone();
        let writable = !spec.read_only && !spec.snapshot;
        let open = |write| OpenOptions::new().read(true).write(write).open(&path);
        let file = match open(writable) {
            Ok(file) => file,
            Err(source) if writable && open(false).is_ok() => {
                return Err(match path.is_dir() {
                    true => ImageError::NoFile { path },
                    false => ImageError::NotWritable { path, source },
                });
            }
            Err(source) => return Err(ImageError::Open { path, source }),
        };
        let metadata = file.metadata().map_err(|source| ImageError::Open {
            path: path.clone(),
            source,
        })?;
        let kind = metadata.file_type();
        let bytes = if kind.is_file() {
            metadata.len()
        } else if kind.is_block_device() {
            size_by_seeking(&file).map_err(|source| ImageError::Open {
                path: path.clone(),
                source,
            })?
        } else {
            return Err(ImageError::NoFile { path });
        };
        match lock::lock(&file, writable) {
            Ok(()) => {}
            Err(LockError::Held(holder)) => return Err(ImageError::Locked { path, holder }),
            // Some network file systems have no locks.
            Err(LockError::Host(error)) => {
                tracing::warn!(image = %path.display(), %error, "the image cannot be locked");
            }
        }
        let writes = match (spec.read_only, spec.snapshot) {
            (true, _) => Writes::None,
            (false, true) => Writes::Kept(BTreeMap::new()),
            (false, false) => Writes::File,
        };
        Ok(RawImage {
            path,
            file,
            bytes,
            writes,
            warnings: WARNINGS,
        })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its size in bytes when it was opened.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Complete sectors in it.
    pub fn sectors(&self) -> u64 {
        self.bytes / SECTOR as u64
    }

    /// Whether the guest cannot write.
    pub fn is_read_only(&self) -> bool {
        matches!(self.writes, Writes::None)
    }

    /// Reads a sector.
    ///
    /// # Errors
    /// The host's; among them that the image has become shorter. The first few are logged.
    pub fn read(&mut self, sector: u64, data: &mut [u8; SECTOR]) -> io::Result<()> {
        if let Writes::Kept(sectors) = &self.writes
            && let Some(kept) = sectors.get(&sector)
        {
            data.copy_from_slice(kept.as_slice());
            return Ok(());
        }
        let result = match offset(sector) {
            Some(offset) => self.file.read_exact_at(data, offset),
            None => Err(io::ErrorKind::InvalidInput.into()),
        };
        result.inspect_err(|error| self.warn(sector, "read", error))
    }

    /// Writes a sector: into the file, or into memory.
    ///
    /// # Errors
    /// The host's, as that its disk is full; the image is read-only. The first few are logged.
    pub fn write(&mut self, sector: u64, data: &[u8; SECTOR]) -> io::Result<()> {
        let result = match &mut self.writes {
            Writes::Kept(sectors) => {
                sectors.insert(sector, Box::new(*data));
                Ok(())
            }
            Writes::None => Err(io::ErrorKind::ReadOnlyFilesystem.into()),
            Writes::File => match offset(sector) {
                Some(offset) => self.file.write_all_at(data, offset),
                None => Err(io::ErrorKind::InvalidInput.into()),
            },
        };
        result.inspect_err(|error| self.warn(sector, "written", error))
    }

    /// A guest tries again and again; the log is not to grow by each attempt.
    fn warn(&mut self, sector: u64, what: &str, error: &io::Error) {
        if self.warnings > 0 {
            self.warnings -= 1;
            tracing::warn!(
                image = %self.path.display(),
                sector,
                %error,
                "a sector cannot be {what}; the guest sees a disk error"
            );
        }
    }
}

fn offset(sector: u64) -> Option<u64> {
    sector.checked_mul(SECTOR as u64)
}

/// The size of a block device.
fn size_by_seeking(mut file: &File) -> io::Result<u64> {
    use std::io::{Seek, SeekFrom};
    file.seek(SeekFrom::End(0))
}
