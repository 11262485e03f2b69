//! The standard modes: register values from the IBM reference's table of them.

use super::*;

/// Register values of a mode.
pub(super) struct Mode {
    misc: u8,
    sequencer: [u8; 4],
    crtc: [u8; 25],
    graphics: [u8; 9],
    /// Mode control, overscan, plane enable, panning.
    attribute: [u8; 4],
}

/// 80x25 text, 720x400.
pub(super) const TEXT: Mode = Mode {
    misc: 0x67,
    sequencer: [0x00, 0x03, 0x00, 0x02],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x55, 0x81, 0xbf, 0x1f, 0x00, 0x4f, 0x0d, 0x0e, 0, 0, 0, 0, 0x9c,
        0x8e, 0x8f, 0x28, 0x1f, 0x96, 0xb9, 0xa3, 0xff,
    ],
    graphics: [0, 0, 0, 0, 0, 0x10, 0x0e, 0, 0xff],
    attribute: [0x0c, 0, 0x0f, 0x08],
};

/// 320x200, 4 colours, as on the CGA.
pub(super) const CGA: Mode = Mode {
    misc: 0x63,
    sequencer: [0x09, 0x03, 0x00, 0x02],
    crtc: [
        0x2d, 0x27, 0x28, 0x90, 0x2b, 0x80, 0xbf, 0x1f, 0x00, 0xc1, 0, 0, 0, 0, 0, 0, 0x9c, 0x8e,
        0x8f, 0x14, 0x00, 0x96, 0xb9, 0xa2, 0xff,
    ],
    graphics: [0, 0, 0, 0, 0, 0x30, 0x0f, 0, 0xff],
    attribute: [0x01, 0, 0x03, 0],
};

/// 640x480, 16 colours.
pub(super) const PLANAR: Mode = Mode {
    misc: 0xe3,
    sequencer: [0x01, 0x0f, 0x00, 0x06],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0x0b, 0x3e, 0x00, 0x40, 0, 0, 0, 0, 0, 0, 0xea, 0x8c,
        0xdf, 0x28, 0x00, 0xe7, 0x04, 0xe3, 0xff,
    ],
    graphics: [0, 0, 0, 0, 0, 0, 0x05, 0x0f, 0xff],
    attribute: [0x01, 0, 0x0f, 0],
};

/// 320x200, 256 colours: mode 13h.
pub(super) const PACKED: Mode = Mode {
    misc: 0x63,
    sequencer: [0x01, 0x0f, 0x00, 0x0e],
    crtc: [
        0x5f, 0x4f, 0x50, 0x82, 0x54, 0x80, 0xbf, 0x1f, 0x00, 0x41, 0, 0, 0, 0, 0, 0, 0x9c, 0x8e,
        0x8f, 0x28, 0x40, 0x96, 0xb9, 0xa3, 0xff,
    ],
    graphics: [0, 0, 0, 0, 0, 0x40, 0x05, 0x0f, 0xff],
    attribute: [0x41, 0, 0x0f, 0],
};

/// The palette of the default 16-colour modes: numbers in the DAC.
const PALETTE: [u8; 16] = [
    0, 1, 2, 3, 4, 5, 0x14, 7, 0x38, 0x39, 0x3a, 0x3b, 0x3c, 0x3d, 0x3e, 0x3f,
];

impl Mode {
    /// Writes all registers, in the order of a BIOS.
    pub(super) fn set(&self, vga: &mut Vga) {
        out(vga, MISC_WRITE, self.misc);
        set(vga, SEQUENCER_INDEX, 0, 1);
        for (index, value) in (1..).zip(self.sequencer) {
            set(vga, SEQUENCER_INDEX, index, value);
        }
        set(vga, SEQUENCER_INDEX, 0, 3);
        set(vga, CRTC_INDEX, 0x11, 0);
        for (index, value) in (0..).zip(self.crtc) {
            set(vga, CRTC_INDEX, index, value);
        }
        for (index, value) in (0..).zip(self.graphics) {
            set(vga, GRAPHICS_INDEX, index, value);
        }
        for (index, value) in (0..).zip(PALETTE) {
            set_attribute(vga, index, value);
        }
        for (index, value) in (0x10..).zip(self.attribute) {
            set_attribute(vga, index, value);
        }
        out(vga, DAC_MASK, 0xff);
        out(vga, DAC_WRITE, 0);
        for number in 0..64u8 {
            // The EGA's colours: two bits for each component.
            for bit in [2, 1, 0] {
                let level = (number >> bit & 1) * 2 + (number >> (bit + 3) & 1);
                out(vga, DAC_DATA, level * 21);
            }
        }
    }
}
