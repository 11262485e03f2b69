//! A machine with descriptor tables, whose handlers report each exception through a port.

use super::{Machine, ORIGIN, Ports};
use iced_x86::IcedError;
use iced_x86::code_asm::*;
use translator::VcpuConfig;
use translator::state::{CpuState, Rights, Segment, TableRegister, eflags, reg, seg};

/// The port that handlers write to: vector, EIP, EFLAGS, DR6, error code.
pub(crate) const REPORT: u16 = 0xE0;
const GDT: u32 = 0x1000;
const IDT: u32 = 0x2000;
const TSS: u32 = 0x6000;
const HANDLERS: u32 = 0x2_0000;
const HANDLER_BYTES: u32 = 64;
/// Top of the stack of CPL 0.
const STACK0: u32 = 0x8000;
/// Top of the stack of CPL 3.
pub(crate) const STACK3: u32 = 0x9000;
/// Selectors.
const CODE0: u16 = 0x08;
const DATA0: u16 = 0x10;
const CODE3: u16 = 0x1B;
const DATA3: u16 = 0x23;
const TSS_SELECTOR: u16 = 0x28;

/// What a handler reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) vector: u32,
    pub(crate) eip: u32,
    pub(crate) flags: u32,
    pub(crate) dr6: u32,
    pub(crate) error_code: u32,
}

impl Report {
    /// Vector, offset of EIP in the program, and the bits of DR6 that are not fixed.
    pub(crate) fn brief(&self) -> (u32, u32, u32) {
        (
            self.vector,
            self.eip.wrapping_sub(ORIGIN),
            self.dr6 & 0xE00F,
        )
    }
}

fn has_error_code(vector: u32) -> bool {
    matches!(vector, 8 | 10..=14 | 17)
}

/// The handler of `vector`: reports, clears DR6, runs `tail`, and returns. #DB sets RF for the
/// instruction that it goes back to, as debuggers do.
fn handler(vector: u32) -> Vec<u8> {
    let assemble = || -> Result<Vec<u8>, IcedError> {
        let mut a = CodeAssembler::new(32)?;
        if !has_error_code(vector) {
            a.push(0)?;
        }
        a.push(eax)?;
        a.mov(eax, vector as i32)?;
        a.out(REPORT as i32, eax)?;
        a.mov(eax, dword_ptr(esp + 8))?;
        a.out(REPORT as i32, eax)?;
        a.mov(eax, dword_ptr(esp + 16))?;
        a.out(REPORT as i32, eax)?;
        a.mov(eax, dr6)?;
        a.out(REPORT as i32, eax)?;
        a.mov(eax, dword_ptr(esp + 4))?;
        a.out(REPORT as i32, eax)?;
        a.xor(eax, eax)?;
        a.mov(dr6, eax)?;
        match vector {
            1 => a.or(dword_ptr(esp + 16), eflags::RF as i32)?,
            // Faults that the instruction would raise again: the test is over.
            0 | 3 | 4 | 2 => {}
            _ => a.hlt()?,
        }
        a.pop(eax)?;
        a.add(esp, 4)?;
        a.iretd()?;
        a.assemble(0)
    };
    assemble().expect("a handler")
}

fn gate(offset: u32, access: u8) -> u64 {
    u64::from(offset & 0xFFFF)
        | u64::from(CODE0) << 16
        | u64::from(access) << 40
        | u64::from(offset >> 16) << 48
}

fn flat(access: u8) -> u64 {
    0x00CF_0000_0000_FFFF | u64::from(access) << 40
}

/// A machine like [`Machine::new`] with 32 bits, and with tables. At CPL 0 or 3; interrupts are off.
pub(crate) fn guarded(
    cpl: u8,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Machine {
    guarded_with(VcpuConfig::default(), cpl, program)
}

/// The same with a vCPU as `config` says, but strict.
pub(crate) fn guarded_with(
    config: VcpuConfig,
    cpl: u8,
    program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
) -> Machine {
    let mut machine = Machine::with(config, 32, program);
    let mut gdt = [0, flat(0x9B), flat(0x93), flat(0xFB), flat(0xF3), 0];
    gdt[5] = 0x67 | u64::from(TSS) << 16 | 0x8Bu64 << 40;
    let table: Vec<u8> = gdt.iter().flat_map(|entry| entry.to_le_bytes()).collect();
    machine.write(GDT, &table);
    for vector in 0..32 {
        let at = HANDLERS + vector * HANDLER_BYTES;
        let code = handler(vector);
        assert!(code.len() as u32 <= HANDLER_BYTES);
        machine.write(at, &code);
        let access = if matches!(vector, 3 | 4) { 0xEE } else { 0x8E };
        machine.write(IDT + vector * 8, &gate(at, access).to_le_bytes());
    }
    machine.write(TSS + 4, &STACK0.to_le_bytes());
    machine.write(TSS + 8, &u32::from(DATA0).to_le_bytes());
    machine.write(TSS + 102, &0x68u16.to_le_bytes());
    let cpu = machine.vcpu.state_mut();
    cpu.gdtr = TableRegister {
        base: GDT,
        limit: table.len() as u16 - 1,
    };
    cpu.idtr = TableRegister {
        base: IDT,
        limit: 0xFF,
    };
    cpu.tr = Segment {
        selector: TSS_SELECTOR,
        base: TSS,
        limit: 0x67,
        rights: Rights::from_bits_retain(0x8B),
    };
    if cpl == 3 {
        to_user(cpu);
    }
    machine
}

fn to_user(cpu: &mut CpuState) {
    cpu.seg = [Segment::flat(DATA3, false, 3); 6];
    cpu.seg[seg::CS] = Segment::flat(CODE3, true, 3);
    cpu.cpl = 3;
    cpu.gpr[reg::ESP] = STACK3;
    // IN and OUT stay with CPL 0; HLT ends a program through its #GP.
}

impl Machine {
    /// Writes guest memory.
    pub(crate) fn write(&mut self, gpa: u32, bytes: &[u8]) {
        self.mmu.write_phys(u64::from(gpa), bytes).unwrap();
    }
}

impl Ports {
    /// What the handlers have reported.
    pub(crate) fn reports(&self) -> Vec<Report> {
        let values: Vec<u32> = self
            .written
            .iter()
            .filter(|(port, _)| *port == REPORT)
            .map(|(_, value)| *value)
            .collect();
        values
            .chunks_exact(5)
            .map(|chunk| Report {
                vector: chunk[0],
                eip: chunk[1],
                flags: chunk[2],
                dr6: chunk[3],
                error_code: chunk[4],
            })
            .collect()
    }
}
