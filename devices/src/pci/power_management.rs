//! The power management function: PCI function 0:1.3 of an Intel PIIX4 (82371AB, data sheet
//! 290562, chapter 7).
//!
//! It says where the register block of [`crate::pm`] is in the I/O space. System management mode
//! and the SMBus controller are not there: DEVACTB says that SMIs from APM have been set up, which
//! keeps a firmware from doing that, and the SMBus stays disabled.

use super::PciDevice;
use super::config::ConfigSpace;
use super::spec::{COMMAND, INTERRUPT, REVISION, VENDOR_ID};

/// Vendor 8086h (Intel), device 7113h (82371AB function 3).
const ID: u32 = 0x7113_8086;
/// Command: I/O space (for the SMBus).
const COMMAND_WRITABLE: u32 = 0x0001;
/// Status: fast back-to-back, medium DEVSEL#.
const STATUS_FIXED: u32 = 0x0280 << 16;
/// Status: error bits, cleared by writing 1.
const STATUS_CLEARABLE: u32 = 0x7800 << 16;
/// Class 06h (bridge), subclass 80h (other), revision 3.
const CLASS_REVISION: u32 = 0x0680_0003;
/// INTA#; the line register is only kept.
const INTERRUPT_PIN: u32 = 0x0100;
/// PMBA: base of the register block, bits 15:6.
const PMBA: u8 = 0x40;
const PMBA_BASE: u32 = 0xffc0;
/// PMBA, SMBBA: an I/O space indicator that reads as 1.
const IO_SPACE: u32 = 1;
/// CNTA, CNTB, GPICTL, DEVRESD, DEVACTA: idle timers and monitors.
const CNTA: u8 = 0x44;
const CNTB: u8 = 0x48;
const GPICTL: u8 = 0x4c;
const DEVRESD: u8 = 0x50;
const DEVACTA: u8 = 0x54;
/// DEVACTB, with bit 25 APMC_EN: a write to the APM control port raises an SMI.
const DEVACTB: u8 = 0x58;
const APMC_EN: u32 = 1 << 25;
/// PMREGMISC: bit 0 PMIOSE enables the register block.
const PMREGMISC: u8 = 0x80;
const PMIOSE: u32 = 1;
/// SMBBA: base of the SMBus registers.
const SMBBA: u8 = 0x90;

/// The power management function.
#[derive(Clone, Debug)]
pub struct PowerManagement {
    space: ConfigSpace,
    /// The registers as a firmware that has run leaves them: the block is at this base.
    preset: Option<u16>,
}

impl PowerManagement {
    /// The function after reset. Without firmware the register block is at `preset` from the
    /// start.
    pub fn new(preset: Option<u16>) -> Self {
        Self {
            space: registers(preset),
            preset,
        }
    }

    /// Where the register block is, if it is enabled.
    pub fn base(&self) -> Option<u16> {
        let enabled = self.space.read(PMREGMISC) & PMIOSE != 0;
        let base = (self.space.read(PMBA) & PMBA_BASE) as u16;
        (enabled && base != 0).then_some(base)
    }
}

fn registers(preset: Option<u16>) -> ConfigSpace {
    let base = u32::from(preset.unwrap_or(0)) & PMBA_BASE;
    let enabled = u32::from(preset.is_some());
    ConfigSpace::new()
        .with(VENDOR_ID, ID, 0, 0)
        .with(COMMAND, STATUS_FIXED, COMMAND_WRITABLE, STATUS_CLEARABLE)
        .with(REVISION, CLASS_REVISION, 0, 0)
        .with(INTERRUPT, INTERRUPT_PIN, 0x0000_00ff, 0)
        .with(PMBA, base | IO_SPACE, PMBA_BASE, 0)
        .with(CNTA, 0, !0, 0)
        .with(CNTB, 0, !0, 0)
        .with(GPICTL, 0, !0, 0)
        .with(DEVRESD, 0, !0, 0)
        .with(DEVACTA, 0, !0, 0)
        .with(DEVACTB, APMC_EN, !APMC_EN, 0)
        .with(PMREGMISC, enabled, PMIOSE, 0)
        .with(SMBBA, IO_SPACE, 0xfff0, 0)
}

impl PciDevice for PowerManagement {
    fn config_read(&mut self, offset: u8) -> u32 {
        self.space.read(offset)
    }

    fn config_write(&mut self, offset: u8, value: u32, mask: u32) {
        self.space.write(offset, value, mask);
    }

    fn reset(&mut self) {
        self.space = registers(self.preset);
    }

    fn config_space(&self) -> Option<&ConfigSpace> {
        Some(&self.space)
    }

    fn restore_config_space(&mut self, space: ConfigSpace) {
        self.reset();
        self.space.restore_values(&space);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_register_block_is_where_the_registers_say() {
        let mut function = PowerManagement::new(None);
        assert_eq!(function.base(), None);
        function.config_write(PMBA, 0xb03f, 0xffff);
        assert_eq!(function.config_read(PMBA), 0xb001, "64 ports, aligned");
        assert_eq!(function.base(), None, "not enabled");
        function.config_write(PMREGMISC, 0xff, 0xff);
        assert_eq!(function.base(), Some(0xb000));
        function.reset();
        assert_eq!(function.base(), None);
        let mut preset = PowerManagement::new(Some(0x600));
        assert_eq!(preset.base(), Some(0x600));
        preset.config_write(PMREGMISC, 0, 0xff);
        assert_eq!(preset.base(), None);
    }

    #[test]
    fn a_firmware_finds_smi_set_up_and_no_smbus() {
        let mut function = PowerManagement::new(None);
        assert_ne!(function.config_read(DEVACTB) & APMC_EN, 0);
        function.config_write(DEVACTB, 0, !0);
        assert_ne!(function.config_read(DEVACTB) & APMC_EN, 0);
        function.config_write(0xd0, !0, !0);
        assert_eq!(function.config_read(0xd0), 0, "SMBHSTCFG");
    }
}
