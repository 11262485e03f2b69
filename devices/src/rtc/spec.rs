//! Registers of the Motorola MC146818 (data sheet MC146818AS, 1988), with the PC's use of its
//! RAM.

use bitflags::bitflags;

use crate::time::Frequency;

/// Index register (WO): bit 7 masks NMI, bits 6-0 choose a register.
pub const INDEX: u16 = 0x70;
/// Data register (RW).
pub const DATA: u16 = 0x71;
/// Index register of the upper bank (WO): bits 6-0 choose a byte (Intel 82371SB data sheet, "RTC
/// extended index register"). Bit 7 means nothing here.
pub const EXTENDED_INDEX: u16 = 0x72;
/// Data register of the upper bank (RW): RAM that the battery keeps, and nothing else.
pub const EXTENDED_DATA: u16 = 0x73;
/// Index bit 7: NMI disabled.
pub const NMI_DISABLE: u8 = 0x80;

/// The divider's tap that the periodic interrupt counts.
pub const RTC_CLOCK: Frequency = Frequency::new(32_768);
/// How long before an update UIP is set, the update cycle (1984 us) included.
pub const UIP_NANOS: u64 = 244_000 + 1_984_000;
/// Time from the release of the divider to the first update.
pub const FIRST_UPDATE_NANOS: u64 = 500_000_000;

/// Seconds.
pub const SECONDS: u8 = 0x00;
/// Seconds alarm.
pub const SECONDS_ALARM: u8 = 0x01;
/// Minutes.
pub const MINUTES: u8 = 0x02;
/// Minutes alarm.
pub const MINUTES_ALARM: u8 = 0x03;
/// Hours.
pub const HOURS: u8 = 0x04;
/// Hours alarm.
pub const HOURS_ALARM: u8 = 0x05;
/// Day of the week, Sunday = 1.
pub const WEEKDAY: u8 = 0x06;
/// Day of the month.
pub const DAY: u8 = 0x07;
/// Month.
pub const MONTH: u8 = 0x08;
/// Year in the century.
pub const YEAR: u8 = 0x09;
/// Register A.
pub const REGISTER_A: u8 = 0x0a;
/// Register B.
pub const REGISTER_B: u8 = 0x0b;
/// Register C (RO).
pub const REGISTER_C: u8 = 0x0c;
/// Register D (RO).
pub const REGISTER_D: u8 = 0x0d;
/// Century, where PC firmware and ACPI (FADT.CENTURY) put it.
pub const CENTURY: u8 = 0x32;

/// An alarm byte from here on matches every value ("don't care").
pub const ALARM_ANY: u8 = 0xc0;
/// Hours, 12-hour mode: afternoon.
pub const HOURS_PM: u8 = 0x80;
/// Register D: valid RAM and time.
pub const VRT: u8 = 0x80;

/// CMOS RAM as PC firmware uses it.
pub mod cmos {
    /// Reason for the last shutdown.
    pub const SHUTDOWN: u8 = 0x0f;
    /// Types of the diskette drives.
    pub const FLOPPY: u8 = 0x10;
    /// Equipment byte.
    pub const EQUIPMENT: u8 = 0x14;
    /// Base memory in KiB, low byte; the high byte follows.
    pub const BASE_MEMORY: u8 = 0x15;
    /// Memory above 1 MiB in KiB, at most 63 MiB, low byte; the high byte follows.
    pub const EXTENDED_MEMORY: u8 = 0x17;
    /// The same as found by POST.
    pub const EXTENDED_MEMORY_POST: u8 = 0x30;
    /// Memory above 16 MiB in units of 64 KiB, low byte; the high byte follows.
    pub const MEMORY_ABOVE_16M: u8 = 0x34;
    /// Boot order of QEMU's firmware: third drive in bits 7:4, bit 0 floppies without signature.
    pub const BOOT_ORDER_THIRD: u8 = 0x38;
    /// First drive in bits 3:0, second in bits 7:4: 1 floppy, 2 hard disk, 3 CD.
    pub const BOOT_ORDER: u8 = 0x3d;
}

bitflags! {
    /// Register A.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RegA: u8 {
        /// Rate of the periodic interrupt (RS3-RS0).
        const RS = 0x0f;
        /// Divider control (DV2-DV0).
        const DV = 0x70;
        /// DV = 11x: the divider is held in reset.
        const DV_RESET = 0x60;
        /// DV = 010: 32.768 kHz time base, the only one a PC has.
        const DV_32K = 0x20;
        /// Update in progress (RO).
        const UIP = 0x80;
    }

    /// Register B.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RegB: u8 {
        /// Daylight saving enable; stored, without effect.
        const DSE = 0x01;
        /// 24-hour mode.
        const H24 = 0x02;
        /// Binary data mode instead of BCD.
        const DM = 0x04;
        /// Square wave enable; stored, the pin is not connected in a PC.
        const SQWE = 0x08;
        /// Update-ended interrupt enable.
        const UIE = 0x10;
        /// Alarm interrupt enable.
        const AIE = 0x20;
        /// Periodic interrupt enable.
        const PIE = 0x40;
        /// Updates are halted, software sets the time.
        const SET = 0x80;
    }

    /// Register C.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct RegC: u8 {
        /// Update ended.
        const UF = 0x10;
        /// Alarm.
        const AF = 0x20;
        /// Periodic.
        const PF = 0x40;
        /// IRQ# is asserted.
        const IRQF = 0x80;
    }
}
