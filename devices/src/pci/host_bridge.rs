//! The host bridge: PCI function 0:0.0 of an Intel 440FX (82441FX PMC, data sheet 290549).
//!
//! Its registers can be read and written. PAM, which shadows the firmware's memory, is reported by
//! [`HostBridge::pam`], and [`pam_ranges`] says what it means. SMRAM is kept, but there is no
//! system management RAM. DRAM sizing and error reporting are not emulated.
//!
//! The subsystem ID is the one by which a firmware knows that there is a firmware configuration
//! device ([`crate::fw_cfg`]).

use std::ops::Range;

use super::PciDevice;
use super::config::ConfigSpace;
use super::spec::{COMMAND, REVISION, SUBSYSTEM, VENDOR_ID};

/// Vendor 8086h (Intel), device 1237h (82441FX).
const ID: u32 = 0x1237_8086;
/// Subsystem vendor 1AF4h, subsystem 1100h: QEMU's PC.
const SUBSYSTEM_ID: u32 = 0x1100_1af4;
/// Command: memory access and bus master, both fixed.
const COMMAND_FIXED: u32 = 0x0006;
/// Command: parity error response and SERR# enable.
const COMMAND_WRITABLE: u32 = 0x0140;
/// Status: fast back-to-back, medium DEVSEL#.
const STATUS_FIXED: u32 = 0x0280 << 16;
/// Status: error bits, cleared by writing 1.
const STATUS_CLEARABLE: u32 = 0xf900 << 16;
/// Class 06h (bridge), subclass 00h (host), revision 2.
const CLASS_REVISION: u32 = 0x0600_0002;
/// PMC configuration, deturbo counter, DBX buffer control, auxiliary control.
const PMCCFG: u8 = 0x50;
/// Byte 59h-5Fh: programmable attribute map; byte 58h belongs to DRAM timing.
const DRAMT_PAM: u8 = 0x58;
/// Second double word of PAM.
const PAM: u8 = 0x5c;
/// Byte 72h: system management RAM control.
const SMRAM: u8 = 0x70;

/// What the processor's accesses to a range of the firmware area reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PamRange {
    /// Guest-physical addresses.
    pub addresses: Range<u64>,
    /// Reads come from RAM, otherwise from the ROM on the ISA bus.
    pub read_ram: bool,
    /// Writes go to RAM, otherwise to the ISA bus.
    pub write_ram: bool,
}

/// What values of PAM0 to PAM6 make of C0000h to FFFFFh, in ranges that cover it (data sheet,
/// section 3.2.12). PAM0 is about F0000h-FFFFFh, each of the others about two times 16 KiB.
pub fn pam_ranges(pam: [u8; 7]) -> impl Iterator<Item = PamRange> {
    const BLOCK: u64 = 0x4000;
    let [pam0, blocks @ ..] = pam;
    let range = |start: u64, bytes: u64, attributes: u8| PamRange {
        addresses: start..start + bytes,
        read_ram: attributes & 1 != 0,
        write_ram: attributes & 2 != 0,
    };
    (0u64..)
        .zip(blocks.into_iter().flat_map(|byte| [byte, byte >> 4]))
        .map(move |(index, attributes)| range(0xc_0000 + index * BLOCK, BLOCK, attributes))
        .chain([range(0xf_0000, 0x1_0000, pam0 >> 4)])
}

/// The host bridge.
#[derive(Clone, Debug)]
pub struct HostBridge {
    space: ConfigSpace,
}

impl HostBridge {
    /// A host bridge after reset.
    pub fn new() -> Self {
        let space = ConfigSpace::new()
            .with(VENDOR_ID, ID, 0, 0)
            .with(
                COMMAND,
                COMMAND_FIXED | STATUS_FIXED,
                COMMAND_WRITABLE,
                STATUS_CLEARABLE,
            )
            .with(REVISION, CLASS_REVISION, 0, 0)
            .with(SUBSYSTEM, SUBSYSTEM_ID, 0, 0)
            .with(PMCCFG, 0, 0x0000_ffff, 0)
            .with(DRAMT_PAM, 0, 0x3333_30ff, 0)
            .with(PAM, 0, 0x3333_3333, 0)
            .with(SMRAM, 0x0002_0000, 0x0078_0000, 0);
        Self { space }
    }

    /// PAM0 to PAM6 (bytes 59h-5Fh): for each region of the firmware area, which of reads (bit 0,
    /// bit 4) and writes (bit 1, bit 5) go to RAM.
    pub fn pam(&self) -> [u8; 7] {
        let [_, pam0, pam1, pam2] = self.space.read(DRAMT_PAM).to_le_bytes();
        let [pam3, pam4, pam5, pam6] = self.space.read(PAM).to_le_bytes();
        [pam0, pam1, pam2, pam3, pam4, pam5, pam6]
    }
}

impl Default for HostBridge {
    fn default() -> Self {
        Self::new()
    }
}

impl PciDevice for HostBridge {
    fn config_read(&mut self, offset: u8) -> u32 {
        self.space.read(offset)
    }

    fn config_write(&mut self, offset: u8, value: u32, mask: u32) {
        self.space.write(offset, value, mask);
    }

    fn reset(&mut self) {
        *self = Self::new();
    }

    fn config_space(&self) -> Option<&ConfigSpace> {
        Some(&self.space)
    }

    fn restore_config_space(&mut self, space: ConfigSpace) {
        let mut fresh = Self::new();
        fresh.space.restore_values(&space);
        *self = fresh;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pam_covers_the_firmware_area_by_nibbles() {
        let all: Vec<PamRange> = pam_ranges([0x20, 0x31, 0, 0, 0, 0, 0x02]).collect();
        assert_eq!(all.len(), 13);
        for pair in all.windows(2) {
            assert_eq!(pair[0].addresses.end, pair[1].addresses.start);
        }
        let at = |address: u64| {
            let range = all.iter().find(|r| r.addresses.contains(&address)).unwrap();
            (range.read_ram, range.write_ram)
        };
        assert_eq!(at(0xc_0000), (true, false));
        assert_eq!(at(0xc_4000), (true, true));
        assert_eq!(at(0xc_8000), (false, false));
        assert_eq!(at(0xe_8000), (false, true));
        assert_eq!(at(0xe_c000), (false, false));
        assert_eq!(at(0xf_ffff), (false, true));
        assert_eq!(all.last().unwrap().addresses, 0xf_0000..0x10_0000);
    }
}
