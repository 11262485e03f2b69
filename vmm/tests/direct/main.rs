//! Direct execution over the machine's own shadow MMU: guest page tables and descriptor tables in
//! guest memory, ring-3 programs, every kind of exit. Without a usable `/dev/kvm` each test says so
//! and does nothing.

mod failures;
mod guest;

use std::thread;
use std::time::Duration;

use decision::ExitKind;
use guest::*;
use ringshift::engine::DirectEngine;
use shadow_mmu::PhysTarget;
use translator::Exit;
use translator::state::{FxState, Segment, cr0, eflags, reg, seg};

#[test]
fn a_program_runs_to_its_system_call() {
    let Some(mut guest) = guest() else { return };
    let code = [
        op(&[0xB8], 7),                        // mov eax, 7
        op(&[0x6B, 0xC0, 6], 0)[..3].to_vec(), // imul eax, eax, 6
        op(&[0xA3], DATA),                     // mov [DATA], eax
        vec![0x50, 0x5B],                      // push eax; pop ebx
        vec![0x39, 0xC3],                      // cmp ebx, eax
    ]
    .concat();
    guest.program(&[&code[..], &INT80].concat());
    assert_eq!(guest.run_to(code.len()), ExitKind::SystemCall);
    assert_eq!(
        (guest.register(reg::EAX), guest.register(reg::EBX)),
        (42, 42)
    );
    assert_eq!(guest.register(reg::ESP), STACK);
    assert_eq!(guest.read(DATA_PAGES), 42);
    let wanted = eflags::FIXED | eflags::IF | eflags::ZF | eflags::PF;
    assert_eq!(guest.state.eflags, wanted);
    // The guest's own entries: code accessed, data and stack accessed and dirty, others untouched.
    let bits = |guest: &Guest, linear| guest.read(Guest::entry(linear)) & 0x60;
    assert_eq!(bits(&guest, CODE), 0x20);
    assert_eq!(bits(&guest, DATA), 0x60);
    assert_eq!(bits(&guest, STACK), 0x60);
    assert_eq!(bits(&guest, DATA + 0x1000), 0);
    assert!(guest.engine.statistics().hidden_faults >= 3);
}

#[test]
fn a_true_page_fault_leaves_and_the_repaired_program_goes_on() {
    let Some(mut guest) = guest() else { return };
    let hole = DATA + 5 * 0x1000;
    guest.map(hole, 0);
    let read = op(&[0xA1], hole + 8); // mov eax, [hole + 8]
    let write = op(&[0xA3], hole + 12); // mov [hole + 12], eax
    let code = [&read[..], &write, &INT80].concat();
    guest.program(&code);
    assert_eq!(guest.run_to(0), ExitKind::Exception);
    assert_eq!(guest.run_to(0), ExitKind::Exception, "still there");
    // Read-only first.
    guest.write(DATA_PAGES + 5 * 0x1000 + 8, 1234);
    guest.map(hole, (DATA_PAGES + 5 * 0x1000) | P | US);
    assert_eq!(guest.run_to(5), ExitKind::Exception);
    assert_eq!(guest.register(reg::EAX), 1234);
    guest.map(hole, (DATA_PAGES + 5 * 0x1000) | P | US | RW);
    assert_eq!(guest.run_to(10), ExitKind::SystemCall);
    assert_eq!(guest.read(DATA_PAGES + 5 * 0x1000 + 12), 1234);
}

#[test]
fn a_supervisor_page_is_out_of_reach() {
    let Some(mut guest) = guest() else { return };
    guest.program(&[&op(&[0xA1], KERNEL)[..], &INT80].concat());
    assert_eq!(guest.run_to(0), ExitKind::Exception);
    assert_eq!(guest.register(reg::EAX), 0);
}

#[test]
fn edits_of_the_guest_tables_are_followed_without_a_flush() {
    let Some(mut guest) = guest() else { return };
    for page in 0..4 {
        guest.write(DATA_PAGES + page * 0x1000, 0x1111 * (page + 1));
    }
    let code = [&op(&[0xA1], DATA)[..], &INT80].concat();
    for round in 0..3 {
        for page in [1, 3, 2, 0] {
            guest.map(DATA, (DATA_PAGES + page * 0x1000) | P | US | RW);
            guest.program(&code);
            guest.run_to(5);
            let found = guest.register(reg::EAX);
            assert_eq!(found, 0x1111 * (page + 1), "round {round}");
        }
    }
}

#[test]
fn address_spaces_are_kept_apart() {
    let Some(mut guest) = guest() else { return };
    let page = |number: u32| DATA_PAGES + number * 0x1000;
    for (number, value) in [(0, 111), (1, 222)] {
        guest.write(page(number), value);
    }
    for (linear, entry) in [(CODE, CODE_PAGE | P | US), (DATA, page(1) | P | US | RW)] {
        guest.write(OTHER_TABLE + (linear >> 12 & 0x3FF) * 4, entry);
    }
    for (root, value) in [(DIRECTORY, 111), (OTHER_DIRECTORY, 222)].repeat(3) {
        guest.mmu.load_cr3(root);
        guest.state.cr3 = root;
        guest.program(&[&op(&[0xA1], DATA)[..], &INT80].concat());
        guest.run_to(5);
        assert_eq!(guest.register(reg::EAX), value);
    }
    // What only the first space has mapped.
    guest.program(&[&op(&[0xA1], DATA + 0x1000)[..], &INT80].concat());
    guest.run_to(0);
}

#[test]
fn device_memory_and_traced_pages_leave() {
    let Some(mut guest) = guest() else { return };
    const DEVICE: u32 = 0x30_0000;
    let kind = PhysTarget::Device;
    guest
        .mmu
        .set_range(DEVICE.into(), 0x1000, kind)
        .expect("a range");
    guest.map(DATA, DEVICE | P | US | RW);
    guest.program(&[&op(&[0xA1], DATA + 4)[..], &INT80].concat());
    assert_eq!(guest.run_to(0), ExitKind::DeviceMemory);

    // A page with translated code: readable, and a write must be seen.
    let page = DATA + 0x1000;
    guest.mmu.trace_code((DATA_PAGES + 0x1000) >> 12);
    guest.program(&[&op(&[0xA1], page)[..], &op(&[0xA3], page), &INT80].concat());
    assert_eq!(guest.run_to(5), ExitKind::DeviceMemory);
    guest.mmu.untrace_code((DATA_PAGES + 0x1000) >> 12);
    assert_eq!(guest.run_to(10), ExitKind::SystemCall);
    // A page that becomes traced while it is mapped writable.
    guest.mmu.trace_code((DATA_PAGES + 0x1000) >> 12);
    guest.restart();
    guest.run_to(5);
}

#[test]
fn a_string_instruction_survives_hidden_faults() {
    let Some(mut guest) = guest() else { return };
    let bytes = 0x2800;
    for word in 0..bytes / 4 {
        guest.write(
            DATA_PAGES + 0x1800 + word * 4,
            word.wrapping_mul(0x9E37_79B9),
        );
    }
    let code = [
        op(&[0xBE], DATA + 0x1800), // mov esi
        op(&[0xBF], DATA + 0x8400), // mov edi
        op(&[0xB9], bytes / 4),     // mov ecx
        vec![0xFC, 0xF3, 0xA5],     // cld; rep movsd
    ]
    .concat();
    guest.program(&[&code[..], &INT80].concat());
    guest.run_to(code.len());
    assert_eq!(guest.register(reg::ECX), 0);
    assert_eq!(guest.register(reg::EDI), DATA + 0x8400 + bytes);
    for word in 0..bytes / 4 {
        let found = guest.read(DATA_PAGES + 0x8400 + word * 4);
        assert_eq!(found, word.wrapping_mul(0x9E37_79B9), "word {word}");
    }
}

#[test]
fn segments_that_the_guest_loads_are_known_afterwards() {
    let Some(mut guest) = guest() else { return };
    guest.state.ldtr = Segment {
        selector: 0x88,
        base: KERNEL + LDT,
        limit: 0xFF,
        rights: translator::state::Rights::from_bits_retain(0x82),
    };
    guest.write(DATA_PAGES + 0x110, 77);
    guest.write(DATA_PAGES + 0x114, 88);
    let code = [
        op(&[0xB8], TLS.into()),       // mov eax, TLS
        vec![0x8E, 0xE8],              // mov gs, ax
        op(&[0x65, 0x8B, 0x1D], 0x10), // mov ebx, gs:[10h]
        op(&[0xB8], LDT_DATA.into()),  // mov eax, LDT_DATA
        vec![0x8E, 0xE0],              // mov fs, ax
        op(&[0x64, 0x8B, 0x0D], 0x14), // mov ecx, fs:[14h]
        vec![0x31, 0xC0, 0x8E, 0xC0],  // xor eax, eax; mov es, ax
    ]
    .concat();
    guest.program(&[&code[..], &INT80].concat());
    guest.run_to(code.len());
    assert_eq!(
        (guest.register(reg::EBX), guest.register(reg::ECX)),
        (77, 88)
    );
    assert_eq!(guest.state.seg[seg::GS], segment(TLS, RAW_TLS | 1 << 40));
    assert_eq!(
        guest.state.seg[seg::FS],
        segment(LDT_DATA, RAW_TLS | 1 << 40)
    );
    assert_eq!(guest.state.seg[seg::ES].selector, 0);
    let unusable = translator::state::Rights::UNUSABLE;
    assert!(guest.state.seg[seg::ES].rights.contains(unusable));
    // The load set the accessed bit in the guest's table.
    let high = guest.read(GDT + u32::from(TLS & !7) + 4);
    assert_eq!(high, ((RAW_TLS | 1 << 40) >> 32) as u32);
    // And the registers that stay loaded work after re-entry.
    guest.state.eip = CODE + 7;
    guest.state.gpr[reg::EBX] = 0;
    guest.run_to(code.len());
    assert_eq!(guest.register(reg::EBX), 77);

    // A descriptor that the kernel changes: the next run sees the new one.
    let moved = (RAW_TLS + (4 << 16)) | (1 << 40);
    guest.descriptor(GDT + u32::from(TLS & !7), moved);
    guest.state.seg[seg::GS] = segment(TLS, moved);
    guest.state.eip = CODE + 7;
    guest.run_to(code.len());
    assert_eq!(guest.register(reg::EBX), 88);
}

#[test]
fn what_ring_3_may_not_load_or_the_host_not_run_leaves() {
    let Some(mut guest) = guest() else { return };
    let ss = op(&[0xB8], 0x6B); // mov eax, kernel data | 3
    guest.program(&[&ss[..], &[0x8E, 0xD0], &INT80].concat()); // mov ss, ax
    assert_eq!(guest.run_to(5), ExitKind::Exception);
    assert_eq!(guest.state.seg[seg::SS].selector, USER_DS);
    if !guest.engine.support().compat16 {
        let mut jump = op(&[0xEA], CODE); // ljmp CODE16:CODE
        jump.extend(CODE16.to_le_bytes());
        guest.program(&jump);
        guest.run_to(0);
        assert_eq!(guest.state.seg[seg::CS], segment(USER_CS, RAW_CODE));
    }
}

#[test]
fn fpu_state_goes_in_and_comes_out() {
    let Some(mut guest) = guest() else { return };
    let code = [
        op(&[0xDD, 0x05], DATA),     // fld qword [DATA]
        vec![0xD8, 0xC8],            // fmul st(0), st(0)
        op(&[0xDD, 0x15], DATA + 8), // fst qword [DATA + 8]
    ]
    .concat();
    let program = [&code[..], &INT80].concat();
    guest
        .mmu
        .write_phys(DATA_PAGES.into(), &1.5f64.to_le_bytes())
        .expect("RAM");
    for _ in 0..40 {
        // Lazy first, then eager, then lazy again.
        guest.program(&program);
        guest.state.fpu = FxState::initial();
        guest.state.fpu.0[160..164].copy_from_slice(&[1, 2, 3, 4]); // XMM0
        let mxcsr = 0x1FC0 & translator::host_mxcsr_mask(); // denormals are zeros
        guest.state.fpu.0[24..28].copy_from_slice(&mxcsr.to_le_bytes());
        let exit = guest.run();
        if guest.state.eip == CODE {
            eprintln!("SKIPPED: this host's KVM does not run x87 instructions");
            return;
        }
        assert_eq!(
            (exit.exit, guest.state.eip),
            (Exit::Replay, CODE + code.len() as u32)
        );
        let mut result = [0; 8];
        guest
            .mmu
            .read_phys(u64::from(DATA_PAGES) + 8, &mut result)
            .expect("RAM");
        assert_eq!(f64::from_le_bytes(result), 2.25);
        let fpu = &guest.state.fpu.0;
        assert_eq!(fpu[4], 0x80, "one register in use");
        assert_eq!(fpu[32..42], [0, 0, 0, 0, 0, 0, 0, 0x90, 0, 0x40], "2.25");
        assert_eq!(fpu[160..164], [1, 2, 3, 4], "XMM0");
        assert_eq!(fpu[24..28], mxcsr.to_le_bytes(), "MXCSR");
    }
    // With CR0.TS of the guest set, every use is the guest's business.
    guest.state.cr0 |= cr0::TS;
    guest.program(&program);
    guest.run_to(0);
}

#[test]
fn kicks_and_interrupts_come_through() {
    let Some(mut guest) = guest() else { return };
    guest.program(&[0x43, 0xEB, 0xFD]); // 1: inc ebx; jmp 1b
    let kicker = guest.engine.kicker();
    for round in 0..20 {
        let kicker = kicker.clone();
        let thread = thread::spawn(move || {
            thread::sleep(Duration::from_micros(300 * round));
            kicker.kick();
        });
        let before = guest.register(reg::EBX);
        let left = guest.run();
        assert_eq!((left.exit, left.kind), (Exit::Kicked, ExitKind::Kick));
        assert!(guest.state.eip.wrapping_sub(CODE) < 3);
        assert!(round < 10 || guest.register(reg::EBX) != before);
        thread.join().expect("the kicker's thread");
    }
    // A kick that comes before the run ends it; one is enough for one.
    kicker.kick();
    assert_eq!(guest.run().exit, Exit::Kicked);
    guest.pins.interrupt = true;
    let left = guest.run();
    assert_eq!(
        (left.exit, left.kind),
        (Exit::InterruptReady, ExitKind::Interrupt)
    );
    guest.pins.interrupt = false;
    // No kick is left over.
    guest.program(&INT80);
    assert_eq!(guest.run_to(0), ExitKind::SystemCall);
}

#[test]
fn privileged_instructions_leave_in_place() {
    let Some(mut guest) = guest() else { return };
    for (instruction, kind) in [
        (&[0xFA][..], ExitKind::Exception),                     // cli
        (&[0xF4], ExitKind::Exception),                         // hlt
        (&[0xE4, 0x60], ExitKind::Port),                        // in al, 60h
        (&[0x0F, 0x34], ExitKind::SystemCall),                  // sysenter
        (&[0xCC], ExitKind::SystemCall),                        // int3
        (&[0xF1], ExitKind::Exception),                         // icebp
        (&[0x0F, 0x01, 0x05, 0, 0, 0, 0], ExitKind::Exception), // sgdt [0]
        (&[0x0F, 0xA2], ExitKind::Exception),                   // cpuid
    ] {
        guest.program(&[&[0x90, 0x90], instruction, &INT80].concat());
        assert_eq!(guest.run_to(2), kind, "{instruction:02x?}");
        assert_eq!(guest.register(reg::EAX), 0);
    }
}

#[test]
fn two_guests_do_not_see_each_other() {
    let (Some(mut one), Some(mut two)) = (guest(), guest()) else {
        return;
    };
    one.write(DATA_PAGES, 1);
    two.write(DATA_PAGES, 2);
    let code = [&op(&[0xA1], DATA)[..], &INT80].concat();
    for _ in 0..3 {
        for (guest, value) in [(&mut one, 1), (&mut two, 2)] {
            guest.program(&code);
            guest.run_to(5);
            assert_eq!(guest.register(reg::EAX), value);
        }
    }
}
