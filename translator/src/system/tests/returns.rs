//! RETF and IRET in protected mode, SYSENTER and SYSEXIT.

use super::*;

/// A frame for IRET to CPL 3.
fn user_frame(cs: u16, flags: u32, ss: u16) -> [u32; 5] {
    [0x1234_5678, u32::from(cs), flags, 0x9000, u32::from(ss)]
}

fn kernel(frame: &[u32]) -> Machine {
    let mut m = Machine::protected();
    m.cpu.gpr[reg::ESP] = STACK0 - 0x40;
    m.put_stack32(frame);
    m
}

#[test]
fn iret_to_user_mode() {
    let mut m = kernel(&user_frame(sel::CODE3, 0xFFFD_FFFF, sel::DATA3));
    m.cpu.seg[seg::FS] = Segment::flat(sel::DATA3, false, 3);
    m.cpu.seg[seg::GS] = Segment::null(2);
    assert_eq!(m.run(&[0xCF]), Ok(Flow::Jumped));
    assert_eq!(
        (m.cpu.cpl, m.cpu.eip, m.cpu.gpr[reg::ESP]),
        (3, 0x1234_5678, 0x9000)
    );
    assert_eq!(m.cpu.seg[seg::CS], Segment::flat(sel::CODE3, true, 3));
    assert_eq!(m.cpu.seg[seg::SS], Segment::flat(sel::DATA3, false, 3));
    // Segments of the inner level are dropped, those of the outer one and null ones stay.
    assert_eq!(m.cpu.seg[seg::DS], Segment::null(0));
    assert_eq!(m.cpu.seg[seg::ES], Segment::null(0));
    assert_eq!(m.cpu.seg[seg::FS].selector, sel::DATA3);
    assert_eq!(m.cpu.seg[seg::GS], Segment::null(2));
    assert_eq!(
        m.cpu.eflags,
        0x7FD7 | eflags::RF | eflags::AC | eflags::ID,
        "RF is loaded, VM is not"
    );
}

#[test]
fn iret_at_cpl_3_keeps_if_and_iopl() {
    let mut m = Machine::user();
    m.put_stack32(&[0x1000, u32::from(sel::CODE3), 0x3000 | eflags::CF]);
    assert_eq!(m.run(&[0xCF]), Ok(Flow::Jumped));
    assert_eq!(m.cpu.eflags, eflags::FIXED | eflags::IF | eflags::CF);
    // With IOPL 3 IF follows, IOPL still does not.
    m.cpu.eflags |= eflags::IOPL;
    m.put_stack32(&[0x1000, u32::from(sel::CODE3), 0]);
    assert_eq!(m.run(&[0xCF]), Ok(Flow::Jumped));
    assert_eq!(m.cpu.eflags, eflags::FIXED | eflags::IOPL);
    // VM in the image means nothing at CPL 3.
    m.put_stack32(&[0x1000, u32::from(sel::CODE3), eflags::VM]);
    assert_eq!(m.run(&[0xCF]), Ok(Flow::Jumped));
    assert!(!m.cpu.virtual_8086());
}

#[test]
fn iret_faults() {
    for (frame, expected) in [
        (user_frame(0, 2, sel::DATA3), gp0()),
        (user_frame(sel::DATA3, 2, sel::DATA3), fault(13, 0x20)),
        (user_frame(sel::CODE3 & !3, 2, sel::DATA3), fault(13, 0x18)),
        (user_frame(sel::CODE0 | 3, 2, sel::DATA3), fault(13, 0x08)),
        (
            user_frame(sel::END, 2, sel::DATA3),
            fault(13, u32::from(sel::END)),
        ),
        (user_frame(sel::CODE3, 2, 0), gp0()),
        (user_frame(sel::CODE3, 2, sel::DATA0), fault(13, 0x10)),
        (user_frame(sel::CODE3, 2, sel::ABSENT | 3), fault(12, 0x50)),
        (
            user_frame(sel::CODE3, 2, sel::READ_ONLY | 3),
            fault(13, 0x70),
        ),
    ] {
        let mut m = kernel(&frame);
        m.cpu.nmi_blocked = true;
        assert_eq!(m.run(&[0xCF]), expected, "{frame:x?}");
    }
    let mut m = Machine::user();
    m.put_stack32(&[0, u32::from(sel::CODE0), 2]);
    assert_eq!(m.run(&[0xCF]), fault(13, 0x08), "to an inner level");
}

#[test]
fn iret_to_a_16_bit_stack_keeps_the_upper_half_of_esp() {
    let mut m = kernel(&user_frame(sel::CODE3, 2, 0x0F));
    m.set64(LDT + 8, descriptor(0, 0xFFFF, 0xF3, 0));
    m.cpu.gpr[reg::ESP] = STACK0 - 0x40;
    assert_eq!(m.run(&[0xCF]), Ok(Flow::Jumped));
    assert_eq!(m.cpu.gpr[reg::ESP], 0x9000);
    let mut m = kernel(&[]);
    m.cpu.gpr[reg::ESP] = 0x0011_0000;
    m.put_stack32(&user_frame(sel::CODE3, 2, 0x0F));
    m.set64(LDT + 8, descriptor(0, 0xFFFF, 0xF3, 0));
    assert_eq!(m.run(&[0xCF]), Ok(Flow::Jumped));
    assert_eq!(m.cpu.gpr[reg::ESP], 0x0011_9000);
}

#[test]
fn iret_16_bit_operands() {
    let mut m = Machine::protected();
    m.cpu.gpr[reg::ESP] = STACK0 - 6;
    m.cpu.eflags |= eflags::AC;
    m.set(STACK0 - 6, &[0x34, 0x12, 0x08, 0x00, 0x01, 0x02]);
    assert_eq!(m.run(&[0x66, 0xCF]), Ok(Flow::Jumped));
    assert_eq!((m.cpu.eip, m.cpu.gpr[reg::ESP]), (0x1234, STACK0));
    assert_eq!(m.cpu.eflags, 0x203 | eflags::AC);
}

#[test]
fn retf_same_level_releases_parameters() {
    let mut m = Machine::user();
    m.put_stack32(&[0x777, u32::from(sel::CODE3)]);
    assert_eq!(m.run(&[0xCA, 0x10, 0]), Ok(Flow::Jumped));
    assert_eq!((m.cpu.eip, m.cpu.gpr[reg::ESP]), (0x777, STACK3 + 0x18));
    m.put_stack32(&[0, u32::from(sel::CONFORMING | 3)]);
    assert_eq!(m.run(&[0xCB]), Ok(Flow::Jumped));
    assert_eq!(m.cpu.seg[seg::CS].selector, sel::CONFORMING | 3);
}

#[test]
fn a_stack_that_ends_too_soon() {
    let mut m = Machine::protected();
    m.cpu.seg[seg::SS].limit = STACK0 + 7;
    assert_eq!(m.run(&[0xCF]), fault(12, 0));
}

#[test]
fn iret_to_virtual_8086_mode_and_back_by_an_interrupt() {
    let flags = eflags::VM | eflags::IF | eflags::FIXED;
    let mut m = kernel(&[
        0x100, 0x1000, flags, 0x200, 0xA00, 0x111, 0x222, 0x333, 0x444,
    ]);
    assert_eq!(m.run(&[0xCF]), Ok(Flow::Jumped));
    assert!(m.cpu.virtual_8086());
    assert_eq!(
        (m.cpu.cpl, m.cpu.eip, m.cpu.gpr[reg::ESP]),
        (3, 0x100, 0x200)
    );
    for (index, selector) in [
        (seg::CS, 0x1000),
        (seg::SS, 0xA00),
        (seg::ES, 0x111),
        (seg::DS, 0x222),
        (seg::FS, 0x333),
        (seg::GS, 0x444),
    ] {
        assert_eq!(m.cpu.seg[index], Segment::virtual_8086(selector));
    }
    m.deliver(Exception::external(0x20)).unwrap();
    assert_eq!((m.cpu.cpl, m.cpu.eip), (0, HANDLER + 0x20));
    assert!(!m.cpu.virtual_8086());
    assert_eq!(
        m.stack32(),
        [
            0x100, 0x1000, flags, 0x200, 0xA00, 0x111, 0x222, 0x333, 0x444
        ]
    );
    assert_eq!(m.cpu.gpr[reg::ESP], STACK0 - 36);
    assert_eq!(m.cpu.seg[seg::DS], Segment::null(0));
    // EIP outside 64 KiB.
    let mut m = kernel(&[0x1_0000, 0x1000, flags, 0x200, 0xA00, 0, 0, 0, 0]);
    assert_eq!(m.run(&[0xCF]), gp0());
}

#[test]
fn sysenter_and_sysexit() {
    let mut m = Machine::user();
    assert_eq!(m.run(&[0x0F, 0x34]), gp0(), "no IA32_SYSENTER_CS");
    m.cpu.msrs.sysenter_cs = u32::from(sel::CODE0);
    m.cpu.msrs.sysenter_esp = 0x7000;
    m.cpu.msrs.sysenter_eip = 0xC000_1000;
    assert_eq!(m.run(&[0x0F, 0x34]), Ok(Flow::Jumped));
    assert_eq!(
        (m.cpu.cpl, m.cpu.eip, m.cpu.gpr[reg::ESP]),
        (0, 0xC000_1000, 0x7000)
    );
    assert_eq!(m.cpu.seg[seg::CS], Segment::flat(sel::CODE0, true, 0));
    assert_eq!(m.cpu.seg[seg::SS], Segment::flat(sel::DATA0, false, 0));
    assert!(!m.cpu.interrupt_flag());
    m.cpu.gpr[reg::ECX] = 0xBFFF_0000;
    m.cpu.gpr[reg::EDX] = 0x0804_8000;
    assert_eq!(m.run(&[0x0F, 0x35]), Ok(Flow::Jumped));
    assert_eq!(
        (m.cpu.cpl, m.cpu.eip, m.cpu.gpr[reg::ESP]),
        (3, 0x0804_8000, 0xBFFF_0000)
    );
    assert_eq!(m.cpu.seg[seg::CS], Segment::flat(sel::CODE3, true, 3));
    assert_eq!(m.cpu.seg[seg::SS], Segment::flat(sel::DATA3, false, 3));
    assert_eq!(m.run(&[0x0F, 0x35]), gp0(), "privileged");
    m.model = CpuModel::Pentium;
    assert_eq!(m.run(&[0x0F, 0x34]), ud());
}
