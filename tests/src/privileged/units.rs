//! What x87, MMX and SSE registers hold where a case asks for it: images of FXSAVE (Intel SDM vol. 2A,
//! table 3-43).

/// What FXSAVE writes outside 64-bit mode: up to XMM7.
pub(crate) const WRITTEN: usize = 288;
/// The size of the operand.
pub const SIZE: usize = 512;

/// Offsets in an image.
#[allow(missing_docs)] // the names are the SDM's
pub(crate) mod offset {
    pub(crate) const FCW: usize = 0;
    pub(crate) const FSW: usize = 2;
    pub(crate) const FTW: usize = 4;
    pub(crate) const FOP: usize = 6;
    pub(crate) const FIP: usize = 8;
    pub(crate) const FCS: usize = 12;
    pub(crate) const FDP: usize = 16;
    pub(crate) const FDS: usize = 20;
    pub(crate) const MXCSR: usize = 24;
    pub(crate) const MXCSR_MASK: usize = 28;
    pub(crate) const ST: usize = 32;
    pub(crate) const XMM: usize = 160;
}

/// Bits of MXCSR that the processor has: all but the upper half (Intel SDM vol. 1, section 10.2.3).
pub(crate) const MXCSR_BITS: u32 = 0xFFFF;

/// An image of which no two registers are alike, nor those of two images of different `seed`.
/// With `pending` a division by zero is unmasked and pending.
#[must_use]
pub fn image(seed: u8, pending: bool) -> [u8; SIZE] {
    let mut image = [0; SIZE];
    let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);
    let control: u16 = if pending { 0x037B } else { 0x0F7F };
    let status: u16 = if pending { 0xA884 } else { 0x2000 };
    put(offset::FCW, &control.to_le_bytes());
    put(offset::FSW, &status.to_le_bytes());
    put(offset::FTW, &[0xF0 | seed & 0xF]);
    put(offset::FOP, &(0x0100 | u16::from(seed)).to_le_bytes());
    put(offset::FIP, &(0x1234_5600 | u32::from(seed)).to_le_bytes());
    put(offset::FDP, &(0x0765_4300 | u32::from(seed)).to_le_bytes());
    put(
        offset::MXCSR,
        &(0x1F80 | u32::from(seed & 1) << 13).to_le_bytes(),
    );
    put(offset::MXCSR_MASK, &MXCSR_BITS.to_le_bytes());
    for n in 0..8u8 {
        // 1 <= ST(n) < 2, so that it is a number whatever its tag.
        let st = [seed, n, 3, 4, 5, 6, 7, 0x80 | n, 0xFF, 0x3F];
        put(offset::ST + 16 * usize::from(n), &st);
        let xmm = [seed ^ n; 16];
        put(offset::XMM + 16 * usize::from(n), &xmm);
    }
    image
}

/// The image that the driver loads.
#[must_use]
pub fn prepared(pending: bool) -> [u8; SIZE] {
    image(0x35, pending)
}
