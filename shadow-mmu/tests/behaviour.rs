//! What the shadow MMU promises its users, one promise a test.

mod common;

use common::*;
use shadow_mmu::*;

const ROOT: u32 = 0x10_0000;
const TABLE: u32 = 0x10_1000;
const KERNEL_TABLE: u32 = 0x10_2000;
const DATA: u32 = 0x20_0000;
const USER: u32 = 0x0804_8000;
const KERNEL: u32 = 0xc000_0000;

/// One user page, one kernel page, paging on.
fn guest() -> Mmu {
    let mut m = mmu(16);
    map4k(&mut m, ROOT, TABLE, USER, DATA | P | W | U);
    put32(&mut m, ROOT + (KERNEL >> 22) * 4, KERNEL_TABLE | P | W);
    map4k(&mut m, ROOT, KERNEL_TABLE, KERNEL, 0x30_0000 | P | W);
    m.set_paging(paging(ROOT));
    m
}

#[test]
fn a_machine_can_move_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<Mmu>();
}

#[test]
fn user_regions_follow_the_tables() {
    let mut m = guest();
    // A kernel region below a top-level entry with U = 1, as Linux has some.
    let fixmap = 0xff00_0000;
    put32(&mut m, ROOT + (fixmap >> 22) * 4, 0x10_3000 | P | W | U);
    put32(&mut m, 0x10_3000, 0x41_0000 | P | W);
    assert!(m.user_regions().flags[0xff] && m.user_regions().flags[8]);
    let generation = m.user_regions().generation;
    assert_eq!(m.handle_fault(fixmap, READ), FaultOutcome::Filled);
    assert!(!m.user_regions().flags[0xff] && m.user_regions().flags[8]);
    assert_eq!(m.user_regions().generation, generation + 1);
    assert!(!m.top_level_is_user(fixmap));
    put32(&mut m, ROOT + (USER >> 22) * 4, 0);
    assert!(!m.user_regions().flags[8]);
    assert_eq!(m.user_regions().generation, generation + 2);
    m.load_cr3(ROOT);
    assert_eq!(m.user_regions().generation, generation + 2);
}

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
fn an_edited_entry_is_followed_without_invlpg() {
    let mut m = guest();
    put32(&mut m, DATA, 1);
    put32(&mut m, DATA + 0x1000, 2);
    assert_eq!(access(&mut m, USER, USER_READ, 0), Some(1));
    map4k(&mut m, ROOT, TABLE, USER, (DATA + 0x1000) | P | W | U);
    assert_eq!(access(&mut m, USER, USER_READ, 0), Some(2));
    map4k(&mut m, ROOT, TABLE, USER, 0);
    assert_eq!(access(&mut m, USER, USER_READ, 0), None);
    m.audit().unwrap();
}

#[test]
fn user_zaps_wait_for_the_user_window() {
    let mut m = guest();
    for i in 0..64 {
        map4k(
            &mut m,
            ROOT,
            TABLE,
            USER + i * 0x1000,
            (DATA + i * 0x2000) | P | W | U,
        );
        access(&mut m, USER + i * 0x1000, USER_WRITE, i);
    }
    m.view(Privilege::Supervisor);
    let before = m.stats().clone();
    // A fork takes write access from every page, an exit all pages.
    for i in 0..64 {
        let pte = get32(&m, TABLE + ((USER >> 12 & 1023) + i) * 4);
        map4k(&mut m, ROOT, TABLE, USER + i * 0x1000, pte & !W);
    }
    assert!(!m.view_is_clean(Privilege::User));
    assert_eq!(m.stats().mprotects, before.mprotects);
    let base = m.view(Privilege::User).base;
    assert_eq!(
        m.stats().mprotects,
        before.mprotects + 1,
        "one call for neighbours"
    );
    assert_eq!(peek(base, USER + 0x3000), Some(3), "still readable");
    assert!(!poke(base, USER + 0x3000, 1));
    m.audit().unwrap();
    m.view(Privilege::Supervisor);
    let before = m.stats().clone();
    for i in 0..64 {
        map4k(&mut m, ROOT, TABLE, USER + i * 0x1000, 0);
    }
    m.audit().unwrap();
    assert!(m.stats().munmaps <= before.munmaps);
    m.view(Privilege::User);
    assert_eq!(m.stats().munmaps, before.munmaps + 1);
    assert_eq!(peek(base, USER), None);
    m.audit().unwrap();
}

#[test]
fn zaps_of_a_user_window_in_use_are_immediate() {
    let mut m = guest();
    access(&mut m, USER, USER_READ, 0);
    let base = m.view(Privilege::User).base;
    map4k(&mut m, ROOT, TABLE, USER, 0);
    assert_eq!(peek(base, USER), None);
    assert!(m.view_is_clean(Privilege::User));
}

#[test]
fn a_trace_covers_every_alias() {
    let mut m = guest();
    let alias = USER + 0x5000;
    map4k(&mut m, ROOT, TABLE, alias, DATA | P | W | U);
    map4k(&mut m, ROOT, KERNEL_TABLE, KERNEL + 0x1000, DATA | P | W);
    for (linear, kind) in [
        (USER, USER_WRITE),
        (alias, USER_WRITE),
        (KERNEL + 0x1000, WRITE),
    ] {
        access(&mut m, linear, kind, 1);
    }
    let user = m.view(Privilege::User).base;
    let kernel = m.view(Privilege::Supervisor).base;
    m.trace_code(DATA >> 12);
    assert!(!poke(user, USER, 2) && !poke(user, alias, 2) && !poke(kernel, KERNEL + 0x1000, 2));
    m.audit().unwrap();
    access(&mut m, alias + 8, USER_WRITE, 0x55);
    assert_eq!(
        events(&mut m),
        [MmuEvent::CodeWritten {
            gfn: DATA >> 12,
            offset: 8,
            len: 4
        }]
    );
    access(&mut m, alias + 8, USER_WRITE, 0x55);
    assert_eq!(events(&mut m), [], "the bytes did not change");
    m.write_phys(u64::from(DATA) + 0xffe, &[1, 2, 3]).unwrap();
    assert_eq!(
        events(&mut m),
        [MmuEvent::CodeWritten {
            gfn: DATA >> 12,
            offset: 0xffe,
            len: 2
        }]
    );
    m.untrace_code(DATA >> 12);
    access(&mut m, KERNEL + 0x1000, WRITE, 3);
    assert!(poke(kernel, KERNEL + 0x1000, 4));
    assert_eq!(events(&mut m), []);
    m.audit().unwrap();
}

#[test]
fn a_trace_cuts_one_page_out_of_flat_memory() {
    let mut m = mmu(64);
    access(&mut m, 0x100_0000, WRITE, 1);
    let base = m.view(Privilege::Supervisor).base;
    m.trace_code(0x1234);
    assert_eq!(m.stats().mprotects, 1);
    assert!(!poke(base, 0x123_4000, 1));
    assert!(poke(base, 0x123_3000, 1) && poke(base, 0x123_5000, 1));
    m.audit().unwrap();
    m.untrace_code(0x1234);
    access(&mut m, 0x123_4000, WRITE, 1);
    assert!(poke(base, 0x123_4000, 2));
    m.audit().unwrap();
}

#[test]
fn marked_pages_report_their_end_and_others_do_not() {
    let mut m = guest();
    let code = Access::execute(Privilege::User);
    assert_eq!(m.handle_fault(USER, code), FaultOutcome::Filled);
    let view = m.view(Privilege::User);
    assert_eq!(
        peek(view.base, USER),
        None,
        "a fetch maps nothing in the window"
    );
    map4k(&mut m, ROOT, TABLE, USER, 0);
    assert_eq!(events(&mut m), []);
    map4k(&mut m, ROOT, TABLE, USER, DATA | P | U);
    m.resolve(USER, code).unwrap();
    m.mark_code(view.space, USER >> 12);
    // Loads of CR3 that find everything as it was say nothing.
    m.load_cr3(ROOT);
    assert_eq!(events(&mut m), []);
    map4k(&mut m, ROOT, TABLE, USER, 0x40_0000 | P | U);
    assert_eq!(
        events(&mut m),
        [MmuEvent::Unmapped {
            space: view.space,
            first_page: USER >> 12,
            pages: 1
        }]
    );
    m.mark_code(view.space, USER >> 12);
    assert_eq!(
        events(&mut m),
        [MmuEvent::Unmapped {
            space: view.space,
            first_page: USER >> 12,
            pages: 1
        }],
        "a mark that comes too late"
    );
}

/// A second root that shares the kernel's tables.
fn second_root(m: &mut Mmu, root: u32, table: u32) {
    let pde = get32(m, ROOT + (KERNEL >> 22) * 4);
    put32(m, root + (KERNEL >> 22) * 4, pde & !A);
    map4k(m, root, table, USER, 0x50_0000 | P | W | U);
}

#[test]
fn cr3_loads_keep_both_halves() {
    let mut m = guest();
    let (root, table) = (0x11_0000, 0x11_1000);
    second_root(&mut m, root, table);
    access(&mut m, USER, USER_WRITE, 1);
    access(&mut m, KERNEL, WRITE, 2);
    let first = m.view(Privilege::User);
    m.load_cr3(root);
    access(&mut m, USER, USER_WRITE, 3);
    let second = m.view(Privilege::User);
    assert_ne!(first.space, second.space);
    let before = m.stats().clone();
    for _ in 0..10 {
        m.load_cr3(ROOT);
        assert_eq!(peek(m.view(Privilege::User).base, USER), Some(1));
        assert_eq!(peek(m.view(Privilege::Supervisor).base, KERNEL), Some(2));
        m.load_cr3(root);
        assert_eq!(peek(m.view(Privilege::User).base, USER), Some(3));
        assert_eq!(peek(m.view(Privilege::Supervisor).base, KERNEL), Some(2));
    }
    assert_eq!(
        m.stats().mmaps + m.stats().munmaps,
        before.mmaps + before.munmaps,
        "no system call for a CR3 load"
    );
    assert_eq!(m.stats().cr3_hits, before.cr3_hits + 20);
    assert_eq!(events(&mut m), []);
    m.audit().unwrap();
}

#[test]
fn a_differing_kernel_half_is_noticed() {
    let mut m = guest();
    let (root, table) = (0x11_0000, 0x11_1000);
    second_root(&mut m, root, table);
    // The second root maps another frame at the same kernel address, by a table of its own.
    let other = KERNEL + 0x40_0000;
    put32(&mut m, ROOT + (other >> 22) * 4, 0x12_0000 | P | W);
    put32(&mut m, 0x12_0000, 0x60_0000 | P | W);
    put32(&mut m, root + (other >> 22) * 4, 0x12_1000 | P | W);
    put32(&mut m, 0x12_1000, 0x61_0000 | P | W);
    put32(&mut m, 0x60_0000, 0xaaaa);
    put32(&mut m, 0x61_0000, 0xbbbb);
    assert_eq!(access(&mut m, other, READ, 0), Some(0xaaaa));
    m.load_cr3(root);
    assert_eq!(access(&mut m, other, READ, 0), Some(0xbbbb));
    m.audit().unwrap();
    m.load_cr3(ROOT);
    assert_eq!(access(&mut m, other, READ, 0), Some(0xaaaa));
    // A change of the entry of the root that is loaded.
    put32(&mut m, ROOT + (other >> 22) * 4, 0x12_1000 | P | W);
    assert_eq!(access(&mut m, other, READ, 0), Some(0xbbbb));
    m.audit().unwrap();
    // A change made to the root while another is loaded.
    put32(&mut m, root + (other >> 22) * 4, 0);
    assert_eq!(access(&mut m, other, READ, 0), Some(0xbbbb));
    m.load_cr3(root);
    assert_eq!(access(&mut m, other, READ, 0), None);
    m.audit().unwrap();
}

#[test]
fn kernels_that_share_nothing_get_a_supervisor_space_each() {
    let mut m = mmu(16);
    let roots = [0x10_0000u32, 0x11_0000];
    for (i, &root) in (0u32..).zip(&roots) {
        for k in 0..8 {
            let linear = 0x8000_0000 + k * 0x40_0000;
            let table = root + 0x1000 + k * 0x1000;
            put32(&mut m, root + (linear >> 22) * 4, table | P | W);
            put32(&mut m, table, (0x40_0000 + (i * 8 + k) * 0x1000) | P | W);
        }
    }
    m.set_paging(paging(roots[0]));
    let mut quiet = 0;
    for turn in 0..40u32 {
        m.load_cr3(roots[(turn % 2) as usize]);
        let maps = m.stats().mmaps;
        for k in 0..8 {
            access(&mut m, 0x8000_0000 + k * 0x40_0000, WRITE, turn << 8 | k);
            assert_eq!(
                get32(&m, 0x40_0000 + (turn % 2 * 8 + k) * 0x1000),
                turn << 8 | k
            );
        }
        quiet = if m.stats().mmaps == maps {
            quiet + 1
        } else {
            0
        };
    }
    assert!(quiet > 10, "still refilling after {quiet} quiet turns");
    m.audit().unwrap();
}

#[test]
fn a_table_that_becomes_data_is_let_go() {
    let mut m = guest();
    access(&mut m, USER, USER_READ, 0);
    let second = 0x11_0000;
    second_root(&mut m, second, 0x11_1000);
    m.load_cr3(second);
    access(&mut m, KERNEL, READ, 0);
    // The kernel maps the old root and its page table as data, and clears them.
    map4k(
        &mut m,
        second,
        KERNEL_TABLE,
        KERNEL + 0x10_0000,
        ROOT | P | W,
    );
    map4k(
        &mut m,
        second,
        KERNEL_TABLE,
        KERNEL + 0x10_1000,
        TABLE | P | W,
    );
    for i in 0..1024 {
        access(&mut m, KERNEL + 0x10_0000 + i * 4, WRITE, i);
        access(&mut m, KERNEL + 0x10_1000 + i * 4, WRITE, i);
    }
    assert!(
        m.stats().traced_writes < 20,
        "{} traced writes",
        m.stats().traced_writes
    );
    assert_eq!(m.stats().roots_given_up, 1);
    assert!(
        events(&mut m)
            .iter()
            .any(|e| matches!(e, MmuEvent::SpaceDropped(_)))
    );
    assert_eq!(get32(&m, ROOT + 40), 10);
    m.audit().unwrap();
}

#[test]
fn an_exiting_process_is_not_trapped_entry_by_entry() {
    let mut m = guest();
    map4k(
        &mut m,
        ROOT,
        KERNEL_TABLE,
        KERNEL + 0x10_1000,
        TABLE | P | W,
    );
    for i in 0..256 {
        map4k(
            &mut m,
            ROOT,
            TABLE,
            USER + i * 0x1000,
            (DATA + i * 0x1000) | P | W | U,
        );
        access(&mut m, USER + i * 0x1000, USER_WRITE, i);
    }
    m.view(Privilege::Supervisor);
    let before = m.stats().traced_writes;
    for i in 0..256 {
        access(
            &mut m,
            KERNEL + 0x10_1000 + ((USER >> 12 & 1023) + i) * 4,
            WRITE,
            0,
        );
    }
    assert!(m.stats().traced_writes - before < 20);
    assert_eq!(m.stats().tables_given_up, 1);
    assert_eq!(access(&mut m, USER + 0x5000, USER_READ, 0), None);
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
fn a20_states_have_their_own_flat_windows() {
    let mut m = mmu(16);
    put32(&mut m, 0x500, 0x1111);
    put32(&mut m, 0x10_0500, 0x2222);
    assert_eq!(access(&mut m, 0x10_0500, READ, 0), Some(0x2222));
    m.set_a20(false);
    assert_eq!(access(&mut m, 0x10_0500, READ, 0), Some(0x1111));
    access(&mut m, 0x10_0504, WRITE, 5);
    assert_eq!(get32(&m, 0x504), 5);
    m.audit().unwrap();
    let maps = m.stats().mmaps;
    for _ in 0..5 {
        m.set_a20(true);
        assert_eq!(access(&mut m, 0x10_0500, READ, 0), Some(0x2222));
        m.set_a20(false);
        assert_eq!(access(&mut m, 0x10_0500, READ, 0), Some(0x1111));
    }
    assert_eq!(m.stats().mmaps, maps);
    // A trace reaches the alias of the other state too.
    m.trace_code(0);
    m.set_a20(true);
    let base = m.view(Privilege::Supervisor).base;
    assert!(!poke(base, 0x500, 1));
    m.set_a20(false);
    let base = m.view(Privilege::Supervisor).base;
    assert!(!poke(base, 0x500, 1) && !poke(base, 0x10_0500, 1));
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
fn the_mapping_budget_holds() {
    let mut m = Mmu::new(MmuConfig {
        ram_bytes: 32 << 20,
        mapping_budget: 400,
        ..MmuConfig::default()
    })
    .unwrap();
    let roots: Vec<u32> = (0..6).map(|i| 0x10_0000 + i * 0x1_0000).collect();
    for &root in &roots {
        for i in 0..300 {
            // Every other page, so that nothing merges.
            map4k(
                &mut m,
                root,
                root + 0x1000,
                USER + i * 0x2000,
                (DATA + i * 0x3000) | P | W | U,
            );
        }
    }
    m.set_paging(paging(roots[0]));
    for round in 0..3 {
        for &root in &roots {
            m.load_cr3(root);
            for i in 0..300 {
                assert_eq!(
                    access(&mut m, USER + i * 0x2000, USER_WRITE, round + i),
                    Some(round + i)
                );
                assert!(m.refresh_stats().vmas <= 400, "{} mappings", m.stats().vmas);
            }
        }
        m.audit().unwrap();
    }
    assert!(m.stats().windows_emptied > 0);
}

#[test]
fn spaces_are_evicted_by_age() {
    let mut m = Mmu::new(MmuConfig {
        ram_bytes: 16 << 20,
        max_spaces: 6,
        ..MmuConfig::default()
    })
    .unwrap();
    for i in 0..12 {
        let root = 0x10_0000 + i * 0x2000;
        map4k(
            &mut m,
            root,
            root + 0x1000,
            USER,
            (DATA + i * 0x1000) | P | W | U,
        );
        m.set_paging(paging(root));
        access(&mut m, USER, USER_WRITE, i);
        m.audit().unwrap();
    }
    let dropped = events(&mut m)
        .iter()
        .filter(|e| matches!(e, MmuEvent::SpaceDropped(_)))
        .count();
    assert_eq!(dropped as u64, m.stats().spaces_dropped);
    assert!(m.stats().spaces_made - m.stats().spaces_dropped <= 6);
    // The latest ones are still there.
    let made = m.stats().spaces_made;
    m.load_cr3(0x10_0000 + 10 * 0x2000);
    assert_eq!(m.stats().spaces_made, made);
    m.load_cr3(0x10_0000);
    assert_eq!(m.stats().spaces_made, made + 1);
    assert_eq!(access(&mut m, USER, USER_READ, 0), Some(0));
    m.audit().unwrap();
}

#[test]
fn two_machines_do_not_see_each_other() {
    let mut machines = [guest(), guest()];
    for round in 0..50u32 {
        for (i, m) in (0u32..).zip(&mut machines) {
            let value = round << 8 | i;
            access(m, USER + 4 * round, USER_WRITE, value);
            access(m, KERNEL + 4 * round, WRITE, !value);
        }
        for (i, m) in (0u32..).zip(&mut machines) {
            let value = round << 8 | i;
            assert_eq!(get32(m, DATA + 4 * round), value);
            assert_eq!(access(m, USER + 4 * round, USER_READ, 0), Some(value));
            assert_eq!(access(m, KERNEL + 4 * round, READ, 0), Some(!value));
        }
    }
    for m in &machines {
        m.audit().unwrap();
    }
}

#[test]
fn the_page_of_a_handled_fault_is_mapped_in_advance() {
    let mut m = guest();
    access(&mut m, USER, USER_READ, 0);
    assert_eq!(access(&mut m, USER + 0x1000, USER_WRITE, 0), None);
    m.view(Privilege::Supervisor);
    map4k(
        &mut m,
        ROOT,
        TABLE,
        USER + 0x1000,
        (DATA + 0x1_0000) | P | W | U | A | D,
    );
    let base = m.view(Privilege::User).base;
    assert!(poke(base, USER + 0x1000, 1), "no second fault");
    assert_eq!(m.stats().predicted_pages, 1);
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
fn a_self_map_shows_the_tables() {
    let mut m = guest();
    // NT's self-map: the page directory as its own page table, at C0000000h there, at F0000000h here.
    let window = 0xf000_0000u32;
    put32(&mut m, ROOT + (window >> 22) * 4, ROOT | P | W);
    access(&mut m, USER, USER_WRITE, 1);
    let pte = window + (USER >> 12) * 4;
    assert_eq!(
        access(&mut m, pte, READ, 0).map(|e| e & !(A | D)),
        Some(DATA | P | W | U)
    );
    access(&mut m, pte, WRITE, (DATA + 0x1000) | P | W | U);
    put32(&mut m, DATA + 0x1000, 0x77);
    assert_eq!(access(&mut m, USER, USER_READ, 0), Some(0x77));
    m.audit().unwrap();
    // The directory entry itself, through the self-map.
    let pde = window + (window >> 12) * 4 + (USER >> 22) * 4;
    access(&mut m, pde, WRITE, 0);
    assert_eq!(access(&mut m, USER, USER_READ, 0), None);
    m.audit().unwrap();
}

#[test]
fn edits_rebuild_the_tables_elsewhere() {
    use std::collections::HashMap;
    let config = MmuConfig {
        ram_bytes: 16 << 20,
        mirror_edits: true,
        ..MmuConfig::default()
    };
    let mut m = Mmu::new(config).unwrap();
    map4k(&mut m, ROOT, TABLE, USER, DATA | P | W | U);
    m.set_paging(paging(ROOT));
    let mut mirror: HashMap<u64, u64> = HashMap::new();
    let mut check = |m: &mut Mmu| {
        let mut edits = Vec::new();
        m.take_edits(&mut edits);
        mirror.extend(edits.iter().map(|e| (e.address, e.value)));
        // Every table reachable from the root, entry by entry.
        let mut todo = vec![(m.shadow_root(Privilege::User).address, 4)];
        let mut leaves = Vec::new();
        while let Some((table, level)) = todo.pop() {
            let entries = m.read_table(table).unwrap();
            for (i, &e) in (0u64..).zip(entries) {
                assert_eq!(mirror.get(&(table + i * 8)).copied().unwrap_or(0), e);
                if e & 1 != 0 && level > 1 && e & 0x80 == 0 {
                    todo.push((e & 0xf_ffff_ffff_f000, level - 1));
                } else if e & 1 != 0 {
                    leaves.push(e & 0xf_ffff_ffff_f000);
                }
            }
        }
        leaves
    };
    assert_eq!(m.shadow_fault(USER, USER_WRITE), FaultOutcome::Filled);
    assert_eq!(check(&mut m), [u64::from(DATA)]);
    put32(&mut m, ROOT + (USER >> 22) * 4, 0);
    assert!(check(&mut m).is_empty());
    map4k(
        &mut m,
        ROOT,
        TABLE,
        USER + 0x1000,
        (DATA + 0x1000) | P | W | U,
    );
    assert_eq!(
        m.shadow_fault(USER + 0x1000, USER_WRITE),
        FaultOutcome::Filled
    );
    assert_eq!(check(&mut m), [u64::from(DATA + 0x1000)]);
}
