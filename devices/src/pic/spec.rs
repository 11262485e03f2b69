//! Registers of the Intel 8259A (data sheet 231468-003) and the edge/level control registers of
//! the PIIX (29055002, section 2.3).

use bitflags::bitflags;

/// Command port of the master: ICW1, OCW2, OCW3 (WO), IRR or ISR (RO).
pub const MASTER_COMMAND: u16 = 0x20;
/// Data port of the master: ICW2-4 (WO), OCW1 (RW).
pub const MASTER_DATA: u16 = 0x21;
/// Command port of the slave.
pub const SLAVE_COMMAND: u16 = 0xa0;
/// Data port of the slave.
pub const SLAVE_DATA: u16 = 0xa1;
/// ELCR1: edge or level for IRQ 0-7 (RW).
pub const ELCR1: u16 = 0x4d0;
/// ELCR2: edge or level for IRQ 8-15 (RW).
pub const ELCR2: u16 = 0x4d1;

/// Bits of ELCR1 that exist: IRQ 0, 1 and 2 are always edge-triggered.
pub const ELCR1_MASK: u8 = 0xf8;
/// Bits of ELCR2 that exist: IRQ 8 and 13 are always edge-triggered.
pub const ELCR2_MASK: u8 = 0xde;

/// Input of the master that the slave's INT output is wired to.
pub const CASCADE: u8 = 2;
/// Input that a vector stands for when the request has gone away.
pub const SPURIOUS: u8 = 7;

bitflags! {
    /// Initialization command word 1 (A0 = 0, D4 = 1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Icw1: u8 {
        /// ICW4 will be sent.
        const IC4 = 0x01;
        /// Single: no cascade, ICW3 will not be sent.
        const SNGL = 0x02;
        /// Call address interval (MCS-80/85 only).
        const ADI = 0x04;
        /// Level-triggered mode for all inputs.
        const LTIM = 0x08;
        /// Marks the word as ICW1.
        const ICW1 = 0x10;
    }

    /// Initialization command word 4.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Icw4: u8 {
        /// 8086/8088 mode instead of MCS-80/85.
        const UPM = 0x01;
        /// Automatic end of interrupt.
        const AEOI = 0x02;
        /// Master in buffered mode.
        const MS = 0x04;
        /// Buffered mode.
        const BUF = 0x08;
        /// Special fully nested mode.
        const SFNM = 0x10;
    }

    /// Operation command word 3 (A0 = 0, D4 = 0, D3 = 1).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Ocw3: u8 {
        /// Read ISR instead of IRR, if RR is set.
        const RIS = 0x01;
        /// Read register command.
        const RR = 0x02;
        /// Poll command.
        const P = 0x04;
        /// Marks the word as OCW3.
        const OCW3 = 0x08;
        /// Set special mask mode, if ESMM is set.
        const SMM = 0x20;
        /// Enable special mask mode: SMM is valid.
        const ESMM = 0x40;
    }
}

/// Operation command word 2: bits 7-5 (R, SL, EOI).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ocw2 {
    /// 000: stop rotating in automatic EOI mode.
    ClearRotateOnAutoEoi,
    /// 001: the highest priority in service has ended.
    NonSpecificEoi,
    /// 010: no operation.
    Nop,
    /// 011: this level has ended.
    SpecificEoi(u8),
    /// 100: rotate in automatic EOI mode.
    SetRotateOnAutoEoi,
    /// 101: the highest in service has ended and gets the lowest priority.
    RotateOnNonSpecificEoi,
    /// 110: this level gets the lowest priority.
    SetPriority(u8),
    /// 111: this level has ended and gets the lowest priority.
    RotateOnSpecificEoi(u8),
}

impl Ocw2 {
    /// Decodes the command byte.
    pub const fn from_byte(byte: u8) -> Self {
        let level = byte & 7;
        match byte >> 5 {
            0 => Self::ClearRotateOnAutoEoi,
            1 => Self::NonSpecificEoi,
            2 => Self::Nop,
            3 => Self::SpecificEoi(level),
            4 => Self::SetRotateOnAutoEoi,
            5 => Self::RotateOnNonSpecificEoi,
            6 => Self::SetPriority(level),
            _ => Self::RotateOnSpecificEoi(level),
        }
    }
}
