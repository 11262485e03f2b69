//! Machines that start at the reset vector, with a firmware of a few instructions: the ways to a
//! reset, and what each of them leaves alone.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use iced_x86::IcedError;
use iced_x86::code_asm::*;
use ringshift::exits::{Ending, RunError};
use ringshift::firmware::Firmware;
use ringshift::guest::Guest;
use ringshift::helper::{StopReason, Watch};
use ringshift::machine::{Machine, MachineConfig};
use ringshift::memory_size::MemorySize;
use ringshift::serial::{SerialTarget, Until};

/// The firmware's segment, and its size.
const SEGMENT: usize = 64 << 10;
/// Where the processor starts.
const RESET_VECTOR: usize = 0xFFF0;
/// The reason for a reset, in CMOS.
const SHUTDOWN: u32 = 0x0F;

/// 64 KiB of firmware: `code` at F000:0000, where the reset vector jumps.
fn firmware(code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Guest {
    let mut assembler = CodeAssembler::new(16).expect("16-bit code");
    code(&mut assembler).expect("instructions that exist");
    let code = assembler.assemble(0).expect("code that fits");
    let mut rom = vec![0xCC; SEGMENT];
    rom[..code.len()].copy_from_slice(&code);
    rom[RESET_VECTOR..RESET_VECTOR + 5].copy_from_slice(&[0xEA, 0, 0, 0x00, 0xF0]);
    Guest::Firmware(Firmware::new(rom, None).expect("a firmware"))
}

fn config(name: &str) -> (PathBuf, MachineConfig) {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let config = MachineConfig {
        memory: MemorySize::MIN,
        serial: SerialTarget::File(path.clone()),
        watch: Watch {
            timeout: Some(Duration::from_secs(60)),
            ..Watch::default()
        },
        ..MachineConfig::default()
    };
    (path, config)
}

/// Prints AL.
fn print_al(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(dx, 0x3F8)?;
    a.out(dx, al)
}

fn print(a: &mut CodeAssembler, byte: u8) -> Result<(), IcedError> {
    a.mov(al, u32::from(byte))?;
    print_al(a)
}

fn write_port(a: &mut CodeAssembler, port: u32, value: u32) -> Result<(), IcedError> {
    a.mov(dx, port)?;
    a.mov(al, value)?;
    a.out(dx, al)
}

/// Writes a byte of a PCI function's configuration space.
fn write_config(a: &mut CodeAssembler, address: u32, value: u32) -> Result<(), IcedError> {
    a.mov(dx, 0xCF8)?;
    a.mov(eax, 1 << 31 | address & !3)?;
    a.out(dx, eax)?;
    write_port(a, 0xCFC + (address & 3), value)
}

fn write_cmos(a: &mut CodeAssembler, index: u32, value: u32) -> Result<(), IcedError> {
    write_port(a, 0x70, index)?;
    write_port(a, 0x71, value)
}

/// Prints the byte at E000:C000, shadow RAM or what is behind it, and the one at 0000:0500.
fn print_memory(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.mov(ax, 0xE000)?;
    a.mov(ds, ax)?;
    a.mov(al, byte_ptr(0xC000))?;
    print_al(a)?;
    a.xor(ax, ax)?;
    a.mov(ds, ax)?;
    a.mov(al, byte_ptr(0x500))?;
    print_al(a)
}

/// The power management registers to 600h, and soft off.
fn power_off(a: &mut CodeAssembler) -> Result<(), IcedError> {
    const POWER_MANAGEMENT: u32 = 1 << 11 | 3 << 8;
    write_config(a, POWER_MANAGEMENT | 0x40, 0x01)?;
    write_config(a, POWER_MANAGEMENT | 0x41, 0x06)?;
    write_config(a, POWER_MANAGEMENT | 0x80, 0x01)?;
    a.mov(dx, 0x604)?;
    a.mov(ax, 0x2000)?;
    a.out(dx, ax)
}

#[test]
fn each_reset_keeps_what_it_should() {
    let guest = firmware(|a| {
        let mut stages = [(); 4].map(|()| a.create_label());
        write_port(a, 0x70, SHUTDOWN)?;
        a.in_(al, 0x71)?;
        for (number, stage) in (1u32..).zip(&stages) {
            a.cmp(al, number)?;
            a.je(*stage)?;
        }
        // Cold: shadow RAM at E8000h, a byte there and one in plain memory. The ROM itself stays.
        write_config(a, 0x5F, 0x33)?;
        a.mov(ax, 0xE000)?;
        a.mov(ds, ax)?;
        a.mov(byte_ptr(0xC000), u32::from(b's'))?;
        a.mov(byte_ptr(0xC001), 0)?;
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        a.mov(byte_ptr(0x500), u32::from(b'm'))?;
        a.mov(ax, 0xF000)?;
        a.mov(ds, ax)?;
        a.mov(byte_ptr(0), 0)?;
        print(a, b'0')?;
        print_memory(a)?;
        write_cmos(a, SHUTDOWN, 1)?;
        // With the A20 gate closed: the reset vector has address bit 20 set.
        write_port(a, 0x64, 0xD1)?;
        write_port(a, 0x60, 0xDD)?;
        write_port(a, 0x92, 0x01)?;
        a.hlt()?;

        let [one, two, three, four] = &mut stages;
        a.set_label(one)?;
        print(a, b'1')?;
        print_memory(a)?;
        write_cmos(a, SHUTDOWN, 2)?;
        write_port(a, 0x64, 0xFE)?;
        a.hlt()?;

        a.set_label(two)?;
        print(a, b'2')?;
        print_memory(a)?;
        write_cmos(a, SHUTDOWN, 3)?;
        // No interrupt table: a triple fault.
        a.mov(word_ptr(0x600), 0)?;
        a.lidt(fword_ptr(0x600))?;
        a.int3()?;

        a.set_label(three)?;
        print(a, b'3')?;
        print_memory(a)?;
        write_cmos(a, SHUTDOWN, 4)?;
        write_port(a, 0xCF9, 0x06)?;
        a.hlt()?;

        a.set_label(four)?;
        print(a, b'4')?;
        print_memory(a)?;
        power_off(a)?;
        a.hlt()
    });
    let (path, config) = config("resets");
    let mut machine = Machine::new(config, guest).expect("a machine");
    assert_eq!(machine.run().expect("no error"), Ending::PowerOff);
    let output = fs::read(path).expect("the output");
    // The last reset is one of the system: shadow RAM is off, plain memory is still there.
    assert_eq!(output, b"0sm1sm2sm3sm4\xFFm", "{}", output.escape_ascii());
    assert_eq!(machine.report("test").resets, 4);
}

#[test]
fn code_in_shadow_ram_is_found_again_after_each_switch() {
    // A subroutine at E000:C000 in RAM prints 'r'; the ROM there is all FFh. It is called, switched away,
    // switched back, changed in between through the write-only setting, and called again.
    let guest = firmware(|a| {
        let call = |a: &mut CodeAssembler| -> Result<(), IcedError> {
            // call E000:C000
            a.db(&[0x9A, 0x00, 0xC0, 0x00, 0xE0])
        };
        a.xor(ax, ax)?;
        a.mov(ss, ax)?;
        a.mov(sp, 0x7000)?;
        write_config(a, 0x5F, 0x33)?;
        a.mov(ax, 0xE000)?;
        a.mov(ds, ax)?;
        // mov dx, 3F8h; mov al, 'r'; out dx, al; retf
        for (at, code) in (0xC000u64..).zip([0xBA, 0xF8, 0x03, 0xB0, b'r', 0xEE, 0xCB]) {
            a.mov(byte_ptr(at), u32::from(code))?;
        }
        call(a)?;
        call(a)?;
        // Reads from the ROM, writes to the RAM.
        write_config(a, 0x5F, 0x22)?;
        a.mov(al, byte_ptr(0xC000))?;
        print_al(a)?;
        a.mov(byte_ptr(0xC004), u32::from(b'w'))?;
        // Locked: the write is lost.
        write_config(a, 0x5F, 0x11)?;
        a.mov(byte_ptr(0xC004), u32::from(b'x'))?;
        call(a)?;
        write_config(a, 0x5F, 0x33)?;
        a.mov(byte_ptr(0xC004), u32::from(b'y'))?;
        call(a)?;
        power_off(a)?;
        a.hlt()
    });
    let (path, config) = config("shadow-code");
    let mut machine = Machine::new(config, guest).expect("a machine");
    assert_eq!(machine.run().expect("no error"), Ending::PowerOff);
    assert_eq!(fs::read(path).expect("the output"), b"rr\xFFwy");
    machine.audit().expect("the shadow tables are right");
}

#[test]
fn the_configuration_device_writes_to_memory() {
    // Selects the signature and has four bytes of it copied to 0000:0500.
    let guest = firmware(|a| {
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        let descriptor = [0u8, 0, 0, 0x0A, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 5, 0];
        for (at, byte) in (0x600u64..).zip(descriptor) {
            a.mov(byte_ptr(at), u32::from(byte))?;
        }
        a.mov(dx, 0x518)?;
        a.mov(eax, 0x600u32.swap_bytes())?;
        a.out(dx, eax)?;
        for at in 0x500u64..0x504 {
            a.mov(al, byte_ptr(at))?;
            print_al(a)?;
        }
        a.mov(al, byte_ptr(0x603))?;
        a.add(al, u32::from(b'0'))?;
        print_al(a)?;
        power_off(a)?;
        a.hlt()
    });
    let (path, config) = config("fw-cfg");
    let mut machine = Machine::new(config, guest).expect("a machine");
    assert_eq!(machine.run().expect("no error"), Ending::PowerOff);
    assert_eq!(fs::read(path).expect("the output"), b"QEMU0");
}

#[test]
fn a_halt_that_nothing_can_end_waits_for_somebody() {
    let guest = firmware(|a| {
        a.cli()?;
        a.hlt()?;
        print(a, b'!')
    });
    let (path, config) = config("halted");
    let watch = Watch {
        timeout: Some(Duration::from_millis(100)),
        ..Watch::default()
    };
    let config = MachineConfig { watch, ..config };
    let mut machine = Machine::new(config, guest).expect("a machine");
    let ending = machine.run().expect("no error");
    assert_eq!(ending, Ending::Stopped(StopReason::Timeout));
    assert_eq!(fs::read(path).expect("the output"), b"");
}

#[test]
fn a_triple_fault_ends_the_run_where_resets_do() {
    let guest = firmware(|a| {
        print(a, b'x')?;
        a.xor(ax, ax)?;
        a.mov(ds, ax)?;
        a.mov(word_ptr(0x600), 0)?;
        a.lidt(fword_ptr(0x600))?;
        a.int3()
    });
    let (_, config) = config("triple");
    let config = MachineConfig {
        end_at_reset: true,
        until: Until::new("xx"),
        ..config
    };
    let mut machine = Machine::new(config, guest).expect("a machine");
    let error = machine.run().expect_err("a triple fault");
    assert!(matches!(error, RunError::TripleFault { .. }), "{error}");
}
