//! ACPI fixed hardware (ACPI Specification 2.0, section 4.7.3), with the register block of the
//! PIIX4 (290562, section 7.2) where PC firmware puts it, APM control port and reset control
//! register of the PIIX.

use bitflags::bitflags;

use crate::time::Frequency;

/// First port of the register block, if nobody moves it.
pub const PM_BASE: u16 = 0x600;
/// PM1a event block: PM1_STS (write 1 to clear), then PM1_EN (RW), 16 bits each.
pub const PM1_EVT: u16 = PM_BASE;
/// Bytes of the event block.
pub const PM1_EVT_LEN: u8 = 4;
/// PM1a control block: PM1_CNT (RW), 16 bits.
pub const PM1_CNT: u16 = PM_BASE + 4;
/// Bytes of the control block.
pub const PM1_CNT_LEN: u8 = 2;
/// Power management timer (RO), 32 bits.
pub const PM_TMR: u16 = PM_BASE + 8;
/// Bytes of the timer.
pub const PM_TMR_LEN: u8 = 4;
/// Ports of the register block that are emulated, of the PIIX4's 64.
pub const PM_LEN: u16 = 12;

/// SMI_CMD: APM control (RW).
pub const SMI_CMD: u16 = 0xb2;
/// APM status (RW), a scratch register.
pub const APM_STATUS: u16 = 0xb3;
/// Written to SMI_CMD: the hardware belongs to ACPI.
pub const ACPI_ENABLE: u8 = 0xf1;
/// Written to SMI_CMD: the hardware belongs to the firmware.
pub const ACPI_DISABLE: u8 = 0xf0;

/// Reset control register (RW).
pub const RESET_CONTROL: u16 = 0xcf9;
/// The value that resets the whole system, for FADT.RESET_VALUE.
pub const RESET_VALUE: u8 = 0x06;

/// Interrupt of the SCI.
pub const SCI_IRQ: u8 = 9;

/// The power management timer's clock: 3.579545 MHz.
pub const PM_CLOCK: Frequency = Frequency::new(3_579_545);
/// Bits of the timer (FADT.TMR_VAL_EXT is 0).
pub const PM_TIMER_BITS: u32 = 24;

/// Value of SLP_TYP for S5, soft off; the package \_S5 names it.
pub const SLP_TYP_S5: u8 = 0;

bitflags! {
    /// PM1 status and enable registers.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Pm1: u16 {
        /// The timer's highest bit changed.
        const TMR = 0x0001;
        /// Bus master (status only).
        const BM = 0x0010;
        /// The firmware released the global lock.
        const GBL = 0x0020;
        /// The power button was pressed.
        const PWRBTN = 0x0100;
        /// The sleep button was pressed.
        const SLPBTN = 0x0200;
        /// RTC alarm.
        const RTC = 0x0400;
        /// Wake status (status only).
        const WAK = 0x8000;
    }

    /// PM1 control register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Pm1Cnt: u16 {
        /// Power management events raise SCI and not SMI; changed through SMI_CMD.
        const SCI_EN = 0x0001;
        /// Bus master reload.
        const BM_RLD = 0x0002;
        /// Global release (WO).
        const GBL_RLS = 0x0004;
        /// Sleep type.
        const SLP_TYP = 0x1c00;
        /// Enters the sleep state (WO).
        const SLP_EN = 0x2000;
    }

    /// Reset control register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct ResetControl: u8 {
        /// The reset is one of the whole system and not of the processor alone.
        const SYS_RST = 0x02;
        /// A change from 0 to 1 resets.
        const RST_CPU = 0x04;
    }
}

impl Pm1 {
    /// The bits of PM1_EN that exist.
    pub const ENABLES: Self = Self::TMR
        .union(Self::GBL)
        .union(Self::PWRBTN)
        .union(Self::SLPBTN)
        .union(Self::RTC);
}

impl Pm1Cnt {
    /// Sleep type as a number.
    pub const fn slp_typ(self) -> u8 {
        ((self.bits() & Self::SLP_TYP.bits()) >> 10) as u8
    }
}
