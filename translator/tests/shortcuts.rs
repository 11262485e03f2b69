//! Shortcuts against Rust: the same instruction from the same state ends in the same state, whether it
//! runs as translated code or alone (`Vcpu::step`), where Rust carries everything out.

mod common;

use common::Machine;
use common::random::Random;
use common::worlds::{self, HANDLER, World};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use shadow_mmu::Mmu;
use translator::state::{CpuState, Rights, Segment, eflags, reg, seg};
use translator::system::CpuModel;
use translator::{Exit, VcpuConfig};

const GDT: u32 = 0x7000;
const IDT: u32 = 0x6000;
const TSS: u32 = 0x7800;
/// Code that runs at CPL 0, and at CPL 3.
const KERNEL: u32 = 0x1_0000;
const USER: u32 = 0x1_8000;
const KERNEL_STACK: u32 = 0x9000;
const USER_STACK: u32 = 0x1_A000;
/// Bytes between two pieces of code.
const STRIDE: u32 = 0x40;
/// Selectors of the descriptors that change from case to case.
const FIRST: u16 = 0x30;
const SLOTS: u16 = 8;

const KERNEL_CODE: u64 = 0x00CF_9B00_0000_FFFF;
const KERNEL_DATA: u64 = 0x00CF_9300_0000_FFFF;
const USER_CODE: u64 = 0x00CF_FB00_0000_FFFF;
const USER_DATA: u64 = 0x00CF_F300_0000_FFFF;

/// The pieces of code, in order. All end in a HLT, at the end or in a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Piece {
    MovDs,
    MovEs,
    MovFs,
    MovGs,
    PopDs,
    PopFs,
    MovMemory,
    Popfd,
    Sysexit,
    StiSysexit,
    Iretd,
    Sysenter,
    Int,
    Verw,
}

const PIECES: [Piece; 14] = [
    Piece::MovDs,
    Piece::MovEs,
    Piece::MovFs,
    Piece::MovGs,
    Piece::PopDs,
    Piece::PopFs,
    Piece::MovMemory,
    Piece::Popfd,
    Piece::Sysexit,
    Piece::StiSysexit,
    Piece::Iretd,
    Piece::Sysenter,
    Piece::Int,
    Piece::Verw,
];

impl Piece {
    fn at_cpl3(self) -> bool {
        matches!(self, Piece::Sysenter | Piece::Int)
    }

    fn address(self) -> u32 {
        (if self.at_cpl3() { USER } else { KERNEL }) + self as u32 * STRIDE
    }

    fn assemble(self, a: &mut CodeAssembler) -> Result<(), IcedError> {
        match self {
            Piece::MovDs => {
                a.mov(ds, eax)?;
                a.mov(ecx, dword_ptr(USER_STACK))?;
            }
            Piece::MovEs => {
                a.mov(es, eax)?;
                a.mov(ecx, dword_ptr(USER_STACK).es())?;
            }
            Piece::MovFs => {
                a.mov(fs, eax)?;
                a.mov(ecx, dword_ptr(0x10).fs())?;
            }
            Piece::MovGs => {
                a.mov(gs, eax)?;
                a.mov(dword_ptr(0x20).gs(), ecx)?;
            }
            Piece::PopDs => {
                a.pop(ds)?;
                a.push(ecx)?;
            }
            Piece::PopFs => {
                a.pop(fs)?;
                a.adc(eax, dword_ptr(0x10).fs())?;
            }
            Piece::MovMemory => {
                a.mov(es, word_ptr(esp + 4))?;
                a.setc(al)?;
            }
            Piece::Popfd => {
                a.popfd()?;
                a.pushfd()?;
                a.pop(ecx)?;
            }
            Piece::Sysexit => a.sysexit()?,
            Piece::StiSysexit => {
                a.sti()?;
                a.sysexit()?;
            }
            Piece::Iretd => a.iretd()?,
            Piece::Sysenter => a.sysenter()?,
            Piece::Int => a.int(0x80)?,
            Piece::Verw => a.verw(ax)?,
        }
        a.hlt()
    }
}

fn write(mmu: &mut Mmu, at: u32, bytes: &[u8]) {
    mmu.write_phys(at.into(), bytes).unwrap();
}

/// A machine at CPL 0 with paging; user code and stack in pages of the user.
fn machine() -> Machine {
    let mut machine = worlds::machine(World::Paged, &[]);
    for piece in PIECES {
        let mut assembler = CodeAssembler::new(32).unwrap();
        piece.assemble(&mut assembler).unwrap();
        let code = assembler.assemble(piece.address().into()).unwrap();
        write(&mut machine.mmu, piece.address(), &code);
    }
    // What user code returns to: HLT is #GP at CPL 3.
    write(&mut machine.mmu, USER + 0xF00, &[0x90, 0xF4]);
    for page in 0..1024u32 {
        let user = (USER..USER + 0x8000).contains(&(page << 12));
        let entry = page << 12 | if user { 0x67 } else { 0x63 };
        write(
            &mut machine.mmu,
            worlds::TABLE + page * 4,
            &entry.to_le_bytes(),
        );
    }
    let gdt = [0, KERNEL_CODE, KERNEL_DATA, USER_CODE, USER_DATA];
    for (index, word) in gdt.into_iter().enumerate() {
        write(
            &mut machine.mmu,
            GDT + 8 * index as u32,
            &word.to_le_bytes(),
        );
    }
    machine
}

/// The state in front of a piece of code: flat, nothing unusual.
fn plain(piece: Piece, cpu: &mut CpuState) {
    let cpl = if piece.at_cpl3() { 3u8 } else { 0 };
    let (code, data) = if cpl == 3 { (0x1B, 0x23) } else { (8, 0x10) };
    cpu.seg = [Segment::flat(0x23, false, 3); 6];
    cpu.seg[seg::CS] = Segment::flat(code, true, cpl);
    cpu.seg[seg::SS] = Segment::flat(data, false, cpl);
    cpu.cpl = cpl;
    cpu.eip = piece.address();
    cpu.eflags = eflags::FIXED;
    cpu.gdtr.base = GDT;
    cpu.gdtr.limit = (FIRST + SLOTS * 8) - 1;
    cpu.idtr.base = IDT;
    cpu.idtr.limit = 0x7FF;
    cpu.tr = Segment {
        selector: 0x28,
        base: TSS,
        limit: 0x67,
        rights: Rights::from_bits_retain(0x8B),
    };
    cpu.msrs.sysenter_cs = 8;
    cpu.msrs.sysenter_esp = KERNEL_STACK;
    cpu.msrs.sysenter_eip = HANDLER;
    cpu.cr2 = 0;
    cpu.dr[6] = 0xFFFF_0FF0;
    cpu.nmi_blocked = false;
}

/// What differs from a plain state, made from random numbers: memory, and the state.
struct Case {
    piece: Piece,
    memory: Vec<(u32, Vec<u8>)>,
    cpu: CpuState,
    interrupt: Option<u8>,
}

fn descriptor(random: &mut Random) -> u64 {
    let base = random.pick(&[0u32, 0x1_9000, 0x1_9010, 0x8000, 0xFFFF_F000]);
    let base = u64::from(base & 0xFF_FFFF) << 16 | u64::from(base >> 24) << 56;
    let plain = random.pick(&[USER_DATA, USER_DATA, KERNEL_DATA, USER_CODE, KERNEL_CODE]);
    let plain = if random.once_in(3) {
        plain
    } else {
        plain | base
    };
    match random.below(6) {
        // One bit of the rights, or of the limit, is different.
        0 => plain ^ 1 << (40 + random.below(16)),
        1 => plain ^ 1 << random.below(16),
        _ => plain,
    }
}

fn selector(random: &mut Random) -> u16 {
    match random.below(12) {
        0 => random.below(4) as u16,
        1 => random.next() as u16,
        2 => random.pick(&[8, 0x10, 0x18, 0x20]),
        3..=5 => random.pick(&[8, 0x10, 0x1B, 0x23]),
        n => FIRST + 8 * (random.below(SLOTS.into()) as u16) + if n & 1 == 0 { 3 } else { 0 },
    }
}

fn flags(random: &mut Random) -> u32 {
    let mut flags = random.next() as u32 & eflags::STATUS | eflags::FIXED;
    if random.once_in(2) {
        flags |= eflags::IF;
    }
    if random.once_in(4) {
        flags ^= 1 << random.below(32);
    }
    // A trap after the instruction is no matter of shortcuts, and V86 mode has tests of its own.
    flags & !(eflags::TF | eflags::VM)
}

fn case(random: &mut Random, template: &CpuState) -> Case {
    let piece = random.pick(&PIECES);
    let mut cpu = template.clone();
    plain(piece, &mut cpu);
    let mut memory = Vec::new();
    for slot in 0..SLOTS {
        let at = GDT + u32::from(FIRST + slot * 8);
        memory.push((at, descriptor(random).to_le_bytes().to_vec()));
    }
    for gpr in &mut cpu.gpr {
        *gpr = random.next() as u32;
    }
    cpu.eflags = flags(random) & !(eflags::NT | eflags::RF | eflags::AC)
        | if random.once_in(8) { eflags::AC } else { 0 }
        | if random.once_in(30) { eflags::NT } else { 0 };
    cpu.gpr[reg::EAX] = cpu.gpr[reg::EAX] & 0xFFFF_0000 | u32::from(selector(random));
    cpu.gpr[reg::ESP] = if piece.at_cpl3() {
        USER_STACK + 0x800
    } else {
        KERNEL_STACK - 0x400
    };
    if random.once_in(16) {
        cpu.gpr[reg::ESP] = random.pick(&[0, 4, 8, 0xFFFF_FFFC, 0x80_0000, USER_STACK]);
    }
    // Kernels leave user segments in these.
    for index in [seg::FS, seg::GS] {
        match random.below(8) {
            0 => {
                cpu.seg[index] = Segment {
                    rights: Rights::UNUSABLE,
                    ..Segment::default()
                }
            }
            1 => cpu.seg[index] = Segment::flat(0x10, false, 0),
            2 => cpu.seg[index].base = 0x1_9000,
            _ => {}
        }
    }
    // The frames: a selector for POP, flags for POPFD, everything for IRETD.
    let target = random.pick(&[USER + 0xF00, USER + 0xF00, HANDLER, 0xFFFF_FFFF, 0x40_0000]);
    let code = if random.once_in(4) {
        selector(random)
    } else {
        random.pick(&[8, 0x1B])
    };
    let first = match piece {
        Piece::Popfd => flags(random),
        Piece::Iretd => target,
        _ => u32::from(selector(random)),
    };
    let stack = if random.once_in(4) {
        selector(random)
    } else {
        0x23
    };
    let frame = [
        first,
        u32::from(if piece == Piece::MovMemory {
            selector(random)
        } else {
            code
        }),
        flags(random),
        USER_STACK + 0x400,
        u32::from(stack) | random.pick(&[0, 0xABCD_0000]),
    ];
    let bytes: Vec<u8> = frame.iter().flat_map(|word| word.to_le_bytes()).collect();
    memory.push((KERNEL_STACK - 0x400, bytes));
    // Where SYSEXIT goes.
    if random.once_in(2) {
        cpu.gpr[reg::EDX] = target;
        cpu.gpr[reg::ECX] = USER_STACK + 0x400;
    }
    cpu.msrs.sysenter_cs = random.pick(&[8, 8, 8, 8, 0xB, 0, 0x1_0000, 0xFFF8]);
    // The gate of INT 80h, and the stack in the TSS.
    let rights = if random.once_in(3) {
        random.below(256)
    } else {
        random.pick(&[0xEE, 0xEF])
    };
    let to = if random.once_in(6) {
        selector(random)
    } else {
        8
    };
    let gate = u64::from(HANDLER) | u64::from(to) << 16 | rights << 40;
    memory.push((IDT + 0x80 * 8, gate.to_le_bytes().to_vec()));
    let ss0 = if random.once_in(6) {
        selector(random)
    } else {
        0x10
    };
    let esp0 = random.pick(&[
        KERNEL_STACK,
        KERNEL_STACK,
        KERNEL_STACK,
        12,
        USER_STACK,
        0x40_0000,
    ]);
    memory.push((TSS + 4, esp0.to_le_bytes().to_vec()));
    memory.push((TSS + 8, ss0.to_le_bytes().to_vec()));
    if random.once_in(20) {
        cpu.idtr.limit = random.pick(&[0x400, 0x406, 0x407]);
    }
    if random.once_in(20) {
        cpu.gdtr.limit = random.pick(&[0x1F, 0x20, 0x27, 0x2F]);
    }
    if random.once_in(20) {
        cpu.tr.limit = random.below(12) as u32;
    }
    cpu.nmi_blocked = random.once_in(16);
    Case {
        piece,
        memory,
        cpu,
        interrupt: random.once_in(8).then_some(0x20),
    }
}

fn set_up(machine: &mut Machine, case: &Case) {
    for (at, bytes) in &case.memory {
        write(&mut machine.mmu, *at, bytes);
    }
    *machine.vcpu.state_mut() = case.cpu.clone();
    machine.vcpu.sync_paging(&mut machine.mmu);
    machine.ports.interrupt = case.interrupt;
}

/// One instruction at a time, until the guest halts, shuts down or takes an interrupt.
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

/// The memory that a case may change.
fn memory_of(machine: &Machine) -> Vec<u8> {
    let mut memory = vec![0; 0x2_0000];
    machine.mmu.read_phys(0x5000, &mut memory).unwrap();
    memory
}

/// Brings both sides of a change of privilege into the translator, as the first system call does.
fn warm_up(machine: &mut Machine) {
    let template = machine.vcpu.state().clone();
    let mut cpu = template;
    plain(Piece::Int, &mut cpu);
    cpu.gpr[reg::ESP] = USER_STACK + 0x800;
    let gate = u64::from(HANDLER) | 8 << 16 | 0xEE << 40;
    let case = Case {
        piece: Piece::Int,
        memory: vec![
            (IDT + 0x80 * 8, gate.to_le_bytes().to_vec()),
            (TSS + 4, KERNEL_STACK.to_le_bytes().to_vec()),
            (TSS + 8, 0x10u16.to_le_bytes().to_vec()),
        ],
        cpu,
        interrupt: None,
    };
    set_up(machine, &case);
    assert_eq!(machine.run(), Exit::Halted);
}

#[test]
fn shortcuts_end_as_rust_does() {
    let (mut fast, mut slow) = (machine(), machine());
    warm_up(&mut fast);
    warm_up(&mut slow);
    let template = fast.vcpu.state().clone();
    let mut random = Random(0x5EED_0001_2345_6789);
    let before = fast.vcpu.stats().clone();
    let mut taken = [0u32; PIECES.len()];
    let cases = 6000;
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
        let (is, wanted) = (fast.vcpu.state(), slow.vcpu.state());
        assert_eq!(is, wanted, "{}", told());
        assert!(memory_of(&fast) == memory_of(&slow), "memory: {}", told());
        // HLT is a callout, and is met in every case.
        if fast.vcpu.stats().callouts.total() - callouts <= 1 {
            taken[case.piece as usize] += 1;
        }
    }
    // The cases are of any use only if many of each kind are carried out by shortcuts.
    for (piece, taken) in PIECES.into_iter().zip(taken) {
        assert!(taken > 40, "{piece:?}: {taken} of {cases}");
    }
    assert!(fast.vcpu.stats().crossings - before.crossings > 300);
}

#[test]
fn a_round_trip_costs_no_callout() {
    // A loop of INT 80h at CPL 3; the handler does what a kernel's does.
    let mut machine = machine();
    let mut kernel = CodeAssembler::new(32).unwrap();
    let handler = |a: &mut CodeAssembler| -> Result<(), IcedError> {
        a.push(ds)?;
        a.push(es)?;
        a.push(fs)?;
        a.mov(eax, 0x23)?;
        a.mov(ds, eax)?;
        a.mov(es, eax)?;
        a.mov(eax, 0x10)?;
        a.mov(fs, eax)?;
        a.sti()?;
        a.inc(dword_ptr(0x8000))?;
        a.cli()?;
        a.pop(fs)?;
        a.pop(es)?;
        a.pop(ds)?;
        a.iretd()
    };
    handler(&mut kernel).unwrap();
    write(
        &mut machine.mmu,
        0x1_1000,
        &kernel.assemble(0x1_1000).unwrap(),
    );
    // int 80h; dec ecx; jnz -5; hlt
    write(
        &mut machine.mmu,
        USER,
        &[0xCD, 0x80, 0x49, 0x75, 0xFB, 0xF4],
    );
    write(&mut machine.mmu, 0x8000, &[0; 4]);
    let gate = 0x1000u64 | 8 << 16 | 0xEE << 40 | 1 << 48;
    write(&mut machine.mmu, IDT + 0x80 * 8, &gate.to_le_bytes());
    write(&mut machine.mmu, TSS + 4, &KERNEL_STACK.to_le_bytes());
    write(&mut machine.mmu, TSS + 8, &[0x10, 0]);
    let cpu = machine.vcpu.state_mut();
    plain(Piece::Int, cpu);
    cpu.eip = USER;
    cpu.gpr[reg::ESP] = USER_STACK + 0x800;
    cpu.gpr[reg::ECX] = 10_000;
    cpu.eflags |= eflags::IF;
    machine.vcpu.sync_paging(&mut machine.mmu);
    assert_eq!(machine.run(), Exit::Halted);
    assert_eq!(machine.dword(0x8000), 10_000);
    let stats = machine.vcpu.stats();
    assert!(stats.callouts.total() < 40, "{:?}", stats.callouts);
    assert!(stats.crossings > 19_900, "{}", stats.crossings);
}

/// A guest that does nothing but change its privilege: neither half of the loop jumps backwards.
#[test]
fn a_kick_ends_a_loop_of_crossings() {
    let mut machine = machine();
    // sub dword [esp], 2; iretd
    write(&mut machine.mmu, 0x1_1000, &[0x83, 0x2C, 0x24, 2, 0xCF]);
    write(&mut machine.mmu, USER, &[0xCD, 0x80]);
    let gate = 0x1000u64 | 8 << 16 | 0xEE << 40 | 1 << 48;
    write(&mut machine.mmu, IDT + 0x80 * 8, &gate.to_le_bytes());
    write(&mut machine.mmu, TSS + 4, &KERNEL_STACK.to_le_bytes());
    write(&mut machine.mmu, TSS + 8, &[0x10, 0]);
    let cpu = machine.vcpu.state_mut();
    plain(Piece::Int, cpu);
    cpu.eip = USER;
    cpu.gpr[reg::ESP] = USER_STACK + 0x800;
    machine.vcpu.sync_paging(&mut machine.mmu);
    for _ in 0..50 {
        let kicker = machine.vcpu.kicker();
        let other = std::thread::spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(1));
            kicker.kick();
        });
        assert_eq!(machine.run(), Exit::Kicked);
        other.join().unwrap();
    }
    assert!(machine.vcpu.stats().crossings > 1000);
}

#[test]
fn a_model_without_sysenter_has_none() {
    let model: CpuModel = "pentium".parse().unwrap();
    let config = VcpuConfig {
        model,
        ..VcpuConfig::default()
    };
    let mut machine = Machine::with(config, 32, |a| a.sysenter());
    // #UD through a gate that does not exist: shutdown.
    assert_eq!(machine.run(), Exit::Shutdown);
}
