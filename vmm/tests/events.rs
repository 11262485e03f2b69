//! Events that find the guest's ring 3 in direct execution: the NMI button, and x87 errors, as #MF and
//! in the way of MS-DOS, by FERR# and IRQ 13. Without a usable `/dev/kvm` the tests say so and do
//! nothing.

mod common;

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use common::traced::{Traced, config, machine, path, run_machine};
use common::{Program, SYSTEM_CALL, USER, op};
use decision::{Engine, ExitKind, Reasons};
use ringshift::exits::{Ending, RunError};
use ringshift::machine::{Machine, MachineConfig};
use ringshift::serial::SerialTarget;

/// Memory of the program, for a count.
const COUNT: u32 = USER + 0x2000;
/// Likewise, for what a handler has seen.
const SEEN: u32 = COUNT + 4;

fn memory(machine: &Machine, address: u32) -> u32 {
    let mut bytes = [0; 4];
    let read = machine.memory().read_phys(address.into(), &mut bytes);
    read.expect("memory of the guest");
    u32::from_le_bytes(bytes)
}

/// Direct runs that this exit ended at this address.
fn left(traced: &Traced, exit: Option<ExitKind>, at: std::ops::Range<u32>) -> usize {
    let matching = traced.switches.iter().filter(|record| {
        record.from == Engine::Direct
            && exit.is_none_or(|exit| record.exit == exit)
            && at.contains(&record.eip)
    });
    matching.count()
}

/// At ring 3 `iret` leaves VM alone (Intel SDM vol. 2A, IRET). QEMU's processors go to virtual-8086 mode,
/// with registers that nobody gets back: the run ends and says what helps.
#[test]
fn iret_with_vm_in_the_image_is_an_ordinary_one_or_the_end() {
    const VM: u32 = 1 << 17;
    const FLAGS: u32 = 0x203;
    let start = [
        &[0x83, 0xEC, 64][..],           // sub esp, 64
        &op(&[0x68], VM | FLAGS),        // push flags
        &op(&[0x68], common::CS.into()), // push CS
    ]
    .concat();
    let target = USER + start.len() as u32 + 6;
    let code = [
        &start[..],
        &op(&[0x68], target), // push target
        &[0xCF],              // iretd
        &[0x9C, 0x58],        // target: pushfd; pop eax
        &op(&[0xA3], SEEN),   // mov [SEEN], eax
        &SYSTEM_CALL,
    ]
    .concat();
    let Some(mut machine) = machine("iret-vm", config("vmware"), &Program::new(&code)) else {
        return;
    };
    match machine.run() {
        Ok(ending) => {
            assert_eq!(ending, Ending::PowerOff);
            assert_eq!(memory(&machine, SEEN), FLAGS);
        }
        Err(error) => {
            let text = error.to_string();
            assert!(matches!(error, RunError::RegistersLost { .. }), "{text}");
            for part in ["virtual-8086 mode", "--direct none"] {
                assert!(text.contains(part), "{text}");
            }
            assert_eq!(memory(&machine, SEEN), 0, "it went on");
            eprintln!("{text}");
        }
    }
    assert_eq!(machine.report("").direct.rescued_runs, 0);
}

#[test]
fn an_nmi_interrupts_direct_execution_and_the_program_goes_on() {
    const NMIS: u8 = 5;
    // 1: inc ebx; cmp dword [COUNT], NMIS; jb 1b
    let code = [&[0x43][..], &op(&[0x83, 0x3D], COUNT), &[NMIS, 0x72, 0xF6]].concat();
    let mut program = Program::new(&code);
    // mov dx, 3F8h; mov al, 10; out dx, al: from here on there is a handler
    program.kernel = vec![0x66, 0xBA, 0xF8, 0x03, 0xB0, 0x0A, 0xEE];
    // test byte [esp+4], 3; jz 1f; inc dword [COUNT]; 1: iretd: one that finds the kernel is not counted
    let handler = [
        &[0xF6, 0x44, 0x24, 0x04, 0x03, 0x74, 0x06][..],
        &op(&[0xFF, 0x05], COUNT),
        &[0xCF],
    ]
    .concat();
    program.handlers = vec![(2, handler)];
    let ready = path("nmi-ready");
    let _ = fs::remove_file(&ready);
    let config = MachineConfig {
        serial: SerialTarget::File(ready.clone()),
        ..config("vmware")
    };
    let Some(mut machine) = machine("nmi", config, &program) else {
        return;
    };
    let button = machine.nmi_button();
    let over = AtomicBool::new(false);
    let traced = thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(2));
                if fs::read(&ready).is_ok_and(|text| !text.is_empty()) {
                    button.press();
                }
            }
        });
        let traced = run_machine("nmi", &mut machine);
        over.store(true, Ordering::Relaxed);
        traced
    });
    assert!(memory(&machine, COUNT) >= u32::from(NMIS));
    // They ended direct runs in the middle of the program: what came next was the handler.
    let kicked = traced.switches.iter().filter(|record| {
        record.from == Engine::Direct
            && record.exit == ExitKind::Kick
            && record.reasons.contains(Reasons::NOT_RING_3)
    });
    assert!(kicked.count() > 0, "{:?}", traced.switches);
    let end = USER + code.len() as u32;
    assert!(traced.to_direct(USER, end) > 1, "and it went on there");
}

/// A division of 1 by 0 with that exception unmasked, at ring 3.
const DIVIDE: [u8; 15] = [
    0xDB, 0xE3, // fninit
    0x68, 0x7B, 0x03, 0x00, 0x00, // push 37Bh
    0xD9, 0x2C, 0x24, // fldcw [esp]
    0xD9, 0xE8, // fld1
    0xD9, 0xEE, // fldz
    0xDE, // fdivp st(1), st; the second byte follows
];

/// `inc dword [COUNT]; fnstsw [SEEN]; fnclex`, `more`, `iretd`.
fn fpu_handler(more: &[u8]) -> Vec<u8> {
    [
        &op(&[0xFF, 0x05], COUNT)[..],
        &op(&[0xDD, 0x3D], SEEN),
        &[0xDB, 0xE2],
        more,
        &[0xCF],
    ]
    .concat()
}

/// Runs a division by zero, `between` and a waiting instruction; `name` is that of the trace. Returns
/// how often the handler was called, what status it saw, how often direct execution left at the
/// waiting instruction.
fn x87_error(name: &str, mut program: Program, between: &[u8]) -> Option<(u32, u32, usize)> {
    let code = [&DIVIDE[..], &[0xF9], between, &[0x9B]].concat();
    let wait = USER + code.len() as u32 - 1;
    program.code = code;
    let mut machine = machine(name, config("vmware"), &program)?;
    let traced = run_machine(name, &mut machine);
    let left = left(&traced, None, wait..wait + 1);
    Some((memory(&machine, COUNT), memory(&machine, SEEN), left))
}

/// ES and ZE of the x87 status word.
const ZERO_DIVIDE: u32 = 0x84;

#[test]
fn an_x87_error_at_ring_3_comes_back_as_irq_13() {
    let mut program = Program::new(&[]);
    // The 8259 pair at vectors 20h and 28h, all but IRQ 13 masked. CR0.NE is clear.
    program.kernel = [
        (0x11, 0x20),
        (0x11, 0xA0),
        (0x20, 0x21),
        (0x28, 0xA1),
        (0x04, 0x21),
        (0x02, 0xA1),
        (0x01, 0x21),
        (0x01, 0xA1),
        (0xFB, 0x21),
        (0xDF, 0xA1),
    ]
    .iter()
    .flat_map(|&(value, port)| [0xB0, value, 0xE6, port]) // mov al, value; out port, al
    .collect();
    // push eax; out F0h, al: the request is taken back; mov al, 20h; out A0h, al; out 20h, al; pop eax
    let acknowledge = [0x50, 0xE6, 0xF0, 0xB0, 0x20, 0xE6, 0xA0, 0xE6, 0x20, 0x58];
    program.handlers = vec![(0x2D, fpu_handler(&acknowledge))];
    for (name, between) in [
        ("ferr", &[][..]),
        // The error is pending across both switches of a system call.
        ("ferr-call", &SYSTEM_CALL),
    ] {
        let Some((count, status, left)) = x87_error(name, program.clone(), between) else {
            return;
        };
        assert_eq!((count, status & ZERO_DIVIDE), (1, ZERO_DIVIDE), "{name}");
        assert!(
            left > 0,
            "{name}: the waiting instruction was never run directly"
        );
    }
}

#[test]
fn an_x87_error_at_ring_3_is_an_exception_with_cr0_ne() {
    let mut program = Program::new(&[]);
    // mov eax, cr0; or eax, 20h; mov cr0, eax
    program.kernel = vec![0x0F, 0x20, 0xC0, 0x83, 0xC8, 0x20, 0x0F, 0x22, 0xC0];
    program.handlers = vec![(16, fpu_handler(&[]))];
    for (name, between) in [("mf", &[][..]), ("mf-call", &SYSTEM_CALL)] {
        let Some((count, status, left)) = x87_error(name, program.clone(), between) else {
            return;
        };
        assert_eq!((count, status & ZERO_DIVIDE), (1, ZERO_DIVIDE), "{name}");
        assert!(
            left > 0,
            "{name}: the waiting instruction was never run directly"
        );
    }
}
