//! What a file that is to be booted is.

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

/// Sizes of floppy disks in bytes: 360 KiB, 720 KiB, 1.2 MiB, 1.44 MiB.
const FLOPPIES: [u64; 4] = [368_640, 737_280, 1_228_800, 1_474_560];
/// Where a kernel has its magic number (Linux, Documentation/arch/x86/boot.rst).
const KERNEL_MAGIC: (usize, &[u8]) = (0x202, b"HdrS");

/// Bytes from the start of a file that [`guess`] looks at.
pub const HEAD: usize = 0x206;

/// Guesses what an image of `size` bytes is that starts with `head`. A disk may start with a kernel,
/// so that the size of a floppy comes first.
pub fn guess(head: &[u8], size: u64) -> ImageKind {
    let (at, magic) = KERNEL_MAGIC;
    if FLOPPIES.contains(&size) {
        ImageKind::Floppy
    } else if head.get(at..).is_some_and(|rest| rest.starts_with(magic)) {
        ImageKind::Kernel
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
        assert_eq!(guess(b"QFI\xFB", 737_281), ImageKind::Unknown);
    }
}
