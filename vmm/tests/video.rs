//! Guests that use the display adapter's memory by hand: what arrives on the screen, and what it costs.

#[path = "common/vga.rs"]
mod vga;

use std::time::Duration;

use devices::Picture;
use iced_x86::code_asm::*;
use ringshift::exits::Ending;
use ringshift::guest::Guest;
use ringshift::helper::Watch;
use ringshift::machine::{Machine, MachineConfig};
use ringshift::memory_size::MemorySize;
use ringshift::report::Report;
use vga::{Assembled, HEIGHT, WIDTH, planar, registers};

/// Where the guest is loaded.
const BASE: u32 = 0x1_0000;
/// Offsets in it of the descriptor table and of the 32-bit code.
const GDT: usize = 0x200;
const CODE32: usize = 0x400;
/// Where the guest puts the linear frame buffer.
const FRAME_BUFFER: u32 = 0xE000_0000;

fn machine_code(
    bits: u32,
    base: u64,
    code: impl FnOnce(&mut CodeAssembler) -> Assembled,
) -> Vec<u8> {
    let mut assembler = CodeAssembler::new(bits).expect("an assembler");
    code(&mut assembler).expect("instructions that exist");
    assembler.assemble(base).expect("code that fits")
}

fn guest(bytes: Vec<u8>) -> Guest {
    Guest::RealMode {
        bytes,
        address: BASE,
        cs: (BASE >> 4) as u16,
        ip: 0,
    }
}

/// A guest in real mode that switches itself off at the end. ES is A000h.
fn real_mode(code: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Guest {
    guest(machine_code(16, 0, |a| {
        a.mov(ax, 0xA000)?;
        a.mov(es, ax)?;
        a.mov(ds, ax)?;
        code(a)?;
        a.mov(dx, 0x604)?;
        a.mov(ax, 0x2000)?;
        a.out(dx, ax)
    }))
}

/// A guest in flat 32-bit mode that switches itself off at the end.
fn flat(code: impl FnOnce(&mut CodeAssembler) -> Assembled) -> Guest {
    let mut bytes = machine_code(16, 0, |a| {
        a.cli()?;
        a.mov(ax, BASE >> 4)?;
        a.mov(ds, ax)?;
        a.lgdt(word_ptr(GDT - 8))?;
        a.mov(eax, 1)?;
        a.mov(cr0, eax)?;
        a.db(&[0x66, 0xEA])?;
        a.dd(&[BASE + CODE32 as u32])?;
        a.dw(&[8])
    });
    bytes.resize(GDT - 8, 0);
    bytes.extend(23u16.to_le_bytes());
    bytes.extend((BASE + GDT as u32).to_le_bytes());
    bytes.extend([0; 2]);
    for descriptor in [0, 0x00CF_9A00_0000_FFFFu64, 0x00CF_9200_0000_FFFF] {
        bytes.extend(descriptor.to_le_bytes());
    }
    bytes.resize(CODE32, 0);
    bytes.extend(machine_code(32, u64::from(BASE) + CODE32 as u64, |a| {
        a.mov(ax, 16)?;
        a.mov(ds, ax)?;
        a.mov(es, ax)?;
        a.mov(ss, ax)?;
        a.mov(esp, 0x8000)?;
        a.cld()?;
        code(a)?;
        a.mov(dx, 0x604)?;
        a.mov(ax, 0x2000)?;
        a.out(dx, ax)
    }));
    guest(bytes)
}

fn run(guest: Guest) -> (Machine, Report) {
    let config = MachineConfig {
        memory: MemorySize::MIN,
        vga: true,
        watch: Watch {
            timeout: Some(Duration::from_secs(120)),
            ..Watch::default()
        },
        ..MachineConfig::default()
    };
    let mut machine = Machine::new(config, guest).expect("a machine");
    assert_eq!(machine.run().expect("power-off"), Ending::PowerOff);
    let report = machine.report("test");
    (machine, report)
}

fn memory(machine: &Machine, address: u64) -> u32 {
    let mut bytes = [0; 4];
    machine
        .memory()
        .read_phys(address, &mut bytes)
        .expect("memory");
    u32::from_le_bytes(bytes)
}

/// The colour number of a pixel of a picture with the palette of [`planar`].
fn colour(picture: &Picture, x: u32, y: u32) -> u32 {
    let [red, ..] = picture.pixel(x, y);
    u32::from(red) / 16
}

/// Stores a byte 10,000 times, another value to another place each time.
fn stores(a: &mut CodeAssembler) -> Assembled {
    let mut again = a.create_label();
    a.xor(di, di)?;
    a.mov(cx, 10_000)?;
    a.set_label(&mut again)?;
    a.mov(byte_ptr(di).es(), ch)?;
    a.inc(di)?;
    a.dec(cx)?;
    a.jnz(again)
}

#[test]
fn a_store_to_a_plane_is_one_call() {
    let (mut machine, report) = run(real_mode(|a| {
        planar(a)?;
        stores(a)
    }));
    let picture = machine.picture().expect("a display");
    assert_eq!((picture.width, picture.height), (WIDTH, HEIGHT));
    for at in [0u32, 1, 79, 80, 5_000, 9_999] {
        let stored = (10_000 - at) >> 8;
        for bit in 0..8 {
            let expected = if stored >> (7 - bit) & 1 != 0 { 15 } else { 0 };
            assert_eq!(
                colour(&picture, at % 80 * 8 + bit, at / 80),
                expected,
                "{at}"
            );
        }
    }
    let stats = &report.translator;
    assert_eq!(report.devices["memory_writes"], 10_000);
    assert!(stats.complete_stores >= 9_900, "{stats:?}");
    // One way to Rust for each store, next to none of them by a fault.
    assert!(stats.exits.access <= 10_100, "{stats:?}");
    assert!(stats.host_faults < 100, "{stats:?}");
}

#[test]
fn a_repeated_store_to_planes_is_one_call_for_each_page() {
    let (mut machine, report) = run(real_mode(|a| {
        planar(a)?;
        // 100 rows of colour 6, by planes 1 and 2.
        registers(a, 0x3C4, &[(2, 6)])?;
        a.cld()?;
        a.xor(di, di)?;
        a.mov(cx, 8_000)?;
        a.mov(al, 0xFF)?;
        a.rep().stosb()?;
        // The rows below, word by word, in colour 15, a byte later.
        registers(a, 0x3C4, &[(2, 15)])?;
        a.mov(di, 8_001)?;
        a.mov(cx, 4_000)?;
        a.mov(ax, 0xFF0F)?;
        a.rep().stosw()
    }));
    let picture = machine.picture().expect("a display");
    assert_eq!(colour(&picture, 0, 0), 6);
    assert_eq!(colour(&picture, 639, 99), 6);
    assert_eq!(colour(&picture, 0, 100), 0);
    let below: Vec<u32> = (8..24).map(|x| colour(&picture, x, 100)).collect();
    assert_eq!(
        below,
        [0, 0, 0, 0, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15, 15]
    );
    assert_eq!(colour(&picture, 7, 200), 15);
    let stats = &report.translator;
    assert!((4..=16).contains(&stats.device_spans), "{stats:?}");
    assert!(stats.callouts.total() < 200, "{stats:?}");
}

#[test]
fn repeated_moves_take_latches_along() {
    let (mut machine, report) = run(real_mode(|a| {
        planar(a)?;
        // Four colours in the first bytes, one plane after the other.
        for plane in 0..4u32 {
            registers(a, 0x3C4, &[(2, 1 << plane)])?;
            a.mov(byte_ptr(plane).es(), 0xFF)?;
        }
        registers(a, 0x3C4, &[(2, 15)])?;
        // Write mode 1: what is stored is what the read before has found in all planes.
        registers(a, 0x3CE, &[(5, 1)])?;
        a.cld()?;
        a.xor(si, si)?;
        a.mov(di, 80)?;
        a.mov(cx, 4)?;
        a.rep().movsb()?;
        // Downwards, overlapping: the last row again, three bytes further.
        a.std()?;
        a.mov(si, 83)?;
        a.mov(di, 86)?;
        a.mov(cx, 4)?;
        a.rep().movsb()?;
        a.cld()?;
        // To memory, from plane 3.
        registers(a, 0x3CE, &[(4, 3), (5, 0)])?;
        a.mov(ax, 0x2000)?;
        a.mov(es, ax)?;
        a.mov(si, 80)?;
        a.xor(di, di)?;
        a.mov(cx, 8)?;
        a.rep().movsb()?;
        // And back, into all planes.
        a.mov(ax, 0xA000)?;
        a.mov(es, ax)?;
        a.mov(ax, 0x2000)?;
        a.mov(ds, ax)?;
        a.xor(si, si)?;
        a.mov(di, 160)?;
        a.mov(cx, 8)?;
        a.rep().movsb()
    }));
    let picture = machine.picture().expect("a display");
    let row = |y| -> Vec<u32> { (0..8).map(|x| colour(&picture, x * 8, y)).collect() };
    assert_eq!(row(0), [1, 2, 4, 8, 0, 0, 0, 0]);
    // The byte that both moves meet was overwritten before it was read.
    assert_eq!(row(1), [1, 2, 4, 1, 2, 4, 8, 0]);
    assert_eq!(memory(&machine, 0x2_0000), 0);
    assert_eq!(memory(&machine, 0x2_0004), 0x00FF_0000);
    assert_eq!(row(2), [0, 0, 0, 0, 0, 0, 15, 0]);
    assert_eq!(report.translator.device_spans, 3, "one moved downwards");
}

/// Sets the Bochs extension's registers.
fn vbe(a: &mut CodeAssembler, values: &[(u32, u32)]) -> Assembled {
    for (index, value) in values {
        a.mov(dx, 0x1CE)?;
        a.mov(ax, *index)?;
        a.out(dx, ax)?;
        a.inc(edx)?;
        a.mov(ax, *value)?;
        a.out(dx, ax)?;
    }
    Ok(())
}

/// The frame buffer at its place, and a mode of 32 bits a pixel.
fn linear(a: &mut CodeAssembler) -> Assembled {
    const FUNCTION: u32 = 1 << 31 | 2 << 11;
    for (register, value) in [(0x10, FRAME_BUFFER), (0x04, 3)] {
        a.mov(dx, 0xCF8)?;
        a.mov(eax, FUNCTION | register)?;
        a.out(dx, eax)?;
        a.mov(dx, 0xCFC)?;
        a.mov(eax, value)?;
        a.out(dx, eax)?;
    }
    // RAM at A0000h, 64 KiB.
    a.mov(dx, 0x3C2)?;
    a.mov(al, 0x63)?;
    a.out(dx, al)?;
    registers(a, 0x3CE, &[(6, 5)])?;
    vbe(a, &[(4, 0), (1, WIDTH), (2, HEIGHT), (3, 32), (4, 0x41)])
}

#[test]
fn the_linear_frame_buffer_is_memory() {
    let (mut machine, report) = run(flat(|a| {
        linear(a)?;
        let mut again = a.create_label();
        a.mov(edi, FRAME_BUFFER)?;
        a.mov(ecx, WIDTH * HEIGHT)?;
        a.xor(eax, eax)?;
        a.set_label(&mut again)?;
        a.mov(dword_ptr(edi), eax)?;
        a.add(edi, 4)?;
        a.add(eax, 0x01_0203)?;
        a.dec(ecx)?;
        a.jnz(again)
    }));
    let picture = machine.picture().expect("a display");
    assert_eq!((picture.width, picture.height), (WIDTH, HEIGHT));
    for (x, y) in [(0, 0), (1, 0), (639, 0), (0, 1), (77, 333), (639, 479)] {
        let [blue, green, red, _] = (y * WIDTH + x).wrapping_mul(0x01_0203).to_le_bytes();
        assert_eq!(picture.pixel(x, y), [red, green, blue], "{x}, {y}");
    }
    assert_eq!(report.devices.get("memory_writes"), None);
    let stats = &report.translator;
    assert!(stats.callouts.total() < 200, "{stats:?}");
    // 300 pages, some of them filled together.
    assert!(stats.host_faults < 600, "{stats:?}");
}

/// Adds an address of the guest's memory where the next value that is looked at goes.
fn note(a: &mut CodeAssembler, number: u32) -> Assembled {
    a.mov(dword_ptr(0x2_0000 + 4 * number), eax)
}

#[test]
fn bank_and_linear_frame_buffer_are_the_same_bytes() {
    let (mut machine, _) = run(flat(|a| {
        linear(a)?;
        // Bank 3, both ways.
        vbe(a, &[(5, 3)])?;
        a.mov(dword_ptr(FRAME_BUFFER + 0x3_0010), 0x11AA_BBCC)?;
        a.mov(eax, dword_ptr(0xA_0010))?;
        note(a, 0)?;
        a.mov(dword_ptr(0xA_0014), 0x2233_4455)?;
        a.mov(eax, dword_ptr(FRAME_BUFFER + 0x3_0014))?;
        note(a, 1)?;
        // By string instructions as well.
        a.mov(esi, 0xA_0010)?;
        a.mov(edi, 0xA_0020)?;
        a.mov(ecx, 8)?;
        a.rep().movsb()?;
        a.mov(eax, dword_ptr(FRAME_BUFFER + 0x3_0024))?;
        note(a, 2)?;
        // Behind what is shown, until that becomes memory too.
        let mut again = a.create_label();
        a.mov(edi, FRAME_BUFFER + 0x80_0000)?;
        a.mov(ecx, 1000)?;
        a.set_label(&mut again)?;
        a.mov(dword_ptr(edi), ecx)?;
        a.add(edi, 4)?;
        a.dec(ecx)?;
        a.jnz(again)?;
        vbe(a, &[(5, 0x80)])?;
        a.mov(eax, dword_ptr(0xA_0000 + 4 * 400))?;
        note(a, 3)?;
        // Another mode that keeps the memory, and one that clears it.
        vbe(a, &[(4, 0), (1, 800), (2, 600), (4, 0xC1)])?;
        a.mov(eax, dword_ptr(FRAME_BUFFER + 0x3_0014))?;
        note(a, 4)?;
        vbe(a, &[(4, 0), (4, 0x41)])?;
        a.mov(eax, dword_ptr(FRAME_BUFFER + 0x3_0014))?;
        note(a, 5)?;
        // Elsewhere, and closed.
        a.mov(dword_ptr(FRAME_BUFFER + 0x40), 0x5566_7788)?;
        a.mov(dx, 0xCF8)?;
        a.mov(eax, 1 << 31 | 2 << 11 | 0x10)?;
        a.out(dx, eax)?;
        a.mov(dx, 0xCFC)?;
        a.mov(eax, 0xD000_0000u32)?;
        a.out(dx, eax)?;
        a.mov(eax, dword_ptr(0xD000_0040u32))?;
        note(a, 6)?;
        a.mov(eax, dword_ptr(FRAME_BUFFER + 0x40))?;
        note(a, 7)?;
        vbe(a, &[(4, 1)])?;
        a.mov(eax, dword_ptr(0xD000_0040u32))?;
        note(a, 8)?;
        a.mov(eax, dword_ptr(0xA_0040))?;
        note(a, 9)
    }));
    let seen: Vec<u32> = (0..10)
        .map(|n| memory(&machine, 0x2_0000 + 4 * n))
        .collect();
    let expected = [
        0x11AA_BBCC,
        0x2233_4455,
        0x2233_4455,
        600,
        0x2233_4455,
        0,
        0x5566_7788,
        u32::MAX,
        u32::MAX,
        0x5566_7788,
    ];
    assert_eq!(seen, expected, "{seen:x?}");
    let picture = machine.picture().expect("a display");
    assert_eq!((picture.width, picture.height), (800, 600));
    assert_eq!(picture.pixel(16, 0), [0x66, 0x77, 0x88]);
}
