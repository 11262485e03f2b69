//! Programs made of parts at chosen offsets, and the three worlds that they run in.

use super::{Machine, ORIGIN};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use translator::Exit;
use translator::state::{Segment, cr0, reg, seg};

/// An offset in the program, and the code there.
pub(crate) type Part<'a> = (u32, &'a dyn Fn(&mut CodeAssembler) -> Result<(), IcedError>);

/// Real mode, protected mode without paging, and with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum World {
    Real,
    Flat,
    Paged,
}

/// All of them.
pub(crate) const WORLDS: [World; 3] = [World::Real, World::Flat, World::Paged];

/// Page directory and page tables of the paged world: identity for 4 MiB, and once more from `ALIAS` on.
pub(crate) const DIRECTORY: u32 = 0x20_0000;
pub(crate) const TABLE: u32 = 0x20_1000;
pub(crate) const ALIAS: u32 = 0x1000_0000;
/// Where the handler of every vector halts.
pub(crate) const HANDLER: u32 = 0x5000;

impl World {
    pub(crate) fn bits(self) -> u32 {
        if self == World::Real { 16 } else { 32 }
    }

    /// Offset in the data segments of the byte at `offset` of the program.
    pub(crate) fn at(self, offset: u32) -> u32 {
        if self == World::Real {
            offset
        } else {
            ORIGIN + offset
        }
    }
}

/// Writes `part` of a program whose offset 0 is at EIP `ip` and physical address `gpa`.
pub(crate) fn put(machine: &mut Machine, bits: u32, ip: u32, gpa: u64, part: Part<'_>) {
    let mut assembler = CodeAssembler::new(bits).unwrap();
    (part.1)(&mut assembler).unwrap();
    let code = assembler.assemble(u64::from(ip + part.0)).unwrap();
    machine
        .mmu
        .write_phys(gpa + u64::from(part.0), &code)
        .unwrap();
}

/// A machine whose program consists of `parts`, with NOPs in between; data segments reach the program.
pub(crate) fn machine(world: World, parts: &[Part<'_>]) -> Machine {
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
pub(crate) fn halts(machine: &mut Machine) {
    assert_eq!(machine.run(), Exit::Halted);
}

/// Runs the loop body of each world `rounds` times: CX counts down, BX gathers what AL was.
#[track_caller]
pub(crate) fn sum_of(world: World, rounds: u32, parts: &[Part<'_>]) -> (u32, Machine) {
    let mut machine = machine(world, parts);
    let cpu = machine.vcpu.state_mut();
    cpu.gpr[reg::ECX] = rounds;
    cpu.gpr[reg::EBX] = 0;
    halts(&mut machine);
    (machine.gpr(reg::EBX) & 0xFFFF, machine)
}

/// `add bx, ax; dec cx; jnz start; hlt`
pub(crate) fn next_round(world: World) -> impl Fn(&mut CodeAssembler) -> Result<(), IcedError> {
    move |a| {
        a.movzx(eax, al)?;
        a.add(bx, ax)?;
        a.dec(cx)?;
        a.jne(u64::from(world.at(0)))?;
        a.hlt()
    }
}

/// How often most programs run their loop.
pub(crate) const ROUNDS: u32 = 200;
/// The sum of its counters.
pub(crate) const SUM: u32 = ROUNDS * (ROUNDS + 1) / 2;
