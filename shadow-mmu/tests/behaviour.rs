//! What the shadow MMU promises of faults, windows and accesses, one promise a test.

mod common;

use common::*;
use shadow_mmu::*;

#[test]
fn flat_memory_is_one_mapping() {
    let mut m = mmu(64);
    put32(&mut m, 0x5000, 1234);
    assert_eq!(access(&mut m, 0x5000, READ, 0), Some(1234));
    access(&mut m, 0x200_0000, WRITE, 99);
    assert_eq!(get32(&m, 0x200_0000), 99);
    // Two stretches, below and above the VGA hole.
    assert_eq!(m.stats().mmaps, 2);
    assert_eq!(access(&mut m, 0x3ff_fffc, USER_READ, 0), Some(0));
    assert_eq!(m.stats().mmaps, 2);
    assert!(matches!(
        m.handle_fault(0xa_0000, WRITE),
        FaultOutcome::Trapped(Resolved {
            target: PhysTarget::Device,
            ..
        })
    ));
    assert!(matches!(
        m.handle_fault(0x400_0000, READ),
        FaultOutcome::Trapped(Resolved {
            target: PhysTarget::Hole,
            ..
        })
    ));
    m.audit().unwrap();
}

#[test]
fn user_and_supervisor_have_their_own_windows() {
    let mut m = guest();
    assert_eq!(access(&mut m, USER, USER_WRITE, 7), Some(7));
    assert_eq!(get32(&m, DATA), 7);
    assert_eq!(access(&mut m, KERNEL, WRITE, 8), Some(8));
    assert_eq!(access(&mut m, KERNEL, USER_READ, 0), None);
    let (user, supervisor) = (m.view(Privilege::User), m.view(Privilege::Supervisor));
    assert_ne!(user.base, supervisor.base);
    assert_eq!(
        peek(user.base, KERNEL),
        None,
        "a kernel page in the user window"
    );
    assert_eq!(
        peek(supervisor.base, USER),
        None,
        "a user page in the supervisor window"
    );
    assert_eq!(m.handle_fault(USER, READ), FaultOutcome::UserPage);
    assert!(m.top_level_is_user(USER));
    assert!(!m.top_level_is_user(KERNEL));
    assert!(m.user_regions().flags[(USER >> 24) as usize]);
    assert!(!m.user_regions().flags[(KERNEL >> 24) as usize]);
    m.audit().unwrap();
}

#[test]
fn a_clean_page_is_read_only_until_written() {
    let mut m = guest();
    let pte = TABLE + (USER >> 12 & 1023) * 4;
    access(&mut m, USER, USER_READ, 0);
    assert_eq!(get32(&m, pte) & (A | D), A);
    let base = m.view(Privilege::User).base;
    assert!(!poke(base, USER, 1), "writable before its dirty bit is set");
    access(&mut m, USER, USER_WRITE, 5);
    assert_eq!(get32(&m, pte) & (A | D), A | D);
    assert!(poke(base, USER, 6));
    assert_eq!(m.stats().mprotects, 1, "write access is added in place");
    m.audit().unwrap();
}

#[test]
fn a_page_is_mapped_when_it_is_met_for_the_second_time() {
    let mut m = guest();
    let entry = TABLE + (USER >> 12 & 1023) * 4;
    let meet = |m: &mut Mmu, access| {
        assert!(matches!(m.plan(USER, 4, access), Ok(AccessPlan::Direct(_))));
        m.is_within_reach(USER, access)
    };
    assert!(!meet(&mut m, USER_WRITE));
    // Another page is not the same page again.
    put32(&mut m, entry, (DATA + 0x1000) | P | W | U | A | D);
    assert!(!meet(&mut m, USER_WRITE));
    assert_eq!(m.stats().mmaps, 0);
    // Nor is a read a write.
    assert!(!meet(&mut m, USER_READ));
    assert!(meet(&mut m, USER_READ));
    assert!(meet(&mut m, WRITE), "the supervisor meets it as well");
    let base = m.view(Privilege::User).base;
    assert!(poke(base, USER, 9));
    assert_eq!(get32(&m, DATA + 0x1000), 9);
    assert_eq!(m.stats().mmaps, 1);
    // A page under a trace cannot be written.
    m.trace_code((DATA + 0x1000) >> 12);
    assert!(!m.is_within_reach(USER, USER_WRITE));
    assert!(!m.is_within_reach(USER, USER_WRITE));
    assert!(m.is_within_reach(USER, USER_READ));
    m.audit().unwrap();
}

#[test]
fn large_pages_are_mapped_as_extents() {
    let mut m = mmu(64);
    for i in 1..16u32 {
        put32(
            &mut m,
            ROOT + ((KERNEL >> 22) + i) * 4,
            i << 22 | P | W | A | D | PS,
        );
    }
    m.set_paging(paging(ROOT));
    access(&mut m, KERNEL + 0x100_0000, WRITE, 3);
    assert_eq!(m.stats().mmaps, 1);
    assert_eq!(m.stats().pages_mapped, 15 * 1024);
    assert_eq!(access(&mut m, KERNEL + 0x3ff_f000, WRITE, 3), Some(3));
    assert_eq!(m.stats().mmaps, 1);
    m.audit().unwrap();
    // A page-table page inside it.
    put32(&mut m, ROOT, 0x100_0000 | P | W | U);
    put32(&mut m, 0x100_0000, DATA | P | W | U);
    assert_eq!(access(&mut m, 0, USER_WRITE, 9), Some(9));
    let base = m.view(Privilege::Supervisor).base;
    assert!(!poke(base, KERNEL + 0x100_0000, 0));
    access(&mut m, KERNEL + 0x100_0000, WRITE, 0);
    assert_eq!(access(&mut m, 0, USER_READ, 0), None);
    m.audit().unwrap();
}

#[test]
fn a_large_page_that_is_clean_is_raised_by_a_write() {
    let mut m = mmu(64);
    put32(&mut m, ROOT + (KERNEL >> 22) * 4, 8 << 22 | P | W | PS);
    m.trace_code(8 << 10 | 5);
    m.set_paging(paging(ROOT));
    access(&mut m, KERNEL + 0x3000, READ, 0);
    assert_eq!(get32(&m, ROOT + (KERNEL >> 22) * 4) & (A | D), A);
    let base = m.view(Privilege::Supervisor).base;
    assert!(!poke(base, KERNEL + 0x3000, 1));
    access(&mut m, KERNEL + 0x3000, WRITE, 1);
    assert_eq!(get32(&m, ROOT + (KERNEL >> 22) * 4) & (A | D), A | D);
    assert!(poke(base, KERNEL + 0x3000, 1));
    assert!(!poke(base, KERNEL + 0x5000, 1), "the traced page");
    access(&mut m, KERNEL + 0x30_0000, WRITE, 1);
    m.audit().unwrap();
}

#[test]
fn rom_reads_and_ignores_writes() {
    let mut m = mmu(16);
    m.set_range(0xf_0000, 0x1_0000, RangeKind::Rom).unwrap();
    m.set_range(0xffff_0000, 0x1_0000, RangeKind::Rom).unwrap();
    m.load_rom(0xffff_fff0, &[0xea, 1, 2, 3]).unwrap();
    m.load_rom(0xf_fff0, &[0xea, 1, 2, 3]).unwrap();
    for linear in [0xffff_fff0, 0xf_fff0] {
        assert_eq!(access(&mut m, linear, READ, 0), Some(0x0302_01ea));
        assert!(matches!(
            m.handle_fault(linear, WRITE),
            FaultOutcome::Trapped(Resolved {
                target: PhysTarget::Rom,
                ..
            })
        ));
        access(&mut m, linear, WRITE, 0);
        assert_eq!(access(&mut m, linear, READ, 0), Some(0x0302_01ea));
    }
    m.audit().unwrap();
    // Shadowing: the ROM is made RAM and back, its contents stay.
    m.set_range(0xf_0000, 0x1_0000, RangeKind::Ram).unwrap();
    access(&mut m, 0xf_fff0, WRITE, 0x77);
    m.set_range(0xf_0000, 0x1_0000, RangeKind::Rom).unwrap();
    access(&mut m, 0xf_fff0, WRITE, 0x88);
    assert_eq!(access(&mut m, 0xf_fff0, READ, 0), Some(0x77));
    m.set_range(0xf_0000, 0x1_0000, RangeKind::Device).unwrap();
    assert!(matches!(
        m.handle_fault(0xf_fff0, READ),
        FaultOutcome::Trapped(Resolved {
            target: PhysTarget::Device,
            ..
        })
    ));
    m.audit().unwrap();
}

#[test]
fn neighbours_come_along() {
    let mut m = guest();
    for i in 0..16 {
        let bits = if i == 9 {
            P | W | U | D
        } else {
            P | W | U | A | D
        };
        map4k(
            &mut m,
            ROOT,
            TABLE,
            USER + i * 0x1000,
            (DATA + i * 0x1000) | bits,
        );
    }
    access(&mut m, USER + 0x4000, USER_WRITE, 1);
    let base = m.view(Privilege::User).base;
    assert_eq!(m.stats().mmaps, 1);
    assert!(poke(base, USER, 1) && poke(base, USER + 0x7000, 1));
    assert_eq!(
        peek(base, USER + 0x9000),
        None,
        "its accessed bit is not set"
    );
    assert_eq!(get32(&m, TABLE + ((USER >> 12 & 1023) + 9) * 4) & A, 0);
    m.audit().unwrap();
}

#[test]
fn plans_are_direct_only_where_that_is_safe() {
    let mut m = guest();
    assert!(matches!(
        m.plan(USER, 4096, USER_WRITE),
        Ok(AccessPlan::Direct(_))
    ));
    assert_eq!(m.plan(USER + 1, 4096, USER_WRITE), Ok(AccessPlan::Slow));
    m.trace_code(DATA >> 12);
    assert_eq!(m.plan(USER, 4, USER_WRITE), Ok(AccessPlan::Slow));
    assert!(matches!(
        m.plan(USER, 4, USER_READ),
        Ok(AccessPlan::Direct(_))
    ));
    let code = m.plan(USER + 0x1000, 4, USER_WRITE).unwrap_err().code;
    assert_eq!(code, FaultCode::USER | FaultCode::WRITE);
    let code = m.plan(KERNEL, 4, USER_READ).unwrap_err().code;
    assert_eq!(code, FaultCode::USER | FaultCode::PRESENT);
}

#[test]
fn linear_writes_are_all_or_nothing() {
    let mut m = guest();
    let end = USER + 0xffe;
    assert!(
        matches!(m.write_linear(end, &[1, 2, 3, 4], USER_WRITE), Err(LinearError::Fault(f)) if f.linear == USER + 0x1000)
    );
    assert_eq!(get32(&m, DATA + 0xffc), 0);
    map4k(
        &mut m,
        ROOT,
        TABLE,
        USER + 0x1000,
        (DATA + 0x8000) | P | W | U,
    );
    m.write_linear(end, &[1, 2, 3, 4], USER_WRITE).unwrap();
    let mut back = [0; 4];
    m.read_linear(end, &mut back, USER_READ).unwrap();
    assert_eq!(back, [1, 2, 3, 4]);
    assert_eq!(get32(&m, DATA + 0x8000), 0x0403);
}

#[test]
fn a_watched_page_is_in_no_window() {
    let mut m = mmu(64);
    put32(&mut m, 0x5000, 1234);
    assert_eq!(access(&mut m, 0x5000, READ, 0), Some(1234));
    let base = m.view(Privilege::Supervisor).base;
    m.watch_pages([5, 0x2000]);
    assert_eq!(peek(base, 0x5000), None, "unmapped at once");
    assert!(matches!(
        m.handle_fault(0x5000, READ),
        FaultOutcome::Trapped(Resolved {
            gpa: 0x5000,
            target: PhysTarget::Ram,
            traced: false
        })
    ));
    assert!(matches!(m.plan(0x5000, 4, READ), Ok(AccessPlan::Direct(_))));
    // Around them everything is mapped, in large pieces as well.
    assert_eq!(access(&mut m, 0x4ffc, WRITE, 7), Some(7));
    assert_eq!(access(&mut m, 0x1ff_f000, WRITE, 8), Some(8));
    assert_eq!(access(&mut m, 0x200_1000, WRITE, 9), Some(9));
    assert_eq!(peek(base, 0x200_0000), None);
    m.audit().unwrap();
    m.watch_pages([]);
    assert_eq!(access(&mut m, 0x5000, READ, 0), Some(1234));
    m.audit().unwrap();
    // With paging on: in the user window and in the supervisor window.
    let mut m = guest();
    assert_eq!(access(&mut m, USER, USER_WRITE, 7), Some(7));
    m.watch_pages([USER >> 12]);
    let base = m.view(Privilege::User).base;
    assert_eq!(peek(base, USER), None);
    assert!(matches!(
        m.handle_fault(USER, READ),
        FaultOutcome::Trapped(_)
    ));
    m.audit().unwrap();
}

#[test]
fn shadow_ram_switches_between_two_pages() {
    let mut m = mmu(16);
    let rom: Vec<u8> = (0..0x4000u32).map(|at| (at >> 12) as u8 | 0x50).collect();
    m.add_rom_layer(0xf_0000, &rom).unwrap();
    access(&mut m, 0xf_1000, WRITE, 0x1111_1111);
    let read = |m: &mut Mmu| access(m, 0xf_1000, READ, 0).unwrap();
    assert_eq!(
        read(&mut m),
        0x1111_1111,
        "RAM until somebody says otherwise"
    );

    m.set_shadowing(0xf_0000, 0x4000, Shadowing::ROM).unwrap();
    access(&mut m, 0xf_1000, WRITE, 0x2222_2222);
    assert_eq!(read(&mut m), 0x5151_5151, "the ROM ignores writes");
    let through = Shadowing {
        write_ram: true,
        ..Shadowing::ROM
    };
    m.set_shadowing(0xf_0000, 0x4000, through).unwrap();
    access(&mut m, 0xf_1000, WRITE, 0x3333_3333);
    assert_eq!(read(&mut m), 0x5151_5151, "reads still come from the ROM");
    let locked = Shadowing {
        write_ram: false,
        ..Shadowing::RAM
    };
    m.set_shadowing(0xf_0000, 0x4000, locked).unwrap();
    assert_eq!(read(&mut m), 0x3333_3333, "the write went to the RAM");
    access(&mut m, 0xf_1000, WRITE, 0x4444_4444);
    assert_eq!(read(&mut m), 0x3333_3333, "locked");
    m.set_shadowing(0xf_0000, 0x4000, Shadowing::RAM).unwrap();
    access(&mut m, 0xf_1000, WRITE, 0x5555_5555);
    assert_eq!(read(&mut m), 0x5555_5555);
    m.audit().unwrap();
}

#[test]
fn code_is_reported_when_shadow_ram_takes_it_away() {
    let mut m = mmu(16);
    m.add_rom_layer(0xf_0000, &[0x90; 0x2000]).unwrap();
    m.trace_code(0xf1);
    let mut events = Vec::new();
    // Neither locking the page nor a switch of another one changes its contents.
    let locked = Shadowing {
        write_ram: false,
        ..Shadowing::RAM
    };
    m.set_shadowing(0xf_0000, 0x2000, locked).unwrap();
    m.set_shadowing(0xf_0000, 0x1000, Shadowing::ROM).unwrap();
    m.take_events(&mut events);
    assert!(events.is_empty(), "{events:?}");
    m.set_shadowing(0xf_0000, 0x2000, Shadowing::ROM).unwrap();
    m.take_events(&mut events);
    let written = MmuEvent::CodeWritten {
        gfn: 0xf1,
        offset: 0,
        len: 0x1000,
    };
    assert_eq!(events, [written]);
}

#[test]
fn a_page_table_in_shadow_ram_is_read_again_after_a_switch() {
    let mut m = mmu(16);
    // A directory in RAM; the page table in the range that switches maps page 5 or, in the ROM, page 6.
    let mut rom = vec![0; 0x1000];
    rom[0x14..0x18].copy_from_slice(&(0x6000u32 | P | W).to_le_bytes());
    m.add_rom_layer(0xe_0000, &rom).unwrap();
    put32(&mut m, 0x5000, 0x5555);
    put32(&mut m, 0x6000, 0x6666);
    put32(&mut m, ROOT, 0xe_0000 | P | W);
    put32(&mut m, 0xe_0014, 0x5000 | P | W);
    m.set_paging(paging(ROOT));
    assert_eq!(access(&mut m, 0x5000, READ, 0), Some(0x5555));
    m.set_shadowing(0xe_0000, 0x1000, Shadowing::ROM).unwrap();
    assert_eq!(access(&mut m, 0x5000, READ, 0), Some(0x6666));
    m.set_shadowing(0xe_0000, 0x1000, Shadowing::RAM).unwrap();
    assert_eq!(access(&mut m, 0x5000, READ, 0), Some(0x5555));
    m.audit().unwrap();
}

#[test]
fn a_rom_layer_needs_ram_above_it() {
    let mut m = mmu(16);
    assert!(m.add_rom_layer(0xffff_0000, &[0; 0x1000]).is_err());
    assert!(m.add_rom_layer(0xf_0000, &[0; 0x800]).is_err());
    // Where there is no layer, there is nothing to switch.
    m.set_shadowing(0x1_0000, 0x1000, Shadowing::ROM).unwrap();
    access(&mut m, 0x1_0000, WRITE, 7);
    assert_eq!(access(&mut m, 0x1_0000, READ, 0), Some(7));
}
