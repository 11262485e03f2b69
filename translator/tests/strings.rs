//! String instructions of real mode: whole spans at once, against a model that goes byte by byte.

mod common;

use common::{Machine, ORIGIN};
use iced_x86::code_asm::*;
use translator::Exit;
use translator::state::{Segment, eflags, reg, seg};

const SEGMENT: u32 = 0x2_0000;

/// A machine with `bytes` as its only instruction, then HLT; a segment of 64 KiB filled with a pattern.
fn machine(bytes: &[u8]) -> (Machine, Vec<u8>) {
    let mut machine = Machine::new(16, |a| {
        a.db(bytes)?;
        a.hlt()
    });
    let memory: Vec<u8> = (0..0x1_0000u32).map(|i| (i * 7 + (i >> 8)) as u8).collect();
    machine.mmu.write_phys(SEGMENT.into(), &memory).unwrap();
    (machine, memory)
}

fn contents(machine: &Machine) -> Vec<u8> {
    let mut memory = vec![0; 0x1_0000];
    machine.mmu.read_phys(SEGMENT.into(), &mut memory).unwrap();
    memory
}

#[test]
fn moves_and_stores_agree_with_a_model() {
    for down in [false, true] {
        for (source, destination, count) in [
            (0x100u16, 0x4000u16, 0x3000u16),
            (0x100, 0x101, 0x800),
            (0x101, 0x100, 0x800),
            (0x100, 0x103, 0x1234),
            (0xFFF0, 0x2000, 0x40),
            (0x8000, 0xFFF8, 0x1001),
            (0x3000, 0x3000, 0x10),
            (0x7FF, 0xFFF, 0xFFFF),
            (0x100, 0x200, 0),
        ] {
            for store in [false, true] {
                for word in [false, true] {
                    // A word at FFFFh is beyond the limit.
                    let even = |at: u16| if word { at & !1 } else { at };
                    let (source, destination) = (even(source), even(destination));
                    let count = if word { count / 2 } else { count };
                    let (mut machine, mut model) =
                        machine(&[0xF3, (if store { 0xAA } else { 0xA4 }) | u8::from(word)]);
                    let cpu = machine.vcpu.state_mut();
                    cpu.gpr[reg::ESI] = 0x1111_0000 | u32::from(source);
                    cpu.gpr[reg::EDI] = 0x2222_0000 | u32::from(destination);
                    cpu.gpr[reg::ECX] = 0x3333_0000 | u32::from(count);
                    cpu.gpr[reg::EAX] = 0xBEEF;
                    if down {
                        cpu.eflags |= eflags::DF;
                    }
                    let (mut from, mut to) = (source, destination);
                    let size = 1 + u16::from(word);
                    for _ in 0..count {
                        for byte in 0..size {
                            let value = if store {
                                [0xEF, 0xBE][usize::from(byte)]
                            } else {
                                model[usize::from(from + byte)]
                            };
                            model[usize::from(to + byte)] = value;
                        }
                        let step = if down { size.wrapping_neg() } else { size };
                        (from, to) = (from.wrapping_add(step), to.wrapping_add(step));
                    }
                    assert_eq!(machine.run(), Exit::Halted);
                    let what = format!(
                        "{source:x} {destination:x} {count:x} down {down} store {store} word {word}"
                    );
                    assert!(contents(&machine) == model, "{what}");
                    assert_eq!(machine.gpr(reg::ECX), 0x3333_0000, "{what}");
                    assert_eq!(machine.gpr(reg::EDI), 0x2222_0000 | u32::from(to), "{what}");
                    let from = if store { source } else { from };
                    assert_eq!(
                        machine.gpr(reg::ESI),
                        0x1111_0000 | u32::from(from),
                        "{what}"
                    );
                    let exits = machine.vcpu.stats().callouts.total();
                    assert!(exits <= 6, "{exits} callouts: {what}");
                }
            }
        }
    }
}

#[test]
fn comparisons_stop_where_they_should() {
    for (opcode, different_at, repne) in [
        (0xA6u8, 0x1500u32, false),
        (0xA6, 3, false),
        (0xAE, 0x1500, true),
        (0xA7, 0x1500, false),
    ] {
        let prefix = if repne { 0xF2 } else { 0xF3 };
        let (mut machine, _) = machine(&[prefix, opcode]);
        machine
            .mmu
            .write_phys(SEGMENT.into(), &vec![0x55; 0x1_0000])
            .unwrap();
        machine
            .mmu
            .write_phys((SEGMENT + 0x4000 + different_at).into(), &[0x54])
            .unwrap();
        let cpu = machine.vcpu.state_mut();
        cpu.gpr[reg::ESI] = 0x100;
        cpu.gpr[reg::EDI] = 0x4000;
        cpu.gpr[reg::ECX] = 0x3000;
        cpu.gpr[reg::EAX] = 0x54;
        assert_eq!(machine.run(), Exit::Halted);
        let size = 1 + u32::from(opcode & 1);
        let iterations = different_at / size + 1;
        assert_eq!(machine.gpr(reg::ECX), 0x3000 - iterations);
        assert_eq!(machine.gpr(reg::EDI), 0x4000 + iterations * size);
        let zero = machine.vcpu.state().eflags & eflags::ZF != 0;
        let carry = machine.vcpu.state().eflags & eflags::CF != 0;
        assert_eq!((zero, carry), (repne, false));
    }
}

/// A fault in the middle: what was done stays done, and the registers show it.
#[test]
fn a_limit_ends_a_repetition_half_way() {
    let (mut machine, memory) = machine(&[0x67, 0xF3, 0xA4]);
    machine.mmu.write_phys(13 * 4, &[0, 0, 0, 0x30]).unwrap();
    machine.mmu.write_phys(0x3_0000, &[0xF4]).unwrap();
    let cpu = machine.vcpu.state_mut();
    cpu.seg[seg::ES] = Segment {
        limit: 0x47FF,
        ..Segment::real((SEGMENT >> 4) as u16)
    };
    cpu.gpr[reg::ESI] = 0x100;
    cpu.gpr[reg::EDI] = 0x4000;
    cpu.gpr[reg::ECX] = 0x3000;
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.vcpu.state().seg[seg::CS].selector, 0x3000);
    assert_eq!(machine.gpr(reg::ECX), 0x2800);
    assert_eq!(machine.gpr(reg::EDI), 0x4800);
    assert_eq!(machine.gpr(reg::ESI), 0x900);
    assert_eq!(contents(&machine)[0x4000..0x4800], memory[0x100..0x900]);
}

#[test]
fn single_forms_stay_in_translated_code() {
    let mut machine = Machine::new(16, |a| {
        let mut top = a.create_label();
        a.cld()?;
        a.set_label(&mut top)?;
        a.lodsb()?;
        a.inc(al)?;
        a.stosb()?;
        a.movsw()?;
        a.scasw()?;
        a.cmpsb()?;
        a.std()?;
        a.movsb()?;
        a.cld()?;
        a.loop_(top)?;
        a.hlt()
    });
    let cpu = machine.vcpu.state_mut();
    cpu.gpr[reg::ECX] = 2000;
    cpu.gpr[reg::ESI] = 0x5555_0000;
    cpu.gpr[reg::EDI] = 0x6666_8000;
    machine.mmu.write_phys(SEGMENT.into(), &[7, 8, 9]).unwrap();
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.gpr(reg::ESI), 0x5555_0000 + 3 * 2000);
    assert_eq!(machine.gpr(reg::EDI), 0x6666_8000 + 5 * 2000);
    let start = machine.dword(u64::from(SEGMENT) + 0x8000);
    assert_eq!(start & 0xFF_FFFF, 0x09_0808);
    assert_eq!(machine.vcpu.stats().callouts.total(), 1, "the HLT");
}

#[test]
fn a_repetition_beside_code_changes_data_and_not_code() {
    // The buffer is in the page of the code.
    let mut machine = Machine::new(16, |a| {
        let mut top = a.create_label();
        a.mov(bx, 100)?;
        a.set_label(&mut top)?;
        a.mov(di, 0x100)?;
        a.mov(cx, 0x200)?;
        a.mov(al, bl)?;
        a.rep().stosb()?;
        a.dec(bx)?;
        a.jne(top)?;
        a.hlt()
    });
    machine.vcpu.state_mut().seg[seg::ES] = Segment::real((ORIGIN >> 4) as u16);
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.dword(u64::from(ORIGIN) + 0x2FC), 0x0101_0101);
    let stats = machine.vcpu.stats();
    assert_eq!(stats.callouts.total(), 101);
    assert_eq!(stats.invalidations, 0);
    assert_eq!(stats.host_faults, 0);
}
