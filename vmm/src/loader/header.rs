//! The setup header of a Linux kernel image (Linux, Documentation/arch/x86/boot.rst, "The Real-Mode
//! Kernel Header").

use super::LoaderError;

/// Offset of the setup header in the file and in `boot_params`.
pub(super) const HEADER_START: usize = 0x1F1;
/// Offset of the jump instruction, whose second byte tells where the header ends.
const JUMP: usize = 0x200;
const SECTOR: usize = 512;

/// Offsets of fields, in the file and in `boot_params`.
pub(super) mod field {
    pub(in super::super) const SETUP_SECTS: usize = 0x1F1;
    pub(in super::super) const SYSSIZE: usize = 0x1F4;
    pub(in super::super) const VID_MODE: usize = 0x1FA;
    pub(in super::super) const BOOT_FLAG: usize = 0x1FE;
    pub(in super::super) const MAGIC: usize = 0x202;
    pub(in super::super) const VERSION: usize = 0x206;
    pub(in super::super) const TYPE_OF_LOADER: usize = 0x210;
    pub(in super::super) const LOADFLAGS: usize = 0x211;
    pub(in super::super) const CODE32_START: usize = 0x214;
    pub(in super::super) const RAMDISK_IMAGE: usize = 0x218;
    pub(in super::super) const RAMDISK_SIZE: usize = 0x21C;
    pub(in super::super) const CMD_LINE_PTR: usize = 0x228;
    pub(in super::super) const INITRD_ADDR_MAX: usize = 0x22C;
    pub(in super::super) const XLOADFLAGS: usize = 0x236;
    pub(in super::super) const CMDLINE_SIZE: usize = 0x238;
    pub(in super::super) const PREF_ADDRESS: usize = 0x258;
    pub(in super::super) const INIT_SIZE: usize = 0x260;
}

/// LOADFLAGS: the protected-mode code belongs at 1 MiB (a bzImage).
const LOADED_HIGH: u8 = 1 << 0;
/// XLOADFLAGS: the kernel has a 64-bit entry point.
const XLF_KERNEL_64: u16 = 1 << 0;
/// Protocol 2.02 brought the command line pointer that the loader uses.
const OLDEST_PROTOCOL: u16 = 0x202;

/// A kernel file, checked and taken apart.
#[derive(Debug)]
pub(super) struct KernelImage<'a> {
    /// The setup header as it stands in the file, from [`HEADER_START`].
    pub(super) header: &'a [u8],
    /// The protected-mode kernel.
    pub(super) code: &'a [u8],
    /// Where the protected-mode kernel is loaded and entered, guest-physical.
    pub(super) code32_start: u32,
    /// The highest address that the initrd may occupy.
    pub(super) initrd_addr_max: u32,
    /// The longest command line, without its final zero byte.
    pub(super) cmdline_size: usize,
    /// The memory that the kernel needs until it reads the memory map: start and size in bytes.
    pub(super) init_area: (u64, u64),
}

impl<'a> KernelImage<'a> {
    /// Takes a bzImage apart.
    pub(super) fn parse(file: &'a [u8]) -> Result<Self, LoaderError> {
        if file.is_empty() {
            return Err(LoaderError::Empty);
        }
        if let Some(what) = other_format(file) {
            return Err(LoaderError::OtherFormat { what });
        }
        if u16_at(file, field::BOOT_FLAG) != Some(0xAA55)
            || file.get(field::MAGIC..field::MAGIC + 4) != Some(b"HdrS")
        {
            return Err(if file.len() < field::MAGIC + 4 {
                LoaderError::Truncated {
                    have: file.len() as u64,
                    need: (field::MAGIC + 4) as u64,
                }
            } else {
                LoaderError::NotAKernel
            });
        }
        let truncated = |need: usize| LoaderError::Truncated {
            have: file.len() as u64,
            need: need as u64,
        };
        let version = u16_at(file, field::VERSION).ok_or(truncated(field::VERSION + 2))?;
        if version < OLDEST_PROTOCOL {
            return Err(LoaderError::OldProtocol { version });
        }
        let loadflags = u8_at(file, field::LOADFLAGS).ok_or(truncated(field::LOADFLAGS + 1))?;
        if loadflags & LOADED_HIGH == 0 {
            return Err(LoaderError::ZImage);
        }
        if version >= 0x20C && u16_at(file, field::XLOADFLAGS).unwrap_or(0) & XLF_KERNEL_64 != 0 {
            return Err(LoaderError::Kernel64);
        }
        let header_end = JUMP + 2 + usize::from(u8_at(file, JUMP + 1).ok_or(truncated(JUMP + 2))?);
        let header = file
            .get(HEADER_START..header_end)
            .ok_or(truncated(header_end))?;

        let setup_sects = match u8_at(file, field::SETUP_SECTS) {
            Some(0) | None => 4,
            Some(count) => usize::from(count),
        };
        let code_start = (setup_sects + 1) * SECTOR;
        let paragraphs = if version >= 0x204 {
            u32_at(file, field::SYSSIZE).unwrap_or(0) as usize
        } else {
            usize::from(u16_at(file, field::SYSSIZE).unwrap_or(0))
        };
        // The size counts 16-byte paragraphs, and the last one may be cut short.
        let code_size = paragraphs.saturating_mul(16);
        let code = file.get(code_start..).unwrap_or(&[]);
        if code.is_empty() || code.len().saturating_add(15) < code_size {
            return Err(truncated(code_start.saturating_add(code_size.max(1))));
        }

        let code32_start = u32_at(file, field::CODE32_START).unwrap_or(0x10_0000);
        if code32_start < 0x10_0000 {
            return Err(LoaderError::BadLoadAddress {
                address: code32_start,
            });
        }
        let init_area = if version >= 0x20A {
            (
                u64_at(file, field::PREF_ADDRESS).unwrap_or(0),
                u64::from(u32_at(file, field::INIT_SIZE).unwrap_or(0)),
            )
        } else {
            (u64::from(code32_start), code.len() as u64)
        };
        Ok(KernelImage {
            header,
            code,
            code32_start,
            initrd_addr_max: if version >= 0x203 {
                u32_at(file, field::INITRD_ADDR_MAX).unwrap_or(0x37FF_FFFF)
            } else {
                0x37FF_FFFF
            },
            cmdline_size: if version >= 0x206 {
                u32_at(file, field::CMDLINE_SIZE).unwrap_or(255) as usize
            } else {
                255
            },
            init_area,
        })
    }
}

/// Recognizes what people pass in place of a bzImage.
fn other_format(file: &[u8]) -> Option<&'static str> {
    const MAGIC: [(&[u8], &str); 6] = [
        (
            b"\x7FELF",
            "an ELF file (a vmlinux?); pass the bzImage that the kernel build leaves beside it",
        ),
        (b"\x1F\x8B", "gzip data; unpack it first"),
        (b"\xFD7zXZ", "xz data; unpack it first"),
        (
            b"070701",
            "a cpio archive; is it the initrd? pass that as --initrd",
        ),
        (b"!<arch>", "a Debian package; pass the vmlinuz inside it"),
        (
            b"QFI\xFB",
            "a disk image (qcow2); pass the kernel inside it",
        ),
    ];
    MAGIC
        .iter()
        .find(|(magic, _)| file.starts_with(magic))
        .map(|(_, what)| *what)
}

fn u8_at(file: &[u8], offset: usize) -> Option<u8> {
    file.get(offset).copied()
}

fn bytes_at<const N: usize>(file: &[u8], offset: usize) -> Option<[u8; N]> {
    file.get(offset..offset.checked_add(N)?)?.try_into().ok()
}

fn u16_at(file: &[u8], offset: usize) -> Option<u16> {
    bytes_at(file, offset).map(u16::from_le_bytes)
}

fn u32_at(file: &[u8], offset: usize) -> Option<u32> {
    bytes_at(file, offset).map(u32::from_le_bytes)
}

fn u64_at(file: &[u8], offset: usize) -> Option<u64> {
    bytes_at(file, offset).map(u64::from_le_bytes)
}
