//! Code that changes itself, by every way in which memory can change, and code in unusual memory.
//!
//! A store is visible to the next instruction (Intel SDM vol. 3A, section 8.1.3: the processor snoops
//! its own pipeline by physical address).

mod common;

use common::{Machine, ORIGIN};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use shadow_mmu::RangeKind;
use translator::Exit;
use translator::state::{Segment, cr0, reg, seg};

type Part<'a> = (u32, &'a dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>);

/// The three worlds that every test runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum World {
    Real,
    Flat,
    Paged,
}

const WORLDS: [World; 3] = [World::Real, World::Flat, World::Paged];

/// Page directory and page tables of the paged world: identity for 4 MiB, and once more from `ALIAS` on.
const DIRECTORY: u32 = 0x20_0000;
const TABLE: u32 = 0x20_1000;
const ALIAS: u32 = 0x1000_0000;
/// Where the handler of every vector halts.
const HANDLER: u32 = 0x5000;

impl World {
    fn bits(self) -> u32 {
        if self == World::Real { 16 } else { 32 }
    }

    /// Offset in the data segments of the byte at `offset` of the program.
    fn at(self, offset: u32) -> u32 {
        if self == World::Real {
            offset
        } else {
            ORIGIN + offset
        }
    }
}

fn put(machine: &mut Machine, bits: u32, ip: u32, gpa: u64, part: Part<'_>) {
    let mut assembler = CodeAssembler::new(bits).unwrap();
    (part.1)(&mut assembler).unwrap();
    let code = assembler.assemble(u64::from(ip + part.0)).unwrap();
    machine
        .mmu
        .write_phys(gpa + u64::from(part.0), &code)
        .unwrap();
}

/// A machine whose program consists of `parts`, with NOPs in between; data segments reach the program.
fn machine(world: World, parts: &[Part<'_>]) -> Machine {
    let mut machine = Machine::new(world.bits(), |a| a.nop());
    machine
        .mmu
        .write_phys(ORIGIN.into(), &[0x90; 0x2800])
        .unwrap();
    for part in parts {
        put(
            &mut machine,
            world.bits(),
            world.at(0),
            ORIGIN.into(),
            *part,
        );
    }
    if world == World::Real {
        let cpu = machine.vcpu.state_mut();
        for index in [seg::DS, seg::ES, seg::SS] {
            cpu.seg[index] = Segment::real((ORIGIN >> 4) as u16);
        }
    }
    if world == World::Paged {
        for page in 0..1024u32 {
            let entry = page << 12 | 0x67;
            let at = u64::from(TABLE + page * 4);
            machine.mmu.write_phys(at, &entry.to_le_bytes()).unwrap();
        }
        for entry in [0, ALIAS >> 22] {
            let at = u64::from(DIRECTORY + entry * 4);
            let value = TABLE | 0x67;
            machine.mmu.write_phys(at, &value.to_le_bytes()).unwrap();
        }
        // An IDT whose gates all lead to a HLT.
        machine.mmu.write_phys(HANDLER.into(), &[0xF4; 16]).unwrap();
        for vector in 0..32u64 {
            let gate = u64::from(HANDLER) | 8 << 16 | 0x8E00 << 32;
            machine
                .mmu
                .write_phys(0x6000 + vector * 8, &gate.to_le_bytes())
                .unwrap();
        }
        for (selector, word) in [
            (8u64, 0x00CF_9B00_0000_FFFFu64),
            (0x10, 0x00CF_9300_0000_FFFF),
        ] {
            machine
                .mmu
                .write_phys(0x7000 + selector, &word.to_le_bytes())
                .unwrap();
        }
        let cpu = machine.vcpu.state_mut();
        cpu.idtr.base = 0x6000;
        cpu.idtr.limit = 0xFF;
        cpu.gdtr.base = 0x7000;
        cpu.gdtr.limit = 0x1F;
        cpu.cr3 = DIRECTORY;
        cpu.cr0 |= cr0::PG | cr0::WP;
        machine.vcpu.sync_paging(&mut machine.mmu);
    }
    machine
}

#[track_caller]
fn halts(machine: &mut Machine) {
    assert_eq!(machine.run(), Exit::Halted);
}

/// Runs the loop body of each world `rounds` times: CX counts down, BX gathers what AL was.
#[track_caller]
fn sum_of(world: World, rounds: u32, parts: &[Part<'_>]) -> (u32, Machine) {
    let mut machine = machine(world, parts);
    let cpu = machine.vcpu.state_mut();
    cpu.gpr[reg::ECX] = rounds;
    cpu.gpr[reg::EBX] = 0;
    halts(&mut machine);
    (machine.gpr(reg::EBX) & 0xFFFF, machine)
}

/// `add bx, ax; dec cx; jnz start; hlt`
fn next_round(world: World) -> impl Fn(&mut CodeAssembler) -> Result<(), IcedError> {
    move |a| {
        a.movzx(eax, al)?;
        a.add(bx, ax)?;
        a.dec(cx)?;
        a.jne(u64::from(world.at(0)))?;
        a.hlt()
    }
}

const ROUNDS: u32 = 200;
const SUM: u32 = ROUNDS * (ROUNDS + 1) / 2;

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

/// Code in memory that ignores writes.
#[test]
fn code_in_rom_ignores_writes() {
    for world in WORLDS {
        let base = ORIGIN;
        let mut machine = machine(
            world,
            &[
                (0x00, &|a| a.mov(byte_ptr(world.at(0x21)), cl)),
                (0x20, &|a| a.mov(al, 3)),
                (0x22, &next_round(world)),
            ],
        );
        machine
            .mmu
            .set_range(base.into(), 0x1000, RangeKind::Rom)
            .unwrap();
        machine.vcpu.state_mut().gpr[reg::ECX] = 100;
        halts(&mut machine);
        assert_eq!(machine.gpr(reg::EBX) & 0xFFFF, 300, "{world:?}");
        // A loader of firmware changes it all the same.
        machine.mmu.load_rom(u64::from(base) + 0x21, &[5]).unwrap();
        let cpu = machine.vcpu.state_mut();
        cpu.eip = world.at(0);
        cpu.gpr[reg::ECX] = 100;
        cpu.gpr[reg::EBX] = 0;
        halts(&mut machine);
        assert_eq!(machine.gpr(reg::EBX) & 0xFFFF, 500, "{world:?}");
    }
}

/// Code in video memory: fetched from the device each time.
#[test]
fn code_in_device_memory_is_never_out_of_date() {
    for world in WORLDS {
        let mut machine = machine(world, &[]);
        let origin = if world == World::Real { 0 } else { 0xA_0000 };
        let mut code = CodeAssembler::new(world.bits()).unwrap();
        code.mov(byte_ptr(origin + 9), cl).unwrap();
        let mut code = code.assemble(u64::from(origin)).unwrap();
        code.resize(8, 0x90);
        // mov al, imm8; add bl, al; dec cx; jnz origin; hlt
        code.extend([0xB0, 0x00, 0x00, 0xC3, 0x49, 0x75, (-15i8) as u8, 0xF4]);
        machine.ports.screen = vec![0; 0x1000];
        machine.ports.screen[..code.len()].copy_from_slice(&code);
        let cpu = machine.vcpu.state_mut();
        cpu.eip = origin;
        cpu.gpr[reg::ECX] = 20;
        if world == World::Real {
            cpu.seg[seg::CS] = Segment::real(0xA000);
            cpu.seg[seg::DS] = Segment::real(0xA000);
        }
        halts(&mut machine);
        assert_eq!(machine.gpr(reg::EBX) & 0xFF, 210, "{world:?}");
        // The device changes it by itself.
        machine.ports.screen[..2].copy_from_slice(&[0x90, 0xF4]);
        machine.vcpu.state_mut().eip = origin;
        halts(&mut machine);
        let eip = machine.vcpu.state().eip;
        assert_eq!(eip, origin + 2, "{world:?}");
        assert!(
            machine.ports.largest_read <= 16,
            "fetches no more than an instruction needs"
        );
    }
}

/// From the last page of memory into the hole behind it, which reads as the platform says.
#[test]
fn an_instruction_over_the_end_of_memory() {
    let mut machine = machine(World::Flat, &[]);
    let end = 4 << 20;
    machine
        .mmu
        .write_phys(end - 4, &[0x90, 0x90, 0x90, 0xB0])
        .unwrap();
    for (value, expected) in [(0x11u8, 0x11), (0x22, 0x22)] {
        // MOV AL, imm8 with the immediate in the hole, and HLT behind it.
        machine.ports.hole = vec![value, 0xF4];
        machine.vcpu.state_mut().eip = end as u32 - 4;
        halts(&mut machine);
        assert_eq!(machine.gpr(reg::EAX) & 0xFF, expected);
        assert_eq!(machine.vcpu.state().eip, end as u32 + 2);
    }
}

/// Code at the top of a segment of 64 KiB, changed from the bottom, and execution that runs off its end.
#[test]
fn code_at_the_64_kib_edge() {
    let mut machine = machine(World::Real, &[(0xFFF8, &|a| a.db(&[0xB0, 0, 0xEB, 0x04]))]);
    // HLT at 0: EB 04 jumps from FFFCh to 10000h, which is beyond the limit; replaced by FA hlt.
    machine
        .mmu
        .write_phys(u64::from(ORIGIN) + 0xFFFA, &[0xF4])
        .unwrap();
    for value in [1u8, 2, 3] {
        machine
            .mmu
            .write_phys(u64::from(ORIGIN) + 0xFFF9, &[value])
            .unwrap();
        machine.vcpu.state_mut().eip = 0xFFF8;
        halts(&mut machine);
        assert_eq!(machine.gpr(reg::EAX) & 0xFF, u32::from(value));
    }
    // The last byte of the segment is an instruction of its own; the next one is beyond the limit (#GP).
    machine.mmu.write_phys(13 * 4, &[0, 0x50, 0, 0]).unwrap();
    machine.mmu.write_phys(0x5000, &[0xF4]).unwrap();
    machine
        .mmu
        .write_phys(u64::from(ORIGIN) + 0xFFF8, &[0x90; 8])
        .unwrap();
    machine.vcpu.state_mut().eip = 0xFFF8;
    halts(&mut machine);
    assert_eq!(machine.vcpu.state().eip, 0x5001);
    assert_eq!(machine.vcpu.state().seg[seg::CS].selector, 0);
}

/// With the A20 gate closed the first MiB is there twice; code seen through one is changed through the other.
#[test]
fn code_behind_a_closed_a20_gate() {
    let mut machine = machine(
        World::Real,
        &[
            (0x00, &|a| a.mov(byte_ptr(0x31).fs(), cl)),
            (0x20, &|a| a.mov(al, 0)),
            (0x22, &next_round(World::Real)),
        ],
    );
    // The same program at physical 500h, run as FFFF:0510h (linear 100500h).
    let mut program = [0; 0x40];
    machine.mmu.read_phys(ORIGIN.into(), &mut program).unwrap();
    let mut code = CodeAssembler::new(16).unwrap();
    code.mov(byte_ptr(0x21).fs(), cl).unwrap();
    let store = code.assemble(0).unwrap();
    program[..store.len()].copy_from_slice(&store);
    let mut tail = CodeAssembler::new(16).unwrap();
    tail.movzx(eax, al).unwrap();
    tail.add(bx, ax).unwrap();
    tail.dec(cx).unwrap();
    tail.jne(0x510u64).unwrap();
    tail.hlt().unwrap();
    let tail = tail.assemble(0x532).unwrap();
    program[0x22..0x22 + tail.len()].copy_from_slice(&tail);
    machine.mmu.write_phys(0x500, &program).unwrap();
    machine.mmu.set_a20(false);
    let cpu = machine.vcpu.state_mut();
    cpu.seg[seg::CS] = Segment::real(0xFFFF);
    cpu.seg[seg::FS] = Segment::real(0x50);
    cpu.eip = 0x510;
    cpu.gpr[reg::ECX] = ROUNDS;
    halts(&mut machine);
    assert_eq!(machine.gpr(reg::EBX) & 0xFFFF, SUM);
}

/// An instruction that begins below 4 GiB and ends at address 0.
#[test]
fn an_instruction_over_the_4_gib_edge() {
    let mut machine = machine(World::Flat, &[]);
    machine
        .mmu
        .set_range(0xFFFF_F000, 0x1000, RangeKind::Rom)
        .unwrap();
    machine
        .mmu
        .load_rom(0xFFFF_FFFD, &[0xB8, 0x01, 0x02])
        .unwrap();
    for value in [3u8, 4] {
        machine.mmu.write_phys(0, &[value, 0, 0xF4]).unwrap();
        machine.vcpu.state_mut().eip = 0xFFFF_FFFD;
        halts(&mut machine);
        assert_eq!(machine.gpr(reg::EAX), u32::from(value) << 16 | 0x0201);
        assert_eq!(machine.vcpu.state().eip, 3);
    }
}
