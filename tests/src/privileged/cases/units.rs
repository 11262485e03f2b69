//! x87, MMX and SSE under CR0.EM, MP, TS, NE and CR4.OSFXSR; FXSAVE and FXRSTOR.

use super::super::Field;
use super::super::case::{Case, Mode};
use super::super::driver::Preparation;
use super::super::layout::{self as at, Raw, selector};
use super::super::op::{Op, Unit};
use super::super::units::{self, offset};
use super::super::world::{access, flag, kind};
use super::{direct, levels};

/// Bits of CR4.
const OSFXSR: u32 = 1 << 9;
/// Bits of CR0.
const EM: u32 = 1 << 2;
const TS: u32 = 1 << 3;

pub(super) fn add(cases: &mut Vec<Case>) {
    for mode in levels() {
        images(cases, mode);
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

/// FXSAVE and FXRSTOR of an image at `address`. What is there is not what the registers hold.
fn image(mode: Mode, restore: bool, name: String, address: u32, image: &[u8]) -> Case {
    let save = direct(mode, &[0x0F, 0xAE], 0, address);
    let offset = address;
    let case = if restore {
        let mut code = direct(mode, &[0x0F, 0xAE], 1, address);
        code.extend(save);
        Case::new("FXRSTOR", name, mode, code, Op::FxRestore { offset })
    } else {
        Case::new("FXSAVE", name, mode, save, Op::FxSave { offset })
    };
    let case = case
        .bytes(address, image)
        .prepared(Preparation::Units)
        .with(Field::Cr4, OSFXSR);
    // Where the last x87 instruction was. Ringshift's is the host's: AMD's processors keep it only with an
    // exception pending, later ones of Intel without the selectors (Intel SDM vol. 1, section 8.1.8).
    [offset::FIP, offset::FCS, offset::FDP, offset::FDS]
        .into_iter()
        .fold(case, |case, at| {
            case.undefined_bits(address + at as u32, !0)
        })
        .undefined_bits(address + offset::FTW as u32, 0xFFFF_0000)
}

fn images(cases: &mut Vec<Case>, mode: Mode) {
    let other = units::image(0x4A, false);
    let mut push = |name: &str, address: u32, bytes: &[u8], set: &dyn Fn(Case) -> Case| {
        for restore in [false, true] {
            let case = image(mode, restore, name.to_owned(), address, bytes);
            cases.push(set(case));
        }
    };
    for bits in [0, EM, TS, EM | TS] {
        for fxsr in [0, OSFXSR] {
            for preparation in [Preparation::Units, Preparation::UnitsPending] {
                let pending = u32::from(preparation == Preparation::UnitsPending);
                let name = format!("CR0 {bits:x} CR4 {fxsr:x} pending {pending}");
                push(&name, at::DATA, &other, &|case| {
                    let case = case
                        .with_bits(Field::Cr0, bits)
                        .with(Field::Cr4, fxsr)
                        .prepared(preparation);
                    if fxsr != 0 {
                        return case;
                    }
                    // Up to the processor without OSFXSR: MXCSR, its mask, XMM registers.
                    let sse = (offset::MXCSR..offset::ST).chain(offset::XMM..units::WRITTEN);
                    sse.step_by(4).fold(case, |case, at| {
                        case.undefined_bits(at::DATA + at as u32, !0)
                    })
                });
            }
        }
    }
    for misaligned in [1, 2, 4, 8, 15] {
        for bits in [0, TS] {
            let name = format!("misaligned by {misaligned}, CR0 {bits:x}");
            push(&name, at::DATA + misaligned, &other, &|case| {
                case.with_bits(Field::Cr0, bits)
            });
        }
    }
    // An image with an exception pending: loading it is not an occasion to report it.
    push(
        "an exception in the image",
        at::DATA,
        &units::image(0x5B, true),
        &|case| case,
    );
    for bit in 0..32 {
        let mut reserved = other;
        let mxcsr = 1u32 << bit;
        reserved[offset::MXCSR..offset::MXCSR_MASK].copy_from_slice(&mxcsr.to_le_bytes());
        let name = format!("MXCSR {mxcsr:x}");
        push(&name, at::DATA, &reserved, &|case| case);
    }
    if mode.is_protected() {
        for (name, limit) in [
            ("within the limit", at::DATA + 0x1FF),
            ("beyond the limit", at::DATA + 0x1FE),
        ] {
            push(name, at::DATA, &other, &|case| {
                let cpl = mode.cpl();
                let raw = Raw::segment(0, limit, access(cpl, kind::DATA), flag::DB);
                case.descriptor(selector::VICTIM, raw)
                    .with(Field::Ds, u32::from(selector::VICTIM) + u32::from(cpl))
            });
        }
    }
}
