//! Flags that the manuals leave undefined.

use super::rules::Subject;
use iced_x86::RflagsBits;

/// The flags that are to be compared after a case: defined by the 80286's manual
/// (`defined_by_recording`) and by the later manuals.
///
/// The Intel SDM, vol. 2, leaves some open by the operands: OF of a shift or rotation by more than 1,
/// CF of a shift by the operand's size or more, AF of shifts and logic. A count of 0 changes none.
#[must_use]
pub fn compared_flags(subject: &Subject<'_>, defined_by_recording: u16) -> u16 {
    let undefined = subject.instruction.rflags_undefined();
    let names = [
        (RflagsBits::CF, 1 << 0),
        (RflagsBits::PF, 1 << 2),
        (RflagsBits::AF, 1 << 4),
        (RflagsBits::ZF, 1 << 6),
        (RflagsBits::SF, 1 << 7),
        (RflagsBits::OF, 1 << 11),
    ];
    let mut mask = defined_by_recording;
    for (name, bit) in names {
        if undefined & name != 0 {
            mask &= !bit;
        }
    }
    if let Some(shift) = subject.shift() {
        const OF: u16 = 1 << 11;
        const CF: u16 = 1 << 0;
        if shift.count > 1 {
            mask &= !OF;
        }
        if !shift.rotates && shift.count >= shift.bits {
            mask &= !CF;
        }
    }
    mask
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::moo::{Case, Register};

    fn undefined(bytes: &[u8], cx: u16) -> u16 {
        let case = Case::of(bytes, &[(Register::Cx, cx)], None);
        !compared_flags(&Subject::new(&case), u16::MAX)
    }

    #[test]
    fn what_the_manuals_leave_open() {
        let (of, af, cf) = (1 << 11, 1 << 4, 1);
        assert_eq!(undefined(&[0x01, 0xC0, 0xF4], 0), 0); // add
        assert_eq!(undefined(&[0x21, 0xC0, 0xF4], 0), af); // and
        assert_eq!(undefined(&[0xD1, 0xC0, 0xF4], 0), 0); // rol 1
        assert_eq!(undefined(&[0xD3, 0xC0, 0xF4], 3), of); // rol cl
        assert_eq!(undefined(&[0xD0, 0xE0, 0xF4], 0), af); // shl 1
        assert_eq!(undefined(&[0xC0, 0xE0, 9, 0xF4], 0), of | af | cf); // shl 9
        assert_eq!(undefined(&[0xC1, 0xE0, 9, 0xF4], 0), of | af); // shl 9 of a word
    }
}
