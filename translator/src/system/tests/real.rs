//! Real mode.

use super::*;
use crate::state::InterruptShadow;

#[test]
fn int_pushes_three_words_and_clears_if_and_tf() {
    let mut m = Machine::real();
    m.set32(0x21 * 4, 0xF000_1234);
    m.cpu.eflags |= eflags::IF | eflags::CF | eflags::DF;
    assert_eq!(m.run(&[0xCD, 0x21]), Ok(Flow::Interrupted));
    assert_eq!(m.cpu.eip, 0x1234);
    assert_eq!(m.cpu.seg[seg::CS], Segment::real(0xF000));
    assert_eq!(m.cpu.gpr[reg::ESP], STACK0 - 6);
    assert_eq!(m.stack16(), [2, 0x1000, 0x0603]);
    assert_eq!(m.cpu.eflags, eflags::FIXED | eflags::CF | eflags::DF);
    assert_eq!(m.run(&[0xCF]), Ok(Flow::Jumped));
    assert_eq!((m.cpu.eip, m.cpu.seg[seg::CS].base), (2, 0x10000));
    assert_eq!(m.cpu.eflags, 0x0603);
    assert_eq!(m.cpu.gpr[reg::ESP], STACK0);
}

#[test]
fn pushes_wrap_in_a_16_bit_stack() {
    let mut m = Machine::real();
    m.cpu.gpr[reg::ESP] = 0x7777_0002;
    m.set32(3 * 4, 0x2000_0000);
    assert_eq!(m.run(&[0xCC]), Ok(Flow::Interrupted));
    assert_eq!(m.cpu.gpr[reg::ESP], 0x7777_FFFC);
    assert_eq!(
        (m.get16(0), m.get16(0xFFFE), m.get16(0xFFFC)),
        (2, 0x1000, 1)
    );
}

#[test]
fn a_word_across_the_end_of_the_stack_segment_faults() {
    let mut m = Machine::real();
    m.cpu.gpr[reg::ESP] = 1;
    assert_eq!(m.run(&[0x9C]), fault(12, 0));
    // The handler cannot be entered either: double fault, and that one fails too.
    assert_eq!(m.deliver(Exception::stack_fault()), Err(Shutdown));
}

#[test]
fn a_short_idt_shuts_down() {
    let mut m = Machine::real();
    m.cpu.idtr.limit = 3;
    assert_eq!(m.run(&[0xCC]), fault(13, 3 * 8 + 2));
    assert_eq!(m.deliver(Exception::general_protection()), Err(Shutdown));
}

#[test]
fn segment_loads_keep_limit_and_size() {
    let mut m = Machine::real();
    m.cpu.seg[seg::DS].limit = 0xFFFF_FFFF;
    m.cpu.seg[seg::DS].rights |= Rights::BIG | Rights::GRANULARITY;
    m.cpu.gpr[reg::EAX] = 0x1234;
    assert_eq!(m.run(&[0x8E, 0xD8]), Ok(Flow::Next));
    let ds = m.cpu.seg[seg::DS];
    assert_eq!(
        (ds.selector, ds.base, ds.limit),
        (0x1234, 0x12340, 0xFFFF_FFFF)
    );
    assert!(ds.is_big());
    assert_eq!(m.cpu.interrupt_shadow, InterruptShadow::None);
    assert_eq!(m.run(&[0x8E, 0xD0]), Ok(Flow::Next));
    assert_eq!(m.cpu.seg[seg::SS], Segment::real(0x1234));
    assert_eq!(m.cpu.interrupt_shadow, InterruptShadow::MovSs);
}

#[test]
fn mov_cs_is_invalid() {
    assert_eq!(Machine::real().run(&[0x8E, 0xC8]), ud());
}

#[test]
fn far_call_and_return() {
    let mut m = Machine::real();
    assert_eq!(m.run(&[0x9A, 0x34, 0x12, 0x00, 0x20]), Ok(Flow::Jumped));
    assert_eq!((m.cpu.eip, m.cpu.seg[seg::CS].base), (0x1234, 0x20000));
    assert_eq!(m.stack16(), [5, 0x1000]);
    assert_eq!(m.run(&[0xCA, 0x04, 0x00]), Ok(Flow::Jumped));
    assert_eq!((m.cpu.eip, m.cpu.seg[seg::CS].base), (5, 0x10000));
    assert_eq!(m.cpu.gpr[reg::ESP], STACK0 + 4);
}

#[test]
fn far_jump_through_memory_and_beyond_the_limit() {
    let mut m = Machine::real();
    m.set32(0x500, 0x4321_0010);
    assert_eq!(m.run(&[0xFF, 0x2E, 0x00, 0x05]), Ok(Flow::Jumped));
    assert_eq!((m.cpu.eip, m.cpu.seg[seg::CS].selector), (0x10, 0x4321));
    // 32-bit operand size: EIP 10000h is outside the 64 KiB limit.
    assert_eq!(m.run(&[0x66, 0xEA, 0, 0, 1, 0, 0, 0]), gp0());
}

#[test]
fn memory_operands_wrap_at_64_kib_and_respect_the_limit() {
    let mut m = Machine::real();
    m.cpu.gpr[reg::EBX] = 0xFFF0;
    m.cpu.gpr[reg::ESI] = 0x0020;
    m.set16(0x10, 0x5555);
    // MOV DS, [BX+SI]
    assert_eq!(m.run(&[0x8E, 0x18]), Ok(Flow::Next));
    assert_eq!(m.cpu.seg[seg::DS].selector, 0x5555);
    m.cpu.gpr[reg::ESI] = 0xF;
    assert_eq!(m.run(&[0x8E, 0x18]), gp0());
}

#[test]
fn les_loads_both() {
    let mut m = Machine::real();
    m.set32(0x600, 0x9000_00AA);
    m.cpu.gpr[reg::EDI] = 0xFFFF_FFFF;
    assert_eq!(m.run(&[0xC4, 0x3E, 0x00, 0x06]), Ok(Flow::Next));
    assert_eq!(m.cpu.gpr[reg::EDI], 0xFFFF_00AA);
    assert_eq!(m.cpu.seg[seg::ES].base, 0x90000);
}

#[test]
fn protected_mode_instructions_are_invalid() {
    let mut m = Machine::real();
    let codes: [&[u8]; 6] = [
        &[0x0F, 0x00, 0xD8], // LTR AX
        &[0x0F, 0x00, 0xD0], // LLDT AX
        &[0x0F, 0x00, 0xC8], // STR AX
        &[0x0F, 0x00, 0xE0], // VERR AX
        &[0x0F, 0x02, 0xC0], // LAR AX, AX
        &[0x63, 0xC0],       // ARPL AX, AX
    ];
    for code in codes {
        assert_eq!(m.run(code), ud(), "{code:02x?}");
    }
    assert_eq!(m.run(&[0x0F, 0x34]), gp0(), "SYSENTER");
}

#[test]
fn entering_protected_mode() {
    let mut m = Machine::protected();
    m.cpu.cr0 &= !cr0::PE;
    m.cpu.seg = [Segment::real(0); 6];
    m.cpu.gpr[reg::EAX] = m.cpu.cr0 | cr0::PE;
    assert_eq!(m.run(&[0x0F, 0x22, 0xC0]), Ok(Flow::Next));
    // Still 16-bit code, until the far jump.
    assert_eq!(
        m.run(&[0x66, 0xEA, 0x78, 0x56, 0x34, 0x12, 0x08, 0x00]),
        Ok(Flow::Jumped)
    );
    assert_eq!(m.cpu.seg[seg::CS], Segment::flat(sel::CODE0, true, 0));
    assert_eq!(m.cpu.eip, 0x1234_5678);
    m.cpu.gpr[reg::EAX] = u32::from(sel::DATA0);
    assert_eq!(m.run(&[0x8E, 0xD0]), Ok(Flow::Next));
    assert_eq!(m.cpu.seg[seg::SS], Segment::flat(sel::DATA0, false, 0));
}

#[test]
fn popf_reaches_every_flag() {
    let mut m = Machine::real();
    m.put_stack32(&[0xFFFF_FFFF]);
    assert_eq!(m.run(&[0x66, 0x9D]), Ok(Flow::Next));
    let expected = 0x7FD7 | eflags::AC | eflags::ID;
    assert_eq!(m.cpu.eflags, expected, "no VM, RF, VIF, VIP");
    assert_eq!(m.run(&[0x66, 0x9C]), Ok(Flow::Next));
    assert_eq!(m.stack32(), [expected]);
}

#[test]
fn sti_shadows_only_when_it_sets_if() {
    let mut m = Machine::real();
    assert_eq!(m.run(&[0xFB]), Ok(Flow::Next));
    assert_eq!(m.cpu.interrupt_shadow, InterruptShadow::Sti);
    assert!(!m.cpu.accepts_interrupts());
    assert_eq!(m.run(&[0xFB]), Ok(Flow::Next));
    assert_eq!(m.cpu.interrupt_shadow, InterruptShadow::None);
    assert_eq!(m.run(&[0xF4]), Ok(Flow::Halt));
    assert_eq!(m.cpu.eip, 3);
    assert_eq!(m.run(&[0xFA]), Ok(Flow::Next));
    assert!(!m.cpu.interrupt_flag());
}

#[test]
fn enter_copies_the_display() {
    let mut m = Machine::real();
    m.cpu.gpr[reg::EBP] = 0x7000;
    m.set16(0x6FFE, 0xAAAA);
    m.set16(0x6FFC, 0xBBBB);
    assert_eq!(m.run(&[0xC8, 0x10, 0x00, 0x03]), Ok(Flow::Next));
    assert_eq!(m.cpu.gpr[reg::EBP], STACK0 - 2);
    assert_eq!(m.cpu.gpr[reg::ESP], STACK0 - 8 - 0x10);
    let words: [u16; 4] = std::array::from_fn(|n| m.get16(STACK0 - 2 - n as u32 * 2));
    assert_eq!(words, [0x7000, 0xAAAA, 0xBBBB, (STACK0 - 2) as u16]);
}

#[test]
fn bound_and_aam_fault() {
    let mut m = Machine::real();
    m.set32(0x500, 0x0005_FFFB);
    for (value, inside) in [(0xFFFA, false), (0xFFFB, true), (5, true), (6, false)] {
        m.cpu.gpr[reg::EAX] = value;
        let expected = if inside {
            Ok(Flow::Next)
        } else {
            Err(Exception::fault(5))
        };
        assert_eq!(m.run(&[0x62, 0x06, 0x00, 0x05]), expected, "{value:#x}");
    }
    assert_eq!(m.run(&[0xD4, 0x00]), Err(Exception::fault(0)));
}
