//! Unprivileged instructions that have no 64-bit encoding, as pure functions of EAX and EFLAGS.
//!
//! Flags that the manual leaves undefined keep their old values.

use crate::state::eflags::{AF, CF, PF, SF, ZF};

/// SF, ZF and PF of an 8-bit result.
fn result_flags(al: u8) -> u32 {
    let mut flags = 0;
    if al & 0x80 != 0 {
        flags |= SF;
    }
    if al == 0 {
        flags |= ZF;
    }
    if al.count_ones().is_multiple_of(2) {
        flags |= PF;
    }
    flags
}

fn with_al(eax: u32, al: u8) -> u32 {
    (eax & !0xFF) | u32::from(al)
}

fn with_ax(eax: u32, ah: u8, al: u8) -> u32 {
    (eax & !0xFFFF) | u32::from(ah) << 8 | u32::from(al)
}

/// DAA (Intel SDM vol. 2A). Returns EAX and EFLAGS.
pub fn daa(eax: u32, eflags: u32) -> (u32, u32) {
    decimal_adjust(eax, eflags, false)
}

/// DAS (Intel SDM vol. 2A). Returns EAX and EFLAGS.
pub fn das(eax: u32, eflags: u32) -> (u32, u32) {
    decimal_adjust(eax, eflags, true)
}

fn decimal_adjust(eax: u32, eflags: u32, subtract: bool) -> (u32, u32) {
    let old = eax as u8;
    let old_carry = eflags & CF != 0;
    let adjust = |al: u8, by: u8| {
        if subtract {
            al.overflowing_sub(by)
        } else {
            al.overflowing_add(by)
        }
    };
    let (mut al, mut carry, mut flags) = (old, false, eflags & !(AF | CF | SF | ZF | PF));
    if old & 0xF > 9 || eflags & AF != 0 {
        let (adjusted, wrapped) = adjust(al, 6);
        al = adjusted;
        carry = old_carry || wrapped;
        flags |= AF;
    }
    if old > 0x99 || old_carry {
        al = adjust(al, 0x60).0;
        carry = true;
    } else if !subtract {
        // DAA clears CF here; DAS leaves what the low digit borrowed.
        carry = false;
    }
    if carry {
        flags |= CF;
    }
    (with_al(eax, al), flags | result_flags(al))
}

/// AAA (Intel SDM vol. 2A). Returns EAX and EFLAGS.
pub fn aaa(eax: u32, eflags: u32) -> (u32, u32) {
    ascii_adjust(eax, eflags, 0x106)
}

/// AAS (Intel SDM vol. 2A). Returns EAX and EFLAGS.
pub fn aas(eax: u32, eflags: u32) -> (u32, u32) {
    ascii_adjust(eax, eflags, 0x106u16.wrapping_neg())
}

fn ascii_adjust(eax: u32, eflags: u32, by: u16) -> (u32, u32) {
    let ax = eax as u16;
    let flags = eflags & !(AF | CF);
    let (ax, flags) = if ax & 0xF > 9 || eflags & AF != 0 {
        (ax.wrapping_add(by), flags | AF | CF)
    } else {
        (ax, flags)
    };
    ((eax & !0xFFFF) | u32::from(ax & 0xFF0F), flags)
}

/// AAM (Intel SDM vol. 2A). Returns EAX and EFLAGS, or `None` for #DE.
pub fn aam(eax: u32, eflags: u32, base: u8) -> Option<(u32, u32)> {
    let al = eax as u8;
    let (ah, al) = (al.checked_div(base)?, al.checked_rem(base)?);
    let flags = eflags & !(SF | ZF | PF) | result_flags(al);
    Some((with_ax(eax, ah, al), flags))
}

/// AAD (Intel SDM vol. 2A). Returns EAX and EFLAGS.
pub fn aad(eax: u32, eflags: u32, base: u8) -> (u32, u32) {
    let (ah, al) = ((eax >> 8) as u8, eax as u8);
    let al = al.wrapping_add(ah.wrapping_mul(base));
    let flags = eflags & !(SF | ZF | PF) | result_flags(al);
    (with_ax(eax, 0, al), flags)
}

/// ARPL (Intel SDM vol. 2A). Returns the new destination and EFLAGS.
pub fn arpl(destination: u16, source: u16, eflags: u32) -> (u16, u32) {
    if destination & 3 < source & 3 {
        ((destination & !3) | (source & 3), eflags | ZF)
    } else {
        (destination, eflags & !ZF)
    }
}

/// BOUND (Intel SDM vol. 2A): true when the index is inside, so that there is no #BR.
pub fn bound_holds(index: i32, lower: i32, upper: i32) -> bool {
    lower <= index && index <= upper
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::eflags::OF;

    fn bcd(n: u32) -> u8 {
        (((n / 10 % 10) << 4) | (n % 10)) as u8
    }

    #[test]
    fn daa_makes_binary_addition_decimal() {
        for a in 0..100u32 {
            for b in 0..100u32 {
                let (x, y) = (bcd(a), bcd(b));
                let (sum, carry) = x.overflowing_add(y);
                let mut flags = if carry { CF } else { 0 };
                if (x & 0xF) + (y & 0xF) > 0xF {
                    flags |= AF;
                }
                let (eax, flags) = daa(0xAABB_CC00 | u32::from(sum), flags);
                assert_eq!(eax, 0xAABB_CC00 | u32::from(bcd(a + b)), "{a} + {b}");
                assert_eq!(flags & CF != 0, a + b > 99, "{a} + {b}");
            }
        }
    }

    #[test]
    fn das_makes_binary_subtraction_decimal() {
        for a in 0..100u32 {
            for b in 0..100u32 {
                let (x, y) = (bcd(a), bcd(b));
                let (difference, borrow) = x.overflowing_sub(y);
                let mut flags = if borrow { CF } else { 0 };
                if x & 0xF < y & 0xF {
                    flags |= AF;
                }
                let (eax, flags) = das(u32::from(difference), flags);
                assert_eq!(eax, u32::from(bcd(100 + a - b)), "{a} - {b}");
                assert_eq!(flags & CF != 0, a < b, "{a} - {b}");
            }
        }
    }

    #[test]
    fn das_borrow_of_the_low_digit_stays() {
        // AL = 03h with AF: 03h - 6 borrows, and no 60h is taken off.
        let (eax, flags) = das(0x03, AF);
        assert_eq!((eax, flags & (CF | AF)), (0xFD, CF | AF));
    }

    #[test]
    fn ascii_adjustments() {
        assert_eq!(aaa(0x0000_000B, 0), (0x0101, AF | CF));
        assert_eq!(aaa(0x0000_01FA, 0), (0x0300, AF | CF));
        assert_eq!(aaa(0x0000_0135, CF), (0x0105, 0));
        assert_eq!(aas(0x0000_02FF, 0), (0x0109, AF | CF));
        assert_eq!(aas(0x0000_0003, AF), (0xFE0D, AF | CF));
    }

    #[test]
    fn aam_and_aad_are_inverse_and_aam_of_zero_is_a_divide_error() {
        for n in 0..100 {
            let (eax, _) = aam(n, 0, 10).unwrap();
            assert_eq!(eax, ((n / 10) << 8) | (n % 10));
            assert_eq!(aad(eax, 0, 10).0, n);
        }
        assert_eq!(aam(5, 0, 0), None);
        assert_eq!(
            aam(0xFFFF_FF00, OF | SF, 10),
            Some((0xFFFF_0000, OF | ZF | PF))
        );
    }

    #[test]
    fn arpl_raises_the_requested_privilege_level() {
        assert_eq!(arpl(0x10, 0x1B, 0), (0x13, ZF));
        assert_eq!(arpl(0x13, 0x18, ZF), (0x13, 0));
    }
}
