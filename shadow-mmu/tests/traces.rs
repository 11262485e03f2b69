//! What it promises of traces, zaps and events.

mod common;

use common::*;
use shadow_mmu::*;

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

#[test]
fn a_table_that_is_emptied_is_let_go() {
    let mut m = guest();
    map4k(
        &mut m,
        ROOT,
        KERNEL_TABLE,
        KERNEL + 0x10_1000,
        TABLE | P | W,
    );
    for i in 0..64 {
        let frame = DATA + i * 0x1000;
        map4k(&mut m, ROOT, TABLE, USER + i * 0x1000, frame | P | W | U);
        access(&mut m, USER + i * 0x1000, USER_WRITE, i);
    }
    m.view(Privilege::Supervisor);
    let entry = |i: u32| KERNEL + 0x10_1000 + ((USER >> 12 & 1023) + i) * 4;
    // Part of it goes: the rest stays mapped.
    for i in 0..32 {
        access(&mut m, entry(i), WRITE, 0);
    }
    assert_eq!(m.stats().tables_given_up, 0);
    assert_eq!(
        peek(m.view(Privilege::User).base, USER + 40 * 0x1000),
        Some(40)
    );
    m.view(Privilege::Supervisor);
    // All of it goes, and the page is used for something else.
    let before = m.stats().traced_writes;
    for i in 32..64 {
        access(&mut m, entry(i), WRITE, 0);
    }
    for i in 0..512 {
        access(&mut m, KERNEL + 0x10_1000 + i * 4, WRITE, i * 2);
    }
    assert!(m.stats().traced_writes - before <= 32);
    assert_eq!(m.stats().tables_given_up, 1);
    assert_eq!(access(&mut m, USER + 0x5000, USER_READ, 0), None);
    m.audit().unwrap();
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

#[test]
fn a_half_written_pae_entry_is_never_acted_on() {
    let mut m = Mmu::new(MmuConfig {
        ram_bytes: 16 << 20,
        physical_bits: 36,
        ..MmuConfig::default()
    })
    .unwrap();
    let directory = 0x10_2000u32;
    put32(&mut m, ROOT, directory | P);
    put32(
        &mut m,
        directory + (USER >> 21 & 511) * 8,
        TABLE | P | W | U,
    );
    let pte = TABLE + (USER >> 12 & 511) * 8;
    put32(&mut m, pte, DATA | P | W | U);
    put32(&mut m, DATA, 1);
    put32(&mut m, DATA + 0x1000, 2);
    m.set_paging(PagingRegs {
        cr0: 1 | CR0_PG | CR0_WP,
        cr3: ROOT,
        cr4: CR4_PAE,
        efer: 0,
    });
    assert_eq!(engine(&mut m, USER, USER_READ, 0), Done::Value(1));
    // The high half first: for a moment the entry leads beyond memory.
    put32(&mut m, pte + 4, 1);
    assert_eq!(
        engine(&mut m, USER, USER_READ, 0),
        Done::NotMemory(1 << 32 | u64::from(DATA))
    );
    put32(&mut m, pte, (DATA + 0x1000) | P | W | U);
    put32(&mut m, pte + 4, 0);
    assert_eq!(engine(&mut m, USER, USER_READ, 0), Done::Value(2));
    m.audit().unwrap();
}

/// What a caller that writes a page past its trace is told: that it has to stop.
#[test]
fn an_alias_of_a_code_page_ends_with_its_rights() {
    type Way<'a> = (&'a str, &'a dyn Fn(&mut Mmu));
    let ways: [Way<'_>; 5] = [
        ("write access", &|m| {
            let entry = get32(m, TABLE + (USER >> 12 & 1023) * 4);
            map4k(m, ROOT, TABLE, USER, entry & !W)
        }),
        ("the dirty bit", &|m| {
            let entry = get32(m, TABLE + (USER >> 12 & 1023) * 4);
            map4k(m, ROOT, TABLE, USER, entry & !D)
        }),
        ("the page", &|m| map4k(m, ROOT, TABLE, USER, 0)),
        ("the directory entry", &|m| {
            put32(m, ROOT + (USER >> 22) * 4, 0)
        }),
        ("its being no table", &|m| {
            put32(m, ROOT + (0x4000_0000 >> 22) * 4, DATA | P | W | U);
            put32(m, DATA, 0x40_0000 | P | W | U);
            access(m, 0x4000_0000, USER_READ, 0);
        }),
    ];
    for (what, end) in ways {
        let mut m = guest();
        m.resolve(USER, USER_WRITE).unwrap();
        assert!(
            m.code_page_alias(USER, Privilege::User).is_none(),
            "no code"
        );
        m.trace_code(DATA >> 12);
        let alias = m.code_page_alias(USER + 0x123, Privilege::User);
        assert!(alias.is_some(), "{what}");
        assert_eq!(events(&mut m), [], "{what}");
        end(&mut m);
        let page = USER >> 12;
        let told = events(&mut m).iter().any(|event| {
            matches!(event, MmuEvent::Unmapped { first_page, pages, .. } if page.wrapping_sub(*first_page) < *pages)
        });
        assert!(told, "{what}");
        m.audit().unwrap();
    }
    let mut m = guest();
    put32(&mut m, TABLE + (USER >> 12 & 1023) * 4, DATA | P | U);
    m.trace_code(DATA >> 12);
    assert!(
        m.code_page_alias(USER, Privilege::User).is_none(),
        "read-only"
    );
    let table = m.code_page_alias(TABLE, Privilege::Supervisor);
    assert!(table.is_none(), "not mapped");
}

#[test]
fn what_the_guest_enters_is_there_without_a_fault() {
    let mut m = guest();
    let entry = TABLE + (USER >> 12 & 0x3ff) * 4;
    assert_eq!(access(&mut m, USER, USER_WRITE, 7), Some(7));
    // As mprotect does it: cleared first, so that the processor sets no bit meanwhile.
    m.view(Privilege::Supervisor);
    let old = get32(&m, entry);
    let before = m.stats().clone();
    put32(&mut m, entry, 0);
    put32(&mut m, entry, old & !W);
    let base = m.view(Privilege::User).base;
    assert_eq!(peek(base, USER), Some(7));
    assert!(!poke(base, USER, 8));
    // Write access again, then another page, as after a write to a shared one.
    m.view(Privilege::Supervisor);
    put32(&mut m, entry, 0);
    put32(&mut m, entry, old);
    let base = m.view(Privilege::User).base;
    assert!(poke(base, USER, 9));
    m.view(Privilege::Supervisor);
    put32(&mut m, entry, 0);
    put32(&mut m, entry, old & 0xfff | 0x60_0000);
    let base = m.view(Privilege::User).base;
    assert!(poke(base, USER, 10));
    assert_eq!(get32(&m, 0x60_0000), 10);
    let after = m.stats();
    assert_eq!(after.hidden_faults, before.hidden_faults);
    assert_eq!(after.munmaps, before.munmaps);
    assert_eq!(after.prefilled - before.prefilled, 3);
    // What has not been accessed is not entered: the processor has to set the bit.
    m.view(Privilege::Supervisor);
    put32(&mut m, entry, old & !A);
    assert_eq!(peek(m.view(Privilege::User).base, USER), None);
    m.audit().unwrap();
}

#[test]
fn a_former_page_table_is_written_freely_after_the_second_fault() {
    let mut m = guest();
    let (root, table, alias) = (0x11_0000, 0x11_1000, KERNEL + 0x5000);
    map4k(&mut m, root, table, USER, 0x50_0000 | P | W | U);
    map4k(&mut m, ROOT, KERNEL_TABLE, alias, table | P | W);
    m.load_cr3(root);
    access(&mut m, USER, USER_WRITE, 3);
    m.load_cr3(ROOT);
    assert!(matches!(m.handle_fault(alias, WRITE), FaultOutcome::Trapped(r) if r.traced));
    // The root is used for something else, so nothing depends on the table any more.
    for i in 0..3 {
        put32(&mut m, root + 0x800 + i * 4, 0x1234_5000);
    }
    assert_eq!(m.stats().roots_given_up, 1);
    assert!(!m.is_plain_write(alias, Privilege::Supervisor));
    assert!(matches!(m.handle_fault(alias, WRITE), FaultOutcome::Trapped(r) if !r.traced));
    m.audit().unwrap();
    assert_eq!(m.handle_fault(alias, WRITE), FaultOutcome::Filled);
    assert!(m.is_plain_write(alias, Privilege::Supervisor));
    assert!(poke(m.view(Privilege::Supervisor).base, alias, 77));
    assert_eq!(get32(&m, table), 77);
    m.audit().unwrap();
}

/// What it is called, and how it is done.
type Change<'a> = (&'a str, &'a dyn Fn(&mut Mmu));

#[test]
fn what_is_known_of_a_former_page_table_is_good_until_something_changes() {
    let mut m = guest();
    let (root, table, alias) = (0x11_0000, 0x11_1000, KERNEL + 0x5000);
    let other = KERNEL + 0x6000;
    let former = |m: &mut Mmu| {
        m.plan(alias, 4, WRITE).unwrap();
        m.leads_to_former_table(alias, Privilege::Supervisor)
    };
    map4k(&mut m, root, table, USER, 0x50_0000 | P | W | U);
    map4k(&mut m, ROOT, KERNEL_TABLE, alias, table | P | W);
    map4k(&mut m, ROOT, KERNEL_TABLE, other, 0x51_0000 | P | W);
    assert!(!former(&mut m), "an ordinary page");
    m.load_cr3(root);
    access(&mut m, USER, USER_WRITE, 3);
    m.load_cr3(ROOT);
    assert!(!former(&mut m), "a table in use");
    for i in 0..3 {
        put32(&mut m, root + 0x800 + i * 4, 0x1234_5000);
    }
    assert!(former(&mut m));
    assert!(!m.leads_to_former_table(alias, Privilege::User));
    // Ordinary accesses and writes change nothing.
    access(&mut m, other, WRITE, 1);
    let epoch = m.direct_epoch();
    put32(&mut m, table, 5);
    access(&mut m, other, WRITE, 2);
    assert!(former(&mut m));
    assert_eq!(m.direct_epoch(), epoch);
    let changes: [Change; 6] = [
        ("a breakpoint", &|m| m.watch_pages([alias >> 12])),
        ("no breakpoint", &|m| m.watch_pages([])),
        ("another page", &|m| {
            map4k(m, ROOT, KERNEL_TABLE, alias, 0x52_0000 | P | W)
        }),
        ("the page again", &|m| {
            map4k(m, ROOT, KERNEL_TABLE, alias, table | P | W)
        }),
        ("code", &|m| m.trace_code(table >> 12)),
        ("a table again", &|m| {
            m.untrace_code(table >> 12);
            put32(m, table, 0);
            map4k(m, root, table, USER, 0x50_0000 | P | W | U);
            m.load_cr3(root);
            access(m, USER, USER_READ, 0);
            m.load_cr3(ROOT);
        }),
    ];
    for (what, change) in changes {
        let epoch = m.direct_epoch();
        change(&mut m);
        assert_ne!(m.direct_epoch(), epoch, "{what}");
        let expected = matches!(what, "no breakpoint" | "the page again");
        assert_eq!(former(&mut m), expected, "{what}");
        m.audit().unwrap();
    }
}
