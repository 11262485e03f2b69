//! Virtual-8086 mode.

use super::*;

#[test]
fn iopl_sensitive_instructions() {
    let codes: [&[u8]; 6] = [&[0xFA], &[0xFB], &[0x9C], &[0x9D], &[0xCF], &[0xCD, 0x80]];
    for code in codes {
        assert_eq!(Machine::v86(2).run(code), gp0(), "{code:02x?}");
        assert!(Machine::v86(3).run(code).is_ok(), "{code:02x?}");
    }
    // INT3 is not one of them; its gate has DPL 0.
    assert_eq!(Machine::v86(0).run(&[0xCC]), fault(13, 3 * 8 + 2));
    assert_eq!(Machine::v86(3).run(&[0xF4]), gp0(), "HLT");
    assert_eq!(
        Machine::v86(3).run(&[0x0F, 0x20, 0xC0]),
        gp0(),
        "MOV EAX, CR0"
    );
    assert_eq!(Machine::v86(3).run(&[0x0F, 0x00, 0xC8]), ud(), "STR");
}

#[test]
fn popf_and_iret_keep_iopl_and_vm() {
    let mut m = Machine::v86(3);
    m.put_stack32(&[0]);
    assert_eq!(m.run(&[0x66, 0x9D]), Ok(Flow::Next));
    assert_eq!(m.cpu.eflags, eflags::FIXED | eflags::VM | eflags::IOPL);
    m.put_stack32(&[0x10, 0x2000, eflags::IF]);
    assert_eq!(m.run(&[0x66, 0xCF]), Ok(Flow::Jumped));
    assert_eq!(
        m.cpu.eflags,
        eflags::FIXED | eflags::VM | eflags::IOPL | eflags::IF
    );
    assert_eq!(m.cpu.seg[seg::CS], Segment::virtual_8086(0x2000));
}

#[test]
fn pushf_shows_neither_vm_nor_rf() {
    let mut m = Machine::v86(3);
    m.cpu.eflags |= eflags::RF;
    assert_eq!(m.run(&[0x66, 0x9C]), Ok(Flow::Next));
    assert_eq!(m.stack32(), [eflags::FIXED | eflags::IF | eflags::IOPL]);
    assert_eq!(m.cpu.eflags & eflags::RF, 0, "the instruction is done");
}

#[test]
fn interrupts_lead_to_level_0_only() {
    let mut m = Machine::v86(3);
    m.set64(IDT + 0x21 * 8, gate(sel::CODE3, HANDLER, 0xEE, 0));
    assert_eq!(m.run(&[0xCD, 0x21]), fault(13, 0x18));
    m.set64(IDT + 0x21 * 8, gate(sel::CONFORMING, HANDLER, 0xEE, 0));
    assert_eq!(m.run(&[0xCD, 0x21]), fault(13, 0x38));
    m.set64(IDT + 0x21 * 8, gate(sel::CODE0, HANDLER, 0xEE, 0));
    assert_eq!(m.run(&[0xCD, 0x21]), Ok(Flow::Interrupted));
    let [eip, cs, flags] = m.stack32();
    assert_eq!((eip, cs), (0x102, 0x1000));
    assert_eq!(
        flags,
        eflags::FIXED | eflags::VM | eflags::IF | eflags::IOPL
    );
    assert_eq!(m.cpu.cpl, 0);
}

#[test]
fn segment_loads_are_paragraphs() {
    let mut m = Machine::v86(0);
    m.cpu.gpr[reg::EAX] = 0xFFFF;
    assert_eq!(m.run(&[0x8E, 0xC0]), Ok(Flow::Next));
    assert_eq!(m.cpu.seg[seg::ES], Segment::virtual_8086(0xFFFF));
    assert_eq!(m.system().segment_access(seg::ES, 0xFFFF, 2, true), gp0());
    assert!((0..6).all(|n| m.system().reversible(n)));
}

#[test]
fn ports_need_the_bitmap_whatever_iopl() {
    let mut m = Machine::v86(3);
    m.set(TSS + 0x68, &[0; 16]);
    m.set(TSS + 0x68 + 0x60 / 8, &[0x10]);
    m.cpu.gpr[reg::EDX] = 0x64;
    assert_eq!(m.run(&[0xEC]), gp0());
    m.cpu.gpr[reg::EDX] = 0x65;
    assert_eq!(m.run(&[0xEC]), Ok(Flow::Next));
    m.cpu.gpr[reg::EDX] = 0x63;
    assert_eq!(m.run(&[0xED]), gp0(), "ports 63h and 64h");
}
