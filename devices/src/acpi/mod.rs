//! The ACPI tables that describe this chipset to an operating system: RSDP, RSDT, FADT, FACS and a DSDT with soft off, the PCI root and the devices of the
//! system board.
//!
//! Nothing is written anywhere: [`build`] turns a configuration into bytes, and a loader puts
//! them into guest memory. A firmware places them itself ([`loader`]).

use std::ops::RangeInclusive;

use thiserror::Error;

mod aml;
pub mod loader;
mod tables;
#[cfg(test)]
mod tests;

use tables::{FACS_LEN, FADT_LEN, RSDP_LEN};

/// What the tables have to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiConfig {
    /// Guest-physical address of the tables, a multiple of 16. Operating systems search from
    /// E0000h to FFFFFh; the memory has to be RAM that the guest can write.
    pub base: u32,
    /// Bytes available there.
    pub size: u32,
    /// Memory addresses for PCI devices, above all RAM.
    pub pci_memory: RangeInclusive<u32>,
    /// Base port and IRQ of each serial port.
    pub serial: Vec<(u16, u8)>,
    /// There is a VGA.
    pub vga: bool,
}

impl Default for AcpiConfig {
    /// The chipset of this crate, tables in the 64 KiB below 1 MiB.
    fn default() -> Self {
        Self {
            base: 0xf_0000,
            size: 0x1_0000,
            pci_memory: 0xe000_0000..=0xfebf_ffff,
            serial: vec![(0x3f8, 4)],
            vga: false,
        }
    }
}

/// Tables, ready to be copied to guest-physical memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AcpiTables {
    /// Where the bytes go.
    pub base: u32,
    /// The tables.
    pub bytes: Vec<u8>,
    /// Guest-physical address of the RSDP.
    pub rsdp: u32,
}

/// The tables could not be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum AcpiError {
    /// The address {base:#x} is not a multiple of 16.
    #[error("the address {base:#x} of the ACPI tables is not a multiple of 16")]
    Alignment {
        /// The address asked for.
        base: u32,
    },
    /// The tables take {needed} bytes and there are {size}.
    #[error("the ACPI tables take {needed} bytes and there are {size}")]
    Space {
        /// Bytes needed.
        needed: u64,
        /// Bytes available.
        size: u32,
    },
}

/// The byte that makes the sum of all bytes zero, for a checksum field that is still zero.
fn checksum(bytes: &[u8]) -> u8 {
    bytes
        .iter()
        .fold(0u8, |sum, byte| sum.wrapping_add(*byte))
        .wrapping_neg()
}

/// Builds the tables.
///
/// # Errors
///
/// [`AcpiError`] if the place for them is not aligned or too small.
pub fn build(config: &AcpiConfig) -> Result<AcpiTables, AcpiError> {
    if !config.base.is_multiple_of(16) {
        return Err(AcpiError::Alignment { base: config.base });
    }
    let dsdt = tables::dsdt(config);
    let base = u64::from(config.base);
    // The FACS has to be aligned to 64 bytes; it comes first after the RSDP.
    let facs_at = (base + RSDP_LEN as u64).next_multiple_of(64);
    let dsdt_at = facs_at + FACS_LEN as u64;
    let fadt_at = (dsdt_at + dsdt.len() as u64).next_multiple_of(16);
    let rsdt_at = (fadt_at + FADT_LEN as u64).next_multiple_of(16);
    let rsdt = tables::rsdt(&[fadt_at as u32]);
    let end = rsdt_at + rsdt.len() as u64;
    let needed = end - base;
    if needed > u64::from(config.size) || end > 1 << 32 {
        return Err(AcpiError::Space {
            needed,
            size: config.size,
        });
    }
    let mut bytes = vec![0; needed as usize];
    let parts = [
        (base, tables::rsdp(rsdt_at as u32)),
        (facs_at, tables::facs()),
        (dsdt_at, dsdt),
        (
            fadt_at,
            tables::fadt(config, facs_at as u32, dsdt_at as u32),
        ),
        (rsdt_at, rsdt),
    ];
    for (at, part) in parts {
        let start = (at - base) as usize;
        if let Some(place) = bytes.get_mut(start..start + part.len()) {
            place.copy_from_slice(&part);
        }
    }
    Ok(AcpiTables {
        base: config.base,
        bytes,
        rsdp: config.base,
    })
}
