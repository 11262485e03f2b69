//! Code in unusual memory: ROM, a device, behind a closed A20 gate, and over the edges of memory and of
//! the address space.

mod common;

use common::ORIGIN;
use common::worlds::{ROUNDS, SUM, WORLDS, World, halts, machine, next_round};
use iced_x86::code_asm::*;
use shadow_mmu::RangeKind;
use translator::state::{Segment, reg, seg};

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
