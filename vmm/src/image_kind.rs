//! What a file that is to be booted is.

use devices::fdc::DiskFormat;

/// Kinds of images.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageKind {
    /// A Linux kernel, a bzImage.
    Kernel,
    /// A raw image of a floppy disk.
    Floppy,
    /// Something else.
    Unknown,
}

/// The signature of a boot sector, and where it is.
const BOOT_SIGNATURE: (usize, &[u8]) = (0x1FE, &[0x55, 0xAA]);
/// Images with a boot sector that are not larger are floppy disks, the last sectors of which may be
/// missing: 1.44 MB.
const LARGEST_FLOPPY: u64 = 1_474_560;
/// Where a kernel has its magic number (Linux, Documentation/arch/x86/boot.rst).
const KERNEL_MAGIC: (usize, &[u8]) = (0x202, b"HdrS");

/// Bytes from the start of a file that [`guess`] looks at.
pub const HEAD: usize = 0x206;

/// Guesses what an image of `size` bytes is that starts with `head`. A disk may start with a kernel,
/// so that the size of a floppy comes first.
pub fn guess(head: &[u8], size: u64) -> ImageKind {
    let has = |(at, bytes): (usize, &[u8])| head.get(at..).is_some_and(|b| b.starts_with(bytes));
    let is_disk = DiskFormat::ALL.iter().any(|format| format.bytes() == size);
    if is_disk {
        ImageKind::Floppy
    } else if has(KERNEL_MAGIC) {
        ImageKind::Kernel
    } else if has(BOOT_SIGNATURE) && size <= LARGEST_FLOPPY {
        ImageKind::Floppy
    } else {
        ImageKind::Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_come_before_contents() {
        let mut kernel = vec![0; HEAD];
        kernel[0x202..].copy_from_slice(b"HdrS");
        assert_eq!(guess(&kernel, 5_000_000), ImageKind::Kernel);
        assert_eq!(guess(&kernel, 1_474_560), ImageKind::Floppy);
        assert_eq!(guess(&[], 737_280), ImageKind::Floppy);
        assert_eq!(guess(&kernel[..0x205], 600), ImageKind::Unknown);
        kernel[0x1FE..0x200].copy_from_slice(&[0x55, 0xAA]);
        assert_eq!(guess(&kernel, 1_000_000), ImageKind::Kernel);
        kernel[0x202..].fill(0);
        assert_eq!(
            guess(&kernel, 1_000_000),
            ImageKind::Floppy,
            "the end is missing"
        );
        assert_eq!(
            guess(&kernel, 100_000_000),
            ImageKind::Unknown,
            "a hard disk"
        );
        assert_eq!(guess(b"QFI\xFB", 737_281), ImageKind::Unknown);
    }
}
