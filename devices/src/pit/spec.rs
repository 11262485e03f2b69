//! Registers of the Intel 8254 (data sheet 231164-005) and of port 61h, the NMI status and
//! control register of the PIIX.

use bitflags::bitflags;
use serde::{Deserialize, Serialize};

use crate::time::Frequency;

/// The input clock of all three counters: 1.193182 MHz.
pub const PIT_CLOCK: Frequency = Frequency::new(1_193_182);

/// Counter 0 (RW); 41h and 42h are counters 1 and 2.
pub const COUNTER0: u16 = 0x40;
/// Control word register (WO).
pub const CONTROL: u16 = 0x43;
/// NMI status and control.
pub const PORT_B: u16 = 0x61;

/// Nanoseconds between two toggles of [`PortB::REFRESH`]: one refresh request each 15.085 us.
pub const REFRESH_TOGGLE_NANOS: u64 = 15_085;

bitflags! {
    /// Port 61h.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct PortB: u8 {
        /// GATE of counter 2 (RW).
        const GATE2 = 0x01;
        /// Speaker data enable (RW).
        const SPEAKER = 0x02;
        /// PCI SERR# disable (RW).
        const SERR_DISABLE = 0x04;
        /// IOCHK# disable (RW).
        const IOCHK_DISABLE = 0x08;
        /// Refresh cycle toggle (RO).
        const REFRESH = 0x10;
        /// OUT of counter 2 (RO).
        const OUT2 = 0x20;
        /// IOCHK# has asked for an NMI (RO); IOCHK_DISABLE takes it back.
        const IOCHK = 0x40;
        /// PCI SERR# has asked for an NMI (RO); SERR_DISABLE takes it back.
        const SERR = 0x80;
        /// The bits that software can write.
        const WRITABLE = 0x0f;
    }
}

/// Counter mode: bits 3-1 of the control word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Mode 0: interrupt on terminal count.
    TerminalCount,
    /// Mode 1: hardware retriggerable one-shot.
    OneShot,
    /// Mode 2: rate generator.
    RateGenerator,
    /// Mode 3: square wave mode.
    SquareWave,
    /// Mode 4: software triggered strobe.
    SoftwareStrobe,
    /// Mode 5: hardware triggered strobe.
    HardwareStrobe,
}

impl Mode {
    /// Decodes bits 3-1 of a control word; 6 and 7 are other names of 2 and 3.
    pub const fn from_control(control: u8) -> Self {
        match control >> 1 & 7 {
            0 => Self::TerminalCount,
            1 => Self::OneShot,
            2 | 6 => Self::RateGenerator,
            3 | 7 => Self::SquareWave,
            4 => Self::SoftwareStrobe,
            _ => Self::HardwareStrobe,
        }
    }

    /// The number of the mode, as in the status byte.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

/// Which bytes of a count are transferred: bits 5-4 of the control word, except 00.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Access {
    /// Least significant byte only.
    Lsb,
    /// Most significant byte only.
    Msb,
    /// Least significant byte first, then most significant byte.
    LsbMsb,
}

impl Access {
    /// Decodes bits 5-4; `None` is the counter latch command.
    pub const fn from_control(control: u8) -> Option<Self> {
        match control >> 4 & 3 {
            0 => None,
            1 => Some(Self::Lsb),
            2 => Some(Self::Msb),
            _ => Some(Self::LsbMsb),
        }
    }

    /// Bits 5-4 of the status byte.
    pub const fn bits(self) -> u8 {
        match self {
            Self::Lsb => 1 << 4,
            Self::Msb => 2 << 4,
            Self::LsbMsb => 3 << 4,
        }
    }
}

/// Bits 7-6 of the control word that stand for a read-back command.
pub const READ_BACK: u8 = 3;
/// Read-back command: do not latch the count.
pub const READ_BACK_NO_COUNT: u8 = 1 << 5;
/// Read-back command: do not latch the status.
pub const READ_BACK_NO_STATUS: u8 = 1 << 4;
/// Status byte: level of OUT.
pub const STATUS_OUT: u8 = 1 << 7;
/// Status byte: the count register has not been loaded into the counting element yet.
pub const STATUS_NULL_COUNT: u8 = 1 << 6;
