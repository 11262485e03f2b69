//! Port instructions.

use super::*;

#[test]
fn in_and_out_sizes() {
    let mut m = Machine::protected();
    m.cpu.gpr[reg::EAX] = 0xAABB_CCDD;
    m.cpu.gpr[reg::EDX] = 0xFFFF_03F8;
    assert_eq!(m.run(&[0xEE]), Ok(Flow::Next));
    assert_eq!(m.run(&[0x66, 0xEF]), Ok(Flow::Next));
    assert_eq!(m.run(&[0xE7, 0x80]), Ok(Flow::Next));
    assert_eq!(
        m.ports.log,
        [
            (true, 0x3F8, 1, 0xDD),
            (true, 0x3F8, 2, 0xCCDD),
            (true, 0x80, 4, 0xAABB_CCDD)
        ]
    );
    assert_eq!(m.run(&[0xE4, 0x60]), Ok(Flow::Next));
    assert_eq!(m.cpu.gpr[reg::EAX], 0xAABB_CC01);
    assert_eq!(m.run(&[0x66, 0xED]), Ok(Flow::Next));
    assert_eq!(m.cpu.gpr[reg::EAX], 0xAABB_0202);
    assert_eq!(m.run(&[0xED]), Ok(Flow::Next));
    assert_eq!(m.cpu.gpr[reg::EAX], 0x0303_0303);
}

#[test]
fn iopl_or_the_bitmap() {
    let mut m = Machine::user();
    m.set(TSS + 0x68, &[0xFF; 0x190]);
    m.set(TSS + 0x68 + 0x3F8 / 8, &[0xF0]);
    m.cpu.gpr[reg::EDX] = 0x3F8;
    assert_eq!(m.run(&[0xED]), Ok(Flow::Next));
    m.cpu.gpr[reg::EDX] = 0x3F9;
    assert_eq!(m.run(&[0xED]), gp0());
    m.cpu.gpr[reg::EDX] = 0xFFFF;
    assert_eq!(m.run(&[0xEC]), gp0(), "beyond the TSS");
    m.cpu.eflags |= eflags::IOPL;
    assert_eq!(m.run(&[0xEC]), Ok(Flow::Next));
    m.cpu.eflags &= !eflags::IOPL;
    m.cpu.gpr[reg::EDX] = 0x3F8;
    m.cpu.tr.rights = Rights::from_bits_retain(0x83);
    assert_eq!(m.run(&[0xEC]), gp0(), "a 16-bit TSS has no bitmap");
    assert!(m.ports.log.iter().all(|entry| entry.1 != 0x3F9));
}

#[test]
fn rep_insw_fills_memory_in_batches() {
    let mut m = Machine::protected();
    m.cpu.gpr[reg::ECX] = 300;
    m.cpu.gpr[reg::EDI] = 0x2_0FFF;
    m.cpu.gpr[reg::EDX] = 0x1F0;
    let code = [0xF3, 0x66, 0x6D];
    assert_eq!(m.run(&code), Ok(Flow::StepBack));
    assert_eq!(m.cpu.eip, CODE);
    let done = 300 - m.cpu.gpr[reg::ECX];
    assert!(done > 0 && m.cpu.gpr[reg::EDI] == 0x2_0FFF + done * 2);
    while m.run(&code) == Ok(Flow::StepBack) {}
    assert_eq!((m.cpu.gpr[reg::ECX], m.cpu.eip), (0, CODE + 3));
    assert_eq!(m.cpu.gpr[reg::EDI], 0x2_0FFF + 600);
    assert_eq!(m.ports.log.len(), 300);
    for n in 0..300 {
        let expected = 0x0101_0101u32.wrapping_mul(n + 1) as u16;
        assert_eq!(m.get16(0x2_0FFF + n * 2), expected, "{n}");
    }
    assert_eq!(m.run(&code), Ok(Flow::Next), "count 0");
    assert_eq!(m.ports.log.len(), 300);
}

#[test]
fn outsb_backwards_with_16_bit_addresses() {
    let mut m = Machine::protected();
    m.set(0xFFFF, &[0x77]);
    m.set(0, &[0x66]);
    m.cpu.gpr[reg::ESI] = 0xABCD_0000;
    m.cpu.gpr[reg::ECX] = 0x1234_0002;
    m.cpu.gpr[reg::EDX] = 0x378;
    m.cpu.eflags |= eflags::DF;
    assert_eq!(m.run(&[0x67, 0xF3, 0x6E]), Ok(Flow::Next));
    assert_eq!(
        m.ports.log,
        [(true, 0x378, 1, 0x66), (true, 0x378, 1, 0x77)]
    );
    assert_eq!(m.cpu.gpr[reg::ESI], 0xABCD_FFFE);
    assert_eq!(m.cpu.gpr[reg::ECX], 0x1234_0000);
}

#[test]
fn a_fault_in_the_middle_keeps_what_is_done() {
    let mut m = Machine::protected();
    m.page();
    m.set_page(0x2_1000, 0);
    m.cpu.gpr[reg::ECX] = 8;
    m.cpu.gpr[reg::EDI] = 0x2_0FF8;
    let code = [0xF3, 0x6D];
    assert_eq!(m.run(&code), Ok(Flow::StepBack));
    assert_eq!((m.cpu.gpr[reg::ECX], m.cpu.gpr[reg::EDI]), (6, 0x2_1000));
    let reads = m.ports.log.len();
    let fault = m.run(&code).unwrap_err();
    assert_eq!((fault.vector, fault.cr2), (14, Some(0x2_1000)));
    assert_eq!(m.ports.log.len(), reads, "the port is not read for nothing");
}

#[test]
fn single_step_stops_after_each_element() {
    let mut m = Machine::protected();
    m.cpu.eflags |= eflags::TF;
    m.cpu.gpr[reg::ECX] = 3;
    m.cpu.gpr[reg::EDI] = 0x2_0000;
    assert_eq!(m.run(&[0xF3, 0x6C]), Ok(Flow::StepBack));
    assert_eq!(m.cpu.gpr[reg::ECX], 2);
}
