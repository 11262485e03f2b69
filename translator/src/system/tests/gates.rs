//! Interrupts, exceptions, far calls and jumps in protected mode.

use super::*;

#[test]
fn int_80_from_user_mode_switches_stacks() {
    let mut m = Machine::user();
    m.cpu.eflags |= eflags::CF | eflags::TF | eflags::NT;
    assert_eq!(m.run(&[0xCD, 0x80]), Ok(Flow::Interrupted));
    assert_eq!(m.cpu.cpl, 0);
    assert_eq!(m.cpu.eip, HANDLER + 0x80);
    assert_eq!(m.cpu.seg[seg::CS], Segment::flat(sel::CODE0, true, 0));
    assert_eq!(m.cpu.seg[seg::SS], Segment::flat(sel::DATA0, false, 0));
    assert_eq!(m.cpu.seg[seg::DS].selector, sel::DATA3);
    assert_eq!(m.cpu.gpr[reg::ESP], STACK0 - 20);
    let flags = eflags::FIXED | eflags::CF | eflags::TF | eflags::NT | eflags::IF;
    assert_eq!(
        m.stack32(),
        [
            CODE + 2,
            u32::from(sel::CODE3),
            flags,
            STACK3,
            u32::from(sel::DATA3)
        ]
    );
    assert_eq!(m.cpu.eflags, eflags::FIXED | eflags::CF);
}

#[test]
fn software_interrupts_need_the_gates_privilege() {
    let mut m = Machine::user();
    assert_eq!(m.run(&[0xCD, 0x20]), fault(13, 0x20 * 8 + 2));
    assert_eq!(m.run(&[0xCC]), fault(13, 3 * 8 + 2));
    assert_eq!(m.run(&[0xCD, 0x40]), fault(13, 0x40 * 8 + 2), "no gate");
    m.cpu.idtr.limit = 0x80 * 8 + 6;
    assert_eq!(m.run(&[0xCD, 0x80]), fault(13, 0x80 * 8 + 2), "limit");
    // INT1 is not checked.
    assert_eq!(m.run(&[0xF1]), Ok(Flow::Interrupted));
    assert_eq!(m.cpu.eip, HANDLER + 1);
    assert_eq!(m.stack32::<1>(), [CODE + 1]);
}

#[test]
fn into_depends_on_overflow() {
    let mut m = Machine::user();
    assert_eq!(m.run(&[0xCE]), Ok(Flow::Next));
    m.set64(IDT + 4 * 8, gate(sel::CODE0, HANDLER, 0xEF, 0));
    m.cpu.eflags |= eflags::OF;
    assert_eq!(m.run(&[0xCE]), Ok(Flow::Interrupted));
    assert!(m.cpu.interrupt_flag(), "a trap gate leaves IF alone");
}

#[test]
fn exceptions_push_error_code_and_resume_flag() {
    let mut m = Machine::user();
    m.deliver(Exception::fault_with_code(13, 0x1234)).unwrap();
    let [code, eip, _, flags] = m.stack32();
    assert_eq!((code, eip), (0x1234, CODE));
    assert_eq!(flags & eflags::RF, eflags::RF);
    assert_eq!(m.cpu.eflags & eflags::RF, 0);
    assert_eq!(m.cpu.gpr[reg::ESP], STACK0 - 24);
}

#[test]
fn traps_and_interrupts_do_not_set_rf() {
    for event in [
        Exception::debug_trap(debug_bits()),
        Exception::external(0x20),
    ] {
        let mut m = Machine::user();
        m.deliver(event).unwrap();
        assert_eq!(m.stack32::<3>()[2] & eflags::RF, 0, "{event:?}");
    }
}

fn debug_bits() -> u32 {
    crate::system::debug::dr6::BS
}

#[test]
fn single_step_sets_dr6_and_clears_general_detect() {
    let mut m = Machine::user();
    m.cpu.dr[7] |= crate::system::debug::dr7::GD;
    m.deliver(crate::system::debug::single_step_trap()).unwrap();
    assert_eq!(m.cpu.dr[6], 0xFFFF_0FF0 | 1 << 14);
    assert_eq!(m.cpu.dr[7], 0x400);
    assert_eq!(m.cpu.eip, HANDLER + 1);
}

#[test]
fn nmi_blocks_until_iret() {
    let mut m = Machine::user();
    m.deliver(Exception::nmi()).unwrap();
    assert!(m.cpu.nmi_blocked);
    assert_eq!(m.cpu.eip, HANDLER + 2);
    assert_eq!(m.run(&[0xCF]), Ok(Flow::Jumped));
    assert!(!m.cpu.nmi_blocked);
    assert_eq!((m.cpu.cpl, m.cpu.gpr[reg::ESP]), (3, STACK3));
}

#[test]
fn faults_on_the_way_have_ext_set_unless_software() {
    let mut m = Machine::user();
    m.set64(IDT + 0x80 * 8, gate(sel::CODE0, HANDLER, 0x6E, 0));
    assert_eq!(m.run(&[0xCD, 0x80]), fault(11, 0x80 * 8 + 2), "not present");
    // #NP of the gate of #BR: benign first, delivered as #NP.
    m.set64(IDT + 5 * 8, gate(sel::CODE0, HANDLER, 0x0E, 0));
    m.deliver(Exception::fault(5)).unwrap();
    assert_eq!(m.cpu.eip, HANDLER + 11);
    assert_eq!(m.stack32::<1>(), [5 * 8 + 3]);
}

#[test]
fn contributory_faults_make_a_double_fault_and_then_a_shutdown() {
    let mut m = Machine::user();
    m.set64(IDT + 13 * 8, gate(0, HANDLER, 0x8E, 0));
    m.deliver(Exception::general_protection()).unwrap();
    assert_eq!(m.cpu.eip, HANDLER + 8);
    assert_eq!(m.stack32(), [0, CODE]);
    let mut m = Machine::user();
    m.cpu.idtr.limit = 0;
    assert_eq!(m.deliver(Exception::general_protection()), Err(Shutdown));
}

#[test]
fn gates_lead_to_code_of_the_same_or_an_inner_level() {
    let mut m = Machine::user();
    for (target, expected) in [
        (0, fault(13, 0)),
        (sel::DATA0, fault(13, 0x10)),
        (sel::END, fault(13, u32::from(sel::END))),
    ] {
        m.set64(IDT + 0x80 * 8, gate(target, HANDLER, 0xEE, 0));
        assert_eq!(m.run(&[0xCD, 0x80]), expected, "{target:#x}");
    }
    m.set64(IDT + 0x80 * 8, gate(sel::CODE3, HANDLER, 0xEE, 0));
    assert_eq!(m.run(&[0xCD, 0x80]), Ok(Flow::Interrupted));
    assert_eq!((m.cpu.cpl, m.cpu.gpr[reg::ESP]), (3, STACK3 - 12));
    m.set64(IDT + 0x80 * 8, gate(sel::CONFORMING, HANDLER, 0xEE, 0));
    assert_eq!(m.run(&[0xCD, 0x80]), Ok(Flow::Interrupted));
    assert_eq!(m.cpu.seg[seg::CS].selector, sel::CONFORMING | 3);
    assert_eq!(m.cpu.cpl, 3);
    let mut m = Machine::protected();
    m.set64(IDT + 0x80 * 8, gate(sel::CODE3, HANDLER, 0xEE, 0));
    assert_eq!(m.run(&[0xCD, 0x80]), fault(13, 0x18), "outer level");
}

#[test]
fn the_inner_stack_is_checked() {
    for (ss, expected) in [
        (0, fault(10, 0)),
        (sel::DATA3, fault(10, 0x20)),
        (sel::CODE0, fault(10, 0x08)),
        (sel::END, fault(10, u32::from(sel::END))),
    ] {
        let mut m = Machine::user();
        m.set16(TSS + 8, ss);
        assert_eq!(m.run(&[0xCD, 0x80]), expected, "{ss:#x}");
    }
    let mut m = Machine::user();
    m.set64(GDT + 0x10, descriptor(0, 0xFFFFF, 0x13, 0xC));
    assert_eq!(m.run(&[0xCD, 0x80]), fault(12, 0x10), "absent");
    let mut m = Machine::user();
    m.set16(TSS + 8, sel::DATA16);
    m.set32(TSS + 4, 12);
    assert_eq!(m.run(&[0xCD, 0x80]), Ok(Flow::Interrupted), "wraps");
    assert_eq!(m.cpu.gpr[reg::ESP], 0xFFF8);
    let mut m = Machine::user();
    m.set32(TSS + 4, 0x1000);
    m.set64(GDT + 0x10, descriptor(0, 0, 0x97, 0xC));
    assert_eq!(
        m.run(&[0xCD, 0x80]),
        fault(12, 0x10),
        "no room above an expand-down limit"
    );
    let mut m = Machine::user();
    m.cpu.tr.limit = 8;
    assert_eq!(m.run(&[0xCD, 0x80]), fault(10, 0x28));
}

#[test]
fn sixteen_bit_gates_push_words() {
    let mut m = Machine::user();
    m.set64(IDT + 0x80 * 8, gate(sel::CODE0, 0xABCD_1234, 0xE6, 0));
    assert_eq!(m.run(&[0xCD, 0x80]), Ok(Flow::Interrupted));
    assert_eq!(m.cpu.eip, 0x1234);
    assert_eq!(
        m.stack16(),
        [2, sel::CODE3, 0x202, STACK3 as u16, sel::DATA3]
    );
}

#[test]
fn eip_beyond_the_limit_of_the_handler_segment() {
    let mut m = Machine::user();
    m.set64(IDT + 0x80 * 8, gate(sel::CODE16, 0x1_0000, 0xEE, 0));
    assert_eq!(m.run(&[0xCD, 0x80]), gp0());
}

#[test]
fn far_jumps() {
    let mut m = Machine::user();
    let jump = |m: &mut Machine, selector: u16| {
        let [lo, hi] = selector.to_le_bytes();
        m.run(&[0xEA, 0x44, 0x33, 0x22, 0x11, lo, hi])
    };
    for (selector, expected) in [
        (0, gp0()),
        (sel::CODE0, fault(13, 0x08)),
        (sel::DATA3, fault(13, 0x20)),
        (sel::END, fault(13, u32::from(sel::END))),
        (sel::LDT, fault(13, 0x30)),
        (sel::CALL_GATE, fault(13, 0x08)),
        (sel::CODE3 & !3, Ok(Flow::Jumped)),
    ] {
        assert_eq!(jump(&mut m, selector), expected, "{selector:#x}");
    }
    assert_eq!(m.cpu.seg[seg::CS].selector, sel::CODE3);
    assert_eq!(jump(&mut m, sel::CONFORMING), Ok(Flow::Jumped));
    assert_eq!(
        (m.cpu.seg[seg::CS].selector, m.cpu.cpl),
        (sel::CONFORMING | 3, 3)
    );
    assert_eq!(m.cpu.eip, 0x1122_3344);
}

#[test]
fn a_jump_through_a_call_gate_at_the_same_level() {
    let mut m = Machine::protected();
    assert_eq!(m.run(&[0xEA, 1, 2, 3, 4, 0x40, 0]), Ok(Flow::Jumped));
    assert_eq!(m.cpu.eip, HANDLER);
}

#[test]
fn far_call_same_level() {
    let mut m = Machine::user();
    assert_eq!(
        m.run(&[0x9A, 0x44, 0x33, 0x22, 0x11, 0x1B, 0]),
        Ok(Flow::Jumped)
    );
    assert_eq!(m.stack32(), [CODE + 7, u32::from(sel::CODE3)]);
    // 16-bit operands.
    assert_eq!(m.run(&[0x66, 0x9A, 0x44, 0x33, 0x1B, 0]), Ok(Flow::Jumped));
    assert_eq!(m.cpu.eip, 0x3344);
    assert_eq!(m.stack16(), [0x334A, sel::CODE3]);
}

#[test]
fn call_gate_copies_parameters_to_the_inner_stack() {
    let mut m = Machine::user();
    m.put_stack32(&[0xAAAA_AAAA, 0xBBBB_BBBB, 0xCCCC_CCCC]);
    assert_eq!(m.run(&[0x9A, 9, 9, 9, 9, 0x43, 0]), Ok(Flow::Jumped));
    assert_eq!((m.cpu.cpl, m.cpu.eip), (0, HANDLER));
    assert_eq!(
        m.stack32(),
        [
            CODE + 7,
            u32::from(sel::CODE3),
            0xAAAA_AAAA,
            0xBBBB_BBBB,
            STACK3,
            u32::from(sel::DATA3)
        ]
    );
    // And back, releasing the parameters on both stacks.
    assert_eq!(m.run(&[0xCA, 8, 0]), Ok(Flow::Jumped));
    assert_eq!((m.cpu.cpl, m.cpu.eip), (3, CODE + 7));
    assert_eq!(m.cpu.gpr[reg::ESP], STACK3 + 8);
    assert_eq!(m.cpu.seg[seg::SS].selector, sel::DATA3);
}

#[test]
fn sixteen_bit_call_gate() {
    let mut m = Machine::user();
    m.put_stack32(&[0xAAAA_BBBB]);
    assert_eq!(
        m.run(&[0x9A, 9, 9, 9, 9, sel::CALL_GATE16 as u8 | 3, 0]),
        Ok(Flow::Jumped)
    );
    assert_eq!(m.cpu.eip, 0x1234);
    assert_eq!(
        m.stack16(),
        [7, sel::CODE3, 0xBBBB, STACK3 as u16, sel::DATA3]
    );
}

#[test]
fn call_gate_faults() {
    let mut m = Machine::user();
    let call = [0x9A, 9, 9, 9, 9, 0x43, 0];
    for (entry, expected) in [
        (gate(sel::CODE0, HANDLER, 0x8C, 0), fault(13, 0x40)),
        (gate(sel::CODE0, HANDLER, 0x6C, 0), fault(11, 0x40)),
        (gate(0, HANDLER, 0xEC, 0), gp0()),
        (gate(sel::DATA0, HANDLER, 0xEC, 0), fault(13, 0x10)),
        (gate(sel::CODE16, 0x1_0000, 0xEC, 0), gp0()),
    ] {
        m.set64(GDT + 0x40, entry);
        assert_eq!(m.run(&call), expected, "{entry:#x}");
    }
}

#[test]
fn an_inner_16_bit_stack_gets_all_of_esp_from_the_tss() {
    let enter = |mut m: Machine, code: &[u8]| {
        m.set32(TSS + 4, 0x1234_0000 | STACK0);
        m.set32(TSS + 8, u32::from(sel::DATA16));
        m.cpu.gpr[reg::ESP] |= 0xABCD_0000;
        m.run(code).unwrap();
        assert_eq!(m.cpu.seg[seg::SS].selector, sel::DATA16);
        m.cpu.gpr[reg::ESP]
    };
    let expected = |frame: u32| 0x1234_0000 | (STACK0 - frame);
    assert_eq!(enter(Machine::user(), &[0xCD, 0x80]), expected(20));
    assert_eq!(enter(Machine::v86(3), &[0xCD, 0x80]), expected(36));
    let mut m = Machine::user();
    let entry = GDT + u32::from(sel::CALL_GATE);
    m.set64(entry, gate(sel::CODE0, HANDLER, 0xEC, 0));
    let [low, high] = sel::CALL_GATE.to_le_bytes();
    assert_eq!(enter(m, &[0x9A, 0, 0, 0, 0, low, high]), expected(16));
}
