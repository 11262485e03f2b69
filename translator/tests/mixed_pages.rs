//! Pages that hold code and data do not crawl: once warm, programs of the kinds that DOS is full of
//! meet no host fault, and leave translated code for nothing that they do in a loop.

mod common;

use common::worlds::{Part, put};
use common::{Machine, ORIGIN};
use iced_x86::code_asm::*;
use translator::Exit;
use translator::state::{Segment, reg};

/// A real-mode program in one segment of code, data and stack, as a .COM file is.
fn program(parts: &[Part<'_>]) -> Machine {
    let mut machine = Machine::new(16, |a| a.nop());
    for part in parts {
        put(&mut machine, 16, 0, ORIGIN.into(), *part);
    }
    machine.vcpu.state_mut().seg = [Segment::real((ORIGIN >> 4) as u16); 6];
    machine.vcpu.state_mut().gpr[reg::ESP] = 0xFFFE;
    machine
}

/// What translated code was left for while the program ran.
#[derive(Debug, PartialEq, Eq)]
struct Left {
    faults: u64,
    exits: u64,
    translated: u64,
}

/// Runs the program from its start to HLT with CX = `rounds`.
fn run(machine: &mut Machine, rounds: u32) -> Left {
    let before = machine.vcpu.stats().clone();
    let cpu = machine.vcpu.state_mut();
    cpu.eip = 0;
    cpu.gpr[reg::ECX] = rounds;
    assert_eq!(machine.run(), Exit::Halted);
    let after = machine.vcpu.stats();
    let exits = |s: &translator::Stats| {
        let e = &s.exits;
        e.callout + e.link + e.miss + e.dead + e.fault + e.access + e.step
    };
    Left {
        faults: after.host_faults - before.host_faults,
        exits: exits(after) - exits(&before),
        translated: after.units - before.units,
    }
}

/// The steady state: no fault, nothing translated, and only the HLT at the end.
#[track_caller]
fn stays_inside(machine: &mut Machine) {
    let warm = run(machine, 20);
    assert!(warm.faults < 60, "{warm:?} to learn");
    let steady = run(machine, 50_000);
    assert_eq!((steady.faults, steady.translated), (0, 0), "{steady:?}");
    assert!(steady.exits <= 2, "{steady:?}");
}

#[test]
fn variables_between_procedures() {
    let mut machine = program(&[
        (0x00, &|a| {
            a.inc(word_ptr(0x28))?;
            a.mov(byte_ptr(0x2B), cl)?;
            a.add(dword_ptr(0x2C), ecx)?;
            a.call(0x30u64)?;
            a.dec(cx)?;
            a.jne(0u64)?;
            a.hlt()
        }),
        (0x28, &|a| a.db(&[0; 8])),
        // Right behind the variables.
        (0x30, &|a| {
            a.add(word_ptr(0x29), 0)?;
            a.mov(bx, 0x36)?;
            a.add(byte_ptr(bx), 1)?;
            a.ret()?;
            a.db(&[0; 16])
        }),
    ]);
    // The byte that is counted lies behind the RET.
    let ret = 0x30 + 5 + 3 + 3 + 1;
    machine
        .mmu
        .write_phys(u64::from(ORIGIN) + 0x36, &[ret as u8])
        .unwrap();
    stays_inside(&mut machine);
    assert_eq!(machine.dword(u64::from(ORIGIN) + 0x28) & 0xFFFF, 50_020);
}

#[test]
fn variables_that_a_jump_skips() {
    let mut machine = program(&[
        (0x00, &|a| {
            a.inc(word_ptr(0x12))?;
            a.jmp(0x14u64)
        }),
        (0x14, &|a| {
            a.dec(cx)?;
            a.jne(0u64)?;
            a.hlt()
        }),
    ]);
    machine
        .mmu
        .write_phys(u64::from(ORIGIN) + 0x12, &[0; 2])
        .unwrap();
    stays_inside(&mut machine);
    assert_eq!(machine.dword(u64::from(ORIGIN) + 0x12) & 0xFFFF, 50_020);
}

#[test]
fn a_stack_in_the_page_of_the_code() {
    let mut machine = program(&[
        (0x00, &|a| {
            a.mov(sp, 0x100)?;
            a.push(cx)?;
            a.push(0x1234)?;
            a.call(0x40u64)?;
            a.pop(ax)?;
            a.pop(cx)?;
            a.pusha()?;
            a.popa()?;
            a.dec(cx)?;
            a.jne(0u64)?;
            a.hlt()
        }),
        (0x40, &|a| {
            a.push(bp)?;
            a.mov(bp, sp)?;
            a.enter(8, 0)?;
            a.mov(word_ptr(bp - 2), ax)?;
            a.leave()?;
            a.pop(bp)?;
            a.ret()
        }),
    ]);
    stays_inside(&mut machine);
    assert_eq!(machine.gpr(reg::ESP) & 0xFFFF, 0x100);
}

#[test]
fn new_code_among_the_data() {
    // A page of code and data; a routine is written into it, run, and written over as data.
    let mut machine = program(&[
        (0x00, &|a| {
            a.inc(word_ptr(0x80))?;
            a.dec(cx)?;
            a.jne(0u64)?;
            a.hlt()
        }),
        (0x40, &|a| {
            a.mov(word_ptr(0x80), 0x40B0)?; // mov al, 40h
            a.mov(byte_ptr(0x82), 0xF4u32)?;
            a.jmp(0x80u64)
        }),
    ]);
    stays_inside(&mut machine);
    for round in 0..10u32 {
        machine.vcpu.state_mut().eip = 0x40;
        assert_eq!(machine.run(), Exit::Halted);
        assert_eq!(machine.gpr(reg::EAX) & 0xFF, 0x40, "{round}");
        assert_eq!(machine.vcpu.state().eip, 0x83);
        machine
            .mmu
            .write_phys(u64::from(ORIGIN) + 0x80, &[0; 2])
            .unwrap();
        run(&mut machine, 100);
        assert_eq!(machine.dword(u64::from(ORIGIN) + 0x80) & 0xFFFF, 100);
    }
}

/// No host fault in the steady state; leaving translated code is allowed.
#[track_caller]
fn does_not_fault(machine: &mut Machine, rounds: u32) -> Left {
    let warm = run(machine, 20);
    assert!(warm.faults < 60, "{warm:?} to learn");
    let steady = run(machine, rounds);
    assert_eq!(steady.faults, 0, "{steady:?}");
    steady
}

#[test]
fn a_patched_immediate() {
    let mut machine = program(&[
        (0x00, &|a| {
            a.mov(byte_ptr(0x11), cl)?;
            a.jmp(0x10u64)
        }),
        (0x10, &|a| {
            a.mov(al, 0)?;
            a.add(bl, al)?;
            a.dec(cx)?;
            a.jne(0u64)?;
            a.hlt()
        }),
    ]);
    machine.vcpu.state_mut().gpr[reg::EBX] = 0;
    does_not_fault(&mut machine, 5_000);
    let expected: u32 = (1..=20u32).chain(1..=5_000).sum();
    assert_eq!(machine.gpr(reg::EBX) & 0xFF, expected & 0xFF);
}

/// As EXEPACK and LZEXE do: a routine at the end of a segment writes the program in front of it, byte
/// by byte and by repetitions, and enters it.
#[test]
fn a_program_is_unpacked_and_run_in_its_own_segment() {
    let mut machine = program(&[
        // The packed program, DI bytes further down when it runs: INC AX, 3000 times, and HLT.
        (0x3000, &|a| {
            a.cld()?;
            a.mov(dx, cx)?;
            let mut again = a.create_label();
            let mut bytes = a.create_label();
            a.set_label(&mut again)?;
            a.mov(si, 0x3080)?;
            a.mov(di, 0x100)?;
            a.mov(cx, 16)?;
            a.set_label(&mut bytes)?;
            a.lodsb()?;
            a.stosb()?;
            a.mov(byte_ptr(di), 0x90u32)?;
            a.loop_(bytes)?;
            a.mov(si, 0x100)?;
            a.mov(cx, 0x2E00)?;
            a.rep().movsb()?;
            a.mov(byte_ptr(di), 0xC3u32)?; // ret
            a.xor(ax, ax)?;
            a.call(0x100u64)?;
            a.dec(dx)?;
            a.jne(again)?;
            a.hlt()
        }),
        (0x3080, &|a| a.db(&[0x40; 16])),
        (0x00, &|a| a.jmp(0x3000u64)),
    ]);
    does_not_fault(&mut machine, 50);
    assert_eq!(machine.gpr(reg::EAX) & 0xFFFF, 0x2E10);
}

/// A handler called by INT in each round, with frames on a stack beside the code.
#[test]
fn interrupt_frames_beside_code() {
    let mut machine = program(&[
        (0x00, &|a| {
            a.mov(sp, 0x200)?;
            a.int(0x60)?;
            a.dec(cx)?;
            a.jne(0u64)?;
            a.hlt()
        }),
        (0x80, &|a| {
            a.push(ax)?;
            a.mov(ax, word_ptr(0x90))?;
            a.inc(ax)?;
            a.mov(word_ptr(0x90), ax)?;
            a.pop(ax)?;
            a.iret()
        }),
    ]);
    let vector = [0x80, 0, (ORIGIN >> 4) as u8, (ORIGIN >> 12) as u8];
    machine.mmu.write_phys(0x60 * 4, &vector).unwrap();
    machine
        .mmu
        .write_phys(u64::from(ORIGIN) + 0x90, &[0; 2])
        .unwrap();
    does_not_fault(&mut machine, 5_000);
    assert_eq!(machine.dword(u64::from(ORIGIN) + 0x90) & 0xFFFF, 5_020);
}
