//! Page faults in the middle of things: error codes, CR2, and nothing half done.

use super::*;

/// Paging on; the supervisor's tables and stack are supervisor pages.
fn paged_user() -> Machine {
    let mut m = Machine::user();
    m.page();
    for page in [GDT, IDT, TSS, LDT, STACK0 - 0x1000] {
        m.set_page(page, page | 3);
    }
    m
}

fn page_fault(result: Result<Flow, Exception>) -> (Option<u32>, Option<u32>) {
    let fault = result.unwrap_err();
    assert_eq!(fault.vector, 14, "{fault:?}");
    (fault.cr2, fault.error_code)
}

#[test]
fn tables_and_the_inner_stack_are_reached_with_supervisor_rights() {
    let mut m = paged_user();
    assert_eq!(m.run(&[0xCD, 0x80]), Ok(Flow::Interrupted));
    assert_eq!(m.cpu.gpr[reg::ESP], STACK0 - 20);
    assert_eq!(m.run(&[0xCF]), Ok(Flow::Jumped));
    assert_eq!((m.cpu.cpl, m.cpu.eip), (3, CODE + 2));
}

#[test]
fn an_absent_inner_stack_is_a_supervisor_write_fault() {
    let mut m = paged_user();
    m.set_page(STACK0 - 0x1000, 0);
    assert_eq!(
        page_fault(m.run(&[0xCD, 0x80])),
        (Some(STACK0 - 4), Some(2)),
        "the first push"
    );
    // Delivered as an exception, this is #PF in #PF, then in #DF: shutdown.
    let fault = m.run(&[0xCD, 0x80]).unwrap_err();
    assert_eq!(m.deliver(fault), Err(Shutdown));
    assert_eq!(m.cpu.cr2, STACK0 - 4);
}

#[test]
fn a_frame_across_pages_is_written_whole_or_not_at_all() {
    let mut m = paged_user();
    m.set32(TSS + 4, 0x9008);
    m.set_page(0x8000, 0);
    m.set32(0x9004, 0x5555_5555);
    assert_eq!(page_fault(m.run(&[0xCD, 0x80])), (Some(0x8FFC), Some(2)));
    assert_eq!(m.get32(0x9004), 0x5555_5555);
    m.set_page(0x8000, 0x8003);
    assert_eq!(m.run(&[0xCD, 0x80]), Ok(Flow::Interrupted));
    assert_eq!(m.get32(0x9004), u32::from(sel::DATA3));
    assert_eq!(m.stack32::<1>(), [CODE + 2]);
}

#[test]
fn user_accesses_have_the_user_bit() {
    let mut m = paged_user();
    m.cpu.gpr[reg::EAX] = GDT;
    // SGDT [EAX] writes a supervisor page.
    assert_eq!(page_fault(m.run(&[0x0F, 0x01, 0x00])), (Some(GDT), Some(7)));
    m.cpu.gpr[reg::ESP] = GDT + 4;
    assert_eq!(page_fault(m.run(&[0x9C])), (Some(GDT), Some(7)));
    assert_eq!(page_fault(m.run(&[0xCB])), (Some(GDT + 4), Some(5)));
}

#[test]
fn an_accessed_bit_in_a_read_only_table_faults() {
    let mut m = paged_user();
    m.set_page(GDT, GDT | 1);
    m.cpu.gpr[reg::EAX] = u32::from(sel::READ_ONLY | 3);
    assert_eq!(
        page_fault(m.run(&[0x8E, 0xD8])),
        (Some(GDT + 0x75), Some(3))
    );
    m.cpu.gpr[reg::EAX] = u32::from(sel::DATA3);
    assert_eq!(m.run(&[0x8E, 0xD8]), Ok(Flow::Next), "already accessed");
}

#[test]
fn a_page_fault_sets_cr2_when_delivered() {
    let mut m = paged_user();
    m.set_page(0xB000, 0);
    m.cpu.gpr[reg::EAX] = 0xB123;
    // LDS EAX, [EAX]
    let fault = m.run(&[0xC5, 0x00]).unwrap_err();
    assert_eq!(m.cpu.cr2, 0);
    m.deliver(fault).unwrap();
    assert_eq!(m.cpu.cr2, 0xB123);
    assert_eq!(m.cpu.eip, HANDLER + 14);
    assert_eq!(m.stack32::<2>(), [4, CODE]);
}

#[test]
fn a_task_switch_checks_what_it_will_write() {
    let mut m = Machine::protected();
    m.page();
    m.set_page(GDT, GDT | 1);
    let jump = [0xEA, 0, 0, 0, 0, 0x58, 0];
    assert_eq!(
        page_fault(m.run(&jump)),
        (Some(GDT + 0x28 + 5), Some(3)),
        "the busy bit of the old task"
    );
    assert_eq!(m.get32(TSS + 0x20), 0, "nothing saved");
}

#[test]
fn reversible_looks_without_touching() {
    let mut m = paged_user();
    m.set_page(GDT, GDT | 3);
    assert!(m.system().reversible(seg::DS));
    m.set_page(GDT, 0);
    assert!(!m.system().reversible(seg::DS));
}

#[test]
fn linear_accesses_cross_pages() {
    let mut m = paged_user();
    m.set_page(0x2_0000, 0x3_0000 | 7);
    m.set_page(0x2_1000, 0x5_0000 | 7);
    let data: [u8; 8] = *b"crossing";
    let user = shadow_mmu::Privilege::User;
    m.system().write_linear(0x2_0FFC, &data, user).unwrap();
    assert_eq!(m.get(0x3_0FFC), *b"cros");
    assert_eq!(m.get(0x5_0000), *b"sing");
    let mut back = [0; 8];
    m.system().read_linear(0x2_0FFC, &mut back, user).unwrap();
    assert_eq!(back, data);
    m.set_page(0x2_1000, 0x5_0000 | 5);
    let fault = m.system().write_linear(0x2_0FFC, b"????????", user);
    assert_eq!(
        page_fault(fault.map(|()| Flow::Next)),
        (Some(0x2_1000), Some(7))
    );
    assert_eq!(m.get(0x3_0FFC), *b"cros");
}
