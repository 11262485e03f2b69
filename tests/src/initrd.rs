//! Writes initial RAM disks: cpio archives of the "newc" format (Linux,
//! `Documentation/driver-api/early-userspace/buffer-format.rst`).

use std::collections::BTreeSet;

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const SYMBOLIC_LINK: u32 = 0o120_000;

/// An archive in the making. Paths have no leading slash; parent directories are added by
/// themselves. Everything belongs to root.
#[derive(Debug, Default)]
pub struct Initrd {
    bytes: Vec<u8>,
    inode: u32,
    directories: BTreeSet<String>,
}

impl Initrd {
    /// An archive with the console device, which Linux opens for init before anything is mounted.
    #[must_use]
    pub fn new() -> Self {
        let mut initrd = Self::default();
        initrd.character_device("dev/console", 0o600, 5, 1);
        initrd
    }

    /// Adds a directory.
    pub fn directory(&mut self, path: &str) {
        if path.is_empty() || !self.directories.insert(path.to_owned()) {
            return;
        }
        self.parents(path);
        self.entry(path, DIRECTORY | 0o755, (0, 0), &[]);
    }

    /// Adds a file with the permission bits `mode`.
    pub fn file(&mut self, path: &str, mode: u32, contents: &[u8]) {
        self.parents(path);
        self.entry(path, REGULAR | mode, (0, 0), contents);
    }

    /// Adds a symbolic link to `target`.
    pub fn link(&mut self, path: &str, target: &str) {
        self.parents(path);
        self.entry(path, SYMBOLIC_LINK | 0o777, (0, 0), target.as_bytes());
    }

    /// Adds a character device.
    pub fn character_device(&mut self, path: &str, mode: u32, major: u32, minor: u32) {
        self.parents(path);
        self.entry(path, CHARACTER_DEVICE | mode, (major, minor), &[]);
    }

    /// The finished archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.inode = u32::MAX;
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }

    fn parents(&mut self, path: &str) {
        if let Some((parent, _)) = path.rsplit_once('/') {
            self.directory(parent);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, (major, minor): (u32, u32), contents: &[u8]) {
        self.inode = self.inode.wrapping_add(1);
        let length = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor,
        // namesize, check
        let fields = [
            self.inode,
            mode,
            0,
            0,
            1,
            0,
            length(contents.len()),
            0,
            0,
            major,
            minor,
            length(path.len() + 1),
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(contents);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    #[test]
    fn cpio_lists_what_was_put_in() {
        let mut initrd = Initrd::new();
        initrd.file("a/b/odd", 0o755, b"12345");
        initrd.file("a/b/empty", 0o644, b"");
        initrd.link("a/link", "b/odd");
        let bytes = initrd.finish();
        assert_eq!(bytes.len() % 4, 0);
        let Ok(mut cpio) = Command::new("cpio")
            .args(["-itv", "--quiet", "--numeric-uid-gid"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
        else {
            eprintln!("SKIPPED: cpio is not installed");
            return;
        };
        cpio.stdin.take().unwrap().write_all(&bytes).unwrap();
        let output = cpio.wait_with_output().unwrap();
        assert!(output.status.success());
        let listing = String::from_utf8(output.stdout).unwrap();
        let entries: Vec<(&str, &str)> = listing
            .lines()
            .map(|line| (&line[..10], line.rsplit("1970 ").next().unwrap()))
            .collect();
        assert_eq!(
            entries,
            [
                ("drwxr-xr-x", "dev"),
                ("crw-------", "dev/console"),
                ("drwxr-xr-x", "a"),
                ("drwxr-xr-x", "a/b"),
                ("-rwxr-xr-x", "a/b/odd"),
                ("-rw-r--r--", "a/b/empty"),
                ("lrwxrwxrwx", "a/link -> b/odd"),
            ]
        );
    }
}
