//! Code that changes itself, by every way in which memory can change.
//!
//! A store is visible to the next instruction (Intel SDM vol. 3A, section 8.1.3: the processor snoops
//! its own pipeline by physical address).

mod common;

use common::ORIGIN;
use common::worlds::{
    ALIAS, HANDLER, Part, ROUNDS, SUM, TABLE, WORLDS, World, halts, machine, next_round, sum_of,
};
use iced_x86::code_asm::*;
use translator::state::{Segment, reg, seg};

#[test]
fn a_store_into_the_next_instruction() {
    for world in WORLDS {
        let (sum, _) = sum_of(
            world,
            ROUNDS,
            &[
                (0x00, &|a| a.mov(byte_ptr(world.at(0x21)), cl)),
                (0x20, &|a| a.mov(al, 0)),
                (0x22, &next_round(world)),
            ],
        );
        assert_eq!(sum, SUM, "{world:?}");
    }
}

#[test]
fn a_store_right_in_front_of_what_it_changes() {
    for world in WORLDS {
        let length = if world == World::Real { 4 } else { 6 };
        let (sum, _) = sum_of(
            world,
            ROUNDS,
            &[
                (0x20 - length, &|a| a.mov(byte_ptr(world.at(0x21)), cl)),
                (0x20, &|a| a.mov(al, 0)),
                (0x22, &next_round(world)),
            ],
        );
        assert_eq!(sum, SUM, "{world:?}");
    }
}

#[test]
fn a_store_that_changes_the_operation() {
    for world in WORLDS {
        // INC AX and DEC AX in turn: 40h and 48h.
        let (_, machine) = sum_of(
            world,
            101,
            &[
                (0x00, &|a| a.xor(byte_ptr(world.at(0x10)), 8)),
                (0x10, &|a| a.db(&[0x48])),
                (0x11, &|a| {
                    a.add(bx, ax)?;
                    a.dec(cx)?;
                    a.jne(u64::from(world.at(0)))?;
                    a.hlt()
                }),
            ],
        );
        assert_eq!(machine.gpr(reg::EAX), 1, "{world:?}");
        assert_eq!(machine.gpr(reg::EBX) & 0xFFFF, 51, "{world:?}");
    }
}

#[test]
fn the_stack_reaches_into_the_running_code() {
    for world in WORLDS {
        // PUSH writes the immediate of the next instruction but one, and the byte behind it.
        let (sum, _) = sum_of(
            world,
            ROUNDS,
            &[
                (0x00, &|a| {
                    if world == World::Real {
                        a.mov(sp, 0x23)?;
                        a.mov(ah, 0x90u32 as i32)?;
                        a.mov(al, cl)?;
                        a.push(ax)
                    } else {
                        a.mov(esp, world.at(0x25) as i32)?;
                        a.mov(eax, 0x9090_9000u32)?;
                        a.mov(al, cl)?;
                        a.push(eax)
                    }
                }),
                (0x20, &|a| a.mov(al, 0)),
                (0x30, &next_round(world)),
            ],
        );
        assert_eq!(sum, SUM, "{world:?}");
    }
}

#[test]
fn string_instructions_over_the_running_code() {
    for world in WORLDS {
        // A routine of five bytes is copied over the code ahead; the last round overwrites it with HLT.
        for store in [false, true] {
            let source = world.at(0x800);
            let parts: [Part<'_>; 4] = [
                (0x00, &|a| {
                    a.cld()?;
                    a.mov(edx, ecx)?;
                    a.mov(byte_ptr(world.at(0x801)), cl)?;
                    a.mov(esi, source)?;
                    a.mov(edi, world.at(0x40))?;
                    a.mov(ecx, 5)?;
                    if store {
                        a.mov(al, 0x90u32 as i32)?;
                        a.rep().stosb()?;
                        a.mov(edi, world.at(0x40))?;
                        a.movsb()?;
                        a.movsb()
                    } else {
                        a.rep().movsb()
                    }
                }),
                (0x40, &|a| a.db(&[0xF4; 5])),
                (0x60, &|a| {
                    a.mov(ecx, edx)?;
                    next_round(world)(a)
                }),
                (0x800, &|a| {
                    a.mov(al, 0)?;
                    a.nop()?;
                    a.nop()?;
                    a.nop()
                }),
            ];
            let (sum, _) = sum_of(world, ROUNDS, &parts);
            assert_eq!(sum, SUM, "{world:?} {store}");
        }
    }
}

#[test]
fn a_string_instruction_overwrites_itself() {
    for world in WORLDS {
        // What follows is HLT whichever way the repetition ends.
        let mut machine = machine(
            world,
            &[(0x00, &|a| {
                a.cld()?;
                a.mov(edi, world.at(0))?;
                a.mov(ecx, 0x400)?;
                a.mov(al, 0xF4u32 as i32)?;
                a.rep().stosb()
            })],
        );
        halts(&mut machine);
        assert_eq!(machine.dword(ORIGIN.into()), 0xF4F4_F4F4, "{world:?}");
    }
}

#[test]
fn a_callout_writes_the_next_instruction() {
    for world in WORLDS {
        let mut machine = machine(
            world,
            &[
                (0x00, &|a| {
                    a.mov(al, 1)?;
                    a.sidt(fword_ptr(world.at(0x20)))
                }),
                (0x20, &|a| a.db(&[0xF4; 6])),
                (0x26, &|a| a.hlt()),
            ],
        );
        // limit, base: MOV AL, 2Ah; INC AX; NOP; NOP
        let cpu = machine.vcpu.state_mut();
        let old = cpu.idtr;
        cpu.idtr.limit = 0x2AB0;
        cpu.idtr.base = 0x9090_4090;
        halts(&mut machine);
        assert_eq!(machine.gpr(reg::EAX) & 0xFF, 0x2B, "{world:?}");
        machine.vcpu.state_mut().idtr = old;
    }
}

/// A store that used to go to a device is complete before its instruction runs; then it goes to the next one.
#[test]
fn a_store_by_way_of_rust_writes_the_next_instruction() {
    for world in [World::Flat, World::Paged] {
        let (_, mut machine) = sum_of(
            world,
            ROUNDS,
            &[
                (0x00, &|a| a.add(esi, 0xA_0000)),
                (0x06, &|a| a.mov(byte_ptr(esi), cl)),
                (0x08, &|a| a.mov(al, 0)),
                (0x0A, &|a| a.sub(esi, 0xA_0000)),
                (0x10, &next_round(world)),
            ],
        );
        let stores = machine.vcpu.stats().complete_stores;
        assert!(stores > u64::from(ROUNDS) - 20, "{world:?}: {stores}");
        let cpu = machine.vcpu.state_mut();
        cpu.eip = world.at(0);
        cpu.gpr[reg::ESI] = world.at(9).wrapping_sub(0xA_0000);
        cpu.gpr[reg::ECX] = ROUNDS;
        cpu.gpr[reg::EBX] = 0;
        halts(&mut machine);
        assert_eq!(machine.gpr(reg::EBX) & 0xFFFF, SUM, "{world:?}");
        let more = machine.vcpu.stats().complete_stores - stores;
        assert!(more > u64::from(ROUNDS) / 2, "{world:?}: {more}");
    }
}

#[test]
fn memory_changes_behind_the_processor() {
    for world in WORLDS {
        let mut machine = machine(
            world,
            &[(0x00, &|a| {
                a.mov(al, 1)?;
                a.hlt()
            })],
        );
        for value in 1..20u8 {
            machine
                .mmu
                .write_phys(u64::from(ORIGIN) + 1, &[value])
                .unwrap();
            machine.vcpu.state_mut().eip = world.at(0);
            halts(&mut machine);
            assert_eq!(machine.gpr(reg::EAX) & 0xFF, u32::from(value), "{world:?}");
        }
    }
}

#[test]
fn a_store_through_another_linear_address() {
    let (sum, _) = sum_of(
        World::Paged,
        ROUNDS,
        &[
            (0x00, &|a| a.mov(byte_ptr(ALIAS + ORIGIN + 0x21), cl)),
            (0x20, &|a| a.mov(al, 0)),
            (0x22, &next_round(World::Paged)),
        ],
    );
    assert_eq!(sum, SUM);
    // In real mode by another segment.
    let mut real = machine(
        World::Real,
        &[
            (0x00, &|a| a.mov(byte_ptr(0x11).fs(), cl)),
            (0x20, &|a| a.mov(al, 0)),
            (0x22, &next_round(World::Real)),
        ],
    );
    let cpu = real.vcpu.state_mut();
    cpu.seg[seg::FS] = Segment::real((ORIGIN >> 4) as u16 + 1);
    cpu.gpr[reg::ECX] = ROUNDS;
    halts(&mut real);
    assert_eq!(real.gpr(reg::EBX) & 0xFFFF, SUM);
}

#[test]
fn a_store_across_pages_changes_code_in_both() {
    for world in WORLDS {
        // At FFEh: MOV AX, imm16 crosses into the next page, and a word store changes both halves.
        let (sum, _) = sum_of(
            world,
            ROUNDS,
            &[
                (0x00, &|a| {
                    a.mov(dl, cl)?;
                    a.mov(dh, 0)?;
                    a.mov(word_ptr(world.at(0xFFF)), dx)?;
                    a.jmp(u64::from(world.at(0xFE0)))
                }),
                (0xFFE, &|a| {
                    a.db(&[0xB0, 0x00])?; // mov al, 0
                    a.db(&[0x00, 0xC0]) // add al, al, or what the store makes of its first byte
                }),
                (0x1002, &next_round(world)),
            ],
        );
        let doubled: u32 = (1..=ROUNDS).map(|n| (n * 2) & 0xFF).sum();
        assert_eq!(sum, doubled & 0xFFFF, "{world:?}");
    }
}

#[test]
fn an_instruction_over_two_pages_changes_in_either() {
    for world in WORLDS {
        // MOV EAX, imm32 from FFDh on: three bytes in the first page, the rest in the second.
        let prefix: &[u8] = if world == World::Real { &[0x66] } else { &[] };
        let start = 0xFFD - prefix.len() as u32;
        let first = world.at(0xFFE);
        let second = world.at(0x1001);
        for target in [first, second] {
            let shift = if target == first { 0 } else { 24 };
            let mut machine = machine(
                world,
                &[
                    (0x00, &|a| {
                        a.mov(byte_ptr(target), cl)?;
                        a.jmp(u64::from(world.at(0xFE0)))
                    }),
                    (start, &|a| {
                        a.db(prefix)?;
                        a.db(&[0xB8, 0, 0, 0, 0])
                    }),
                    (0x1010, &|a| {
                        a.add(ebx, eax)?;
                        a.dec(cx)?;
                        a.jne(u64::from(world.at(0)))?;
                        a.hlt()
                    }),
                ],
            );
            machine.vcpu.state_mut().gpr[reg::ECX] = ROUNDS;
            halts(&mut machine);
            assert_eq!(machine.gpr(reg::EBX), SUM << shift, "{world:?} {target:x}");
        }
    }
}

#[test]
fn the_second_page_of_an_instruction_is_remapped() {
    // MOV EAX, imm32 over two pages; each round maps the second page to another frame.
    let mut machine = machine(
        World::Paged,
        &[
            (0x00, &|a| {
                a.mov(eax, ecx)?;
                a.and(eax, 1)?;
                a.shl(eax, 12)?;
                a.add(eax, (ORIGIN + 0x1000) as i32 | 0x67)?;
                a.mov(dword_ptr(TABLE + (ORIGIN >> 12) * 4 + 4), eax)?;
                a.invlpg(byte_ptr(ORIGIN + 0x1000))?;
                a.jmp(u64::from(ORIGIN + 0xFE0))
            }),
            (0xFFD, &|a| a.db(&[0xB8, 0, 0])),
            (0x1000, &|a| {
                a.db(&[0, 0])?;
                a.add(ebx, eax)?;
                a.dec(cx)?;
                a.jne(u64::from(ORIGIN))?;
                a.hlt()
            }),
            (0x2000, &|a| {
                a.db(&[1, 0])?;
                a.add(ebx, eax)?;
                a.dec(cx)?;
                a.jne(u64::from(ORIGIN))?;
                a.hlt()
            }),
        ],
    );
    machine.vcpu.state_mut().gpr[reg::ECX] = ROUNDS;
    halts(&mut machine);
    assert_eq!(machine.gpr(reg::EBX), (ROUNDS / 2) << 16);
}

#[test]
fn the_second_page_of_an_instruction_goes_away() {
    let mut machine = machine(
        World::Paged,
        &[
            (0xFFD, &|a| a.db(&[0xB8, 1, 0, 0, 0])),
            (0x1002, &|a| a.hlt()),
        ],
    );
    machine.vcpu.state_mut().eip = ORIGIN + 0xFF0;
    halts(&mut machine);
    assert_eq!(machine.gpr(reg::EAX), 1);
    let entry = u64::from(TABLE + ((ORIGIN >> 12) + 1) * 4);
    machine.mmu.write_phys(entry, &[0; 4]).unwrap();
    machine.vcpu.state_mut().eip = ORIGIN + 0xFF0;
    machine.vcpu.state_mut().gpr[reg::EAX] = 7;
    halts(&mut machine);
    let cpu = machine.vcpu.state();
    assert_eq!(cpu.eip, HANDLER + 1);
    assert_eq!(cpu.cr2, ORIGIN + 0x1000);
    assert_eq!(cpu.gpr[reg::EAX], 7);
    // EIP pushed is that of the instruction.
    assert_eq!(
        machine.dword(u64::from(machine.gpr(reg::ESP)) + 4),
        ORIGIN + 0xFFD
    );
}

#[test]
fn a_jump_into_the_middle_of_an_instruction() {
    for world in WORLDS {
        // B0 B4 xx: MOV AL, B4h and INC or DEC AX; or, from the second byte on, MOV AH, xx.
        let (sum, _) = sum_of(
            world,
            ROUNDS,
            &[
                (0x00, &|a| {
                    a.xor(eax, eax)?;
                    a.mov(dl, cl)?;
                    a.and(dl, 2)?;
                    a.shl(dl, 2)?;
                    a.or(dl, 0x40)?;
                    a.mov(byte_ptr(world.at(0x42)), dl)?;
                    a.test(cl, 1)?;
                    a.jne(u64::from(world.at(0x41)))?;
                    a.jmp(u64::from(world.at(0x40)))
                }),
                (0x40, &|a| a.db(&[0xB0, 0xB4, 0x00])),
                (0x43, &|a| {
                    a.add(bx, ax)?;
                    a.dec(cx)?;
                    a.jne(u64::from(world.at(0)))?;
                    a.hlt()
                }),
            ],
        );
        let expected: u32 = (1..=ROUNDS)
            .map(|n| match (n & 1, n & 2) {
                (1, 0) => 0x4000,
                (1, _) => 0x4800,
                (_, 0) => 0xB5,
                _ => 0xB3,
            })
            .sum();
        assert_eq!(sum, expected & 0xFFFF, "{world:?}");
    }
}
