//! Locks on image files, and who holds one.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

/// A process that holds a lock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// Which one.
    Process {
        /// Its number.
        pid: u32,
        /// Its name.
        name: String,
    },
    /// One that cannot be seen from here: another user's, or one in another container or machine.
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Holder::Process { pid, name } => write!(f, "{name} (process {pid})"),
            Holder::Unknown => f.write_str("another process"),
        }
    }
}

/// Why there is no lock.
#[derive(Debug)]
pub(super) enum LockError {
    /// Somebody has it.
    Held(Holder),
    /// The host has none to give.
    Host(io::Error),
}

/// Locks a whole file: for this open file description alone, or shared with others that read.
pub(super) fn lock(file: &File, exclusive: bool) -> Result<(), LockError> {
    let kind = if exclusive {
        libc::F_WRLCK
    } else {
        libc::F_RDLCK
    };
    let range = libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    };
    match fcntl(file, FcntlArg::F_OFD_SETLK(&range)) {
        Ok(_) => Ok(()),
        Err(Errno::EAGAIN | Errno::EACCES) => Err(LockError::Held(holder(file))),
        Err(error) => Err(LockError::Host(error.into())),
    }
}

/// Who holds a lock on the file.
fn holder(file: &File) -> Holder {
    let Ok(metadata) = file.metadata() else {
        return Holder::Unknown;
    };
    let identity = (metadata.dev(), metadata.ino());
    let pid = by_descriptor(identity).or_else(|| by_lock_table(metadata.ino()));
    match pid {
        Some(pid) => Holder::Process {
            pid,
            name: name(pid),
        },
        None => Holder::Unknown,
    }
}

fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .map_or_else(|_| "?".to_owned(), |name| name.trim_end().to_owned())
}

/// Looks through the open files of all processes: /proc/PID/fdinfo tells which of them have locks.
/// The table of all locks does not name the owners of open file description locks.
fn by_descriptor(identity: (u64, u64)) -> Option<u32> {
    let pids = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let Ok(descriptors) = fs::read_dir(format!("/proc/{pid}/fd")) else {
            return false;
        };
        descriptors.flatten().any(|descriptor| {
            let is_ours = fs::metadata(descriptor.path())
                .is_ok_and(|target| (target.dev(), target.ino()) == identity);
            is_ours && has_lock(*pid, &descriptor.file_name())
        })
    })
}

fn has_lock(pid: u32, descriptor: &std::ffi::OsStr) -> bool {
    let path = Path::new("/proc")
        .join(pid.to_string())
        .join("fdinfo")
        .join(descriptor);
    fs::read_to_string(path).is_ok_and(|info| info.lines().any(|line| line.starts_with("lock:")))
}

/// Looks into the table of all locks, which shows other users' processes too.
fn by_lock_table(inode: u64) -> Option<u32> {
    owner_in(&fs::read_to_string("/proc/locks").ok()?, inode)
}

/// A line of the table is `1: POSIX  ADVISORY  WRITE 4242 08:01:131 0 EOF`; the owner of an open file
/// description lock is -1.
fn owner_in(table: &str, inode: u64) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(4);
        let pid = fields.next()?.parse().ok()?;
        let file = fields.next()?.rsplit(':').next()?;
        (file.parse() == Ok(inode)).then_some(pid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_locks_names_owners() {
        let table = "1: FLOCK  ADVISORY  WRITE 4242 08:01:131 0 EOF\n\
                     2: OFDLCK ADVISORY  WRITE -1 08:01:132 0 EOF\n\
                     3: POSIX  ADVISORY  READ 17 00:2d:133 100 101\n\
                     nonsense\n";
        assert_eq!(owner_in(table, 131), Some(4242));
        assert_eq!(owner_in(table, 132), None, "nobody is named");
        assert_eq!(owner_in(table, 133), Some(17));
        assert_eq!(owner_in(table, 134), None);
    }
}
