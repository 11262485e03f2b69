//! Whole machines with guests of a few instructions, everything translated.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use ringshift::exits::{Ending, RunError};
use ringshift::guest::Guest;
use ringshift::helper::{Input, StopReason, Watch};
use ringshift::machine::{Machine, MachineConfig};
use ringshift::memory_size::MemorySize;
use ringshift::serial::{SerialTarget, Until};

/// `mov dx, 604h; mov ax, 2000h; out dx, ax`: soft off, sleep type 0.
const POWER_OFF: [u8; 7] = [0xBA, 0x04, 0x06, 0xB8, 0x00, 0x20, 0xEF];
/// `mov al, 0FEh; out 64h, al`: the keyboard controller pulls the reset line.
const RESET: [u8; 4] = [0xB0, 0xFE, 0xE6, 0x64];
/// `jmp $`.
const FOREVER: [u8; 2] = [0xEB, 0xFE];

fn guest(parts: &[&[u8]]) -> Guest {
    Guest::RealMode {
        bytes: parts.concat(),
        address: 0x1_0000,
        cs: 0x1000,
        ip: 0,
    }
}

/// `mov dx, 3F8h`, and `mov al, c; out dx, al` for each byte.
fn print(text: &str) -> Vec<u8> {
    let mut code = vec![0xBA, 0xF8, 0x03];
    for byte in text.bytes() {
        code.extend([0xB0, byte, 0xEE]);
    }
    code
}

fn config() -> MachineConfig {
    MachineConfig {
        memory: MemorySize::MIN,
        watch: Watch {
            timeout: Some(Duration::from_secs(20)),
            ..Watch::default()
        },
        ..MachineConfig::default()
    }
}

fn run(config: MachineConfig, guest: Guest) -> (Result<Ending, RunError>, Machine) {
    let mut machine = Machine::new(config, guest).expect("a machine");
    let result = machine.run();
    (result, machine)
}

/// A place for the serial output of a test.
fn output(name: &str) -> (PathBuf, SerialTarget) {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    (path.clone(), SerialTarget::File(path))
}

#[test]
fn a_guest_prints_and_switches_itself_off() {
    let (path, serial) = output("prints");
    let config = MachineConfig { serial, ..config() };
    let (result, machine) = run(config, guest(&[&print("hello"), &POWER_OFF, &FOREVER]));
    assert_eq!(result.expect("power-off"), Ending::PowerOff);
    assert_eq!(fs::read(path).expect("the output"), b"hello");
    let report = machine.report("test");
    assert_eq!(report.devices["port_writes"], 6);
    assert!(report.time.translator_ns > 0);
    assert_eq!((report.runs.direct, report.direct_available), (0, false));
}

#[test]
fn the_text_that_is_waited_for_ends_the_run() {
    let config = MachineConfig {
        until: Until::new("ready"),
        ..config()
    };
    let (result, _) = run(config, guest(&[&print("not read, ready"), &FOREVER]));
    assert_eq!(result.expect("a match"), Ending::Matched);
}

#[test]
fn a_halt_that_nothing_can_end_is_an_error() {
    let (result, _) = run(config(), guest(&[&[0xFA, 0xF4]]));
    let error = result.expect_err("cli; hlt");
    assert!(matches!(error, RunError::HaltedForever { .. }), "{error}");
    assert!(error.to_string().contains("1000:00000002"), "{error}");
}

#[test]
fn a_triple_fault_is_an_error() {
    // `lidt [800h]` loads a limit of zero, so that `int3` finds no vector, and neither does what
    // follows.
    let (result, _) = run(config(), guest(&[&[0x0F, 0x01, 0x1E, 0x00, 0x08, 0xCC]]));
    let error = result.expect_err("no interrupt table");
    assert!(matches!(error, RunError::TripleFault { .. }), "{error}");
}

#[test]
fn a_guest_that_loops_with_interrupts_off_can_be_stopped() {
    for code in [&FOREVER[..], &[0xFA, 0xEB, 0xFE], &[0xFB, 0xF4, 0xEB, 0xFC]] {
        let watch = Watch {
            timeout: Some(Duration::from_millis(50)),
            ..Watch::default()
        };
        let start = Instant::now();
        let (result, _) = run(MachineConfig { watch, ..config() }, guest(&[code]));
        let ending = result.expect("a time limit");
        assert_eq!(ending, Ending::Stopped(StopReason::Timeout));
        assert!(start.elapsed() < Duration::from_secs(10), "{code:x?}");
    }
}

#[test]
fn a_reset_starts_the_guest_again_or_ends_the_run() {
    // Counts its starts at 500h, which a reset leaves alone, and switches off at the third:
    // `inc byte [500h]; cmp byte [500h], 3; je +6; <reset>; jmp $`.
    let code: [&[u8]; 5] = [
        &[0xFE, 0x06, 0x00, 0x05, 0x80, 0x3E, 0x00, 0x05, 0x03],
        &[0x74, 0x06],
        &RESET,
        &FOREVER,
        &POWER_OFF,
    ];
    let (result, machine) = run(config(), guest(&code));
    assert_eq!(result.expect("power-off"), Ending::PowerOff);
    assert_eq!(machine.report("test").resets, 2);

    let once = MachineConfig {
        end_at_reset: true,
        ..config()
    };
    let (result, machine) = run(once, guest(&code));
    assert_eq!(result.expect("a reset"), Ending::Reset);
    assert_eq!(machine.report("test").resets, 0);
}

#[test]
fn typed_input_reaches_the_guest_however_long_it_is() {
    // Sends back what it receives, until a `q`:
    // `again: mov dx, 3FDh; in al, dx; test al, 1; jz again; mov dx, 3F8h; in al, dx; out dx, al;
    // cmp al, 'q'; jne again`.
    let echo = [
        0xBA, 0xFD, 0x03, 0xEC, 0xA8, 0x01, 0x74, 0xF8, 0xBA, 0xF8, 0x03, 0xEC, 0xEE, 0x3C, b'q',
        0x75, 0xEF,
    ];
    let mut text = "all work and no play\n".repeat(500).into_bytes();
    text.push(b'q');
    let (path, serial) = output("echo");
    let (reader, mut writer) = std::io::pipe().expect("a pipe");
    let typed = text.clone();
    let typist = std::thread::spawn(move || writer.write_all(&typed));
    let mut config = MachineConfig { serial, ..config() };
    config.watch.input = Some(Input {
        source: reader.into(),
        escape: None,
    });
    let (result, _) = run(config, guest(&[&echo, &POWER_OFF, &FOREVER]));
    typist.join().expect("no panic").expect("all was read");
    assert_eq!(result.expect("power-off"), Ending::PowerOff);
    assert_eq!(fs::read(path).expect("the output"), text);
}

/// Vector 2 leads to offset 80h of the guest's segment, and there is a stack.
const NMI_VECTOR: [u8; 21] = [
    0x31, 0xC0, 0x8E, 0xD8, // xor ax, ax; mov ds, ax
    0xC7, 0x06, 0x08, 0x00, 0x80, 0x00, // mov word [8], 80h
    0xC7, 0x06, 0x0A, 0x00, 0x00, 0x10, // mov word [10], 1000h
    0x8E, 0xD0, 0xBC, 0x00, 0x70, // mov ss, ax; mov sp, 7000h
];
/// Prints the sources of the NMI in port 61h as a letter (`@` is IOCHK#), and clears them.
const NMI_HANDLER: [u8; 17] = [
    0xE4, 0x61, 0x24, 0xC0, // in al, 61h; and al, 0C0h
    0xBA, 0xF8, 0x03, 0xEE, // mov dx, 3F8h; out dx, al
    0xB0, 0x0C, 0xE6, 0x61, // mov al, 0Ch; out 61h, al
    0xB0, 0x00, 0xE6, 0x61, // mov al, 0; out 61h, al
    0xCF, // iret
];

/// `code` behind the set-up of the vector, and the handler at its place.
fn nmi_guest(code: &[&[u8]]) -> Guest {
    let mut bytes = [&NMI_VECTOR[..], &code.concat(), &POWER_OFF, &FOREVER].concat();
    assert!(bytes.len() <= 0x80);
    bytes.resize(0x80, 0);
    bytes.extend(NMI_HANDLER);
    guest(&[&bytes])
}

#[test]
fn an_nmi_wakes_a_machine_that_has_halted_for_good() {
    let (path, serial) = output("nmi-button");
    let config = MachineConfig { serial, ..config() };
    let guest = nmi_guest(&[&[0xFA, 0xF4], &print("x")]);
    let mut machine = Machine::new(config, guest).expect("a machine");
    let error = machine.run().expect_err("cli; hlt");
    assert!(matches!(error, RunError::HaltedForever { .. }), "{error}");
    machine.raise_nmi();
    assert_eq!(machine.run().expect("power-off"), Ending::PowerOff);
    assert_eq!(fs::read(path).expect("the output"), b"\0x");
    assert_eq!(machine.report("test").translator.nmis, 1);
}

#[test]
fn the_nmi_button_works_while_the_guest_runs_or_sleeps() {
    // `sti; hlt; jmp $-2`, or a loop without an end; the handler switches off.
    for (name, code) in [
        ("halted", &[0xFB, 0xF4, 0xEB, 0xFC][..]),
        ("running", &FOREVER),
    ] {
        let (path, serial) = output(&format!("nmi-{name}"));
        let config = MachineConfig { serial, ..config() };
        // A line end, so that the output is written while the guest runs.
        let mut bytes = [&NMI_VECTOR[..], &print("r\n"), code].concat();
        bytes.resize(0x80, 0);
        let guest = guest(&[&bytes, &print("n"), &POWER_OFF, &FOREVER]);
        let mut machine = Machine::new(config, guest).expect("a machine");
        let button = machine.nmi_button();
        let ready = path.clone();
        let finger = std::thread::spawn(move || {
            while fs::read(&ready).is_ok_and(|text| text.is_empty()) {
                std::thread::sleep(Duration::from_millis(1));
            }
            button.press();
        });
        assert_eq!(machine.run().expect("power-off"), Ending::PowerOff);
        finger.join().expect("no panic");
        assert_eq!(fs::read(path).expect("the output"), b"r\nn", "{name}");
    }
}

#[test]
fn a_bus_error_reaches_the_processor_when_port_70h_lets_it() {
    let (path, serial) = output("nmi-ports");
    let config = MachineConfig {
        serial,
        end_at_reset: true,
        ..config()
    };
    let guest = nmi_guest(&[
        &[0xB0, 0x8F, 0xE6, 0x70], // mov al, 8Fh; out 70h, al
        &RESET,
        &print("a"),
        &[0xB0, 0x0F, 0xE6, 0x70], // mov al, 0Fh; out 70h, al
        &print("b"),
    ]);
    let mut machine = Machine::new(config, guest).expect("a machine");
    // The guest has set itself up; the reset is not carried out.
    assert_eq!(machine.run().expect("a reset"), Ending::Reset);
    machine.nmi_source(devices::NmiSource::IoChannelCheck);
    assert_eq!(machine.run().expect("power-off"), Ending::PowerOff);
    assert_eq!(fs::read(path).expect("the output"), b"a@b");
}
