//! Debug registers, single step and NMI, through the whole translator. Sections are those of the
//! Intel SDM, volume 3.

mod common;

use common::guarded::{Report, guarded};
use common::{Machine, ORIGIN};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use translator::Exit;
use translator::state::{eflags, reg};

/// B0 to B3, BD, BS of DR6.
const B0: u32 = 1;
const B1: u32 = 2;
const BD: u32 = 1 << 13;
const BS: u32 = 1 << 14;

/// R/W and LEN of DR7.
const EXECUTE: u32 = 0;
const WRITE: u32 = 1;
const PORT: u32 = 2;
const READ_WRITE: u32 = 3;

/// DR7 with global breakpoint `number`.
fn control(number: u32, watch: u32, len: u32) -> u32 {
    1 << (number * 2 + 1) | (watch | (len - 1) << 2) << (16 + number * 4)
}

/// Enables breakpoints before the program runs.
fn watch(machine: &mut Machine, breakpoints: &[(u32, u32, u32)]) {
    let cpu = machine.vcpu.state_mut();
    for (number, &(address, watch, len)) in breakpoints.iter().enumerate() {
        cpu.dr[number] = address;
        cpu.dr[7] |= control(number as u32, watch, len);
    }
}

fn briefs(machine: &Machine) -> Vec<(u32, u32, u32)> {
    let reports = machine.ports.reports();
    reports.iter().map(Report::brief).collect()
}

fn run(machine: &mut Machine) -> Vec<(u32, u32, u32)> {
    assert_eq!(machine.run(), Exit::Halted);
    briefs(machine)
}

/// Sets TF by POPF: 7 bytes.
fn set_trap_flag(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.push((eflags::FIXED | eflags::TF) as i32)?;
    a.popfd()?;
    a.nop()
}

/// Clears TF by POPF: 3 bytes.
fn clear_trap_flag(a: &mut CodeAssembler) -> Result<(), IcedError> {
    a.push(2)?;
    a.popfd()
}

#[test]
fn a_single_step_follows_each_instruction_that_began_with_tf() {
    let mut machine = guarded(0, |a| {
        set_trap_flag(a)?; // POPF itself takes no trap, NOP at 6 does
        a.mov(ecx, 2)?; // 7
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.dec(ecx)?; // 12
        a.jne(top)?; // 13
        clear_trap_flag(a)?; // 15, 17: POPF began with TF
        a.nop()?; // 18
        a.hlt()
    });
    let steps = [7, 12, 13, 12, 13, 15, 17, 18];
    assert_eq!(run(&mut machine), steps.map(|eip| (1, eip, BS)));
    // The image of EFLAGS has TF, and no RF (17.3.1.1).
    let first = machine.ports.reports()[0];
    assert_eq!(first.flags & (eflags::TF | eflags::RF), eflags::TF);
}

#[test]
fn a_repeated_string_instruction_is_stepped_by_iteration() {
    let mut machine = guarded(0, |a| {
        a.mov(esi, 0x3000)?; // 0
        a.mov(edi, 0x4000)?; // 5
        a.mov(ecx, 3)?; // 10
        set_trap_flag(a)?; // 15
        a.rep().movsb()?; // 22
        clear_trap_flag(a)?; // 24
        a.hlt()
    });
    assert_eq!(
        run(&mut machine),
        [22, 22, 22, 24, 26, 27].map(|eip| (1, eip, BS))
    );
    let reports = machine.ports.reports();
    let resumes = reports.iter().map(|r| r.flags & eflags::RF != 0);
    // RF is set in the image but after the last iteration (17.3.1.1).
    assert_eq!(
        resumes.collect::<Vec<_>>(),
        [false, true, true, false, false, false]
    );
    assert_eq!(machine.gpr(reg::ECX), 0);
}

#[test]
fn a_load_of_ss_holds_the_trap_off() {
    let mut machine = guarded(0, |a| {
        a.mov(ax, ss)?; // 0
        set_trap_flag(a)?; // 3
        a.mov(ss, ax)?; // 10: no trap (6.8.3)
        a.nop()?; // 13
        a.sti()?; // 14: STI holds off interrupts alone
        a.cli()?; // 15
        clear_trap_flag(a)?; // 16
        a.hlt()
    });
    assert_eq!(
        run(&mut machine),
        [10, 14, 15, 16, 18, 19].map(|eip| (1, eip, BS))
    );
}

#[test]
fn software_interrupts_and_faults_take_no_single_step() {
    let mut machine = guarded(0, |a| {
        set_trap_flag(a)?; // 0
        a.int3()?; // 7
        a.nop()?; // 8
        a.into()?; // 9: not taken
        a.int1()?; // 10
        a.ud2()?; // 11
        a.hlt()
    });
    let expected = [
        (1, 7, BS),
        (3, 8, 0),
        (1, 9, BS),
        (1, 10, BS),
        // INT1 is #DB without a bit of its own (17.2.3).
        (1, 11, 0),
        (6, 11, 0),
    ];
    assert_eq!(run(&mut machine), expected);
}

#[test]
fn a_single_step_ends_a_halt() {
    let mut machine = guarded(0, |a| {
        set_trap_flag(a)?; // 0
        a.hlt()?; // 7
        clear_trap_flag(a)?; // 8
        a.hlt()
    });
    assert_eq!(run(&mut machine), [7, 8, 10, 11].map(|eip| (1, eip, BS)));
}

#[test]
fn an_instruction_breakpoint_is_a_fault_once() {
    let mut machine = guarded(0, |a| {
        a.mov(ecx, 3)?; // 0
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.nop()?; // 5
        a.inc(eax)?; // 6
        a.dec(ecx)?; // 7
        a.jne(top)?; // 8
        a.hlt()
    });
    machine.vcpu.state_mut().gpr[reg::EAX] = 0;
    watch(&mut machine, &[(ORIGIN + 6, EXECUTE, 1)]);
    assert_eq!(run(&mut machine), [(1, 6, B0); 3]);
    assert_eq!(machine.gpr(reg::EAX), 3, "it runs after each report");
    for report in machine.ports.reports() {
        assert_eq!(report.flags & eflags::RF, 0, "17.3.1.1");
    }
}

#[test]
fn breakpoints_come_and_go_with_dr7() {
    let mut machine = guarded(0, |a| {
        let mut top = a.create_label();
        a.mov(ecx, 4)?; // 0
        a.set_label(&mut top)?;
        a.inc(ebx)?; // 5
        // On in the second and third round.
        a.xor(eax, eax)?; // 6
        a.cmp(ecx, 3)?; // 8
        let mut off = a.create_label();
        a.jb(off)?; // 11
        a.mov(eax, control(1, EXECUTE, 1) as i32)?;
        a.set_label(&mut off)?;
        a.mov(dr7, eax)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    });
    machine.vcpu.state_mut().dr[1] = ORIGIN + 5;
    assert_eq!(run(&mut machine), [(1, 5, B1); 2]);
}

#[test]
fn data_breakpoints_are_traps_behind_the_access() {
    let mut machine = guarded(0, |a| {
        a.mov(eax, dword_ptr(0x3000))?; // 0: reads
        a.mov(dword_ptr(0x3000), eax)?; // 5
        a.inc(byte_ptr(0x3003))?; // 10
        a.mov(dword_ptr(0x3004), eax)?; // 16: behind it
        a.mov(dword_ptr(0x2FFD), eax)?; // 21: overlaps by a byte, over two pages
        a.mov(dword_ptr(0x2FFC), eax)?; // 26: in front of it
        a.cmp(byte_ptr(0x3001), 0)?; // 31
        a.hlt()
    });
    watch(&mut machine, &[(0x3000, WRITE, 4), (0x3001, READ_WRITE, 1)]);
    let expected = [
        (1, 5, B1),
        (1, 10, B0 | B1),
        (1, 16, B0),
        (1, 26, B0),
        (1, 38, B1),
    ];
    assert_eq!(run(&mut machine), expected);
}

#[test]
fn a_watched_page_is_slow_and_no_other() {
    let mut machine = guarded(0, |a| {
        a.mov(ecx, 1000)?; // 0
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.add(dword_ptr(0x3000), ecx)?; // 5: the same page
        a.add(dword_ptr(0x4000), ecx)?; // 11
        a.dec(ecx)?; // 17
        a.jne(top)?; // 18
        a.mov(ecx, 1000)?;
        let mut other = a.create_label();
        a.set_label(&mut other)?;
        a.add(dword_ptr(0x5000), ecx)?;
        a.dec(ecx)?;
        a.jne(other)?;
        a.mov(dword_ptr(0x3800), ecx)?; // 41
        a.hlt()
    });
    watch(&mut machine, &[(0x3800, WRITE, 4)]);
    let reports = run(&mut machine);
    assert_eq!(reports.len(), 1, "{reports:x?}");
    assert_eq!(machine.dword(0x3000), 500_500);
    assert_eq!(machine.dword(0x5000), 500_500);
    let stats = machine.vcpu.stats();
    assert!(stats.prepared_accesses >= 990, "{stats:?}");
    assert!(stats.prepared_accesses < 1100, "{stats:?}");
    assert!(stats.entries_supervisor < 100, "{stats:?}");
}

#[test]
fn a_variable_beside_code_is_watched_as_well() {
    // Its stores have gone past the windows by the time that the breakpoint is enabled.
    let variable = ORIGIN + 0x800;
    let mut machine = guarded(0, |a| {
        let mut top = a.create_label();
        a.mov(ecx, 200)?;
        a.set_label(&mut top)?;
        a.inc(dword_ptr(variable))?;
        a.cmp(ecx, 3)?;
        let mut on = a.create_label();
        a.jne(on)?;
        a.mov(eax, control(0, WRITE, 4) as i32)?;
        a.mov(dr7, eax)?;
        a.set_label(&mut on)?;
        a.dec(ecx)?;
        a.jne(top)?;
        a.hlt()
    });
    machine.vcpu.state_mut().dr[0] = variable;
    let reports = run(&mut machine);
    assert_eq!(reports.len(), 2, "{reports:x?}");
    assert!(reports.iter().all(|r| r.2 == B0), "{reports:x?}");
    assert_eq!(machine.dword(u64::from(variable)), 200);
    assert!(machine.vcpu.stats().aliases > 0);
}

#[test]
fn a_string_instruction_stops_behind_the_iteration_that_meets_a_breakpoint() {
    let mut machine = guarded(0, |a| {
        a.mov(edi, 0x2FF0)?; // 0
        a.mov(ecx, 16)?; // 5
        a.rep().stosd()?; // 10
        a.mov(ebx, edi)?; // 12
        a.hlt()
    });
    watch(&mut machine, &[(0x3008, WRITE, 4), (0x302C, READ_WRITE, 1)]);
    assert_eq!(
        run(&mut machine),
        [(1, 10, B0), (1, 12, B1)],
        "in the middle, and behind the last"
    );
    let reports = machine.ports.reports();
    assert_ne!(reports[0].flags & eflags::RF, 0);
    assert_eq!(reports[1].flags & eflags::RF, 0);
    assert_eq!(machine.gpr(reg::EBX), 0x3030);
}

#[test]
fn callouts_and_the_stack_meet_data_breakpoints() {
    let mut machine = guarded(0, |a| {
        a.sgdt(dword_ptr(0x3000))?; // 0
        a.mov(esp, 0x3108)?; // 7
        a.pushad()?; // 12: down to 30E8h
        a.popad()?; // 13
        a.mov(esp, 0x8000)?; // 14
        a.lidt(dword_ptr(0x3200))?; // 19
        a.hlt()
    });
    machine.write(0x3200, &[0xFF, 0, 0, 0x20, 0, 0]);
    watch(
        &mut machine,
        &[
            (0x3004, WRITE, 2),
            (0x30F0, WRITE, 4),
            (0x3204, READ_WRITE, 1),
        ],
    );
    assert_eq!(run(&mut machine), [(1, 7, 1), (1, 13, 2), (1, 26, 4)]);
}

#[test]
fn the_trap_of_a_load_of_ss_waits_for_the_next_instruction() {
    let mut machine = guarded(0, |a| {
        a.mov(ss, word_ptr(0x3000))?; // 0
        a.nop()?; // 6
        a.mov(ss, word_ptr(0x3000))?; // 7
        a.int3()?; // 13: the trap comes inside its handler
        a.hlt()
    });
    machine.write(0x3000, &[0x10, 0]);
    watch(&mut machine, &[(0x3000, READ_WRITE, 2)]);
    let reports = run(&mut machine);
    assert_eq!(reports.len(), 3);
    assert_eq!(reports[0], (1, 7, B0));
    assert_eq!((reports[1].0, reports[1].2), (1, B0));
    assert_eq!(reports[2].0, 3);
}

#[test]
fn port_breakpoints_need_the_debugging_extensions() {
    let mut machine = guarded(0, |a| {
        a.in_(al, 0x60)?; // 0
        a.mov(eax, 8)?; // 2
        a.mov(cr4, eax)?; // 7
        a.in_(al, 0x60)?; // 10
        a.out(0x61, al)?; // 12
        a.out(0x62, al)?; // 14
        a.mov(edi, 0x3000)?; // 16
        a.mov(ecx, 2)?; // 21
        a.mov(edx, 0x60)?; // 26
        a.rep().insb()?; // 31
        a.hlt()
    });
    watch(&mut machine, &[(0x60, PORT, 2)]);
    assert_eq!(
        run(&mut machine),
        [(1, 12, B0), (1, 14, B0), (1, 31, B0), (1, 33, B0)]
    );
}

#[test]
fn general_detect_is_a_fault_before_the_access() {
    let mut machine = guarded(0, |a| {
        a.mov(eax, 0x2000)?; // 0
        a.mov(dr7, eax)?; // 5
        a.mov(ebx, dr3)?; // 8
        a.hlt()
    });
    machine.vcpu.state_mut().dr[3] = 0x1234;
    // The delivery clears GD, so the access works when it comes again.
    assert_eq!(run(&mut machine), [(1, 8, BD)]);
    assert_eq!(machine.gpr(reg::EBX), 0x1234);
    assert_ne!(machine.ports.reports()[0].flags & eflags::RF, 0);
}

#[test]
fn a_data_trap_goes_before_the_breakpoint_on_the_next_instruction() {
    let mut machine = guarded(0, |a| {
        a.mov(dword_ptr(0x3000), eax)?; // 0
        a.nop()?; // 5
        a.hlt()
    });
    watch(
        &mut machine,
        &[(0x3000, WRITE, 4), (ORIGIN + 5, EXECUTE, 1)],
    );
    // The handler sets RF, which would hide the second one: it has to be asked for.
    assert_eq!(run(&mut machine), [(1, 5, B0)]);
    let mut machine = guarded(0, |a| {
        set_trap_flag(a)?; // 0
        a.mov(dword_ptr(0x3000), eax)?; // 7
        clear_trap_flag(a)?; // 12
        a.hlt()
    });
    watch(&mut machine, &[(0x3000, WRITE, 4)]);
    assert_eq!(
        run(&mut machine),
        [(1, 7, BS), (1, 12, BS | B0), (1, 14, BS), (1, 15, BS)],
        "one trap for both causes"
    );
}

#[test]
fn an_nmi_wakes_a_halted_processor_and_waits_for_iret() {
    let mut machine = guarded(0, |a| {
        a.hlt()?; // 0
        a.inc(ebx)?; // 1
        a.hlt()
    });
    machine.vcpu.state_mut().gpr[reg::EBX] = 0;
    assert_eq!(machine.run(), Exit::Halted);
    machine.vcpu.raise_nmi();
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(briefs(&machine), [(2, 1, 0)]);
    assert_eq!(machine.gpr(reg::EBX), 1);
    assert!(!machine.vcpu.state().nmi_blocked);
    // While one is being handled the next one waits.
    let state = machine.vcpu.state_mut();
    state.nmi_blocked = true;
    state.eip = ORIGIN + 1;
    machine.vcpu.raise_nmi();
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.ports.reports().len(), 1);
    machine.vcpu.state_mut().nmi_blocked = false;
    machine.vcpu.state_mut().eip = ORIGIN;
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.ports.reports().len(), 2);
    assert_eq!(machine.vcpu.stats().nmis, 2);
}

#[test]
fn an_nmi_is_held_off_by_a_load_of_ss_and_follows_a_debug_trap() {
    let mut machine = guarded(0, |a| {
        a.mov(ax, ss)?; // 0
        a.mov(ss, ax)?; // 3
        a.nop()?; // 6
        a.hlt()
    });
    for _ in 0..2 {
        machine.vcpu.step(&mut machine.mmu, &mut machine.ports);
    }
    machine.vcpu.raise_nmi();
    assert_eq!(run(&mut machine), [(2, 7, 0)]);
    let mut machine = guarded(0, |a| {
        a.nop()?; // 0
        a.hlt()
    });
    machine.vcpu.state_mut().eflags |= eflags::TF;
    machine.vcpu.step(&mut machine.mmu, &mut machine.ports);
    machine.vcpu.raise_nmi();
    assert_eq!(machine.run(), Exit::Halted);
    // The trap was delivered first, so the NMI interrupts its handler.
    let first = machine.ports.reports()[0];
    assert_eq!(first.vector, 2);
    assert_ne!(first.eip, ORIGIN + 1);
}

/// Handler of vector 1 in real mode: reports IP and DR6, and turns all breakpoints off.
fn real_mode_handler(machine: &mut Machine) {
    const SEGMENT: u16 = 0x3000;
    let mut a = CodeAssembler::new(16).unwrap();
    let handler = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        a.push(bp)?;
        a.mov(bp, sp)?;
        a.push(eax)?;
        a.movzx(eax, word_ptr(bp + 2))?;
        a.out(0xE0, eax)?;
        a.mov(eax, dr6)?;
        a.out(0xE0, eax)?;
        a.xor(eax, eax)?;
        a.mov(dr6, eax)?;
        a.mov(dr7, eax)?;
        a.pop(eax)?;
        a.pop(bp)?;
        a.iret()
    };
    handler(&mut a).unwrap();
    let code = a.assemble(0).unwrap();
    machine.write(u32::from(SEGMENT) << 4, &code);
    machine.write(4, &[0, 0]);
    machine.write(6, &SEGMENT.to_le_bytes());
}

#[test]
fn breakpoints_are_linear_addresses_whatever_the_segment() {
    use translator::state::{Segment, seg};
    // A base of CS that is no multiple of 4 KiB: pages of EIP and pages of addresses differ.
    for back in [0, 0x80, 0x7FF] {
        let mut machine = Machine::new(16, |a| {
            a.mov(cx, 3)?; // 0
            let mut top = a.create_label();
            a.set_label(&mut top)?;
            a.inc(word_ptr(0x10))?; // 3
            a.loop_(top)?; // 7
            a.hlt()
        });
        real_mode_handler(&mut machine);
        let cpu = machine.vcpu.state_mut();
        cpu.seg[seg::CS] = Segment::real((ORIGIN >> 4) as u16 - back);
        let start = u32::from(back) << 4;
        cpu.eip = start;
        // Units and jump tables are there before the breakpoint is.
        assert_eq!(machine.run(), Exit::Halted);
        let cpu = machine.vcpu.state_mut();
        cpu.eip = start;
        watch(&mut machine, &[(ORIGIN + 7, EXECUTE, 1)]);
        assert_eq!(machine.run(), Exit::Halted);
        let written: Vec<u32> = machine.ports.written.iter().map(|w| w.1 & 0xF00F).collect();
        let ip = (start + 7) & 0xF00F;
        assert_eq!(written, [ip, B0], "CS base {back:#x} paragraphs below");
        let cpu = machine.vcpu.state_mut();
        cpu.eip = start;
        machine.ports.written.clear();
        watch(&mut machine, &[(0x2_0011, WRITE, 1)]);
        assert_eq!(machine.run(), Exit::Halted);
        assert_eq!(machine.ports.written[0].1, start + 7);
        assert_eq!(machine.ports.written.len(), 2, "the handler turned it off");
        assert_eq!(machine.dword(0x2_0010) & 0xFFFF, 9);
    }
}

#[test]
fn an_interrupt_goes_before_the_breakpoint_on_the_next_instruction() {
    let mut machine = guarded(0, |a| {
        a.nop()?; // 0
        a.hlt()
    });
    watch(&mut machine, &[(ORIGIN, EXECUTE, 1)]);
    machine.vcpu.state_mut().eflags |= eflags::IF;
    machine.ports.interrupt = Some(4);
    assert_eq!(machine.run(), Exit::InterruptReady);
    let (mmu, ports) = (&mut machine.mmu, &mut machine.ports);
    assert_eq!(machine.vcpu.take_interrupt(mmu, ports), Exit::Decide);
    assert_eq!(run(&mut machine), [(4, 0, 0), (1, 0, B0)]);
}

#[test]
fn a_host_fault_does_not_end_the_shadow_of_sti() {
    let mut machine = guarded(0, |a| {
        a.sti()?; // 0
        a.mov(eax, dword_ptr(0x80_0000))?; // 1: behind the end of memory
        a.hlt()
    });
    machine.vcpu.state_mut().eflags &= !eflags::IF;
    for _ in 0..8 {
        // First it is carried out in Rust, later it is translated as a call to Rust.
        machine.vcpu.state_mut().eip = ORIGIN;
        machine.vcpu.state_mut().eflags &= !eflags::IF;
        machine.ports.interrupt = Some(4);
        assert_eq!(machine.run(), Exit::InterruptReady);
        assert_eq!(machine.vcpu.state().eip, ORIGIN + 6);
    }
}
