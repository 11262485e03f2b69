//! Registers of the firmware configuration device (QEMU, docs/specs/fw_cfg.rst).

use bitflags::bitflags;

/// Selector register (WO, 16 bits, little-endian): the item to read, from its start.
pub const SELECTOR: u16 = 0x510;
/// Data register (RO, 8 bits): the next byte of the item. It overlaps the selector.
pub const DATA: u16 = 0x511;
/// DMA address register, high half (RW, 32 bits, big-endian). Reads as "QEMU".
pub const DMA_HIGH: u16 = 0x514;
/// DMA address register, low half (RW, 32 bits, big-endian): a write starts the transfer. Reads as
/// " CFG".
pub const DMA_LOW: u16 = 0x518;
/// What the DMA address register reads as, most significant byte first.
pub const DMA_SIGNATURE: u64 = 0x5145_4d55_2043_4647;

/// Keys of items that are not files.
pub mod key {
    /// The bytes "QEMU".
    pub const SIGNATURE: u16 = 0x00;
    /// Features, a 32-bit bit map.
    pub const ID: u16 = 0x01;
    /// No display: the firmware is to use the serial port (16 bits).
    pub const NO_GRAPHIC: u16 = 0x04;
    /// Number of processors that run (16 bits).
    pub const PROCESSORS: u16 = 0x05;
    /// Whether to show the boot menu (16 bits).
    pub const BOOT_MENU: u16 = 0x0e;
    /// Number of processors there may be (16 bits).
    pub const MAX_PROCESSORS: u16 = 0x0f;
    /// The directory of files.
    pub const FILE_DIRECTORY: u16 = 0x19;
    /// Key of the first file.
    pub const FIRST_FILE: u16 = 0x20;
    /// Keys that exist: bits 13:0, and bit 15 for items of the architecture.
    pub const MASK: u16 = 0xbfff;
}

/// Item [`key::ID`]: selector and data register are there.
pub const FEATURE_TRADITIONAL: u32 = 1 << 0;
/// Item [`key::ID`]: the DMA interface is there.
pub const FEATURE_DMA: u32 = 1 << 1;

/// Bytes of an entry of the directory: size and key (big-endian), two reserved bytes, name.
pub const ENTRY_LEN: usize = 64;
/// Bytes of a name with its final zero.
pub const NAME_LEN: usize = 56;

/// Bytes of a DMA descriptor: control, length (32 bits each), address (64 bits), big-endian.
pub const DESCRIPTOR_LEN: usize = 16;

bitflags! {
    /// Control field of a DMA descriptor; bits 31:16 are the key to select.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Control: u32 {
        /// Set by the device: the transfer failed.
        const ERROR = 1 << 0;
        /// Copies from the item to memory.
        const READ = 1 << 1;
        /// Skips bytes of the item.
        const SKIP = 1 << 2;
        /// Selects an item first.
        const SELECT = 1 << 3;
        /// Copies from memory to the item.
        const WRITE = 1 << 4;
    }
}
