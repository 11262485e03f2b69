//! Real mode beyond the 80286: 32-bit operands and addresses, limits, wrap-around, exceptions through
//! the interrupt vector table. What an 80286 has as well is compared with recordings in `cpu286`.

mod common;

use common::{HANDLERS, Machine, ORIGIN};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use translator::Exit;
use translator::state::{Segment, eflags, reg, seg};

/// Where the tests' data segments are.
const DATA: u64 = 0x2_0000;

const UD: u32 = 6;
const SS: u32 = 12;
const GP: u32 = 13;

fn machine(program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>) -> Machine {
    let mut machine = Machine::new(16, program);
    machine.place_handlers();
    machine
}

/// Runs up to a HLT; the vector, and the IP, CS and FLAGS pushed, if a handler halted.
fn exception(machine: &mut Machine) -> Option<(u32, [u16; 3])> {
    assert_eq!(machine.run(), Exit::Halted);
    let cpu = machine.vcpu.state();
    if cpu.seg[seg::CS].selector != HANDLERS {
        return None;
    }
    let vector = (cpu.eip - 1) / 16;
    let stack = cpu.seg[seg::SS].base;
    let top = cpu.gpr[reg::ESP] as u16;
    let pushed = [0, 2, 4].map(|at| {
        let address = stack + u32::from(top.wrapping_add(at));
        machine.dword(address.into()) as u16
    });
    Some((vector, pushed))
}

/// The vector raised at offset `ip`, everything else as it was.
#[track_caller]
fn raises(machine: &mut Machine, vector: u32, ip: u16) {
    let code = (ORIGIN >> 4) as u16;
    let before = machine.vcpu.state().clone();
    let (found, pushed) = exception(machine).expect("an exception");
    assert_eq!((found, pushed[0], pushed[1]), (vector, ip, code));
    assert_eq!(u32::from(pushed[2]), before.eflags & 0xFFFF);
    let after = machine.vcpu.state();
    for register in 0..8 {
        let expected = if register == reg::ESP {
            let top = (before.gpr[reg::ESP] as u16).wrapping_sub(6);
            before.gpr[reg::ESP] & 0xFFFF_0000 | u32::from(top)
        } else {
            before.gpr[register]
        };
        assert_eq!(after.gpr[register], expected, "register {register}");
    }
}

#[track_caller]
fn halts(machine: &mut Machine) {
    assert_eq!(exception(machine), None);
}

#[test]
fn lock_is_for_instructions_that_write_memory() {
    for bytes in [&[0xF0, 0x90][..], &[0xF0, 0x01, 0xC0], &[0xF0, 0x03, 0x07]] {
        raises(&mut machine(|a| a.db(bytes)), UD, 0);
    }
    let mut locked = machine(|a| {
        a.lock().add(word_ptr(bx), 5)?;
        a.hlt()
    });
    halts(&mut locked);
    assert_eq!(locked.dword(DATA) & 0xFFFF, 5);
}

#[test]
fn limits_with_32_bit_addresses() {
    let load = |offset: u32, operand: fn(&mut CodeAssembler) -> Result<(), IcedError>| {
        let mut machine = machine(|a| {
            operand(a)?;
            a.hlt()
        });
        machine.vcpu.state_mut().gpr[reg::EBX] = offset;
        machine.vcpu.state_mut().gpr[reg::EBP] = offset;
        machine
    };
    halts(&mut load(0xFFFF, |a| a.mov(al, byte_ptr(ebx))));
    halts(&mut load(0xFFFC, |a| a.mov(eax, dword_ptr(ebx))));
    raises(&mut load(0x1_0000, |a| a.mov(al, byte_ptr(ebx))), GP, 0);
    raises(&mut load(0xFFFD, |a| a.mov(eax, dword_ptr(ebx))), GP, 0);
    raises(&mut load(0xFFFF, |a| a.add(word_ptr(ebx), ax)), GP, 0);
    raises(&mut load(0xFFFF_FFFF, |a| a.mov(ax, word_ptr(ebx))), GP, 0);
    raises(&mut load(0x1_0000, |a| a.mov(al, byte_ptr(ebp))), SS, 0);
    raises(&mut load(0xFFFD, |a| a.push(dword_ptr(ebx))), GP, 0);
    raises(&mut load(0xFFFD, |a| a.pop(dword_ptr(ebx))), GP, 0);
    raises(&mut load(0xFFFE, |a| a.lgs(eax, fword_ptr(ebx))), GP, 0);
    raises(&mut load(0xFFF9, |a| a.fld(qword_ptr(ebx))), GP, 0);
    raises(&mut load(0xFFFC, |a| a.jmp(dword_ptr(ebx + 1))), GP, 0);
}

#[test]
fn effective_addresses_of_16_bits_wrap_around() {
    let mut machine = machine(|a| {
        a.mov(bx, 0xFFF0)?;
        a.mov(si, 0x20)?;
        a.mov(eax, dword_ptr(bx + si + 4))?;
        a.mov(al, 0x15)?;
        a.xlatb()?;
        a.lea(ecx, ptr(bx + si))?;
        a.hlt()
    });
    machine
        .mmu
        .write_phys(DATA + 0x14, &0x1122_3344u32.to_le_bytes())
        .unwrap();
    machine.mmu.write_phys(DATA + 5, &[0x77]).unwrap();
    halts(&mut machine);
    assert_eq!(machine.gpr(reg::EAX), 0x1122_3377);
    assert_eq!(machine.gpr(reg::ECX), 0x10);
}

#[test]
fn stack_pointers_wrap_around_and_double_words_do_not() {
    let mut pushes = machine(|a| {
        a.push(eax)?;
        a.push(ecx)?;
        a.pop(edx)?;
        a.hlt()
    });
    let cpu = pushes.vcpu.state_mut();
    cpu.gpr[reg::ESP] = 0xABCD_0000;
    cpu.gpr[reg::EAX] = 0x0102_0304;
    cpu.gpr[reg::ECX] = 0x0506_0708;
    halts(&mut pushes);
    assert_eq!(pushes.gpr(reg::ESP), 0xABCD_FFFC);
    assert_eq!(pushes.dword(DATA + 0xFFFC), 0x0102_0304);
    assert_eq!(pushes.gpr(reg::EDX), 0x0506_0708);

    let mut across = machine(|a| a.push(eax));
    across.vcpu.state_mut().gpr[reg::ESP] = 0x10_0002;
    raises(&mut across, SS, 0);
    let mut across = machine(|a| a.pop(eax));
    across.vcpu.state_mut().gpr[reg::ESP] = 0x10_FFFE;
    raises(&mut across, SS, 0);
    // The double word of EBP is across the end, those of EDI and ESI before it are not.
    let mut all = machine(|a| a.popad());
    all.vcpu.state_mut().gpr[reg::ESP] = 0x10_FFF6;
    all.vcpu.state_mut().gpr[reg::EDI] = 0x7777_7777;
    raises(&mut all, SS, 0);
    let mut all = machine(|a| a.popa());
    all.vcpu.state_mut().gpr[reg::ESP] = 0x10_FFF7;
    all.vcpu.state_mut().gpr[reg::EDI] = 0x7777_7777;
    raises(&mut all, SS, 0);
}

#[test]
fn enter_with_levels() {
    for (level, frame) in [(0u32, 2), (1, 4), (3, 8)] {
        let mut machine = machine(|a| {
            a.enter(0x10, level)?;
            a.hlt()
        });
        for (at, value) in [(0x6FFEu64, 0x1111u16), (0x6FFC, 0x2222)] {
            machine
                .mmu
                .write_phys(DATA + at, &value.to_le_bytes())
                .unwrap();
        }
        machine.vcpu.state_mut().gpr[reg::EBP] = 0x9999_7000;
        halts(&mut machine);
        assert_eq!(machine.gpr(reg::EBP), 0x9999_7FFE, "level {level}");
        assert_eq!(machine.gpr(reg::ESP), 0x1234_8000 - frame - 0x10);
        let word = |at: u64| machine.dword(DATA + at) & 0xFFFF;
        assert_eq!(word(0x7FFE), 0x7000);
        if level == 1 {
            assert_eq!(word(0x7FFC), 0x7FFE);
        }
        if level == 3 {
            assert_eq!(
                [word(0x7FFC), word(0x7FFA), word(0x7FF8)],
                [0x1111, 0x2222, 0x7FFE]
            );
        }
    }
}

#[test]
fn repeated_strings_wrap_around_or_fault_midway() {
    let mut wraps = machine(|a| {
        a.std()?;
        a.mov(di, 3)?;
        a.mov(ecx, 0x77_0006)?;
        a.mov(al, 0xEE)?;
        a.rep().stosb()?;
        a.hlt()
    });
    halts(&mut wraps);
    assert_eq!(wraps.gpr(reg::ECX), 0x77_0000);
    assert_eq!(wraps.gpr(reg::EDI), 0xFFFD);
    assert_eq!(wraps.dword(DATA), 0xEEEE_EEEE);
    assert_eq!(wraps.dword(DATA + 0xFFFC) >> 16, 0xEEEE);

    // 67 F3 AB with 32-bit pointers: the third word is outside.
    let mut midway = machine(|a| a.db(&[0x67, 0xF3, 0xAB, 0xF4]));
    let cpu = midway.vcpu.state_mut();
    cpu.gpr[reg::EDI] = 0xFFFB;
    cpu.gpr[reg::ECX] = 0x1_0000;
    cpu.gpr[reg::EAX] = 0x5555;
    let (vector, pushed) = exception(&mut midway).expect("an exception");
    assert_eq!((vector, pushed[0]), (GP, 0));
    assert_eq!(midway.gpr(reg::EDI), 0xFFFF);
    assert_eq!(midway.gpr(reg::ECX), 0xFFFE);
}

#[test]
fn loops_count_in_cx_or_ecx() {
    let mut short = machine(|a| {
        let mut top = a.create_label();
        a.set_label(&mut top)?;
        a.inc(eax)?;
        a.loop_(top)?;
        a.hlt()
    });
    short.vcpu.state_mut().gpr[reg::ECX] = 0x3_0000;
    halts(&mut short);
    assert_eq!(short.gpr(reg::EAX), 0x1_0000);
    assert_eq!(short.gpr(reg::ECX), 0x3_0000);

    // inc eax; addr32 loop
    let mut long = machine(|a| a.db(&[0x66, 0x40, 0x67, 0xE2, 0xFB, 0xF4]));
    long.vcpu.state_mut().gpr[reg::ECX] = 0x1_0002;
    halts(&mut long);
    assert_eq!(long.gpr(reg::EAX), 0x1_0002);
    assert_eq!(long.gpr(reg::ECX), 0);
}

#[test]
fn transfers_beyond_the_code_segment() {
    // jmp dword, call dword to 12345h; jmp ebx; call ebx; retd.
    raises(
        &mut machine(|a| a.db(&[0x66, 0xE9, 0x40, 0x23, 1, 0])),
        GP,
        0,
    );
    raises(
        &mut machine(|a| a.db(&[0x66, 0xE8, 0x40, 0x23, 1, 0])),
        GP,
        0,
    );
    for bytes in [[0x66, 0xFF, 0xE3], [0x66, 0xFF, 0xD3]] {
        let mut indirect = machine(|a| a.db(&bytes));
        indirect.vcpu.state_mut().gpr[reg::EBX] = 0x1_0000;
        raises(&mut indirect, GP, 0);
    }
    let mut ret = machine(|a| a.db(&[0x66, 0xC3]));
    ret.mmu
        .write_phys(DATA + 0x8000, &0x1_0000u32.to_le_bytes())
        .unwrap();
    raises(&mut ret, GP, 0);
    // A 16-bit jump wraps around instead.
    let mut wraps = machine(|a| a.db(&[0xF4]));
    let last = u64::from(ORIGIN) + 0xFFFE;
    wraps.mmu.write_phys(last, &[0xEB, 0x00]).unwrap();
    wraps.vcpu.state_mut().eip = 0xFFFE;
    halts(&mut wraps);
    assert_eq!(wraps.vcpu.state().eip, 1);
}

#[test]
fn code_that_runs_off_its_segment() {
    // NOP in the last byte, then nothing.
    let mut falls = machine(|a| a.db(&[0xF4]));
    let end = u64::from(ORIGIN) + 0x1_0000;
    falls.mmu.write_phys(end - 1, &[0x90, 0xF4]).unwrap();
    falls.vcpu.state_mut().eip = 0xFFFF;
    let (vector, _) = exception(&mut falls).expect("an exception");
    assert_eq!(vector, GP);
    // An instruction of two bytes across the end.
    let mut crosses = machine(|a| a.db(&[0xF4]));
    crosses
        .mmu
        .write_phys(end - 1, &[0xB0, 0x12, 0xF4])
        .unwrap();
    crosses.vcpu.state_mut().eip = 0xFFFF;
    raises(&mut crosses, GP, 0xFFFF);
}

#[test]
fn large_limits_outlive_protected_mode() {
    let mut machine = machine(|a| {
        a.mov(ebx, 0x10_0000)?;
        a.mov(dword_ptr(ebx + 4), 0x1234_5678)?;
        a.mov(ax, word_ptr(ebx + 6))?;
        // A load of the register in real mode keeps limit and rights.
        a.push(ds)?;
        a.pop(ds)?;
        a.mov(cl, byte_ptr(ebx + 7))?;
        a.hlt()
    });
    machine.vcpu.state_mut().seg[seg::DS].limit = u32::MAX;
    halts(&mut machine);
    assert_eq!(machine.dword(DATA + 0x10_0004), 0x1234_5678);
    assert_eq!(machine.gpr(reg::EAX) & 0xFFFF, 0x1234);
    assert_eq!(machine.gpr(reg::ECX), 0x12);
}

#[test]
fn the_a20_gate_wraps_addresses() {
    for (open, expected) in [(true, 0x11), (false, 0x22)] {
        let mut machine = machine(|a| {
            a.mov(al, byte_ptr(0x510))?;
            a.hlt()
        });
        machine.vcpu.state_mut().seg[seg::DS] = Segment::real(0xFFFF);
        machine.mmu.write_phys(0x10_0500, &[0x11]).unwrap();
        machine.mmu.write_phys(0x500, &[0x22]).unwrap();
        machine.mmu.set_a20(open);
        halts(&mut machine);
        assert_eq!(machine.gpr(reg::EAX), expected);
    }
}

#[test]
fn a_trap_after_each_instruction() {
    let mut machine = machine(|a| {
        a.inc(ax)?;
        a.inc(ax)?;
        a.hlt()
    });
    machine.vcpu.state_mut().eflags |= eflags::TF;
    let (vector, pushed) = exception(&mut machine).expect("a trap");
    assert_eq!((vector, pushed[0]), (1, 1));
    assert_ne!(u32::from(pushed[2]) & eflags::TF, 0);
    assert_eq!(machine.vcpu.state().eflags & (eflags::TF | eflags::IF), 0);
}

#[test]
fn vectors_beyond_the_table_raise_general_protection() {
    let mut machine = machine(|a| a.int(0x40));
    machine.vcpu.state_mut().idtr.limit = 0xFF;
    raises(&mut machine, GP, 0);
}

#[test]
fn interrupts_push_words_and_return_either_way() {
    let mut machine = machine(|a| {
        a.int(0x21)?;
        a.mov(bx, 1)?;
        a.hlt()
    });
    // The handler sets the carry in the image of FLAGS and returns.
    let handler = [0x55, 0x89, 0xE5, 0x83, 0x4E, 0x06, 0x01, 0x5D, 0xCF];
    machine.mmu.write_phys(0x4_0000, &handler).unwrap();
    machine.mmu.write_phys(0x84, &[0, 0, 0, 0x40]).unwrap();
    machine.vcpu.state_mut().eflags |= eflags::IF;
    machine.vcpu.state_mut().gpr[reg::EBP] = 0x4321_8765;
    halts(&mut machine);
    let cpu = machine.vcpu.state();
    assert_eq!(
        cpu.eflags & (eflags::CF | eflags::IF),
        eflags::CF | eflags::IF
    );
    assert_eq!((cpu.gpr[reg::EBX], cpu.gpr[reg::ESP]), (1, 0x1234_8000));
    assert_eq!(cpu.gpr[reg::EBP], 0x4321_8765);
}

#[test]
fn data_beside_code_and_code_that_changes() {
    // The counter, the data and the patched instruction share a page with the code.
    let mut machine = machine(|a| {
        let mut top = a.create_label();
        a.mov(cx, 200)?;
        a.xor(dx, dx)?;
        a.set_label(&mut top)?;
        a.inc(word_ptr(0x200).cs())?;
        a.push(word_ptr(0x200).cs())?;
        a.pop(word_ptr(0x202).cs())?;
        a.add(byte_ptr(0x13).cs(), 1)?; // the immediate of the next instruction
        a.add(dx, 0x100)?;
        a.loop_(top)?;
        a.hlt()
    });
    let mut code = [0; 0x20];
    machine.mmu.read_phys(ORIGIN.into(), &mut code).unwrap();
    let patched = code.windows(2).position(|w| w == [0x81, 0xC2]).unwrap();
    let store = code
        .windows(3)
        .position(|w| w == [0x2E, 0x80, 0x06])
        .unwrap();
    let at = u64::from(ORIGIN) + store as u64 + 3;
    machine
        .mmu
        .write_phys(at, &(patched as u16 + 2).to_le_bytes())
        .unwrap();
    halts(&mut machine);
    let counters = machine.dword(u64::from(ORIGIN) + 0x200);
    assert_eq!(counters, 200 << 16 | 200);
    let mut expected = 0u16;
    let mut low = 0u8;
    for _ in 0..200 {
        low = low.wrapping_add(1);
        expected = expected.wrapping_add(0x100 | u16::from(low));
    }
    assert_eq!(machine.gpr(reg::EDX) as u16, expected);
}

#[test]
fn wide_returns_and_flags() {
    // POPFD leaves VM and RF; IRETD takes 12 bytes.
    let mut flags = machine(|a| {
        a.popfd()?;
        a.pushfd()?;
        a.pop(ebx)?;
        a.hlt()
    });
    let image = eflags::VM | eflags::RF | eflags::NT | eflags::IOPL | eflags::CF | eflags::DF;
    flags
        .mmu
        .write_phys(DATA + 0x8000, &image.to_le_bytes())
        .unwrap();
    halts(&mut flags);
    let kept = eflags::NT | eflags::IOPL | eflags::CF | eflags::DF | eflags::FIXED;
    assert_eq!(flags.gpr(reg::EBX), kept);

    let mut wide = machine(|a| a.iretd());
    let frame: Vec<u8> = [0x100u32, 0xABCD_1800, eflags::CF | eflags::IF]
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .collect();
    wide.mmu.write_phys(DATA + 0x8000, &frame).unwrap();
    wide.mmu.write_phys(0x1_8100, &[0xF4]).unwrap();
    halts(&mut wide);
    let cpu = wide.vcpu.state();
    assert_eq!((cpu.seg[seg::CS].selector, cpu.eip), (0x1800, 0x101));
    assert_eq!(cpu.gpr[reg::ESP], 0x1234_800C);
    assert_eq!(
        cpu.eflags & (eflags::CF | eflags::IF),
        eflags::CF | eflags::IF
    );
}

#[test]
fn far_transfers_with_wide_operands() {
    // call dword 1800:0100, where retfd returns.
    let mut call = machine(|a| a.db(&[0x66, 0x9A, 0, 1, 0, 0, 0, 0x18, 0xF4]));
    call.mmu.write_phys(0x1_8100, &[0x66, 0xCB]).unwrap();
    halts(&mut call);
    assert_eq!(call.dword(DATA + 0x7FFC) & 0xFFFF, 0x1000);
    assert_eq!(call.dword(DATA + 0x7FF8), 8);
    assert_eq!(call.gpr(reg::ESP), 0x1234_8000);
    // jmp dword 1800:10000.
    raises(
        &mut machine(|a| a.db(&[0x66, 0xEA, 0, 0, 1, 0, 0, 0x18])),
        GP,
        0,
    );
}

#[test]
fn bounds_and_division_fault_at_the_instruction() {
    let mut bound = machine(|a| a.bound(eax, qword_ptr(bx)));
    bound
        .mmu
        .write_phys(DATA, &[0, 0, 0, 0x80, 5, 0, 0, 0])
        .unwrap();
    bound.vcpu.state_mut().gpr[reg::EAX] = 6;
    raises(&mut bound, 5, 0);
    let mut divide = machine(|a| a.div(dword_ptr(bx)));
    divide.vcpu.state_mut().gpr[reg::EDX] = 7;
    raises(&mut divide, 0, 0);
    let mut overflow = machine(|a| a.idiv(ecx));
    let cpu = overflow.vcpu.state_mut();
    (cpu.gpr[reg::EDX], cpu.gpr[reg::ECX]) = (u32::MAX / 2, 1);
    raises(&mut overflow, 0, 0);
}

#[test]
fn enter_and_pusha_fault_without_a_trace_in_registers() {
    let mut pusha = machine(|a| a.pusha());
    pusha.vcpu.state_mut().gpr[reg::ESP] = 0x10_0005;
    raises_without_stack(&mut pusha);
    let mut enter = machine(|a| a.enter(4, 0));
    enter.vcpu.state_mut().gpr[reg::ESP] = 0x10_0001;
    raises_without_stack(&mut enter);
    let mut leave = machine(|a| a.leave());
    leave.vcpu.state_mut().gpr[reg::EBP] = 0x10_FFFF;
    raises(&mut leave, SS, 0);
}

/// A fault on an odd stack whose delivery faults as well: the processor shuts down.
#[track_caller]
fn raises_without_stack(machine: &mut Machine) {
    let before = machine.vcpu.state().gpr;
    assert_eq!(machine.run(), Exit::Shutdown);
    assert_eq!(machine.vcpu.state().gpr, before);
}

#[test]
fn selectors_of_fs_and_gs_reach_memory() {
    let mut machine = machine(|a| {
        a.mov(ax, 0x2100)?;
        a.mov(fs, ax)?;
        a.push(fs)?;
        a.pop(gs)?;
        a.mov(dword_ptr(0x10).fs(), 0x0BAD_CAFE)?;
        a.mov(si, 0x10)?;
        a.lodsd()?; // through DS: another place
        a.mov(ecx, dword_ptr(si + 0xC).gs())?;
        a.mov(edx, dword_ptr(0x1010))?;
        a.hlt()
    });
    halts(&mut machine);
    assert_eq!(machine.dword(0x2_1010), 0x0BAD_CAFE);
    assert_eq!(machine.gpr(reg::EDX), 0x0BAD_CAFE);
    assert_eq!(machine.gpr(reg::ESI) & 0xFFFF, 0x14);
    assert_eq!(machine.gpr(reg::ECX), 0);
}

#[test]
fn loads_of_data_segments_stay_in_translated_code() {
    let mut machine = machine(|a| {
        let mut top = a.create_label();
        a.mov(cx, 1000)?;
        a.set_label(&mut top)?;
        a.push(ds)?;
        a.mov(ax, 0x2100)?;
        a.mov(es, ax)?;
        a.mov(word_ptr(0x10).es(), cx)?;
        a.lds(si, dword_ptr(0x20).es())?;
        a.mov(dx, word_ptr(si))?;
        a.lfs(ebx, fword_ptr(0x28).es())?;
        a.pop(gs)?;
        a.push(gs)?;
        a.pop(ds)?;
        a.loop_(top)?;
        a.hlt()
    });
    let far = [
        0x04, 0x00, 0x00, 0x22, 0, 0, 0, 0, 0x78, 0x56, 0x34, 0x12, 0x00, 0x23,
    ];
    machine.mmu.write_phys(DATA + 0x1020, &far).unwrap();
    machine.mmu.write_phys(0x2_2004, &[0xCD, 0xAB]).unwrap();
    halts(&mut machine);
    assert_eq!(machine.dword(DATA + 0x1010) & 0xFFFF, 1);
    assert_eq!(machine.gpr(reg::EDX) & 0xFFFF, 0xABCD);
    assert_eq!(machine.gpr(reg::EBX), 0x1234_5678);
    let cpu = machine.vcpu.state();
    for (index, selector) in [
        (seg::DS, 0x2000),
        (seg::ES, 0x2100),
        (seg::FS, 0x2300),
        (seg::GS, 0x2000),
    ] {
        assert_eq!(cpu.seg[index], Segment::real(selector));
    }
    assert_eq!(machine.vcpu.stats().callouts.total(), 1, "the HLT");
}
