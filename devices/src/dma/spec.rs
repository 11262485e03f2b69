//! Registers of the DMA controllers (Intel 8237A data sheet) and of the page registers beside them
//! (IBM PC AT Technical Reference, "DMA controllers"; Intel 82371SB data sheet, section 2.3.1).

use bitflags::bitflags;

/// First port of the controller of channels 0 to 3, which moves bytes.
pub const DMA1: u16 = 0x00;
/// Last port of it.
pub const DMA1_END: u16 = 0x0f;
/// First port of the controller of channels 4 to 7, which moves words; its registers are two ports
/// apart.
pub const DMA2: u16 = 0xc0;
/// Last port of it.
pub const DMA2_END: u16 = 0xdf;
/// First page register. Port 80h is left to the POST display.
pub const PAGES: u16 = 0x81;
/// Last page register.
pub const PAGES_END: u16 = 0x8f;

/// Registers of one controller.
pub mod register {
    /// 0 to 7: address (even) and count (odd) of a channel. Low byte first, by the flip-flop.
    pub const LAST_OF_CHANNELS: u8 = 0x07;
    /// Command (WO), status (RO; a read clears the terminal counts).
    pub const COMMAND: u8 = 0x08;
    /// Software request (WO).
    pub const REQUEST: u8 = 0x09;
    /// Mask of one channel (WO).
    pub const SINGLE_MASK: u8 = 0x0a;
    /// Mode of a channel (WO).
    pub const MODE: u8 = 0x0b;
    /// Any write clears the flip-flop.
    pub const CLEAR_FLIP_FLOP: u8 = 0x0c;
    /// Any write is a master clear; a read is the temporary register.
    pub const MASTER_CLEAR: u8 = 0x0d;
    /// Any write unmasks all channels.
    pub const CLEAR_MASKS: u8 = 0x0e;
    /// All masks (RW, as in the PIIX3; WO in the 8237A).
    pub const ALL_MASKS: u8 = 0x0f;
}

/// Command register: the controller is disabled. The other bits set up timing, priority and
/// memory-to-memory transfers.
pub const COMMAND_DISABLE: u8 = 0x04;
/// Command register: memory-to-memory transfers.
pub const COMMAND_MEMORY_TO_MEMORY: u8 = 0x01;
/// Request and single mask registers: set (1) or clear (0) the bit of the channel in bits 1:0.
pub const SET_BIT: u8 = 0x04;

bitflags! {
    /// Mode register of a channel. Bits 1:0 of what is written choose the channel.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Mode: u8 {
        /// Transfer type: to memory.
        const WRITE = 0x04;
        /// Transfer type: from memory. Neither: verify; both: illegal.
        const READ = 0x08;
        /// Address and count are loaded again at terminal count.
        const AUTO_INIT = 0x10;
        /// The address goes down.
        const DECREMENT = 0x20;
        /// Single transfers.
        const SINGLE = 0x40;
        /// Block transfers. Neither: on demand; both: cascade.
        const BLOCK = 0x80;
    }
}

impl Mode {
    /// The channel leads to another controller or to a bus master.
    pub const CASCADE: Self = Self::SINGLE.union(Self::BLOCK);
}

/// Which channel a page register belongs to, by the low four bits of its port.
pub const PAGE_OF_CHANNEL: [u8; 8] = [0x7, 0x3, 0x1, 0x2, 0xf, 0xb, 0x9, 0xa];
