//! A small machine to execute single instructions on, and the tests, by subject.

mod control;
mod gates;
mod paging;
mod ports;
mod real;
mod returns;
mod segments;
mod tasks;
mod v86;

use super::{CpuModel, Exception, Flow, Shutdown, System};
use crate::Platform;
use crate::state::{CpuState, Rights, Segment, TableRegister, cr0, eflags, reg, seg};

use iced_x86::{Decoder, DecoderOptions};
use shadow_mmu::{Mmu, MmuConfig, PagingRegs};

const GDT: u32 = 0x1000;
const IDT: u32 = 0x2000;
const TSS: u32 = 0x3000;
const TSS_B: u32 = 0x3400;
const LDT: u32 = 0x4000;
/// Where `Machine::run` puts the instruction.
const CODE: u32 = 0x10000;
const STACK0: u32 = 0x8000;
const STACK3: u32 = 0xA000;
const HANDLER: u32 = 0x5678;

/// Selectors of `Machine::protected`.
mod sel {
    pub(super) const CODE0: u16 = 0x08;
    pub(super) const DATA0: u16 = 0x10;
    pub(super) const CODE3: u16 = 0x1B;
    pub(super) const DATA3: u16 = 0x23;
    pub(super) const TSS: u16 = 0x28;
    pub(super) const LDT: u16 = 0x30;
    pub(super) const CONFORMING: u16 = 0x38;
    pub(super) const CALL_GATE: u16 = 0x40;
    pub(super) const DATA16: u16 = 0x48;
    pub(super) const ABSENT: u16 = 0x50;
    pub(super) const TSS_B: u16 = 0x58;
    pub(super) const TASK_GATE: u16 = 0x60;
    pub(super) const CODE16: u16 = 0x68;
    /// Read-only, DPL 3, not accessed, 4 KiB from 20000h.
    pub(super) const READ_ONLY: u16 = 0x70;
    pub(super) const TSS16: u16 = 0x78;
    pub(super) const CALL_GATE16: u16 = 0x80;
    /// Execute-only code.
    pub(super) const EXECUTE_ONLY: u16 = 0x88;
    /// One past the last.
    pub(super) const END: u16 = 0x90;
}

#[derive(Default)]
struct Ports {
    /// Port accesses: (write, port, size, value).
    log: Vec<(bool, u16, u8, u32)>,
    next_read: u32,
}

impl Platform for Ports {
    fn port_read(&mut self, port: u16, size: u8) -> u32 {
        self.next_read = self.next_read.wrapping_add(0x0101_0101);
        self.log.push((false, port, size, self.next_read));
        self.next_read
    }
    fn port_write(&mut self, port: u16, size: u8, value: u32) {
        self.log.push((true, port, size, value));
    }
    fn mmio_read(&mut self, gpa: u64, data: &mut [u8]) {
        data.fill(gpa as u8);
    }
    fn mmio_write(&mut self, _gpa: u64, _data: &[u8]) {}
    fn interrupt_pending(&mut self) -> bool {
        false
    }
    fn acknowledge_interrupt(&mut self) -> u8 {
        0
    }
    fn attention(&mut self) -> bool {
        false
    }
    fn tsc(&mut self) -> u64 {
        0x1_2345_6789
    }
}

/// `base`, raw 20-bit `limit`, access byte, flags nibble (G, D/B, L, AVL).
fn descriptor(base: u32, limit: u32, access: u8, flags: u8) -> u64 {
    let (base, limit) = (u64::from(base), u64::from(limit));
    (limit & 0xFFFF)
        | (base & 0xFF_FFFF) << 16
        | u64::from(access) << 40
        | (limit >> 16 & 0xF) << 48
        | u64::from(flags) << 52
        | (base >> 24) << 56
}

/// Selector, offset, access byte, parameter count.
fn gate(selector: u16, offset: u32, access: u8, parameters: u8) -> u64 {
    u64::from(offset & 0xFFFF)
        | u64::from(selector) << 16
        | u64::from(parameters) << 32
        | u64::from(access) << 40
        | u64::from(offset >> 16) << 48
}

struct Machine {
    cpu: CpuState,
    mmu: Mmu,
    ports: Ports,
    model: CpuModel,
}

impl Machine {
    /// Real mode, 2 MiB, code at 1000:0000, stack at 0800:0000 + 8000h.
    fn real() -> Machine {
        let mmu = Mmu::new(MmuConfig {
            ram_bytes: 2 << 20,
            ..MmuConfig::default()
        })
        .unwrap();
        let mut cpu = CpuState::reset(0x686);
        cpu.seg[seg::CS] = Segment::real(0x1000);
        cpu.seg[seg::SS] = Segment::real(0);
        cpu.gpr[reg::ESP] = STACK0;
        cpu.eip = 0;
        cpu.idtr.limit = 0x3FF;
        Machine {
            cpu,
            mmu,
            ports: Ports::default(),
            model: CpuModel::Pentium3,
        }
    }

    /// Flat 32-bit protected mode at CPL 0 without paging, with tables as above. Vectors 0 to 47
    /// are 32-bit interrupt gates of DPL 0 to `CODE0:HANDLER + vector`, 80h one of DPL 3.
    fn protected() -> Machine {
        let mut m = Machine::real();
        let gdt = [
            0,
            descriptor(0, 0xFFFFF, 0x9B, 0xC),
            descriptor(0, 0xFFFFF, 0x93, 0xC),
            descriptor(0, 0xFFFFF, 0xFB, 0xC),
            descriptor(0, 0xFFFFF, 0xF3, 0xC),
            descriptor(TSS, 0x200, 0x8B, 0),
            descriptor(LDT, 0xFF, 0x82, 0),
            descriptor(0, 0xFFFFF, 0x9F, 0xC),
            gate(sel::CODE0, HANDLER, 0xEC, 2),
            descriptor(0, 0xFFFF, 0x93, 0),
            descriptor(0, 0xFFFFF, 0x73, 0xC),
            descriptor(TSS_B, 0x67, 0x89, 0),
            gate(sel::TSS_B, 0, 0xE5, 0),
            descriptor(0, 0xFFFF, 0x9B, 0),
            descriptor(0x20000, 0xFFF, 0xF0, 0x4),
            descriptor(0x3800, 0x2B, 0x81, 0),
            gate(sel::CODE0, 0xABCD_1234, 0xE4, 1),
            descriptor(0, 0xFFFFF, 0xF9, 0xC),
        ];
        for (n, entry) in gdt.into_iter().enumerate() {
            m.set64(GDT + n as u32 * 8, entry);
        }
        for vector in 0..48 {
            let entry = gate(sel::CODE0, HANDLER + vector, 0x8E, 0);
            m.set64(IDT + vector * 8, entry);
        }
        m.set64(IDT + 0x80 * 8, gate(sel::CODE0, HANDLER + 0x80, 0xEE, 0));
        m.set32(TSS + 4, STACK0);
        m.set32(TSS + 8, u32::from(sel::DATA0));
        m.set16(TSS + 102, 0x68);
        m.cpu.gdtr = TableRegister {
            base: GDT,
            limit: sel::END - 1,
        };
        m.cpu.idtr = TableRegister {
            base: IDT,
            limit: 0x7FF,
        };
        m.cpu.cr0 |= cr0::PE;
        m.cpu.tr = Segment {
            selector: sel::TSS,
            base: TSS,
            limit: 0x200,
            rights: Rights::from_bits_retain(0x8B),
        };
        m.cpu.ldtr = Segment {
            selector: sel::LDT,
            base: LDT,
            limit: 0xFF,
            rights: Rights::from_bits_retain(0x82),
        };
        m.cpu.seg = [Segment::flat(sel::DATA0, false, 0); 6];
        m.cpu.seg[seg::CS] = Segment::flat(sel::CODE0, true, 0);
        m.cpu.eip = CODE;
        m
    }

    /// As `protected`, at CPL 3.
    fn user() -> Machine {
        let mut m = Machine::protected();
        m.cpu.seg = [Segment::flat(sel::DATA3, false, 3); 6];
        m.cpu.seg[seg::CS] = Segment::flat(sel::CODE3, true, 3);
        m.cpu.cpl = 3;
        m.cpu.gpr[reg::ESP] = STACK3;
        m.cpu.eflags |= eflags::IF;
        m
    }

    /// Virtual-8086 mode over the tables of `protected`, code at 1000:0100, stack at 0A00:0100.
    fn v86(iopl: u32) -> Machine {
        let mut m = Machine::protected();
        m.cpu.eflags |= eflags::VM | eflags::IF | iopl << eflags::IOPL_SHIFT;
        m.cpu.cpl = 3;
        for (index, selector) in [
            (seg::ES, 0x111),
            (seg::CS, 0x1000),
            (seg::SS, 0xA00),
            (seg::DS, 0x222),
            (seg::FS, 0x333),
            (seg::GS, 0x444),
        ] {
            m.cpu.seg[index] = Segment::virtual_8086(selector);
        }
        m.cpu.gpr[reg::ESP] = 0x100;
        m.cpu.eip = 0x100;
        m
    }

    /// Turns paging on with the first 4 MiB mapped one to one by 4 KiB pages, user and writable.
    fn page(&mut self) {
        const DIRECTORY: u32 = 0x10_0000;
        const TABLE: u32 = 0x10_1000;
        self.set32(DIRECTORY, TABLE | 7);
        for page in 0..512 {
            self.set32(TABLE + page * 4, page << 12 | 7);
        }
        self.cpu.cr3 = DIRECTORY;
        self.cpu.cr0 |= cr0::PG | cr0::WP;
        self.mmu.set_paging(PagingRegs {
            cr0: self.cpu.cr0,
            cr3: self.cpu.cr3,
            cr4: self.cpu.cr4,
            efer: 0,
        });
    }

    /// Changes the entry of one page of those that `page` mapped.
    fn set_page(&mut self, linear: u32, entry: u32) {
        self.set32(0x10_1000 + (linear >> 12) * 4, entry);
        self.mmu.invlpg(linear);
    }

    fn set(&mut self, at: u32, data: &[u8]) {
        self.mmu.write_phys(u64::from(at), data).unwrap();
    }
    fn set16(&mut self, at: u32, value: u16) {
        self.set(at, &value.to_le_bytes());
    }
    fn set32(&mut self, at: u32, value: u32) {
        self.set(at, &value.to_le_bytes());
    }
    fn set64(&mut self, at: u32, value: u64) {
        self.set(at, &value.to_le_bytes());
    }
    fn get<const N: usize>(&self, at: u32) -> [u8; N] {
        let mut bytes = [0; N];
        self.mmu.read_phys(u64::from(at), &mut bytes).unwrap();
        bytes
    }
    fn get16(&self, at: u32) -> u16 {
        u16::from_le_bytes(self.get(at))
    }
    fn get32(&self, at: u32) -> u32 {
        u32::from_le_bytes(self.get(at))
    }

    /// `N` stack values of 4 bytes, from the top.
    fn stack32<const N: usize>(&self) -> [u32; N] {
        let top = self.cpu.seg[seg::SS]
            .base
            .wrapping_add(self.cpu.gpr[reg::ESP]);
        std::array::from_fn(|n| self.get32(top + n as u32 * 4))
    }

    /// `N` stack values of 2 bytes, from the top.
    fn stack16<const N: usize>(&self) -> [u16; N] {
        let top = self.cpu.seg[seg::SS]
            .base
            .wrapping_add(self.cpu.gpr[reg::ESP]);
        std::array::from_fn(|n| self.get16(top + n as u32 * 2))
    }

    /// Puts values of 4 bytes on the stack, the first one on top.
    fn put_stack32(&mut self, values: &[u32]) {
        for (n, &value) in values.iter().enumerate() {
            let top = self.cpu.seg[seg::SS].base + self.cpu.gpr[reg::ESP];
            self.set32(top + n as u32 * 4, value);
        }
    }

    fn system(&mut self) -> System<'_> {
        System {
            cpu: &mut self.cpu,
            mmu: &mut self.mmu,
            platform: &mut self.ports,
            model: &self.model,
        }
    }

    /// Executes one instruction, wherever it takes place in task switches.
    fn run_any(&mut self, code: &[u8]) -> Result<Flow, Exception> {
        let bits = if self.cpu.seg[seg::CS].is_big() {
            32
        } else {
            16
        };
        let ip = u64::from(self.cpu.eip);
        let insn = Decoder::with_ip(bits, code, ip, DecoderOptions::NONE).decode();
        assert_eq!(insn.len(), code.len(), "bytes after {insn:?}");
        assert!(System::handles(&insn), "{insn:?}");
        self.system().execute(&insn)
    }

    /// Executes one instruction and checks that an exception leaves the registers alone.
    fn run(&mut self, code: &[u8]) -> Result<Flow, Exception> {
        let before = self.cpu.clone();
        let result = self.run_any(code);
        match result {
            Err(_) => assert!(self.cpu == before, "state changed by a fault"),
            Ok(Flow::Next) => assert_eq!(self.cpu.eip, before.eip + code.len() as u32),
            Ok(_) => {}
        }
        result
    }

    fn deliver(&mut self, event: Exception) -> Result<(), Shutdown> {
        self.system().deliver(event)
    }
}

/// A fault with an error code.
fn fault<T>(vector: u8, code: u32) -> Result<T, Exception> {
    Err(Exception::fault_with_code(vector, code))
}

/// #GP(0).
fn gp0<T>() -> Result<T, Exception> {
    fault(13, 0)
}

/// #UD.
fn ud<T>() -> Result<T, Exception> {
    Err(Exception::invalid_opcode())
}
