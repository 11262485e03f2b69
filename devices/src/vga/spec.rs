//! Register definitions of the VGA: IBM Personal System/2 Hardware Interface Technical Reference,
//! "Video Subsystem" (1992), with the names of the FreeVGA documentation; the Bochs VBE extensions
//! as `vgabios` documents them (`vbe_display_api.txt`).

use bitflags::bitflags;

/// First port of the adapter: the CRTC at its monochrome addresses.
pub const FIRST_PORT: u16 = 0x3b0;
/// Last port of the adapter. Ports in between that the adapter does not have read as ones.
pub const LAST_PORT: u16 = 0x3df;

/// Attribute controller: index and data by turns (W), index (R).
pub const ATTRIBUTE_INDEX: u16 = 0x3c0;
/// Attribute controller: data (R).
pub const ATTRIBUTE_DATA: u16 = 0x3c1;
/// Miscellaneous output (W), input status 0 (R).
pub const MISC_WRITE: u16 = 0x3c2;
/// Video subsystem enable (RW); kept, without effect.
pub const SUBSYSTEM_ENABLE: u16 = 0x3c3;
/// Sequencer index.
pub const SEQUENCER_INDEX: u16 = 0x3c4;
/// Sequencer data.
pub const SEQUENCER_DATA: u16 = 0x3c5;
/// PEL mask.
pub const DAC_MASK: u16 = 0x3c6;
/// DAC read address (W), DAC state (R).
pub const DAC_READ: u16 = 0x3c7;
/// DAC write address.
pub const DAC_WRITE: u16 = 0x3c8;
/// DAC data.
pub const DAC_DATA: u16 = 0x3c9;
/// Feature control (R).
pub const FEATURE_READ: u16 = 0x3ca;
/// Miscellaneous output (R).
pub const MISC_READ: u16 = 0x3cc;
/// Graphics controller index.
pub const GRAPHICS_INDEX: u16 = 0x3ce;
/// Graphics controller data.
pub const GRAPHICS_DATA: u16 = 0x3cf;
/// CRTC index, colour address; 3B4h is the monochrome one.
pub const CRTC_INDEX: u16 = 0x3d4;
/// CRTC data, colour address; 3B5h is the monochrome one.
pub const CRTC_DATA: u16 = 0x3d5;
/// Input status 1 (R), feature control (W), colour address; 3BAh is the monochrome one.
pub const STATUS1: u16 = 0x3da;
/// What separates monochrome from colour addresses.
pub const MONO_OFFSET: u16 = 0x20;

/// First guest-physical address of the legacy window.
pub const WINDOW: u64 = 0xa_0000;
/// Bytes of the legacy window.
pub const WINDOW_LEN: u64 = 0x2_0000;

bitflags! {
    /// Miscellaneous output register.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Misc: u8 {
        /// I/O address select: the CRTC is at 3Dxh, not at 3Bxh.
        const COLOUR = 1 << 0;
        /// The processor can reach display memory.
        const RAM_ENABLE = 1 << 1;
        /// Dot clock 28.322 MHz, not 25.175 MHz.
        const CLOCK_28 = 1 << 2;
        /// Odd/even page; kept, without effect.
        const PAGE = 1 << 5;
    }

    /// Input status register 1.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub struct Status1: u8 {
        /// Display disabled: a horizontal or vertical blanking interval.
        const DISPLAY_DISABLED = 1 << 0;
        /// Vertical retrace.
        const VRETRACE = 1 << 3;
    }
}

/// Input status 0, bit 4: switch sense; a colour monitor is there.
pub const STATUS0_SENSE: u8 = 1 << 4;

/// Bochs VBE index register, 16 bits.
pub const VBE_INDEX: u16 = 0x1ce;
/// Bochs VBE data register, 16 bits at an odd address: the bus splits the access.
pub const VBE_DATA: u16 = 0x1cf;
/// Upper byte of an access at [`VBE_DATA`], and the data register at an even address.
pub const VBE_DATA_EVEN: u16 = 0x1d0;
