//! What a failure of the vCPU costs a guest: nothing, or the run.

use std::thread;
use std::time::Duration;

use decision::ExitKind;
use ringshift::direct::Failure;
use ringshift::engine::{DirectEngine, DirectExit};
use translator::Exit;
use translator::state::{eflags, reg};

use crate::guest::*;

const RESCUED: DirectExit = DirectExit {
    exit: Exit::Replay,
    kind: ExitKind::Internal,
    rescued: true,
};

/// Where [`counting_loop`] has its x87 instructions, and its last one.
const FLD1: u32 = CODE + 9;
const FADDP: u32 = CODE + 11;
const INC_EBX: u32 = CODE + 8;

/// `fldz; 1: inc dword [DATA]; inc ebx; fld1; faddp; jmp 1b`; without x87 instructions `nop` stands for
/// each of their bytes.
fn counting_loop(x87: bool) -> Vec<u8> {
    let or_nop = |bytes: [u8; 2]| if x87 { bytes } else { [0x90; 2] };
    [
        &or_nop([0xD9, 0xEE])[..],
        &op(&[0xFF, 0x05], DATA),
        &[0x43],
        &or_nop([0xD9, 0xE8]),
        &or_nop([0xDE, 0xC1]),
        &[0xEB, 0xF3],
    ]
    .concat()
}

/// A positive integer as x87 has it in a register.
fn extended(value: u32) -> [u8; 10] {
    let highest = value.ilog2();
    let mantissa = u64::from(value) << (63 - highest);
    let exponent = 0x3FFF + highest as u16;
    let mut bytes = [0; 10];
    bytes[..8].copy_from_slice(&mantissa.to_le_bytes());
    bytes[8..].copy_from_slice(&exponent.to_le_bytes());
    bytes
}

/// Memory, registers and the FPU agree on how often the loop has run.
fn check_counts(guest: &Guest, x87: bool) {
    let (eip, count) = (guest.state.eip, guest.register(reg::EBX));
    let not_counted = u32::from(eip == INC_EBX);
    assert_eq!(guest.read(DATA_PAGES), count + not_counted, "at {eip:#x}");
    if x87 && eip != CODE {
        let added = count - u32::from([FLD1, FADDP].contains(&eip));
        let register = 32 + 16 * usize::from(eip == FADDP);
        let found = &guest.state.fpu.0[register..register + 10];
        let wanted = if added == 0 { [0; 10] } else { extended(added) };
        assert_eq!(found, wanted, "{added} at {eip:#x}");
    }
}

#[test]
fn a_failure_in_guest_code_repeats_nothing() {
    for x87 in [false, true] {
        let Some(mut guest) = guest() else { return };
        // With x87 the FPU is loaded on entry from now on: no failure finds the monitor loading it.
        guest.program(&[&counting_loop(x87)[..2], &INT80].concat());
        guest.run();
        if x87 && guest.state.eip == CODE {
            eprintln!("SKIPPED: this host's KVM does not run x87 instructions");
            return;
        }
        guest.program(&counting_loop(x87));
        guest.write(DATA_PAGES, 0);
        guest.state.fpu = translator::state::FxState::initial();
        let kicker = guest.engine.kicker();
        let mut rescued = 0;
        for round in 0..12 {
            guest.engine.order_failure(Failure::AtKick);
            let kicker = kicker.clone();
            let thread = thread::spawn(move || {
                thread::sleep(Duration::from_micros(2000 + 100 * round));
                kicker.kick();
            });
            let left = guest.run();
            thread.join().expect("the kicker's thread");
            if left.rescued {
                assert_eq!(left, RESCUED);
                rescued += 1;
            } else {
                assert_eq!(left.exit, Exit::Kicked);
            }
            check_counts(&guest, x87);
        }
        assert!(rescued > 0 && guest.register(reg::EBX) > 0);
        assert_eq!(guest.engine.statistics().rescued_runs, rescued);
    }
}

/// The pages are met for the first time, so that one run enters the guest many times.
#[test]
fn a_failure_on_the_way_into_the_guest_repeats_nothing() {
    let mut code = Vec::new();
    for page in 0..PAGES {
        code.extend(op(&[0xFF, 0x05], DATA + page * 0x1000)); // inc dword [page]
        code.push(0x43); // inc ebx
    }
    for good in [0, 1, 2, PAGES / 2, PAGES - 1] {
        let Some(mut guest) = guest() else { return };
        guest.program(&[&code[..], &INT80].concat());
        let start = guest.state.clone();
        guest.engine.order_failure(Failure::BeforeEntry(good));
        assert_eq!(guest.run(), RESCUED);
        let sum = |guest: &Guest| -> u32 {
            let pages = 0..PAGES;
            pages
                .map(|page| guest.read(DATA_PAGES + page * 0x1000))
                .sum()
        };
        let done = guest.register(reg::EBX);
        assert_eq!(sum(&guest), done, "after {good} entries");
        assert_eq!(guest.state.eip, CODE + 7 * done);
        match good {
            0 => assert_eq!(guest.state, start),
            1 | 2 => {}
            _ => assert!(done > 0),
        }
        // Whoever goes on from there comes to the end.
        assert_eq!(guest.run_to(code.len()), ExitKind::SystemCall);
        for page in 0..PAGES {
            assert_eq!(guest.read(DATA_PAGES + page * 0x1000), 1, "page {page}");
        }
    }
}

/// Segments that guest code has loaded before the failure, and the accessed bit of their descriptor.
#[test]
fn a_failure_keeps_segments() {
    let Some(mut guest) = guest() else { return };
    let code = [
        op(&[0xB8], TLS.into()), // mov eax, TLS
        vec![0x8E, 0xE8],        // mov gs, ax
        op(&[0xFF, 0x05], DATA), // inc dword [DATA], which is met for the first time
        vec![0x43],              // inc ebx
    ]
    .concat();
    guest.program(&[&code[..], &INT80].concat());
    guest.engine.order_failure(Failure::BeforeEntry(2));
    assert_eq!(guest.run(), RESCUED);
    let gs = guest.state.seg[translator::state::seg::GS];
    assert_eq!(gs, segment(TLS, RAW_TLS | 1 << 40));
    let high = guest.read(GDT + u32::from(TLS & !7) + 4);
    assert_eq!(high, ((RAW_TLS | 1 << 40) >> 32) as u32);
    guest.run_to(code.len());
    assert_eq!((guest.read(DATA_PAGES), guest.register(reg::EBX)), (1, 1));
}

#[test]
fn failures_that_do_not_end_are_the_end_of_direct_execution() {
    let Some(mut guest) = guest() else { return };
    guest.program(&[&[0x43], &INT80[..]].concat()); // inc ebx
    let mut rounds = 0;
    while guest.engine.support().compat32 {
        guest.engine.order_failure(Failure::BeforeEntry(0));
        assert_eq!(guest.run(), RESCUED);
        rounds += 1;
    }
    assert!(rounds > 200, "given up after {rounds} rounds");
}

/// Where the host's processor is right this is an ordinary far return. Where it goes to virtual-8086
/// mode (QEMU's do) nobody knows where the guest was: the run ends.
#[test]
fn iret_with_vm_in_the_image_is_right_or_the_end() {
    let Some(mut guest) = guest() else { return };
    let frame = STACK - 64;
    let code = [
        op(&[0x68], eflags::VM | eflags::IF | eflags::FIXED), // push flags
        op(&[0x68], USER_CS.into()),                          // push CS
        op(&[0x68], CODE + 17),                               // push CODE + 17
        vec![0x43, 0xCF],                                     // inc ebx; iretd
    ]
    .concat();
    guest.program(&[&code[..], &INT80].concat());
    guest.state.gpr[reg::ESP] = frame;
    match guest.try_run() {
        Ok(left) => {
            assert_eq!((left.exit, left.rescued), (Exit::Replay, false));
            assert!([CODE + 16, CODE + 17].contains(&guest.state.eip));
            assert_eq!(guest.register(reg::EBX), 1);
        }
        Err(error) => {
            eprintln!("this processor: {error}");
            assert!(error.to_string().contains("virtual-8086"), "{error}");
            assert!(!guest.engine.support().compat32);
        }
    }
}
