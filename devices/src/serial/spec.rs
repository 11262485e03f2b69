//! Registers of the National Semiconductor PC16550D (data sheet TL/C/8652).

use bitflags::bitflags;

/// Base port of COM1.
pub const COM1: u16 = 0x3f8;
/// Ports that a UART occupies.
pub const PORTS: u16 = 8;

/// Receiver buffer (RO), transmitter holding register (WO); divisor latch low if DLAB.
pub const RBR_THR: u8 = 0;
/// Interrupt enable register (RW); divisor latch high if DLAB.
pub const IER: u8 = 1;
/// Interrupt identification register (RO), FIFO control register (WO).
pub const IIR_FCR: u8 = 2;
/// Line control register (RW).
pub const LCR: u8 = 3;
/// Modem control register (RW).
pub const MCR: u8 = 4;
/// Line status register (RO).
pub const LSR: u8 = 5;
/// Modem status register (RO).
pub const MSR: u8 = 6;
/// Scratch register (RW).
pub const SCR: u8 = 7;

/// Bytes that the receiver FIFO holds.
pub const FIFO_SIZE: usize = 16;

bitflags! {
    /// Interrupt enable register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Ier: u8 {
        /// Received data available.
        const ERBFI = 0x01;
        /// Transmitter holding register empty.
        const ETBEI = 0x02;
        /// Receiver line status.
        const ELSI = 0x04;
        /// Modem status.
        const EDSSI = 0x08;
    }

    /// FIFO control register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Fcr: u8 {
        /// FIFO enable; the other bits count only with it.
        const ENABLE = 0x01;
        /// Receiver FIFO reset.
        const RESET_RX = 0x02;
        /// Transmitter FIFO reset.
        const RESET_TX = 0x04;
        /// DMA mode.
        const DMA_MODE = 0x08;
        /// Receiver trigger level: 1, 4, 8, 14.
        const TRIGGER = 0xc0;
    }

    /// Line control register, as far as it matters here.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Lcr: u8 {
        /// Divisor latch access.
        const DLAB = 0x80;
    }

    /// Modem control register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Mcr: u8 {
        /// Data terminal ready.
        const DTR = 0x01;
        /// Request to send.
        const RTS = 0x02;
        /// Auxiliary output 1.
        const OUT1 = 0x04;
        /// Auxiliary output 2: a PC routes the interrupt through it.
        const OUT2 = 0x08;
        /// Loop back.
        const LOOP = 0x10;
    }

    /// Line status register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Lsr: u8 {
        /// Data ready.
        const DR = 0x01;
        /// Overrun error.
        const OE = 0x02;
        /// Transmitter holding register empty.
        const THRE = 0x20;
        /// Transmitter empty.
        const TEMT = 0x40;
    }

    /// Modem status register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Msr: u8 {
        /// CTS changed.
        const DCTS = 0x01;
        /// DSR changed.
        const DDSR = 0x02;
        /// RI went from low to high.
        const TERI = 0x04;
        /// DCD changed.
        const DDCD = 0x08;
        /// Clear to send.
        const CTS = 0x10;
        /// Data set ready.
        const DSR = 0x20;
        /// Ring indicator.
        const RI = 0x40;
        /// Data carrier detect.
        const DCD = 0x80;
    }
}

/// IIR: what the interrupt is about, in order of priority.
pub mod iir {
    /// Receiver line status.
    pub const LINE_STATUS: u8 = 0x06;
    /// Received data available.
    pub const RX_DATA: u8 = 0x04;
    /// Character time-out: data in the FIFO below the trigger level.
    pub const RX_TIMEOUT: u8 = 0x0c;
    /// Transmitter holding register empty.
    pub const THR_EMPTY: u8 = 0x02;
    /// Modem status.
    pub const MODEM_STATUS: u8 = 0x00;
    /// No interrupt is pending.
    pub const NONE: u8 = 0x01;
    /// The FIFOs are enabled.
    pub const FIFO: u8 = 0xc0;
}
