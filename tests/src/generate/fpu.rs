//! Contents of the x87, MMX and SSE registers, and floating-point operands.

use super::rng::Rng;

/// Exception masks of the x87 control word.
const MASKS: u16 = 0x3F;
/// MXCSR.DAZ.
const DENORMALS_ARE_ZEROS: u32 = 0x40;
/// FSW: stack fault, exception summary, busy.
const SUMMARY: u16 = 0x8080;

/// A random FXSAVE image without pending exceptions (but rarely). MXCSR has no bit set that a
/// Core Duo does not know. The XMM registers hold single- or double-precision numbers, or integers.
pub(super) fn random_state(rng: &mut Rng) -> [u8; 512] {
    let mut image = [0; 512];
    let mut control = 0x0040 | (rng.next_u32() as u16 & 0x0F00) | MASKS;
    if rng.one_in(4) {
        control ^= rng.next_u32() as u16 & MASKS;
    }
    let mut status = rng.next_u32() as u16 & 0x7F7F;
    let unmasked = status & !control & MASKS;
    if rng.one_in(32) && unmasked != 0 {
        status |= SUMMARY;
    } else {
        status &= !unmasked;
    }
    let tags = match rng.below(4) {
        0 => 0,
        1 => rng.next_u32() as u8,
        _ => 0xFF,
    };
    image[0..2].copy_from_slice(&control.to_le_bytes());
    image[2..4].copy_from_slice(&status.to_le_bytes());
    image[4] = tags;
    image[24..28].copy_from_slice(&mxcsr(rng).to_le_bytes());
    for register in image[32..160].chunks_mut(16) {
        register[..10].copy_from_slice(&extended(rng));
    }
    for register in image[160..416].chunks_mut(16) {
        register.copy_from_slice(&vector(rng));
    }
    image
}

/// What an XMM register may hold.
fn vector(rng: &mut Rng) -> [u8; 16] {
    let mut bytes = [0; 16];
    match rng.below(5) {
        0 | 1 => {
            let lanes = bytes.chunks_mut(4);
            lanes.for_each(|lane| lane.copy_from_slice(&single(rng)));
        }
        2 | 3 => {
            let lanes = bytes.chunks_mut(8);
            lanes.for_each(|lane| lane.copy_from_slice(&double(rng)));
        }
        _ => {
            let lanes = bytes.chunks_mut(4);
            lanes.for_each(|lane| lane.copy_from_slice(&rng.value().to_le_bytes()));
        }
    }
    bytes
}

/// A value of MXCSR: rounding, flush to zero, flags, denormals sometimes zeros; exceptions mostly masked.
pub(super) fn mxcsr(rng: &mut Rng) -> u32 {
    let mut value = 0x1F80 | (rng.next_u32() & 0xE03F);
    if rng.one_in(4) {
        value |= DENORMALS_ARE_ZEROS;
    }
    if rng.one_in(4) {
        value &= !(rng.next_u32() & 0x1F80);
    }
    value
}

/// A single-precision number, or what looks like one.
pub(super) fn single(rng: &mut Rng) -> [u8; 4] {
    const SPECIAL: [u32; 12] = [
        0,
        0x8000_0000,
        0x3F80_0000,
        0xBF80_0000,
        0x7F80_0000,
        0xFF80_0000,
        0x7FC0_0000,
        0x7FA0_0001,
        0x0000_0001,
        0x807F_FFFF,
        0x7F7F_FFFF,
        0x4F00_0000,
    ];
    let bits = match rng.below(4) {
        0 => rng.pick(&SPECIAL),
        1 => rng.next_u32(),
        _ => (rng.next_u32() & 0x807F_FFFF) | (rng.below(64) + 95) << 23,
    };
    bits.to_le_bytes()
}

/// A double-precision number, or what looks like one.
pub(super) fn double(rng: &mut Rng) -> [u8; 8] {
    const SPECIAL: [u64; 11] = [
        0,
        0x8000_0000_0000_0000,
        0x3FF0_0000_0000_0000,
        0x7FF0_0000_0000_0000,
        0xFFF0_0000_0000_0000,
        0x7FF8_0000_0000_0000,
        0x7FF4_0000_0000_0001,
        1,
        0x800F_FFFF_FFFF_FFFF,
        0x7FEF_FFFF_FFFF_FFFF,
        0x43E0_0000_0000_0000,
    ];
    let bits = match rng.below(4) {
        0 => rng.pick(&SPECIAL),
        1 => rng.next_u64(),
        _ => (rng.next_u64() & 0x800F_FFFF_FFFF_FFFF) | u64::from(rng.below(128) + 960) << 52,
    };
    bits.to_le_bytes()
}

/// A double-extended number: mostly normal, else zero, denormal, infinite, NaN or unsupported.
pub(super) fn extended(rng: &mut Rng) -> [u8; 10] {
    let sign = (rng.next_u32() as u16) & 0x8000;
    let fraction = rng.next_u64();
    let whole = 1 << 63;
    let (mantissa, exponent) = match rng.below(16) {
        0 => (0, 0),
        1 => (whole, 0x3FFF),
        2 => (fraction & !whole, 0),
        3 => (whole, 0x7FFF),
        4 => (fraction | whole, 0x7FFF),
        5 => (fraction, rng.next_u32() as u16 & 0x7FFF),
        6 => (fraction | whole, rng.next_u32() as u16 & 0x7FFF),
        7 => (
            u64::from(rng.below(1000)) << 52 | whole,
            0x3FFF + rng.below(12) as u16,
        ),
        _ => (fraction | whole, 0x3FE0 + rng.below(64) as u16),
    };
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&mantissa.to_le_bytes());
    bytes[8..].copy_from_slice(&(sign | exponent).to_le_bytes());
    bytes
}

/// A packed decimal number; invalid digits give undefined results and are not made.
pub(super) fn decimal(rng: &mut Rng) -> [u8; 10] {
    let mut bytes: [u8; 10] = std::array::from_fn(|_| (rng.below(10) << 4 | rng.below(10)) as u8);
    bytes[9] = (rng.next_u32() as u8) & 0x80;
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every control of MXCSR and every kind of double-precision number occurs.
    #[test]
    fn states_reach_every_control_of_mxcsr() {
        const CONTROLS: u32 = 0xFFC0;
        let mut rng = Rng::new(1);
        let values: Vec<u32> = (0..500).map(|_| mxcsr(&mut rng)).collect();
        for bit in (0..16)
            .map(|bit| 1 << bit)
            .filter(|bit| CONTROLS & bit != 0)
        {
            assert!(values.iter().any(|value| value & bit != 0), "{bit:#x}");
            assert!(values.iter().any(|value| value & bit == 0), "{bit:#x}");
        }
        assert!(values.iter().all(|value| value >> 16 == 0));

        let doubles: Vec<f64> = (0..500)
            .map(|_| f64::from_le_bytes(double(&mut rng)))
            .collect();
        assert!(doubles.iter().any(|value| value.is_subnormal()));
        assert!(doubles.iter().any(|value| value.is_nan()));
        assert!(doubles.iter().any(|value| value.is_infinite()));
        assert!(doubles.iter().any(|value| value.is_normal()));
    }
}
