//! Hot indirect jumps of programs: learned where they go, found by a search, right whatever changes then.

mod common;

use common::guarded::guarded;
use common::{Machine, ORIGIN};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use std::thread;
use std::time::Duration;
use translator::state::{CpuState, eflags, reg};
use translator::{CalloutKind, Exit};

/// So many jumps make a jump hot, and so many are watched then.
const HOT: u32 = 1 << 14;
const WATCHED: u64 = 1024;
/// Enough for both, and for the form that follows.
const ROUNDS: u32 = 40_000;
/// The table of targets, and where reads go to no memory.
const TABLE: u32 = 0x3_0000;
const HOLE: u32 = 4 << 20;
/// The jump, in front of the cases.
const JUMP: u32 = ORIGIN + 0x80;

/// How the program jumps.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    Register,
    Memory,
}

const fn case(index: u32) -> u32 {
    ORIGIN + 0x100 + 0x20 * index
}

fn value(index: u32) -> u32 {
    (index + 1) * 0x0123_4567
}

fn place(
    machine: &mut Machine,
    at: u32,
    code: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) {
    let mut a = CodeAssembler::new(32).expect("an assembler");
    code(&mut a).expect("code");
    machine.write(at, &a.assemble(u64::from(at)).expect("code"));
}

/// ECX times one of `cases` cases, whose number EAX makes: it adds the flags at the jump and a number to EBX. The table
/// is at EDX, and has a power of 2 entries.
fn switch(form: Form, cases: u32) -> Machine {
    let entries = cases.next_power_of_two();
    let mut machine = guarded(3, |a| {
        a.imul_3(eax, eax, 1_664_525)?;
        a.add(eax, 1_013_904_223)?;
        a.mov(esi, eax)?;
        a.shr(esi, 20)?;
        a.and(esi, entries as i32 - 1)?;
        a.mov(edi, dword_ptr(edx + esi * 4))?;
        a.cmp(esi, entries as i32 / 2)?;
        a.jmp(u64::from(JUMP))
    });
    place(&mut machine, JUMP, |a| match form {
        Form::Register => a.jmp(edi),
        Form::Memory => a.jmp(dword_ptr(edx + esi * 4)),
    });
    for index in 0..=cases {
        place(&mut machine, case(index), |a| {
            a.pushfd()?;
            a.pop(edi)?;
            a.and(edi, 0x8D5)?;
            a.add(ebx, edi)?;
            a.add(ebx, value(index))?;
            a.rol(ebx, 5)?;
            a.dec(ecx)?;
            a.jne(u64::from(ORIGIN))?;
            a.hlt()
        });
    }
    machine.write(TABLE, &table(cases));
    machine
}

fn table(cases: u32) -> Vec<u8> {
    let entries = cases.next_power_of_two();
    let targets = (0..entries).map(|entry| case(entry % cases));
    targets.flat_map(u32::to_le_bytes).collect()
}

/// CF, PF, AF, ZF, SF and OF of CMP.
fn flags_of_cmp(a: u32, b: u32) -> u32 {
    let result = a.wrapping_sub(b);
    let bit = |condition: bool, bit: u32| u32::from(condition) << bit;
    bit(a < b, 0)
        | bit((result as u8).count_ones().is_multiple_of(2), 2)
        | bit((a ^ b ^ result) & 0x10 != 0, 4)
        | bit(result == 0, 6)
        | bit(result >> 31 != 0, 7)
        | bit(((a ^ b) & (a ^ result)) >> 31 != 0, 11)
}

/// What the program leaves in EBX; `number` is what the entry of the table adds.
fn expected(cases: u32, rounds: u32, mut number: impl FnMut(u32) -> u32) -> u32 {
    let entries = cases.next_power_of_two();
    let (mut seed, mut sum) = (1u32, 0u32);
    for _ in 0..rounds {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let entry = seed >> 20 & (entries - 1);
        sum = sum
            .wrapping_add(flags_of_cmp(entry, entries / 2))
            .wrapping_add(number(entry))
            .rotate_left(5);
    }
    sum
}

/// Runs the program from its start.
fn run(machine: &mut Machine, start: &CpuState, rounds: u32, table: u32) -> u32 {
    let cpu = machine.vcpu.state_mut();
    *cpu = start.clone();
    cpu.gpr[reg::EAX] = 1;
    cpu.gpr[reg::EBX] = 0;
    cpu.gpr[reg::ECX] = rounds;
    cpu.gpr[reg::EDX] = table;
    assert_eq!(machine.run(), Exit::Halted);
    let reports = machine.ports.reports();
    assert_eq!(reports.last().map(|report| report.vector), Some(13), "HLT");
    machine.gpr(reg::EBX)
}

/// A program whose jump is learned, and the state at its start.
fn learned(form: Form, cases: u32) -> (Machine, CpuState) {
    let mut machine = switch(form, cases);
    let start = machine.vcpu.state_mut().clone();
    let sum = run(&mut machine, &start, ROUNDS, TABLE);
    assert_eq!(sum, expected(cases, ROUNDS, |entry| value(entry % cases)));
    assert_eq!(watched(&machine), WATCHED, "{form:?} {cases}");
    assert!(is_search(&machine), "{form:?} {cases}");
    (machine, start)
}

fn is_search(machine: &Machine) -> bool {
    let listing = machine.vcpu.unit_listing(ORIGIN).expect("a unit");
    listing.contains("jecxz") && !listing.contains("dec ecx")
}

fn watched(machine: &Machine) -> u64 {
    let mut callouts = machine.vcpu.stats().callouts.iter();
    callouts
        .find_map(|(kind, count)| (kind == CalloutKind::IndirectJump).then_some(count))
        .expect("a counter")
}

#[test]
fn a_switch_goes_where_it_goes() {
    for form in [Form::Register, Form::Memory] {
        for cases in [2, 3, 4, 7, 8, 15, 16, 31, 32] {
            let (mut machine, start) = learned(form, cases);
            let links = machine.vcpu.stats().links;
            let sum = run(&mut machine, &start, ROUNDS, TABLE);
            assert_eq!(sum, expected(cases, ROUNDS, |entry| value(entry % cases)));
            assert_eq!(watched(&machine), WATCHED, "all is known");
            assert!(machine.vcpu.stats().links <= links + 1, "all is linked");
        }
    }
}

#[test]
fn a_jump_that_is_not_hot_is_not_watched() {
    let mut machine = switch(Form::Register, 8);
    let start = machine.vcpu.state_mut().clone();
    let sum = run(&mut machine, &start, HOT - 1, TABLE);
    assert_eq!(sum, expected(8, HOT - 1, value));
    assert_eq!(watched(&machine), 0);
}

#[test]
fn a_target_that_was_never_seen() {
    for form in [Form::Register, Form::Memory] {
        for (entry, target) in [
            (0, case(7)),
            (3, case(7)),
            (6, case(7)),
            (5, case(7) + 0x1000),
        ] {
            let (mut machine, start) = learned(form, 7);
            // The last case, or a copy of it in the next page.
            place(&mut machine, case(7) + 0x1000, |a| {
                a.pushfd()?;
                a.pop(edi)?;
                a.and(edi, 0x8D5)?;
                a.add(ebx, edi)?;
                a.add(ebx, value(7))?;
                a.rol(ebx, 5)?;
                a.dec(ecx)?;
                a.jne(u64::from(ORIGIN))?;
                a.hlt()
            });
            machine.write(TABLE + 4 * entry, &target.to_le_bytes());
            let sum = run(&mut machine, &start, 5000, TABLE);
            let number = |e: u32| value(if e == entry { 7 } else { e % 7 });
            assert_eq!(sum, expected(7, 5000, number), "{form:?} {entry}");
        }
    }
}

#[test]
fn a_case_changes() {
    let (mut machine, start) = learned(Form::Register, 8);
    for (index, new) in [(2, 5), (7, 3)] {
        place(&mut machine, case(index), |a| {
            a.pushfd()?;
            a.pop(edi)?;
            a.and(edi, 0x8D5)?;
            a.add(ebx, edi)?;
            a.add(ebx, value(new))
        });
    }
    let number = |entry: u32| match entry {
        2 => value(5),
        7 => value(3),
        _ => value(entry),
    };
    let sum = run(&mut machine, &start, ROUNDS, TABLE);
    assert_eq!(sum, expected(8, ROUNDS, number));
}

#[test]
fn the_jump_changes() {
    let (mut machine, start) = learned(Form::Register, 8);
    // JMP EBP, in front of what is known of JMP EDI.
    place(&mut machine, JUMP, |a| a.jmp(ebp));
    let mut start_at_3 = start.clone();
    start_at_3.gpr[reg::EBP] = case(3);
    let sum = run(&mut machine, &start_at_3, ROUNDS, TABLE);
    assert_eq!(sum, expected(8, ROUNDS, |_| value(3)));
    assert!(!is_search(&machine));
    place(&mut machine, JUMP, |a| a.jmp(edi));
    let sum = run(&mut machine, &start, ROUNDS, TABLE);
    assert_eq!(sum, expected(8, ROUNDS, value));
}

/// The table is in a device: every access goes through Rust.
#[test]
fn a_table_that_is_no_memory() {
    let (mut machine, start) = learned(Form::Memory, 8);
    machine.ports.hole = table(8);
    let sum = run(&mut machine, &start, 500, HOLE);
    assert_eq!(sum, expected(8, 500, value));
    let sum = run(&mut machine, &start, ROUNDS, TABLE);
    assert_eq!(sum, expected(8, ROUNDS, value));
}

#[test]
fn breakpoints_and_single_steps_at_the_cases() {
    let (mut machine, start) = learned(Form::Memory, 8);
    let mut stopped = start.clone();
    stopped.dr[0] = case(2);
    stopped.dr[7] |= 1;
    machine.ports.written.clear();
    let sum = run(&mut machine, &stopped, 200, TABLE);
    assert_eq!(sum, expected(8, 200, value));
    let mut visits = 0;
    expected(8, 200, |entry| {
        visits += u32::from(entry == 2);
        0
    });
    let reports = machine.ports.reports();
    let at_case = reports
        .iter()
        .filter(|report| report.vector == 1 && report.eip == case(2));
    assert_eq!(at_case.count() as u32, visits);

    let mut traced = start.clone();
    traced.eflags |= eflags::TF;
    machine.ports.written.clear();
    run(&mut machine, &traced, 20, TABLE);
    let reports = machine.ports.reports();
    let after_jump = reports.iter().filter(|report| {
        report.vector == 1 && report.eip >= case(0) && (report.eip - case(0)).is_multiple_of(0x20)
    });
    assert_eq!(after_jump.count(), 20);
    let sum = run(&mut machine, &start, ROUNDS, TABLE);
    assert_eq!(sum, expected(8, ROUNDS, value));
}

/// Every case ends in a jump of its own, backwards for some: nothing else is there to notice a kick.
#[test]
fn a_loop_of_nothing_but_searches_can_be_left() {
    let next = |a: &mut CodeAssembler| {
        a.imul_3(eax, eax, 1_664_525)?;
        a.add(eax, 1_013_904_223)?;
        a.inc(ebx)?;
        a.mov(esi, eax)?;
        a.shr(esi, 28)?;
        a.and(esi, 3)?;
        a.jmp(dword_ptr(edx + esi * 4))
    };
    let mut machine = guarded(3, next);
    for index in 0..4 {
        place(&mut machine, case(2 * index), next);
    }
    let targets = (0..4).map(|index| case(2 * index));
    machine.write(
        TABLE,
        &targets.flat_map(u32::to_le_bytes).collect::<Vec<_>>(),
    );
    machine.vcpu.state_mut().gpr[reg::EDX] = TABLE;
    let mut searched = 0;
    for round in 0.. {
        assert!(round < 2000, "not hot after so many kicks");
        let kicker = machine.vcpu.kicker();
        let other = thread::spawn(move || {
            thread::sleep(Duration::from_millis(10));
            kicker.kick();
        });
        assert_eq!(machine.run(), Exit::Kicked);
        other.join().expect("the other thread");
        // EAX and EBX are in step wherever that was.
        let cpu = machine.vcpu.state();
        let inside = (cpu.eip - ORIGIN) % 0x40;
        assert!(cpu.eip >= ORIGIN && inside < 0x20, "{inside:x}");
        searched += u32::from(watched(&machine) == 4 * WATCHED);
        if searched == 10 {
            break;
        }
    }
}
