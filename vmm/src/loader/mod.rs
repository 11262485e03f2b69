//! Loads a Linux kernel by the 32-bit boot protocol (Linux, Documentation/arch/x86/boot.rst).
//!
//! Loading is a plan and nothing else: which bytes go where in guest-physical memory, and the state
//! that the vCPU starts in. Whoever owns the memory carries it out, through the write path that
//! keeps traces right.

mod e820;
mod header;

use std::borrow::Cow;

use translator::CpuState;
use translator::state::{Segment, TableRegister, cr0, eflags, reg, seg};

pub use e820::{E820Entry, E820Kind, memory_map};
use header::{HEADER_START, KernelImage, field};

/// Guest-physical addresses of what the loader itself writes, all below the 640 KiB that the memory
/// map gives to the kernel.
mod place {
    pub(super) const GDT: u32 = 0x1000;
    pub(super) const BOOT_PARAMS: u32 = 0x7000;
    pub(super) const COMMAND_LINE: u32 = 0x2_0000;
    /// End of the room for the command line.
    pub(super) const COMMAND_LINE_END: u32 = 0x3_0000;
}

/// Offsets in `boot_params` outside the setup header (Linux, arch/x86/include/uapi/asm/bootparam.h).
mod boot_params {
    pub(super) const SIZE: usize = 4096;
    pub(super) const EXT_MEM_K: usize = 0x02;
    pub(super) const ACPI_RSDP_ADDR: usize = 0x70;
    pub(super) const ALT_MEM_K: usize = 0x1E0;
    pub(super) const E820_ENTRIES: usize = 0x1E8;
    pub(super) const E820_TABLE: usize = 0x2D0;
    pub(super) const E820_MAX: usize = 128;
}

const BOOT_CS: u16 = 0x10;
const BOOT_DS: u16 = 0x18;
const PAGE: u64 = 4096;
/// `type_of_loader` for a loader without a number of its own.
const LOADER_UNDEFINED: u8 = 0xFF;
/// `vid_mode`: "normal".
const VIDEO_NORMAL: u16 = 0xFFFF;

/// Why a kernel could not be loaded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoaderError {
    /// the kernel file is empty
    #[error("the file is empty")]
    Empty,
    /// the kernel file is too short
    #[error(
        "the file is cut short: it has {have} bytes and its header asks for {need}; get it again"
    )]
    Truncated {
        /// Size of the file.
        have: u64,
        /// Size that the header asks for, as far as it could be read.
        need: u64,
    },
    /// not a kernel
    #[error(
        "the file is not a Linux kernel: the boot flag at 1FEh or the 'HdrS' at 202h is missing; pass a bzImage (vmlinuz)"
    )]
    NotAKernel,
    /// a known format that is not a bzImage
    #[error("the file is {what}")]
    OtherFormat {
        /// What it is, and what to do.
        what: &'static str,
    },
    /// boot protocol before 2.02
    #[error("the kernel speaks boot protocol {}.{:02}; 2.02 (Linux 2.4) is the oldest that is understood", version >> 8, version & 0xFF)]
    OldProtocol {
        /// The version that the header names.
        version: u16,
    },
    /// a zImage
    #[error("the kernel is a zImage, which is loaded below 640 KiB; only bzImages are understood")]
    ZImage,
    /// a 64-bit kernel
    #[error(
        "the kernel is a 64-bit one, and guests have 16 or 32 bits; pass an i386 kernel, such as Debian's linux-image-686"
    )]
    Kernel64,
    /// the entry point is below 1 MiB
    #[error(
        "the header gives {address:#x} as the 32-bit entry point, below 1 MiB; the file is damaged, or it is to be started in real mode (as iPXE's ipxe.lkrn is): boot it from a floppy disk, by a boot loader"
    )]
    BadLoadAddress {
        /// `code32_start`.
        address: u32,
    },
    /// the kernel does not fit
    #[error("the kernel needs {} MiB of memory and the machine has {} MiB; raise --memory", need.div_ceil(1 << 20), have >> 20)]
    KernelDoesNotFit {
        /// Memory that the kernel needs, bytes.
        need: u64,
        /// Memory of the machine, bytes.
        have: u64,
    },
    /// the initrd is empty
    #[error("the initrd is empty")]
    EmptyInitrd,
    /// the initrd does not fit
    #[error(
        "the initrd of {size} bytes does not fit between the kernel's end at {lowest:#x} and {highest:#x}; raise --memory or make it smaller"
    )]
    InitrdDoesNotFit {
        /// Size of the initrd, bytes.
        size: u64,
        /// The lowest address it could have.
        lowest: u64,
        /// The end of the room, exclusive.
        highest: u64,
    },
    /// the command line is too long
    #[error("the command line has {have} bytes and this kernel takes {most}; shorten --append")]
    CommandLineTooLong {
        /// Its length.
        have: usize,
        /// The kernel's limit.
        most: usize,
    },
    /// the command line holds a zero byte
    #[error("the command line holds a zero byte")]
    CommandLineZero,
}

impl LoaderError {
    /// The initrd is to blame, not the kernel.
    pub fn is_initrd(&self) -> bool {
        matches!(
            self,
            LoaderError::EmptyInitrd | LoaderError::InitrdDoesNotFit { .. }
        )
    }
}

/// What to load.
#[derive(Debug, Clone, Copy)]
pub struct LinuxImage<'a> {
    /// The bzImage.
    pub kernel: &'a [u8],
    /// The initial RAM disk.
    pub initrd: Option<&'a [u8]>,
    /// The kernel's command line.
    pub command_line: &'a str,
    /// Guest-physical address of the ACPI root pointer, if there are tables.
    pub rsdp: Option<u32>,
}

/// Bytes that belong at an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece<'a> {
    /// Guest-physical address.
    pub address: u32,
    /// Contents.
    pub bytes: Cow<'a, [u8]>,
}

/// A loaded guest: what memory holds, and where the vCPU starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan<'a> {
    /// The contents of memory, no two overlapping.
    pub pieces: Vec<Piece<'a>>,
    /// Guest-physical address of `boot_params`.
    pub boot_params: u32,
    /// Guest-linear address of the first instruction.
    pub entry: u32,
}

impl Plan<'_> {
    /// Puts the vCPU where the 32-bit boot protocol starts: protected mode without paging, flat
    /// segments, interrupts off, ESI at `boot_params`.
    pub fn start(&self, state: &mut CpuState) {
        state.gpr = [0; 8];
        state.gpr[reg::ESI] = self.boot_params;
        state.gpr[reg::ESP] = place::BOOT_PARAMS;
        state.eip = self.entry;
        state.eflags = eflags::FIXED;
        state.cr0 = cr0::PE | cr0::ET;
        state.cpl = 0;
        state.gdtr = TableRegister {
            base: place::GDT,
            limit: (GDT.len() * 8 - 1) as u16,
        };
        state.seg = [Segment::flat(BOOT_DS, false, 0); 6];
        state.seg[seg::CS] = Segment::flat(BOOT_CS, true, 0);
    }
}

/// The GDT of the boot protocol: flat code at 10h, flat data at 18h.
const GDT: [u64; 4] = [0, 0, 0x00CF_9B00_0000_FFFF, 0x00CF_9300_0000_FFFF];

/// Plans the load of a kernel into a machine with `memory` bytes.
pub fn plan<'a>(image: &LinuxImage<'a>, memory: u64) -> Result<Plan<'a>, LoaderError> {
    let kernel = KernelImage::parse(image.kernel)?;
    let code_end = u64::from(kernel.code32_start) + kernel.code.len() as u64;
    let init_end = kernel.init_area.0.saturating_add(kernel.init_area.1);
    let kernel_end = code_end
        .max(init_end)
        .checked_next_multiple_of(PAGE)
        .unwrap_or(u64::MAX);
    if kernel_end > memory {
        return Err(LoaderError::KernelDoesNotFit {
            need: kernel_end,
            have: memory,
        });
    }
    let command_line = command_line(image.command_line, kernel.cmdline_size)?;
    let initrd = image
        .initrd
        .map(|bytes| place_initrd(bytes, &kernel, kernel_end, memory))
        .transpose()?;

    let params = build_boot_params(&kernel, image, initrd.as_ref(), memory);
    let gdt: Vec<u8> = GDT.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    let own = [
        (place::GDT, gdt),
        (place::BOOT_PARAMS, params),
        (place::COMMAND_LINE, command_line),
    ];
    let mut pieces: Vec<Piece<'a>> = own
        .into_iter()
        .map(|(address, bytes)| Piece {
            address,
            bytes: Cow::Owned(bytes),
        })
        .collect();
    pieces.push(Piece {
        address: kernel.code32_start,
        bytes: Cow::Borrowed(kernel.code),
    });
    pieces.extend(initrd);
    Ok(Plan {
        pieces,
        boot_params: place::BOOT_PARAMS,
        entry: kernel.code32_start,
    })
}

/// The command line with its final zero byte.
fn command_line(text: &str, most: usize) -> Result<Vec<u8>, LoaderError> {
    let room = (place::COMMAND_LINE_END - place::COMMAND_LINE) as usize - 1;
    let most = most.min(room);
    if text.len() > most {
        return Err(LoaderError::CommandLineTooLong {
            have: text.len(),
            most,
        });
    }
    if text.contains('\0') {
        return Err(LoaderError::CommandLineZero);
    }
    let mut bytes = text.as_bytes().to_vec();
    bytes.push(0);
    Ok(bytes)
}

/// As high as the kernel and the memory allow, so that the kernel has room to unpack below it.
fn place_initrd<'a>(
    bytes: &'a [u8],
    kernel: &KernelImage<'_>,
    lowest: u64,
    memory: u64,
) -> Result<Piece<'a>, LoaderError> {
    if bytes.is_empty() {
        return Err(LoaderError::EmptyInitrd);
    }
    let size = bytes.len() as u64;
    let highest = memory.min(u64::from(kernel.initrd_addr_max) + 1);
    let address = highest
        .checked_sub(size)
        .map(|address| address / PAGE * PAGE)
        .filter(|address| *address >= lowest)
        .and_then(|address| u32::try_from(address).ok());
    match address {
        Some(address) => Ok(Piece {
            address,
            bytes: Cow::Borrowed(bytes),
        }),
        None => Err(LoaderError::InitrdDoesNotFit {
            size,
            lowest,
            highest,
        }),
    }
}

/// The "zero page".
fn build_boot_params(
    kernel: &KernelImage<'_>,
    image: &LinuxImage<'_>,
    initrd: Option<&Piece<'_>>,
    memory: u64,
) -> Vec<u8> {
    let mut page = vec![0; boot_params::SIZE];
    put(&mut page, HEADER_START, kernel.header);
    put(&mut page, field::TYPE_OF_LOADER, &[LOADER_UNDEFINED]);
    put(&mut page, field::VID_MODE, &VIDEO_NORMAL.to_le_bytes());
    put(
        &mut page,
        field::CMD_LINE_PTR,
        &place::COMMAND_LINE.to_le_bytes(),
    );
    if let Some(initrd) = initrd {
        let size = initrd.bytes.len() as u32;
        put(
            &mut page,
            field::RAMDISK_IMAGE,
            &initrd.address.to_le_bytes(),
        );
        put(&mut page, field::RAMDISK_SIZE, &size.to_le_bytes());
    }
    if let Some(rsdp) = image.rsdp {
        put(
            &mut page,
            boot_params::ACPI_RSDP_ADDR,
            &u64::from(rsdp).to_le_bytes(),
        );
    }

    // What INT 15h, AH=88h and AX=E801h told: memory above 1 MiB.
    let above_1m_kib = (memory >> 10).saturating_sub(1024);
    put(
        &mut page,
        boot_params::EXT_MEM_K,
        &(above_1m_kib.min(0xFC00) as u16).to_le_bytes(),
    );
    put(
        &mut page,
        boot_params::ALT_MEM_K,
        &(above_1m_kib as u32).to_le_bytes(),
    );
    let map = memory_map(memory);
    debug_assert!(map.len() <= boot_params::E820_MAX);
    put(&mut page, boot_params::E820_ENTRIES, &[map.len() as u8]);
    for (index, entry) in map.iter().enumerate() {
        let offset = boot_params::E820_TABLE + index * E820Entry::SIZE;
        put(&mut page, offset, &entry.to_bytes());
    }
    page
}

/// Writes what fits of `bytes` at `offset`.
fn put(page: &mut [u8], offset: usize, bytes: &[u8]) {
    if let Some(target) = page.get_mut(offset..offset + bytes.len()) {
        target.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests;
