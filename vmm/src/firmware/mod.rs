//! The firmware of a machine: SeaBIOS and the BIOS of its VGA, where they are in memory, and what
//! they are told of the machine.

mod find;

use std::path::PathBuf;

use devices::VgaConfig;
use devices::acpi::AcpiConfig;
use devices::acpi::loader::{self, LoaderFiles};
use devices::fw_cfg::{FwCfgError, FwCfgItems, spec::key};
use shadow_mmu::{Mmu, MmuError, PhysError, RangeKind};

pub use find::{FindError, find};

const KIB: usize = 1 << 10;
/// A firmware image ends at the reset vector: its size is a multiple of a segment's.
const SEGMENT: usize = 64 * KIB;
/// The most that is left for it below 4 GiB.
const MAX_BIOS: usize = 8 << 20;
/// End of the address space, where the firmware ends.
const TOP: u64 = 1 << 32;
/// The firmware area below 1 MiB, which the host bridge shadows.
const SHADOWED: u64 = 0xC_0000;
const SHADOWED_LEN: usize = 256 * KIB;
/// What of the firmware the ISA bridge decodes there, at its end.
const ISA_BIOS: usize = 128 * KIB;
/// The most that fits the area of VGA BIOSes.
const MAX_VGA_BIOS: usize = 64 * KIB;
const OPTION_ROM_SIGNATURE: [u8; 2] = [0x55, 0xAA];
/// An entry of `etc/e820` that is memory.
const E820_RAM: u32 = 1;
/// Last address that SeaBIOS gives to PCI devices.
const PCI_MEMORY_END: u32 = 0xFEBF_FFFF;
/// `etc/boot-fail-wait`: where nothing can be booted, do not start again.
const WAIT_FOR_EVER: u32 = u32::MAX;

/// Images that a machine is switched on with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Firmware {
    bios: Vec<u8>,
    vga_bios: Option<Vec<u8>>,
}

/// An image that is no firmware.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// the firmware has an odd size
    #[error(
        "{size} bytes are no firmware: it has a multiple of 64 KiB, at most 8 MiB; is the file cut short?"
    )]
    BiosSize {
        /// Size of the file.
        size: usize,
    },
    /// the option ROM has an odd size
    #[error("{size} bytes are no VGA BIOS: it has at most 64 KiB")]
    VgaBiosSize {
        /// Size of the file.
        size: usize,
    },
    /// no option ROM
    #[error("the file is no VGA BIOS: it does not start with the bytes 55h AAh")]
    NoOptionRom,
    /// the option ROM is cut short
    #[error("the VGA BIOS is cut short: it has {have} bytes and its header says {need}")]
    VgaBiosTruncated {
        /// Size of the file.
        have: usize,
        /// Size in the header.
        need: usize,
    },
}

impl ImageError {
    /// The VGA BIOS is to blame, not the firmware.
    pub fn is_vga_bios(&self) -> bool {
        !matches!(self, ImageError::BiosSize { .. })
    }
}

/// An option ROM has a PCI data structure (PCI Local Bus Specification 2.1, section 6.3.1).
fn is_pci(rom: &[u8]) -> bool {
    let Some(&[low, high]) = rom.get(0x18..0x1A) else {
        return false;
    };
    let at = usize::from(u16::from_le_bytes([low, high]));
    rom.get(at..at + 4) == Some(b"PCIR")
}

impl Firmware {
    /// Checks images.
    ///
    /// # Errors
    /// One of them cannot be what it is passed for.
    pub fn new(bios: Vec<u8>, vga_bios: Option<Vec<u8>>) -> Result<Firmware, ImageError> {
        let size = bios.len();
        if size == 0 || !size.is_multiple_of(SEGMENT) || size > MAX_BIOS {
            return Err(ImageError::BiosSize { size });
        }
        if let Some(rom) = &vga_bios {
            if !rom.starts_with(&OPTION_ROM_SIGNATURE) {
                return Err(ImageError::NoOptionRom);
            }
            if rom.len() > MAX_VGA_BIOS {
                return Err(ImageError::VgaBiosSize { size: rom.len() });
            }
            let need = usize::from(rom.get(2).copied().unwrap_or(0)) * 512;
            if rom.len() < need {
                return Err(ImageError::VgaBiosTruncated {
                    have: rom.len(),
                    need,
                });
            }
        }
        Ok(Firmware { bios, vga_bios })
    }

    /// Whether there is a VGA BIOS.
    pub fn has_vga(&self) -> bool {
        self.vga_bios.is_some()
    }

    /// The display adapter that goes with the VGA BIOS. One for PCI is in the adapter's ROM; another
    /// one is told to the firmware as a file.
    pub(crate) fn vga_adapter(&self) -> Option<VgaConfig> {
        let rom = self.vga_bios.as_ref()?;
        Some(VgaConfig {
            rom: if is_pci(rom) { rom.clone() } else { Vec::new() },
            ..VgaConfig::default()
        })
    }

    /// Puts the firmware below 4 GiB, and its last 128 KiB below 1 MiB as well, behind the RAM there.
    pub(crate) fn map(&self, mmu: &mut Mmu) -> Result<(), MapError> {
        let start = TOP - self.bios.len() as u64;
        mmu.set_range(start, self.bios.len() as u64, RangeKind::Rom)?;
        mmu.load_rom(start, &self.bios)?;
        // Where there is no ROM, the bus floats high.
        let mut low = vec![0xFF; SHADOWED_LEN];
        let copied = self.bios.len().min(ISA_BIOS);
        if let (Some(to), Some(from)) = (
            low.get_mut(SHADOWED_LEN - copied..),
            self.bios.get(self.bios.len() - copied..),
        ) {
            to.copy_from_slice(from);
        }
        mmu.add_rom_layer(SHADOWED, &low)?;
        Ok(())
    }

    /// What the firmware is told of a machine with `memory` bytes.
    pub(crate) fn configuration(&self, memory: u64) -> Result<FwCfgItems, FwCfgError> {
        let mut items = FwCfgItems::new();
        items.set_word(key::NO_GRAPHIC, u16::from(!self.has_vga()));
        items.add_file("etc/e820", e820(memory))?;
        let wait = WAIT_FOR_EVER.to_le_bytes().to_vec();
        items.add_file("etc/boot-fail-wait", wait)?;
        let LoaderFiles {
            tables,
            rsdp,
            script,
        } = loader::build_for_firmware(&AcpiConfig {
            vga: self.has_vga(),
            pci_memory: pci_hole(memory)..=PCI_MEMORY_END,
            ..AcpiConfig::default()
        });
        items.add_file(loader::TABLES_FILE, tables)?;
        items.add_file(loader::RSDP_FILE, rsdp)?;
        items.add_file(loader::SCRIPT_FILE, script)?;
        if let Some(rom) = self.vga_bios.as_ref().filter(|rom| !is_pci(rom)) {
            items.add_file("vgaroms/vgabios.bin", rom.clone())?;
        }
        Ok(items)
    }
}

/// Firmware that does not fit into a machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MapError {
    /// no place
    #[error(transparent)]
    Range(#[from] MmuError),
    /// no memory behind it
    #[error(transparent)]
    Memory(#[from] PhysError),
}

/// From where on SeaBIOS gives addresses to PCI devices of a 440FX (`src/fw/pciinit.c`).
fn pci_hole(memory: u64) -> u32 {
    const HALF: u32 = 0x8000_0000;
    if memory <= u64::from(HALF) {
        HALF
    } else {
        0xC000_0000
    }
}

/// The memory as the firmware's file has it: start, size, kind. The firmware itself takes out what
/// lies between 640 KiB and 1 MiB.
fn e820(memory: u64) -> Vec<u8> {
    let mut bytes = 0u64.to_le_bytes().to_vec();
    bytes.extend(memory.to_le_bytes());
    bytes.extend(E820_RAM.to_le_bytes());
    bytes
}

/// The files of a machine's firmware, as a user names them or as they are found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirmwareFiles {
    /// SeaBIOS.
    pub bios: PathBuf,
    /// The BIOS of the VGA, if there is a VGA.
    pub vga_bios: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use shadow_mmu::{MmuConfig, Shadowing};

    /// 256 KiB in which each 64 KiB are filled with their number.
    fn bios() -> Vec<u8> {
        (0..4u8).flat_map(|n| vec![n; SEGMENT]).collect()
    }

    fn option_rom(blocks: u8) -> Vec<u8> {
        let mut rom = vec![0; usize::from(blocks) * 512];
        rom[..3].copy_from_slice(&[0x55, 0xAA, blocks]);
        rom
    }

    #[test]
    fn the_firmware_is_below_4_gib_and_its_end_below_1_mib() {
        let mut mmu = Mmu::new(MmuConfig::default()).expect("a machine");
        let firmware = Firmware::new(bios(), None).expect("a firmware");
        firmware.map(&mut mmu).expect("there is room");
        mmu.set_shadowing(SHADOWED, SHADOWED_LEN as u64, Shadowing::ROM)
            .expect("the area is there");
        let byte = |address: u64| {
            let mut byte = [0];
            mmu.read_phys(address, &mut byte).expect("memory");
            byte[0]
        };
        assert_eq!([0xFFFC_0000, 0xFFFD_FFFF, 0xFFFF_FFFF].map(byte), [0, 1, 3]);
        assert_eq!([0xC_0000, 0xD_FFFF].map(byte), [0xFF; 2]);
        assert_eq!([0xE_0000, 0xF_0000, 0xF_FFFF].map(byte), [2, 3, 3]);
    }

    #[test]
    fn images_are_checked() {
        let error = |bios: Vec<u8>, vga| Firmware::new(bios, vga).expect_err("refused");
        for size in [0, SEGMENT - 1, SEGMENT + 512, MAX_BIOS + SEGMENT] {
            assert_eq!(error(vec![0; size], None), ImageError::BiosSize { size });
        }
        assert_eq!(error(bios(), Some(vec![])), ImageError::NoOptionRom);
        let mut rom = option_rom(2);
        rom.truncate(600);
        let cut = ImageError::VgaBiosTruncated {
            have: 600,
            need: 1024,
        };
        assert_eq!(error(bios(), Some(rom)), cut);
        let mut rom = option_rom(1);
        rom.resize(MAX_VGA_BIOS + 1, 0);
        let size = rom.len();
        assert_eq!(error(bios(), Some(rom)), ImageError::VgaBiosSize { size });
        assert!(Firmware::new(bios(), Some(option_rom(8))).is_ok());
    }

    #[test]
    fn the_firmware_is_told_of_memory_tables_and_rom() {
        let firmware = Firmware::new(bios(), Some(option_rom(8))).expect("a firmware");
        let items = firmware.configuration(16 << 20).expect("good names");
        let e820 = items.file("etc/e820").expect("it is there");
        assert_eq!(e820.len(), 20);
        assert_eq!(e820[8..16], (16u64 << 20).to_le_bytes());
        assert_eq!(items.file("vgaroms/vgabios.bin"), Some(&*option_rom(8)));
        for file in [loader::TABLES_FILE, loader::RSDP_FILE, loader::SCRIPT_FILE] {
            assert!(items.file(file).is_some(), "{file}");
        }
    }
}
