//! Loops that stay in their unit: they need no link, can be interrupted at any iteration, notice that
//! their code has changed, and that the FPU is no longer theirs.

mod common;

use common::guarded::guarded;
use common::{Machine, ORIGIN};
use iced_x86::code_asm;
use iced_x86::code_asm::*;
use std::thread;
use std::time::Duration;
use translator::Exit;
use translator::state::{cr0, reg};

#[test]
fn loops_take_no_link() {
    let mut machine = Machine::new(32, |a| {
        let (mut outer, mut inner, mut middle) =
            (a.create_label(), a.create_label(), a.create_label());
        a.mov(ebx, 10)?;
        a.fninit()?;
        a.fldz()?;
        a.set_label(&mut outer)?;
        a.mov(ecx, 20)?;
        a.set_label(&mut inner)?;
        a.fld1()?;
        a.faddp(st1, st0)?;
        a.dec(ecx)?;
        a.jne(inner)?;
        a.mov(ecx, 3)?;
        a.set_label(&mut middle)?;
        a.inc(edx)?;
        a.loop_(middle)?;
        a.dec(ebx)?;
        a.jne(outer)?;
        a.fistp(dword_ptr(0x3000))?;
        a.hlt()
    });
    machine.vcpu.state_mut().gpr[reg::EDX] = 0;
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.dword(0x3000), 200);
    assert_eq!(machine.gpr(reg::EDX), 30);
    let stats = machine.vcpu.stats();
    assert_eq!((stats.units, stats.links), (1, 0));
}

#[test]
fn a_loop_can_be_interrupted_at_an_instruction() {
    let mut machine = Machine::new(32, |a| {
        let mut back = a.create_label();
        a.set_label(&mut back)?;
        a.inc(eax)?;
        a.lea(ebx, ptr(ebx + 1))?;
        a.cmp(eax, ecx)?;
        a.jne(back)?;
        a.hlt()
    });
    machine.vcpu.state_mut().gpr[reg::ECX] = u32::MAX;
    for _ in 0..20 {
        let kicker = machine.vcpu.kicker();
        let other = thread::spawn(move || {
            thread::sleep(Duration::from_millis(2));
            kicker.kick();
        });
        let exit = machine.run();
        other.join().expect("the other thread");
        if exit == Exit::Halted {
            break; // a fast machine
        }
        assert_eq!(exit, Exit::Kicked);
        let offset = machine.vcpu.state().eip - ORIGIN;
        let (first, second) = (machine.gpr(reg::EAX), machine.gpr(reg::EBX));
        // INC has 1 byte, LEA 3, CMP 2.
        match offset {
            0 | 4 | 6 => assert_eq!(first, second, "at {offset}"),
            1 => assert_eq!(first, second.wrapping_add(1)),
            _ => panic!("no boundary: {offset}"),
        }
    }
    let cpu = machine.vcpu.state_mut();
    cpu.gpr[reg::EAX] = 0;
    cpu.gpr[reg::EBX] = 0;
    cpu.gpr[reg::ECX] = 1000;
    cpu.eip = ORIGIN;
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!((machine.gpr(reg::EAX), machine.gpr(reg::EBX)), (1000, 1000));
}

/// An instruction that no jump leads back across makes the jump leave the unit: it looks for a kick on its
/// way out, and stops in front of its target.
#[test]
fn a_loop_of_two_units_can_be_interrupted() {
    let mut machine = Machine::new(32, |a| {
        let mut back = a.create_label();
        a.set_label(&mut back)?;
        a.inc(eax)?;
        a.cli()?;
        a.lea(ebx, ptr(ebx + 1))?;
        a.cmp(eax, ecx)?;
        a.jne(back)?;
        a.hlt()
    });
    machine.vcpu.state_mut().gpr[reg::ECX] = u32::MAX;
    let kicker = machine.vcpu.kicker();
    let other = thread::spawn(move || {
        thread::sleep(Duration::from_millis(5));
        kicker.kick();
    });
    let exit = machine.run();
    other.join().expect("the other thread");
    if exit != Exit::Halted {
        assert_eq!(exit, Exit::Kicked);
        assert_eq!(machine.vcpu.state().eip, ORIGIN);
        assert_eq!(machine.gpr(reg::EAX), machine.gpr(reg::EBX));
    }
    let cpu = machine.vcpu.state_mut();
    cpu.gpr[reg::EAX] = 0;
    cpu.gpr[reg::EBX] = 0;
    cpu.gpr[reg::ECX] = 1000;
    cpu.eip = ORIGIN;
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!((machine.gpr(reg::EAX), machine.gpr(reg::EBX)), (1000, 1000));
    // Not before: on a busy host the kick may come before the first jump.
    assert!(machine.vcpu.stats().links > 0);
}

/// A search that ends in front of its beginning: the jump that is not taken costs no look for a kick.
#[test]
fn a_jump_out_of_a_loop_is_polled_when_it_is_taken() {
    let mut machine = Machine::new(32, |a| {
        let (mut done, mut start, mut back) =
            (a.create_label(), a.create_label(), a.create_label());
        a.jmp(start)?;
        a.set_label(&mut done)?;
        a.hlt()?;
        a.set_label(&mut start)?;
        a.mov(ecx, 1000)?;
        a.set_label(&mut back)?;
        a.test(ecx, ecx)?;
        a.je(done)?;
        a.dec(ecx)?;
        a.jmp(back)
    });
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.gpr(reg::ECX), 0);
    // Two loads each for the jump back and for the way out.
    let listing = machine.vcpu.unit_listing(ORIGIN).expect("a unit");
    assert_eq!(listing.matches("mov r8d,[r8]").count(), 2, "{listing}");
    let test = listing.find("test ecx,ecx").expect("the loop");
    let jump = listing.find("je ").expect("the way out");
    assert!(!listing[test..jump].contains("[r8]"), "{listing}");
}

/// The FPU is there in the first iteration and not in the second.
#[test]
fn a_loop_notices_that_the_fpu_is_switched_off() {
    const NM: u32 = 7;
    let mut machine = guarded(0, |a| {
        let mut back = a.create_label();
        a.mov(ecx, 3)?; // 5 bytes
        a.set_label(&mut back)?;
        a.fld1()?; // 2
        a.fstp(st0)?;
        a.inc(ebx)?;
        a.mov(eax, code_asm::cr0)?;
        a.or(eax, cr0::TS as i32)?;
        a.mov(code_asm::cr0, eax)?;
        a.dec(ecx)?;
        a.jne(back)?;
        a.hlt()
    });
    machine.vcpu.state_mut().cr0 = cr0::PE | cr0::NE | cr0::ET;
    machine.vcpu.state_mut().gpr[reg::EBX] = 0;
    assert_eq!(machine.run(), Exit::Halted);
    let reports = machine.ports.reports();
    assert_eq!(reports.len(), 1);
    assert_eq!((reports[0].vector, reports[0].eip), (NM, ORIGIN + 5));
    assert_eq!(machine.gpr(reg::EBX), 1);
}

/// An entry loads FPU state unasked while it has been of use lately.
#[test]
fn fpu_state_is_missed_once_in_many_entries() {
    let mut machine = guarded(0, |a| {
        let mut back = a.create_label();
        a.fninit()?;
        a.fldz()?;
        a.mov(ecx, 640)?;
        a.set_label(&mut back)?;
        a.fld1()?;
        a.faddp(st1, st0)?;
        a.mov(eax, code_asm::cr0)?;
        a.mov(code_asm::cr0, eax)?;
        a.dec(ecx)?;
        a.jne(back)?;
        a.fistp(dword_ptr(0x3000))?;
        a.hlt()
    });
    machine.vcpu.state_mut().cr0 = cr0::PE | cr0::NE | cr0::ET;
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.dword(0x3000), 640);
    let stats = machine.vcpu.stats();
    assert!(
        stats.entries_supervisor > 640,
        "{}",
        stats.entries_supervisor
    );
    assert!((1..40).contains(&stats.fpu_faults), "{}", stats.fpu_faults);
}

/// The loop counts up what is added in it.
#[test]
fn a_loop_notices_that_it_has_changed() {
    let mut machine = Machine::new(32, |a| {
        let mut back = a.create_label();
        a.mov(ecx, 5)?; // 5 bytes
        a.set_label(&mut back)?;
        a.add(eax, 0x100)?; // 5 bytes, the immediate in the last four
        a.add(dword_ptr(ORIGIN + 6), 1)?;
        a.cmp(ecx, 1)?;
        a.lea(ecx, ptr(ecx - 1))?;
        a.jne(back)?;
        a.hlt()
    });
    machine.vcpu.state_mut().gpr[reg::EAX] = 0;
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.gpr(reg::EAX), 5 * 0x100 + 1 + 2 + 3 + 4);
}
