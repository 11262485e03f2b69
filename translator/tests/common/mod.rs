//! A machine for tests: memory, a vCPU, and ports that only record.
#![allow(dead_code)] // each test program uses a part of it

pub(crate) mod encode;
pub(crate) mod guarded;
pub(crate) mod random;
pub(crate) mod worlds;

use iced_x86::IcedError;
use iced_x86::code_asm::CodeAssembler;
use shadow_mmu::{Mmu, MmuConfig};
use translator::state::{Segment, cr0, reg, seg};
use translator::{Exit, Platform, RunLimits, Vcpu, VcpuConfig};

thread_local! {
    /// Machines made by this thread count instructions.
    pub(crate) static COUNTED: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// A machine without devices: ports and device memory are recorded.
#[derive(Default)]
pub(crate) struct Ports {
    /// Port and value.
    pub(crate) written: Vec<(u16, u32)>,
    /// Address and bytes written to device memory.
    pub(crate) memory: Vec<(u64, Vec<u8>)>,
    /// Device memory at A0000h that keeps what is written to it.
    pub(crate) screen: Vec<u8>,
    /// What is read behind the end of RAM.
    pub(crate) hole: Vec<u8>,
    /// Bytes of the largest read of device memory.
    pub(crate) largest_read: usize,
    /// Changes of the FERR# wire; IRQ 13 is vector 13.
    pub(crate) ferr: Vec<bool>,
    /// The IGNNE# wire: high from a write to port F0h until FERR# goes.
    pub(crate) ignne: bool,
    /// The vector on the interrupt wire.
    pub(crate) interrupt: Option<u8>,
}

/// Where [`Ports::screen`] and [`Ports::hole`] are.
const SCREEN: u64 = 0xA_0000;
const RAM_END: u64 = 4 << 20;

impl Platform for Ports {
    fn port_read(&mut self, port: u16, _: u8) -> u32 {
        u32::from(port) * 3
    }
    fn port_write(&mut self, port: u16, _: u8, value: u32) {
        self.written.push((port, value));
        if port == 0xF0 {
            self.interrupt = None;
            self.ignne = self.ferr.last() == Some(&true);
        }
    }
    fn set_ferr(&mut self, asserted: bool) {
        if self.ferr.last().copied().unwrap_or(false) == asserted {
            return;
        }
        self.ferr.push(asserted);
        if asserted {
            self.interrupt = Some(13);
        } else {
            self.ignne = false;
        }
    }
    fn ignne(&mut self) -> bool {
        self.ignne
    }
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        self.largest_read = self.largest_read.max(data.len());
        for (i, byte) in data.iter_mut().enumerate() {
            let at = gpa + i as u64;
            let device = at
                .checked_sub(SCREEN)
                .and_then(|o| self.screen.get(o as usize));
            let hole = at
                .checked_sub(RAM_END)
                .and_then(|o| self.hole.get(o as usize));
            *byte = device.or(hole).copied().unwrap_or(at as u8);
        }
    }
    fn mmio_write(&mut self, gpa: u64, data: &[u8]) {
        self.memory.push((gpa, data.to_vec()));
        for (i, &byte) in data.iter().enumerate() {
            let offset = (gpa + i as u64).wrapping_sub(SCREEN) as usize;
            if let Some(cell) = self.screen.get_mut(offset) {
                *cell = byte;
            }
        }
    }
    fn interrupt_pending(&mut self) -> bool {
        self.interrupt.is_some()
    }
    fn acknowledge_interrupt(&mut self) -> u8 {
        self.interrupt.take().unwrap_or(0)
    }
    fn attention(&mut self) -> bool {
        false
    }
    fn tsc(&mut self) -> u64 {
        1
    }
}

/// A vCPU with 4 MiB of memory and a program.
pub(crate) struct Machine {
    /// Guest memory.
    pub(crate) mmu: Mmu,
    /// The vCPU, at the program's first instruction.
    pub(crate) vcpu: Vcpu,
    /// What the program did outside.
    pub(crate) ports: Ports,
}

/// Guest-physical address of the program.
pub(crate) const ORIGIN: u32 = 0x1_0000;

/// Selector of the handlers of real mode: that of vector N is at offset 16 * N and halts.
pub(crate) const HANDLERS: u16 = 0x3000;

impl Machine {
    /// Real mode: gives each exception its handler in [`HANDLERS`].
    pub(crate) fn place_handlers(&mut self) {
        for vector in 0..32u64 {
            let entry = u32::from(HANDLERS) << 16 | (vector as u32) << 4;
            self.mmu
                .write_phys(vector * 4, &entry.to_le_bytes())
                .unwrap();
            let handler = u64::from(HANDLERS) * 16 + vector * 16;
            self.mmu.write_phys(handler, &[0xF4]).unwrap();
        }
    }

    /// Assembles `program` for `bits` (16: real mode, 32: flat protected mode at CPL 0).
    pub(crate) fn new(
        bits: u32,
        program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> Machine {
        Machine::with(VcpuConfig::default(), bits, program)
    }

    /// The same with a vCPU as `config` says, but strict.
    pub(crate) fn with(
        config: VcpuConfig,
        bits: u32,
        program: impl FnOnce(&mut CodeAssembler) -> Result<(), IcedError>,
    ) -> Machine {
        let mut assembler = CodeAssembler::new(bits).unwrap();
        program(&mut assembler).unwrap();
        let code = assembler
            .assemble(u64::from(if bits == 16 { 0 } else { ORIGIN }))
            .unwrap();
        let mut mmu = Mmu::new(MmuConfig {
            ram_bytes: 4 << 20,
            ..MmuConfig::default()
        })
        .unwrap();
        mmu.write_phys(u64::from(ORIGIN), &code).unwrap();
        let mut vcpu = Vcpu::new(VcpuConfig {
            strict: true,
            count_instructions: bits == 32 && COUNTED.with(std::cell::Cell::get),
            ..config
        })
        .unwrap();
        let cpu = vcpu.state_mut();
        if bits == 32 {
            cpu.cr0 |= cr0::PE;
            cpu.seg = [Segment::flat(0x10, false, 0); 6];
            cpu.seg[seg::CS] = Segment::flat(8, true, 0);
            cpu.eip = ORIGIN;
            cpu.gpr[reg::ESP] = 0x8000;
        } else {
            cpu.seg = [Segment::real(0x2000); 6];
            cpu.seg[seg::CS] = Segment::real((ORIGIN >> 4) as u16);
            cpu.eip = 0;
            cpu.gpr[reg::ESP] = 0x1234_8000;
        }
        vcpu.sync_paging(&mut mmu);
        Machine {
            mmu,
            vcpu,
            ports: Ports::default(),
        }
    }

    /// Runs until something makes the vCPU come back.
    pub(crate) fn run(&mut self) -> Exit {
        self.vcpu
            .run(&mut self.mmu, &mut self.ports, RunLimits::default())
    }

    /// A general register.
    pub(crate) fn gpr(&self, index: usize) -> u32 {
        self.vcpu.state().gpr[index]
    }

    /// A double word of guest memory.
    pub(crate) fn dword(&self, gpa: u64) -> u32 {
        let mut bytes = [0; 4];
        self.mmu.read_phys(gpa, &mut bytes).unwrap();
        u32::from_le_bytes(bytes)
    }
}
