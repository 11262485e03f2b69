//! PCI Local Bus Specification 2.1, section 3.7.4.1 (configuration mechanism #1) and chapter 6
//! (configuration space).

use serde::{Deserialize, Serialize};

/// CONFIG_ADDRESS: takes double words only.
pub const CONFIG_ADDRESS: u16 = 0xcf8;
/// CONFIG_DATA, four ports.
pub const CONFIG_DATA: u16 = 0xcfc;

/// CONFIG_ADDRESS bit 31: accesses to CONFIG_DATA are configuration cycles.
pub const ENABLE: u32 = 1 << 31;
/// CONFIG_ADDRESS: bits that exist. 30-24 and 1-0 are reserved and read as 0.
pub const ADDRESS_MASK: u32 = 0x80ff_fffc;

/// Vendor ID (RO), device ID in the upper half.
pub const VENDOR_ID: u8 = 0x00;
/// Command register (RW), status register in the upper half.
pub const COMMAND: u8 = 0x04;
/// Revision ID (RO); class code in the upper three bytes.
pub const REVISION: u8 = 0x08;
/// Cache line size, latency timer, header type (bits 23:16; bit 23: several functions), BIST.
pub const HEADER_TYPE: u8 = 0x0c;
/// Interrupt line (RW), interrupt pin (RO).
pub const INTERRUPT: u8 = 0x3c;
/// Subsystem vendor ID; subsystem ID in the upper half.
pub const SUBSYSTEM: u8 = 0x2c;

/// Where a function is: bus, device and function number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Bdf {
    /// Bus number.
    pub bus: u8,
    /// Device number, 0 to 31.
    pub device: u8,
    /// Function number, 0 to 7.
    pub function: u8,
}

impl Bdf {
    /// Device `device`, function `function` of bus 0.
    pub const fn root(device: u8, function: u8) -> Self {
        Self {
            bus: 0,
            device: device & 0x1f,
            function: function & 7,
        }
    }

    /// The function that a value of CONFIG_ADDRESS addresses.
    pub const fn from_address(address: u32) -> Self {
        Self {
            bus: (address >> 16) as u8,
            device: (address >> 11) as u8 & 0x1f,
            function: (address >> 8) as u8 & 7,
        }
    }
}
