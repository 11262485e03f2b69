//! x87, MMX and SSE under CR0.EM, MP, TS, NE and CR4.OSFXSR.

use super::super::Field;
use super::super::case::Case;
use super::super::driver::Preparation;
use super::super::op::{Op, Unit};
use super::levels;

pub(super) fn add(cases: &mut Vec<Case>) {
    for mode in levels() {
        for (instruction, code, unit) in [
            ("FLD1", &[0xD9, 0xE8][..], Unit::X87),
            ("FNCLEX", &[0xDB, 0xE2], Unit::X87NoWait),
            ("FNINIT", &[0xDB, 0xE3], Unit::X87NoWait),
            ("WAIT", &[0x9B], Unit::Wait),
            ("EMMS", &[0x0F, 0x77], Unit::Mmx),
            ("PXOR MMX", &[0x0F, 0xEF, 0xC0], Unit::Mmx),
            ("XORPS", &[0x0F, 0x57, 0xC0], Unit::Sse),
        ] {
            // MP, EM, TS; NE is set.
            for bits in 0..8 {
                let enables: &[u32] = if unit == Unit::Sse { &[0, 0x200] } else { &[0] };
                for &fxsr in enables {
                    for preparation in [Preparation::None, Preparation::PendingX87] {
                        let pending = u32::from(preparation == Preparation::PendingX87);
                        let name = format!("CR0 {:x} CR4 {fxsr:x} pending {pending}", bits << 1);
                        let mut case = Case::new(instruction, name, mode, code, Op::Unit(unit))
                            .with_bits(Field::Cr0, bits << 1)
                            .with(Field::Cr4, fxsr);
                        case.preparation = preparation;
                        cases.push(case);
                    }
                }
            }
        }
    }
}
