//! Operands of a decoded instruction: effective addresses, registers, memory.

use super::{Exception, System};
use crate::state::{reg, seg};
use iced_x86::{Instruction, OpKind, Register};

/// Index in `CpuState::seg` of a segment register, `None` for any other register.
pub(super) fn segment_index(register: Register) -> Option<usize> {
    register.is_segment_register().then(|| register.number())
}

/// True when the memory operand of the instruction is formed with 16-bit addressing.
fn is_16_bit_address(insn: &Instruction) -> bool {
    match (insn.memory_base(), insn.memory_index()) {
        (Register::None, Register::None) => insn.memory_displ_size() == 2,
        (Register::None, register) | (register, _) => register.size() == 2,
    }
}

impl System<'_> {
    /// A 16- or 32-bit general register, zero-extended.
    pub(super) fn register(&self, register: Register) -> u32 {
        let full = if register.is_gpr16() || register.is_gpr32() {
            self.cpu.gpr.get(register.number()).copied().unwrap_or(0)
        } else {
            0
        };
        if register.size() == 2 {
            full & 0xFFFF
        } else {
            full
        }
    }

    /// Sets a 16- or 32-bit general register; a 16-bit one leaves the upper half alone.
    pub(super) fn set_register(&mut self, register: Register, value: u32) {
        if let Some(full) = self.cpu.gpr.get_mut(register.number()) {
            *full = match register.size() {
                2 => (*full & !0xFFFF) | (value & 0xFFFF),
                _ => value,
            };
        }
    }

    /// Segment index and offset of a memory operand, with 16- or 32-bit address arithmetic.
    /// Operands with an implied register (string instructions) included.
    pub fn effective_address(&self, insn: &Instruction, operand: u32) -> (usize, u32) {
        let source = segment_index(insn.memory_segment()).unwrap_or(seg::DS);
        match insn.op_kind(operand) {
            OpKind::MemorySegSI => (source, self.cpu.gpr[reg::ESI] & 0xFFFF),
            OpKind::MemorySegESI => (source, self.cpu.gpr[reg::ESI]),
            OpKind::MemorySegDI => (source, self.cpu.gpr[reg::EDI] & 0xFFFF),
            OpKind::MemorySegEDI => (source, self.cpu.gpr[reg::EDI]),
            OpKind::MemoryESDI => (seg::ES, self.cpu.gpr[reg::EDI] & 0xFFFF),
            OpKind::MemoryESEDI => (seg::ES, self.cpu.gpr[reg::EDI]),
            _ => {
                let index = self
                    .register(insn.memory_index())
                    .wrapping_mul(insn.memory_index_scale());
                let offset = self
                    .register(insn.memory_base())
                    .wrapping_add(index)
                    .wrapping_add(insn.memory_displacement32());
                if is_16_bit_address(insn) {
                    (source, offset & 0xFFFF)
                } else {
                    (source, offset)
                }
            }
        }
    }

    /// Reads a 16-bit operand from a register or memory.
    pub(super) fn read_operand16(
        &mut self,
        insn: &Instruction,
        operand: u32,
    ) -> Result<u16, Exception> {
        if insn.op_kind(operand) == OpKind::Register {
            return Ok(self.register(insn.op_register(operand)) as u16);
        }
        let (index, offset) = self.effective_address(insn, operand);
        self.read_segment(index, offset).map(u16::from_le_bytes)
    }

    /// Stores a 16-bit value: in memory two bytes, in a 32-bit register zero-extended.
    pub(super) fn write_operand16(
        &mut self,
        insn: &Instruction,
        operand: u32,
        value: u16,
    ) -> Result<(), Exception> {
        if insn.op_kind(operand) == OpKind::Register {
            self.set_register(insn.op_register(operand), u32::from(value));
            return Ok(());
        }
        let (index, offset) = self.effective_address(insn, operand);
        self.write_segment(index, offset, &value.to_le_bytes())
    }
}
