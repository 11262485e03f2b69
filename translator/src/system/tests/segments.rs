//! Segment loads and descriptor queries in protected mode.

use super::*;
use crate::state::InterruptShadow;

/// MOV DS, AX with a selector.
fn mov_ds(m: &mut Machine, selector: u16) -> Result<Flow, Exception> {
    m.cpu.gpr[reg::EAX] = u32::from(selector);
    m.run(&[0x8E, 0xD8])
}

#[test]
fn data_loads_are_checked() {
    let mut m = Machine::user();
    assert_eq!(mov_ds(&mut m, sel::DATA3), Ok(Flow::Next));
    assert_eq!(m.cpu.seg[seg::DS], Segment::flat(sel::DATA3, false, 3));
    assert_eq!(mov_ds(&mut m, sel::DATA0), fault(13, 0x10), "DPL 0");
    assert_eq!(mov_ds(&mut m, sel::ABSENT | 3), fault(11, 0x50));
    assert_eq!(
        mov_ds(&mut m, sel::END | 3),
        fault(13, u32::from(sel::END)),
        "limit"
    );
    assert_eq!(mov_ds(&mut m, sel::TSS), fault(13, 0x28), "system segment");
    assert_eq!(mov_ds(&mut m, sel::EXECUTE_ONLY | 3), fault(13, 0x88));
    assert_eq!(
        mov_ds(&mut m, sel::CONFORMING),
        Ok(Flow::Next),
        "readable conforming code"
    );
    assert_eq!(mov_ds(&mut m, 0x7 | 0x100), fault(13, 0x104), "LDT limit");
}

#[test]
fn rpl_weakens_a_data_load() {
    let mut m = Machine::protected();
    assert_eq!(mov_ds(&mut m, sel::DATA0), Ok(Flow::Next));
    assert_eq!(mov_ds(&mut m, sel::DATA0 | 3), fault(13, 0x10));
}

#[test]
fn a_null_selector_loads_and_faults_at_use() {
    let mut m = Machine::user();
    assert_eq!(mov_ds(&mut m, 3), Ok(Flow::Next));
    assert_eq!(m.cpu.seg[seg::DS], Segment::null(3));
    assert_eq!(m.system().segment_access(seg::DS, 0, 1, false), gp0());
    m.cpu.gpr[reg::EAX] = 3;
    assert_eq!(m.run(&[0x8E, 0xD0]), gp0(), "SS");
}

#[test]
fn ss_loads_are_checked() {
    let mut m = Machine::user();
    for (selector, expected) in [
        (sel::DATA0, fault(13, 0x10)),
        (sel::DATA3 & !3, fault(13, 0x20)),
        (sel::READ_ONLY | 3, fault(13, 0x70)),
        (sel::ABSENT | 3, fault(12, 0x50)),
        (sel::CODE3, fault(13, 0x18)),
        (sel::DATA3, Ok(Flow::Next)),
    ] {
        m.cpu.gpr[reg::EAX] = u32::from(selector);
        assert_eq!(m.run(&[0x8E, 0xD0]), expected, "{selector:#x}");
    }
    assert_eq!(m.cpu.interrupt_shadow, InterruptShadow::MovSs);
}

#[test]
fn the_accessed_bit_is_set_once_loaded() {
    let mut m = Machine::user();
    assert_eq!(m.get::<8>(GDT + 0x70)[5], 0xF0);
    assert_eq!(mov_ds(&mut m, sel::READ_ONLY | 3), Ok(Flow::Next));
    assert_eq!(m.get::<8>(GDT + 0x70)[5], 0xF1);
    let ds = m.cpu.seg[seg::DS];
    assert_eq!(
        (ds.base, ds.limit, ds.rights.bits()),
        (0x20000, 0xFFF, 0x40F1)
    );
    let system = m.system();
    assert_eq!(system.segment_access(seg::DS, 0xFFC, 4, false), Ok(0x20FFC));
    assert_eq!(system.segment_access(seg::DS, 0xFFD, 4, false), gp0());
    assert_eq!(
        system.segment_access(seg::DS, 0, 1, true),
        gp0(),
        "read-only"
    );
}

#[test]
fn ldt_selectors() {
    let mut m = Machine::user();
    m.set64(LDT + 8, descriptor(0x30000, 0xF, 0xF3, 0x4));
    assert_eq!(mov_ds(&mut m, 0x0F), Ok(Flow::Next));
    assert_eq!(
        (m.cpu.seg[seg::DS].base, m.cpu.seg[seg::DS].limit),
        (0x30000, 0xF)
    );
    m.cpu.ldtr = Segment::null(0);
    assert_eq!(mov_ds(&mut m, 0x0F), fault(13, 0x0C));
}

#[test]
fn expand_down_limits() {
    let mut m = Machine::user();
    m.cpu.seg[seg::ES].rights |= Rights::DOWN_CONFORMING;
    m.cpu.seg[seg::ES].limit = 0xFFF;
    let system = m.system();
    assert_eq!(system.segment_access(seg::ES, 0xFFF, 1, false), gp0());
    assert_eq!(system.segment_access(seg::ES, 0x1000, 4, false), Ok(0x1000));
    assert_eq!(system.segment_access(seg::ES, 0xFFFF_FFFD, 4, false), gp0());
    m.cpu.seg[seg::ES].rights.remove(Rights::BIG);
    let system = m.system();
    assert_eq!(system.segment_access(seg::ES, 0xFFFE, 2, false), Ok(0xFFFE));
    assert_eq!(system.segment_access(seg::ES, 0xFFFF, 2, false), gp0());
}

#[test]
fn push_and_pop_segment() {
    let mut m = Machine::user();
    m.set32(STACK3 - 4, 0xFFFF_FFFF);
    assert_eq!(m.run(&[0x0F, 0xA0]), Ok(Flow::Next));
    assert_eq!(m.stack32(), [u32::from(sel::DATA3)]);
    assert_eq!(m.run(&[0x0F, 0xA9]), Ok(Flow::Next));
    assert_eq!(m.cpu.gpr[reg::ESP], STACK3);
    m.put_stack32(&[u32::from(sel::DATA0)]);
    assert_eq!(m.run(&[0x1F]), fault(13, 0x10), "POP DS");
    m.put_stack32(&[u32::from(sel::DATA3)]);
    assert_eq!(m.run(&[0x66, 0x17]), Ok(Flow::Next), "POP SS");
    assert_eq!(m.cpu.gpr[reg::ESP], STACK3 + 2);
    assert_eq!(m.cpu.interrupt_shadow, InterruptShadow::MovSs);
}

#[test]
fn lss_needs_memory_and_loads_the_segment_first() {
    let mut m = Machine::user();
    m.set(0x6000, &[0x44, 0x33, 0x22, 0x11, 0x23, 0x00]);
    // LSS ESP, [6000h]
    let code = [0x0F, 0xB2, 0x25, 0x00, 0x60, 0x00, 0x00];
    assert_eq!(m.run(&code), Ok(Flow::Next));
    assert_eq!(m.cpu.gpr[reg::ESP], 0x1122_3344);
    m.set(0x6004, &[0x10]);
    assert_eq!(m.run(&code), fault(13, 0x10));
}

#[test]
fn reversible_segments() {
    let mut m = Machine::user();
    for index in 0..6 {
        assert!(m.system().reversible(index), "{index}");
    }
    assert_eq!(m.system().irreversible(), 0);
    // Not accessed in memory, which does not matter.
    m.set64(GDT + 0x20, descriptor(0, 0xFFFFF, 0xF2, 0xC));
    assert!(m.system().reversible(seg::DS));
    assert_eq!(m.get::<8>(GDT + 0x20)[5], 0xF2, "no side effect");
    m.set64(GDT + 0x20, descriptor(0x1000, 0xFFFFF, 0xF3, 0xC));
    assert!(
        !m.system().reversible(seg::DS),
        "the table has another base"
    );
    assert!(m.system().reversible(seg::CS));
    m.cpu.seg[seg::DS] = Segment::null(0);
    assert!(m.system().reversible(seg::DS));
    m.cpu.seg[seg::DS] = Segment::flat(0, false, 3);
    assert!(
        !m.system().reversible(seg::DS),
        "null selector, usable hidden part"
    );
    m.cpu.seg[seg::SS] = Segment::flat(sel::END | 3, false, 3);
    assert!(!m.system().reversible(seg::SS), "outside the table");
    m.cpu.seg[seg::CS] = Segment::flat(sel::CODE3, true, 0);
    assert!(!m.system().reversible(seg::CS), "another DPL");
}

#[test]
fn lar_lsl_verr_verw() {
    let mut m = Machine::user();
    let zf = |m: &Machine| m.cpu.eflags & eflags::ZF != 0;
    for (selector, lar, lsl, verr, verw) in [
        (sel::DATA3, Some(0x00C0_F300), Some(0xFFFF_FFFF), true, true),
        (
            sel::READ_ONLY | 3,
            Some(0x0040_F000),
            Some(0xFFF),
            true,
            false,
        ),
        (
            sel::CODE3,
            Some(0x00C0_FB00),
            Some(0xFFFF_FFFF),
            true,
            false,
        ),
        (
            sel::EXECUTE_ONLY | 3,
            Some(0x00C0_F900),
            Some(0xFFFF_FFFF),
            false,
            false,
        ),
        (
            sel::CONFORMING | 3,
            Some(0x00C0_9F00),
            Some(0xFFFF_FFFF),
            true,
            false,
        ),
        (sel::CALL_GATE | 3, Some(0x0000_EC00), None, false, false),
        (sel::DATA0, None, None, false, false),
        (0, None, None, false, false),
        (sel::END, None, None, false, false),
    ] {
        m.cpu.gpr[reg::EAX] = u32::from(selector);
        m.cpu.gpr[reg::EBX] = 0x5A5A_5A5A;
        assert_eq!(m.run(&[0x0F, 0x02, 0xD8]), Ok(Flow::Next));
        assert_eq!(zf(&m), lar.is_some(), "LAR {selector:#x}");
        assert_eq!(
            m.cpu.gpr[reg::EBX],
            lar.unwrap_or(0x5A5A_5A5A),
            "LAR {selector:#x}"
        );
        m.cpu.gpr[reg::EBX] = 0x5A5A_5A5A;
        assert_eq!(m.run(&[0x0F, 0x03, 0xD8]), Ok(Flow::Next));
        assert_eq!(zf(&m), lsl.is_some(), "LSL {selector:#x}");
        assert_eq!(
            m.cpu.gpr[reg::EBX],
            lsl.unwrap_or(0x5A5A_5A5A),
            "LSL {selector:#x}"
        );
        assert_eq!(m.run(&[0x0F, 0x00, 0xE0]), Ok(Flow::Next));
        assert_eq!(zf(&m), verr, "VERR {selector:#x}");
        assert_eq!(m.run(&[0x0F, 0x00, 0xE8]), Ok(Flow::Next));
        assert_eq!(zf(&m), verw, "VERW {selector:#x}");
    }
}

#[test]
fn lldt_and_ltr() {
    let mut m = Machine::protected();
    let load = |m: &mut Machine, modrm: u8, selector: u16| {
        m.cpu.gpr[reg::EAX] = u32::from(selector);
        m.run(&[0x0F, 0x00, modrm])
    };
    assert_eq!(load(&mut m, 0xD0, 0), Ok(Flow::Next));
    assert!(m.cpu.ldtr.rights.contains(Rights::UNUSABLE));
    assert_eq!(load(&mut m, 0xD0, sel::LDT), Ok(Flow::Next));
    assert_eq!((m.cpu.ldtr.base, m.cpu.ldtr.limit), (LDT, 0xFF));
    assert_eq!(load(&mut m, 0xD0, sel::DATA0), fault(13, 0x10));
    assert_eq!(load(&mut m, 0xD0, 0xC), fault(13, 0xC));
    assert_eq!(load(&mut m, 0xD8, 0), gp0());
    assert_eq!(load(&mut m, 0xD8, sel::TSS), fault(13, 0x28), "busy");
    assert_eq!(load(&mut m, 0xD8, sel::TSS_B), Ok(Flow::Next));
    assert_eq!(m.get::<8>(GDT + 0x58)[5], 0x8B, "busy in memory");
    assert_eq!((m.cpu.tr.base, m.cpu.tr.rights.bits()), (TSS_B, 0x8B));
    m.cpu.gpr[reg::EAX] = 0xFFFF_FFFF;
    assert_eq!(m.run(&[0x0F, 0x00, 0xC8]), Ok(Flow::Next), "STR EAX");
    assert_eq!(m.cpu.gpr[reg::EAX], u32::from(sel::TSS_B));
    assert_eq!(
        Machine::user().run(&[0x0F, 0x00, 0xD8]),
        gp0(),
        "privileged"
    );
}
