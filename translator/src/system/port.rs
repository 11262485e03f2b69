//! IN, OUT, INS, OUTS and the I/O permission bitmap.

use super::debug::{breakpoints_enabled, port_breakpoints};
use super::event::Exception;
use super::{Flow, System};
use crate::state::{Rights, eflags, reg, seg};
use iced_x86::{Instruction, Mnemonic, OpKind, Register};

/// Offset in a 32-bit TSS of the offset of the I/O permission bitmap.
const IO_MAP_BASE: u32 = 102;

/// Most elements of a repeated string instruction in one call, so that an interrupt is not held off
/// for long.
const BATCH: u32 = 256;

impl System<'_> {
    /// Whether the program may use `size` ports from `port` on: CPL <= IOPL, or the bitmap of the
    /// TSS allows it (Intel SDM vol. 1, section 19.5).
    ///
    /// # Errors
    /// #PF while reading the TSS.
    pub fn io_allowed(&mut self, port: u16, size: u8) -> Result<bool, Exception> {
        let cpu = &self.cpu;
        if !cpu.protected_mode() || (!cpu.virtual_8086() && cpu.cpl <= cpu.iopl()) {
            return Ok(true);
        }
        let task = cpu.tr;
        // Type bit 3 tells a 32-bit TSS; a 16-bit one has no bitmap.
        let is_32_bit = task.rights.contains(Rights::PRESENT | Rights::CODE);
        if !is_32_bit || task.rights.contains(Rights::UNUSABLE) || task.limit < IO_MAP_BASE + 1 {
            return Ok(false);
        }
        let map = self.read_system(task.base.wrapping_add(IO_MAP_BASE))?;
        let byte = u32::from(u16::from_le_bytes(map)) + u32::from(port >> 3);
        // Two bytes are read always, which is why the map ends in a byte of ones.
        if byte + 1 > task.limit {
            return Ok(false);
        }
        let bits = u16::from_le_bytes(self.read_system(task.base.wrapping_add(byte))?);
        let wanted = ((1u16 << size) - 1) << (port & 7);
        Ok(bits & wanted == 0)
    }

    fn require_io(&mut self, port: u16, size: u8) -> Result<(), Exception> {
        if self.io_allowed(port, size)? {
            Ok(())
        } else {
            Err(Exception::general_protection())
        }
    }

    fn port_operand(&self, insn: &Instruction, operand: u32) -> u16 {
        if insn.op_kind(operand) == OpKind::Immediate8 {
            u16::from(insn.immediate8())
        } else {
            self.cpu.gpr[reg::EDX] as u16
        }
    }

    /// IN.
    pub(super) fn port_in(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        let port = self.port_operand(insn, 1);
        let (size, mask) = accumulator(insn.op0_register());
        self.require_io(port, size)?;
        let value = self.platform.port_read(port, size);
        self.watch_port(port, size);
        let eax = &mut self.cpu.gpr[reg::EAX];
        *eax = (*eax & !mask) | (value & mask);
        Ok(Flow::Next)
    }

    /// OUT.
    pub(super) fn port_out(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        let port = self.port_operand(insn, 0);
        let (size, mask) = accumulator(insn.op1_register());
        self.require_io(port, size)?;
        let value = self.cpu.gpr[reg::EAX] & mask;
        self.platform.port_write(port, size, value);
        self.watch_port(port, size);
        Ok(Flow::Next)
    }

    /// Notes the I/O breakpoints that an access meets.
    #[inline]
    fn watch_port(&mut self, port: u16, size: u8) {
        if breakpoints_enabled(self.cpu) {
            self.cpu.pending_debug |= port_breakpoints(self.cpu, port, u32::from(size));
        }
    }

    /// INS and OUTS, repeated or not. A fault after the first element leaves the completed ones
    /// done and comes with the next call, as the processor would report it.
    pub(super) fn port_string(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        let (size, input) = match insn.mnemonic() {
            Mnemonic::Insb => (1u8, true),
            Mnemonic::Insw => (2, true),
            Mnemonic::Insd => (4, true),
            Mnemonic::Outsb => (1, false),
            Mnemonic::Outsw => (2, false),
            _ => (4, false),
        };
        let memory_operand = if input { 0 } else { 1 };
        let wide = matches!(
            insn.op_kind(memory_operand),
            OpKind::MemoryESEDI | OpKind::MemorySegESI
        );
        let mask = if wide { u32::MAX } else { 0xFFFF };
        let repeated = insn.has_rep_prefix() || insn.has_repne_prefix();
        let count = if repeated {
            self.cpu.gpr[reg::ECX] & mask
        } else {
            1
        };
        if count == 0 {
            return Ok(Flow::Next);
        }
        let port = self.cpu.gpr[reg::EDX] as u16;
        self.require_io(port, size)?;
        // A single step stops after each element, and so does a breakpoint that is met.
        let single_step = self.cpu.eflags & eflags::TF != 0;
        let batch = if single_step { 1 } else { count.min(BATCH) };
        let mut left = count;
        for done in 0..batch {
            match self.port_element(insn, memory_operand, port, size, input) {
                Ok(()) => {}
                Err(fault) if done == 0 => return Err(fault),
                Err(_) => return Ok(Flow::StepBack),
            }
            let pointer = if input { reg::EDI } else { reg::ESI };
            let step = if self.cpu.eflags & eflags::DF != 0 {
                u32::from(size).wrapping_neg()
            } else {
                u32::from(size)
            };
            self.advance(pointer, step, mask);
            if repeated {
                self.advance(reg::ECX, u32::MAX, mask);
            }
            left -= 1;
            if self.cpu.pending_debug != 0 {
                break;
            }
        }
        if left != 0 {
            Ok(Flow::StepBack)
        } else {
            Ok(Flow::Next)
        }
    }

    fn advance(&mut self, register: usize, by: u32, mask: u32) {
        let value = &mut self.cpu.gpr[register];
        *value = (*value & !mask) | (value.wrapping_add(by) & mask);
    }

    fn port_element(
        &mut self,
        insn: &Instruction,
        memory_operand: u32,
        port: u16,
        size: u8,
        input: bool,
    ) -> Result<(), Exception> {
        let (index, offset) = self.effective_address(insn, memory_operand);
        let index = if input { seg::ES } else { index };
        let linear = self.segment_access(index, offset, u32::from(size), input)?;
        let len = usize::from(size);
        self.check_alignment(linear, len, u32::from(size), input)?;
        if input {
            self.write_from_device(linear, len, |platform| platform.port_read(port, size))?;
            self.watch_port(port, size);
            return Ok(());
        }
        let mut bytes = [0; 4];
        let privilege = self.privilege();
        self.read_linear(linear, bytes.get_mut(..len).unwrap_or_default(), privilege)?;
        self.platform
            .port_write(port, size, u32::from_le_bytes(bytes));
        self.watch_port(port, size);
        Ok(())
    }
}

/// Size and mask of AL, AX or EAX.
fn accumulator(register: Register) -> (u8, u32) {
    match register {
        Register::AL => (1, 0xFF),
        Register::AX => (2, 0xFFFF),
        _ => (4, u32::MAX),
    }
}
