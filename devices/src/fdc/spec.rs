//! Registers, commands and status of the floppy disk controller (Intel 82077AA data sheet; section
//! numbers are those of the data sheet).

use bitflags::bitflags;

/// Status register A (RO), as in a PS/2.
pub const SRA: u16 = 0x3f0;
/// Status register B (RO), as in a PS/2.
pub const SRB: u16 = 0x3f1;
/// Digital output register (RW).
pub const DOR: u16 = 0x3f2;
/// Tape drive register (RW).
pub const TDR: u16 = 0x3f3;
/// Main status register (RO), data rate select register (WO).
pub const MSR: u16 = 0x3f4;
/// Data rate select register (WO).
pub const DSR: u16 = MSR;
/// FIFO (RW).
pub const FIFO: u16 = 0x3f5;
/// Digital input register (RO), configuration control register (WO). Port 3F6h is not the floppy
/// controller's.
pub const DIR: u16 = 0x3f7;
/// Configuration control register (WO).
pub const CCR: u16 = DIR;
/// The interrupt that PCs give to the controller.
pub const IRQ: u8 = 6;
/// The DMA channel that PCs give to it.
pub const DMA_CHANNEL: u8 = 2;

bitflags! {
    /// Digital output register (2.1.2). Bits 1:0 select a drive.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Dor: u8 {
        /// The controller is not in reset.
        const RESET_N = 0x04;
        /// INT and DRQ are connected.
        const DMA_GATE = 0x08;
        /// Motor of drive 0.
        const MOTOR0 = 0x10;
        /// Motor of drive 1.
        const MOTOR1 = 0x20;
    }

    /// Main status register (2.1.5). Bits 3:0: drives that seek.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Msr: u8 {
        /// A command is in progress.
        const CMD_BUSY = 0x10;
        /// Execution of a command without DMA.
        const NON_DMA = 0x20;
        /// The FIFO is to be read (1) or written (0).
        const DIO = 0x40;
        /// The FIFO is ready.
        const RQM = 0x80;
    }

    /// Status register 0 (6.1). Bits 1:0: the drive.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct St0: u8 {
        /// Head.
        const HEAD = 0x04;
        /// Equipment check: no track 0.
        const EC = 0x10;
        /// A seek is complete.
        const SE = 0x20;
        /// Interrupt code: abnormal termination.
        const ABNORMAL = 0x40;
        /// Interrupt code: invalid command.
        const INVALID = 0x80;
        /// Interrupt code: polling found a change of a drive's ready line.
        const POLLING = 0xc0;
    }

    /// Status register 1 (6.2).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct St1: u8 {
        /// Missing address mark.
        const MA = 0x01;
        /// Not writable.
        const NW = 0x02;
        /// No data: sector not found.
        const ND = 0x04;
        /// Overrun, underrun.
        const OR = 0x10;
        /// Data error: CRC.
        const DE = 0x20;
        /// End of cylinder.
        const EN = 0x80;
    }

    /// Status register 2 (6.3).
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct St2: u8 {
        /// Missing data address mark.
        const MD = 0x01;
        /// Wrong cylinder.
        const WC = 0x10;
        /// Data error in the data field.
        const DD = 0x20;
        /// Control mark: a deleted (or, for READ DELETED DATA, a normal) sector.
        const CM = 0x40;
    }

    /// Status register 3 (6.4). Bits 1:0: the drive, bit 2: the head.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct St3: u8 {
        /// Bits that are always 1: ready, two sides.
        const ONES = 0x28;
        /// The head is over track 0.
        const T0 = 0x10;
        /// Write protected.
        const WP = 0x40;
    }

    /// Second byte of CONFIGURE (5.2.7). Bits 3:0: FIFO threshold less 1.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Configure: u8 {
        /// Polling disabled.
        const POLL = 0x10;
        /// FIFO disabled.
        const EFIFO = 0x20;
        /// Implied seeks.
        const EIS = 0x40;
    }
}

/// DSR: software reset, clears itself.
pub const DSR_RESET: u8 = 0x80;
/// DSR and CCR: the data rate.
pub const DATA_RATE: u8 = 0x03;
/// Data rate after a reset of the hardware: 250 kbit/s.
pub const DATA_RATE_250K: u8 = 2;
/// DIR: the disk in the selected drive was changed, or there is none.
pub const DISK_CHANGED: u8 = 0x80;
/// The answer to VERSION: an 82077AA.
pub const ENHANCED: u8 = 0x90;
/// The lock bit in the answer to LOCK and in DUMPREG.
pub const LOCKED: u8 = 0x10;
/// The LOCK bit of the eighth byte of DUMPREG.
pub const DUMPREG_LOCK: u8 = 0x80;
/// Step pulses of RECALIBRATE, at most (5.2.2).
pub const RECALIBRATE_STEPS: u8 = 79;
/// N of the sectors of a PC's disks: 128 << 2 bytes.
pub const SECTOR_SIZE_CODE: u8 = 2;

/// Disks turn, and heads step, this many times as fast as real ones: nobody wants to wait for
/// them, and software that measures them must still find time passing.
pub const SPEED: u64 = 32;
/// One turn of a disk at 300 revolutions per minute.
pub const ROTATION_NANOS: u64 = 200_000_000 / SPEED;
/// The unit of the step rate at 500 kbit/s.
pub const STEP_NANOS: u64 = 1_000_000 / SPEED;
/// From the end of a reset to the first interrupt of polling.
pub const POLLING_NANOS: u64 = 20_000;
/// How long the controller waits for DMA before it reports an overrun. A real one has as long as
/// its FIFO lasts; a machine that the host has put aside must not see errors for it.
pub const DMA_PATIENCE_NANOS: u64 = 1_000_000_000;
