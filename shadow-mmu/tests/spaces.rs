//! What it promises of spaces, CR3 loads and limits.

mod common;

use common::*;
use shadow_mmu::*;

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
    let roots = [0x10_0000u32, 0x11_0000, 0x12_0000, 0x13_0000];
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
    for turn in 0..60u32 {
        m.load_cr3(roots[(turn % 4) as usize]);
        let maps = m.stats().mmaps;
        for k in 0..8 {
            access(&mut m, 0x8000_0000 + k * 0x40_0000, WRITE, turn << 8 | k);
            assert_eq!(
                get32(&m, 0x40_0000 + (turn % 4 * 8 + k) * 0x1000),
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

/// Each process has two roots: the kernel's, and one for user code that maps a single region of the kernel, the one with
/// the code that changes roots. Both kinds keep their supervisor mappings when they alternate.
#[test]
fn isolated_page_tables_keep_both_supervisor_spaces() {
    const REGIONS: u32 = 8;
    const REGION: u32 = 0x40_0000;
    let mut m = mmu(16);
    let kernel = |process: u32| 0x10_0000 + process * 0x2000;
    let isolated = |process: u32| kernel(process) + 0x1000;
    for k in 0..REGIONS {
        let table = 0x20_0000 + k * 0x1000;
        put32(&mut m, table, (0x40_0000 + k * 0x1000) | P | W);
        for process in 0..3 {
            let entry = 0x200 * 4 + k * 4;
            put32(&mut m, kernel(process) + entry, table | P | W);
            if k == 0 {
                put32(&mut m, isolated(process) + entry, table | P | W);
            }
        }
    }
    m.set_paging(paging(kernel(0)));
    let turn = |m: &mut Mmu, process| {
        m.load_cr3(kernel(process));
        for k in 0..REGIONS {
            access(m, 0x8000_0000 + k * REGION, WRITE, k);
        }
        m.load_cr3(isolated(process));
        access(m, 0x8000_0000, WRITE, 7);
        assert_eq!(access(m, 0x8000_0000 + REGION, READ, 0), None);
    };
    for process in 0..3 {
        turn(&mut m, process);
    }
    let before = m.stats().clone();
    for round in 0..30 {
        turn(&mut m, round % 3);
    }
    assert_eq!(
        m.stats().supervisor_regions_dropped,
        before.supervisor_regions_dropped
    );
    assert_eq!(m.stats().mmaps, before.mmaps);
    m.audit().unwrap();
}

/// As above, but the spaces were first filled by roots of the wrong kind: the kernel's root of process 0 is with what a root
/// for user code left behind, and then both roots of process 1 come to the same space. They must not empty it for each other
/// at every turn.
#[test]
fn roots_that_came_to_the_wrong_space_leave_it() {
    const REGIONS: u32 = 12;
    const SHARED: u32 = 3;
    const REGION: u32 = 0x40_0000;
    let mut m = mmu(16);
    let kernel = |process: u32| 0x10_0000 + process * 0x2000;
    let isolated = |process: u32| kernel(process) + 0x1000;
    let entry = |k: u32| 0x200 * 4 + k * 4;
    for k in 0..REGIONS {
        let table = 0x20_0000 + k * 0x1000;
        put32(&mut m, table, (0x40_0000 + k * 0x1000) | P | W);
        for process in 0..3 {
            put32(&mut m, kernel(process) + entry(k), table | P | W);
            if process > 0 && k < SHARED {
                put32(&mut m, isolated(process) + entry(k), table | P | W);
            }
        }
        // What the first root maps is its own.
        let own = 0x30_0000 + k * 0x1000;
        put32(&mut m, own, (0x50_0000 + k * 0x1000) | P | W);
        put32(&mut m, isolated(0) + entry(k), own | P | W);
    }
    let use_all = |m: &mut Mmu, root: u32, regions: u32| {
        m.load_cr3(root);
        for k in 0..regions {
            access(m, 0x8000_0000 + k * REGION, WRITE, k);
        }
    };
    m.set_paging(paging(isolated(0)));
    use_all(&mut m, isolated(0), REGIONS);
    use_all(&mut m, kernel(0), REGIONS);
    m.load_cr3(isolated(0));
    for k in 0..REGIONS {
        put32(&mut m, isolated(0) + entry(k), 0);
    }
    let turn = |m: &mut Mmu, process| {
        use_all(m, kernel(process), REGIONS);
        use_all(m, isolated(process), SHARED);
        assert_eq!(access(m, 0x8000_0000 + SHARED * REGION, READ, 0), None);
    };
    for round in 0..3 {
        turn(&mut m, 1 + round % 2);
    }
    let before = m.stats().clone();
    for round in 0..30 {
        turn(&mut m, 1 + round % 2);
    }
    assert_eq!(
        m.stats().supervisor_regions_dropped,
        before.supervisor_regions_dropped
    );
    assert_eq!(m.stats().mmaps, before.mmaps);
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
                assert!(m.snapshot().vmas <= 400, "{} mappings", m.snapshot().vmas);
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
