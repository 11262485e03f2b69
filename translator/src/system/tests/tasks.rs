//! Task switches.

use super::*;

/// A machine with a second 32-bit task: CPL 3, flat, EIP 4000_0000h.
fn two_tasks() -> Machine {
    let mut m = Machine::protected();
    let fields = [
        (0x20, 0x4000_0000),
        (0x24, eflags::FIXED | eflags::IF | eflags::ZF),
        (0x28, 0xA0A0_A0A0),
        (0x38, 0xE000),
        (0x48, u32::from(sel::DATA3)),
        (0x4C, u32::from(sel::CODE3)),
        (0x50, u32::from(sel::DATA3)),
        (0x54, u32::from(sel::DATA3)),
        (0x58, 0),
        (0x5C, 3),
        (0x60, u32::from(sel::LDT)),
    ];
    for (at, value) in fields {
        m.set32(TSS_B + at, value);
    }
    m.cpu.gpr[reg::EAX] = 0x1111_1111;
    m.cpu.gpr[reg::EDI] = 0x7777_7777;
    m.cpu.eflags |= eflags::CF;
    m.cpu.dr[7] |= 0x103;
    m
}

/// A far JMP (EAh) or CALL (9Ah) to a selector.
fn far(opcode: u8, selector: u16) -> [u8; 7] {
    let [lo, hi] = selector.to_le_bytes();
    [opcode, 0, 0, 0, 0, lo, hi]
}

fn busy(m: &Machine, selector: u16) -> bool {
    m.get::<8>(GDT + u32::from(selector))[5] & 2 != 0
}

fn check_arrived(m: &Machine) {
    assert_eq!((m.cpu.cpl, m.cpu.eip), (3, 0x4000_0000));
    assert_eq!(
        (m.cpu.gpr[reg::EAX], m.cpu.gpr[reg::ESP]),
        (0xA0A0_A0A0, 0xE000)
    );
    assert_eq!(m.cpu.seg[seg::CS], Segment::flat(sel::CODE3, true, 3));
    assert_eq!(m.cpu.seg[seg::SS], Segment::flat(sel::DATA3, false, 3));
    assert_eq!(m.cpu.seg[seg::FS], Segment::null(0));
    assert_eq!(m.cpu.seg[seg::GS], Segment::null(3));
    assert_eq!((m.cpu.ldtr.base, m.cpu.ldtr.limit), (LDT, 0xFF));
    assert_eq!((m.cpu.tr.selector, m.cpu.tr.base), (sel::TSS_B, TSS_B));
    assert_ne!(m.cpu.cr0 & cr0::TS, 0);
    assert_eq!(m.cpu.dr[7], 0x402, "global enables stay");
    assert!(busy(m, sel::TSS_B));
}

fn check_saved(m: &Machine, eip: u32) {
    assert_eq!(m.get32(TSS + 0x20), eip);
    assert_eq!(m.get32(TSS + 0x24), eflags::FIXED | eflags::CF);
    assert_eq!(m.get32(TSS + 0x28), 0x1111_1111);
    assert_eq!(m.get32(TSS + 0x38), STACK0);
    assert_eq!(m.get32(TSS + 0x44), 0x7777_7777);
    assert_eq!(m.get16(TSS + 0x4C), sel::CODE0);
    assert_eq!(m.get16(TSS + 0x50), sel::DATA0);
}

#[test]
fn jump_to_a_task() {
    let mut m = two_tasks();
    assert_eq!(m.run_any(&far(0xEA, sel::TSS_B)), Ok(Flow::Switched));
    check_arrived(&m);
    check_saved(&m, CODE + 7);
    assert!(!busy(&m, sel::TSS), "the old task is free");
    assert_eq!(m.get16(TSS_B), 0, "no link");
    assert_eq!(m.cpu.eflags & eflags::NT, 0);
}

#[test]
fn call_through_a_task_gate_and_return() {
    let mut m = two_tasks();
    m.page();
    m.set32(TSS_B + 0x1C, m.cpu.cr3 | 0x18);
    assert_eq!(m.run_any(&far(0x9A, sel::TASK_GATE)), Ok(Flow::Switched));
    check_arrived(&m);
    check_saved(&m, CODE + 7);
    assert_eq!(m.cpu.cr3, 0x10_0018);
    assert!(busy(&m, sel::TSS), "the caller stays busy");
    assert_eq!(m.get16(TSS_B), sel::TSS, "link");
    assert_eq!(
        m.cpu.eflags,
        eflags::FIXED | eflags::IF | eflags::ZF | eflags::NT
    );

    m.set32(TSS + 0x1C, 0x10_0000);
    assert_eq!(m.run_any(&[0xCF]), Ok(Flow::Switched));
    assert_eq!((m.cpu.cpl, m.cpu.eip), (0, CODE + 7));
    assert_eq!(m.cpu.gpr[reg::EAX], 0x1111_1111);
    assert_eq!(m.cpu.eflags, eflags::FIXED | eflags::CF);
    assert_eq!(m.cpu.tr.selector, sel::TSS);
    assert!(!busy(&m, sel::TSS_B));
    assert_eq!(m.get32(TSS_B + 0x24) & eflags::NT, 0, "saved without NT");
    assert_eq!(m.get32(TSS_B + 0x20), 0x4000_0001);
}

#[test]
fn an_exception_through_a_task_gate_pushes_its_code_in_the_new_task() {
    let mut m = two_tasks();
    m.set64(IDT + 8 * 8, gate(sel::TSS_B, 0, 0x85, 0));
    m.deliver(Exception::fault_with_code(8, 0)).unwrap();
    check_arrived_with_code(&m);
    assert_eq!(m.get32(TSS + 0x20), CODE);
    assert_ne!(m.get32(TSS + 0x24) & eflags::RF, 0);
}

fn check_arrived_with_code(m: &Machine) {
    assert_eq!((m.cpu.eip, m.cpu.gpr[reg::ESP]), (0x4000_0000, 0xDFFC));
    assert_eq!(m.stack32(), [0]);
    assert_eq!(m.get16(TSS_B), sel::TSS);
}

#[test]
fn the_trap_bit_raises_a_debug_exception() {
    let mut m = two_tasks();
    m.set16(TSS_B + 0x64, 1);
    m.set32(TSS_B + 4, STACK0);
    m.set32(TSS_B + 8, u32::from(sel::DATA0));
    let flow = m.run_any(&far(0xEA, sel::TSS_B));
    let Ok(Flow::Trap(trap)) = flow else {
        panic!("{flow:?}");
    };
    m.deliver(trap).unwrap();
    assert_eq!(m.cpu.dr[6], 0xFFFF_0FF0 | 1 << 15);
    assert_eq!(m.stack32::<1>(), [0x4000_0000]);
}

#[test]
fn a_switch_turns_local_breakpoints_off() {
    // Intel SDM vol. 3B, section 17.2.4: L0 to L3 and LE; G0 to G3 and GE stay.
    let mut m = two_tasks();
    m.cpu.dr[7] = 0xFFFF_07FF;
    assert_eq!(m.run_any(&far(0xEA, sel::TSS_B)), Ok(Flow::Switched));
    assert_eq!(m.cpu.dr[7], 0xFFFF_06AA);
}

#[test]
fn faults_before_the_switch_leave_everything() {
    let jump = far(0xEA, sel::TSS_B);
    for (entry, expected) in [
        (descriptor(TSS_B, 0x66, 0x89, 0), fault(10, 0x58)),
        (descriptor(TSS_B, 0x67, 0x09, 0), fault(11, 0x58)),
        (descriptor(TSS_B, 0x67, 0x8B, 0), fault(13, 0x58)),
    ] {
        let mut m = two_tasks();
        m.set64(GDT + 0x58, entry);
        assert_eq!(m.run(&jump), expected, "{entry:#x}");
        assert!(busy(&m, sel::TSS));
        assert_eq!(m.get32(TSS + 0x20), 0);
    }
    let mut m = two_tasks();
    m.cpu.eflags |= eflags::NT;
    assert_eq!(m.run(&[0xCF]), fault(10, 0), "no link");
    m.set16(TSS, sel::TSS_B);
    assert_eq!(
        m.run(&[0xCF]),
        fault(10, 0x58),
        "link to a task that is not busy"
    );
}

#[test]
fn faults_after_the_switch_belong_to_the_new_task() {
    let mut m = two_tasks();
    m.set16(TSS_B + 0x54, sel::DATA0);
    let jump = far(0xEA, sel::TSS_B);
    assert_eq!(
        m.run_any(&jump),
        fault(10, 0x10),
        "DS of the kernel at CPL 3"
    );
    assert_eq!(m.cpu.eip, 0x4000_0000);
    assert_eq!(m.cpu.tr.selector, sel::TSS_B);
    m.set32(TSS_B + 4, STACK0);
    m.set32(TSS_B + 8, u32::from(sel::DATA0));
    m.deliver(Exception::fault_with_code(10, 0x10)).unwrap();
    assert_eq!(m.stack32(), [0x10, 0x4000_0000]);
}

#[test]
fn sixteen_bit_task() {
    let mut m = two_tasks();
    for (at, value) in [
        (0x0E, 0x4321),
        (0x10, 0x0203),
        (0x12, 0xAAAA),
        (0x1A, 0x6000),
        (0x22, sel::DATA16),
        (0x24, sel::CODE16),
        (0x26, sel::DATA16),
        (0x28, sel::DATA16),
    ] {
        m.set16(0x3800 + at, value);
    }
    assert_eq!(m.run_any(&far(0x9A, sel::TSS16)), Ok(Flow::Switched));
    assert_eq!((m.cpu.eip, m.cpu.gpr[reg::EAX]), (0x4321, 0xFFFF_AAAA));
    assert_eq!(m.cpu.eflags, 0x4203);
    assert_eq!(m.cpu.seg[seg::FS], Segment::null(0));
    assert_eq!(m.cpu.tr.rights.bits() & 0xF, 3);
    assert_eq!(m.get16(0x3800), sel::TSS);
    check_saved(&m, CODE + 7);
    // Back: saved as words.
    m.cpu.gpr[reg::ESI] = 0x1234_5678;
    assert_eq!(m.run_any(&[0xCF]), Ok(Flow::Switched));
    assert_eq!(m.get16(0x3800 + 0x1E), 0x5678);
    assert_eq!(m.get16(0x3800 + 0x10), 0x0203);
    assert_eq!(m.cpu.eip, CODE + 7);
}

#[test]
fn a_task_in_virtual_8086_mode() {
    let mut m = two_tasks();
    m.set32(TSS_B + 0x20, 0x55);
    m.set32(TSS_B + 0x24, eflags::VM | 2);
    m.set32(TSS_B + 0x4C, 0x1234);
    assert_eq!(m.run_any(&far(0xEA, sel::TSS_B)), Ok(Flow::Switched));
    assert!(m.cpu.virtual_8086());
    assert_eq!(m.cpu.cpl, 3);
    assert_eq!(m.cpu.seg[seg::CS], Segment::virtual_8086(0x1234));
}
