//! Far transfers, INT and IRET of real mode against Rust: the same instruction from the same state ends
//! in the same state, whether it runs as translated code or alone (`Vcpu::step`).

mod common;

use common::Machine;
use common::random::Random;
use iced_x86::code_asm::*;
use translator::Exit;
use translator::state::{CpuState, Segment, eflags, reg, seg};

const CODE: u16 = 0x1000;
const STACK: u16 = 0x3000;
/// The vector that INT takes.
const VECTOR: u8 = 0x61;
const IVT: u32 = 0x400;

#[derive(Debug, Clone, Copy)]
enum Piece {
    Call,
    Jump,
    Return,
    ReturnAndPop,
    InterruptReturn,
    Interrupt,
    CallThrough,
    JumpThrough,
}

const PIECES: [Piece; 8] = [
    Piece::Call,
    Piece::Jump,
    Piece::Return,
    Piece::ReturnAndPop,
    Piece::InterruptReturn,
    Piece::Interrupt,
    Piece::CallThrough,
    Piece::JumpThrough,
];

impl Piece {
    /// Each variant of a piece has a place of its own, so that none is written over.
    fn code(self, target: (u16, u16), variant: u16) -> (u16, Vec<u8>) {
        let far = |opcode: u8| {
            let mut code = vec![opcode];
            code.extend(target.1.to_le_bytes());
            code.extend(target.0.to_le_bytes());
            code
        };
        let code = match self {
            Piece::Call => far(0x9A),
            Piece::Jump => far(0xEA),
            Piece::Return => vec![0xCB],
            Piece::ReturnAndPop => vec![0xCA, 0x0C, 0x00],
            Piece::InterruptReturn => vec![0xCF],
            Piece::Interrupt => vec![0xCD, VECTOR],
            // Through SS:BX.
            Piece::CallThrough => vec![0x36, 0xFF, 0x1F],
            Piece::JumpThrough => vec![0x36, 0xFF, 0x2F],
        };
        (self as u16 * 0x100 + variant * 8, code)
    }
}

struct Case {
    piece: Piece,
    memory: Vec<(u32, Vec<u8>)>,
    cpu: CpuState,
    interrupt: Option<u8>,
}

const SELECTORS: [u16; 5] = [CODE, 0x1100, 0x0800, 0x2001, 0x1040];
const OFFSETS: [u16; 4] = [0x8000, 0x8001, 0x9FF0, 0x7FFF];

fn flags(random: &mut Random) -> u32 {
    let mut flags = random.next() as u32 & eflags::STATUS | eflags::FIXED;
    if random.once_in(2) {
        flags |= eflags::IF;
    }
    if random.once_in(4) {
        flags ^= 1 << (random.next() % 16);
    }
    flags & !eflags::TF | eflags::FIXED
}

fn case(random: &mut Random, template: &CpuState) -> Case {
    let piece = random.pick(&PIECES);
    let mut cpu = template.clone();
    let (selector, offset) = (random.next() as usize % 5, random.next() as usize % 4);
    let target = (SELECTORS[selector], OFFSETS[offset]);
    let (ip, code) = piece.code(target, (selector * 4 + offset) as u16);
    cpu.eip = ip.into();
    for gpr in &mut cpu.gpr {
        *gpr = random.next() as u32;
    }
    let pointer = random.pick(&[
        0x800u16, 0x800, 0x1000, 0x7000, 0, 1, 2, 5, 0xFFFC, 0xFFFE, 0xFFFF,
    ]);
    cpu.gpr[reg::ESP] = cpu.gpr[reg::ESP] & 0xFFFF_0000 | u32::from(pointer);
    cpu.eflags = flags(random) & !(eflags::NT | eflags::RF) | random.pick(&[0, 0, 0, eflags::NT]);
    cpu.seg[seg::CS] = Segment::real(CODE);
    cpu.seg[seg::SS] = Segment::real(STACK);
    if random.once_in(16) {
        cpu.seg[seg::SS].limit = 0xFFF;
    }
    cpu.nmi_blocked = random.once_in(16);
    cpu.idtr.limit = if random.once_in(16) { 0x182 } else { 0x3FF };
    cpu.idtr.base = IVT;
    let pair = [target.1.to_le_bytes(), target.0.to_le_bytes()].concat();
    let mut frame = pair.clone();
    frame.extend((flags(random) as u16).to_le_bytes());
    let stack = u32::from(STACK) << 4;
    // The frame wraps around within the segment.
    let mut memory: Vec<(u32, Vec<u8>)> = frame
        .into_iter()
        .enumerate()
        .map(|(at, byte)| {
            (
                stack + u32::from(pointer.wrapping_add(at as u16)),
                vec![byte],
            )
        })
        .collect();
    if matches!(piece, Piece::CallThrough | Piece::JumpThrough) {
        // The frame of the call may be where the pointer is.
        let distance = random.pick(&[0x40, 0x40, 0, -1, -2, -3, -4, -5, -6i16]);
        let offset_in_stack = pointer.wrapping_add_signed(distance);
        cpu.gpr[reg::EBX] = cpu.gpr[reg::EBX] & 0xFFFF_0000 | u32::from(offset_in_stack);
        for (at, byte) in pair.iter().enumerate() {
            memory.push((
                stack + u32::from(offset_in_stack.wrapping_add(at as u16)),
                vec![*byte],
            ));
        }
    }
    memory.push((IVT + u32::from(VECTOR) * 4, pair));
    memory.push(((u32::from(CODE) << 4) + u32::from(ip), code));
    Case {
        piece,
        memory,
        cpu,
        interrupt: random.once_in(8).then_some(0x20),
    }
}

fn machine() -> Machine {
    let mut machine = Machine::new(16, |a| a.hlt());
    // HLT nearly everywhere.
    machine.mmu.write_phys(0, &[0xF4; 0x6_0000]).unwrap();
    // All vectors lead to one.
    for vector in 0..256 {
        let entry = [0x00, 0x80, 0x00, 0x08];
        let at = u64::from(IVT) + vector * 4;
        machine.mmu.write_phys(at, &entry).unwrap();
    }
    machine
}

fn set_up(machine: &mut Machine, case: &Case) {
    for (at, bytes) in &case.memory {
        let mut old = vec![0; bytes.len()];
        machine.mmu.read_phys((*at).into(), &mut old).unwrap();
        if old != *bytes {
            machine.mmu.write_phys((*at).into(), bytes).unwrap();
        }
    }
    *machine.vcpu.state_mut() = case.cpu.clone();
    machine.ports.interrupt = case.interrupt;
}

fn step_on(machine: &mut Machine) -> Exit {
    for _ in 0..64 {
        if machine.vcpu.state().accepts_interrupts() && machine.ports.interrupt.is_some() {
            return Exit::InterruptReady;
        }
        let exit = machine.vcpu.step(&mut machine.mmu, &mut machine.ports);
        if exit != Exit::Budget {
            return exit;
        }
    }
    panic!("no end in 64 instructions");
}

fn memory_of(machine: &Machine) -> Vec<u8> {
    let mut memory = vec![0; 0x6_0000];
    machine.mmu.read_phys(0, &mut memory).unwrap();
    memory
}

#[test]
fn far_transfers_of_real_mode_end_as_rust_does() {
    let (mut fast, mut slow) = (machine(), machine());
    let template = fast.vcpu.state().clone();
    let mut random = Random(0x5EED_0002_9876_5432);
    let mut taken = [0u32; PIECES.len()];
    let cases = 4000;
    for number in 0..cases {
        let case = case(&mut random, &template);
        set_up(&mut fast, &case);
        set_up(&mut slow, &case);
        let callouts = fast.vcpu.stats().callouts.total();
        let exit = fast.run();
        let expected = step_on(&mut slow);
        let told = || {
            format!(
                "case {number}: {:?}\nfrom {:#x?}\nmemory {:x?}",
                case.piece, case.cpu, case.memory
            )
        };
        assert_eq!(exit, expected, "{}", told());
        assert_eq!(fast.vcpu.state(), slow.vcpu.state(), "{}", told());
        assert!(memory_of(&fast) == memory_of(&slow), "memory: {}", told());
        // HLT is a callout, and is met in every case.
        if fast.vcpu.stats().callouts.total() - callouts <= 1 {
            taken[case.piece as usize] += 1;
        }
    }
    for (piece, taken) in PIECES.into_iter().zip(taken) {
        assert!(taken > 40, "{piece:?}: {taken} of {cases}");
    }
}

/// The second segment shares its place among those that are known with that of the caller.
#[test]
fn a_far_call_costs_no_callout() {
    for called in [0x1100u16, 0x2000] {
        let mut machine = Machine::new(16, |a| {
            let mut again = a.create_label();
            a.mov(cx, 5000)?;
            a.set_label(&mut again)?;
            let [low, high] = called.to_le_bytes();
            a.db(&[0x9A, 0, 0, low, high])?; // call far
            a.int(i32::from(VECTOR))?;
            a.dec(cx)?;
            a.jne(again)?;
            a.hlt()
        });
        // inc ax; retf
        let function = u64::from(called) << 4;
        machine.mmu.write_phys(function, &[0x40, 0xCB]).unwrap();
        // inc bx; iret
        machine.mmu.write_phys(0x1_2000, &[0x43, 0xCF]).unwrap();
        let entry = [0, 0, 0, 0x12];
        machine
            .mmu
            .write_phys(u64::from(VECTOR) * 4, &entry)
            .unwrap();
        let cpu = machine.vcpu.state_mut();
        cpu.gpr[reg::EAX] = 0;
        cpu.gpr[reg::EBX] = 0;
        cpu.idtr.base = 0;
        cpu.idtr.limit = 0x3FF;
        assert_eq!(machine.run(), Exit::Halted);
        assert_eq!(machine.gpr(reg::EAX), 5000);
        assert_eq!(machine.gpr(reg::EBX), 5000);
        let callouts = machine.vcpu.stats().callouts.total();
        assert!(callouts < 40, "{called:x}: {callouts}");
    }
}
