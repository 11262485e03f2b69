//! String instructions in Rust: repetitions through segments that are not flat or with 16-bit pointers,
//! and what meets memory that cannot be mapped. One call carries out a bounded number of iterations:
//! whole spans of plain memory (`string_span.rs`) and of device memory (`string_device.rs`) at once, all else one by one.

use super::engine::Engine;
use super::string_span::Span;
use crate::Platform;
use crate::state::{CpuState, eflags, reg, seg};
use crate::system::{Exception, Flow, debug};
use iced_x86::{Instruction, Mnemonic, OpKind};
use shadow_mmu::Mmu;

/// Iterations before the guest may be interrupted.
const ITERATIONS: u32 = 16 << 10;

/// What one iteration does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Move,
    Compare,
    Store,
    Load,
    Scan,
}

/// A string instruction.
#[derive(Debug, Clone, Copy)]
pub(super) struct StringOp {
    pub(super) operation: Operation,
    /// Bytes of an element.
    pub(super) size: usize,
    /// 16-bit pointers and counter.
    pub(super) short: bool,
    /// REP, REPE or REPNE.
    pub(super) repeated: bool,
    /// Compare and Scan go on while the elements differ.
    pub(super) while_unequal: bool,
    /// Segment register of the source.
    pub(super) source_segment: usize,
}

impl StringOp {
    fn decode(insn: &Instruction) -> Option<StringOp> {
        use Operation as O;
        let (operation, size) = match insn.mnemonic() {
            Mnemonic::Movsb => (O::Move, 1),
            Mnemonic::Movsw => (O::Move, 2),
            Mnemonic::Movsd => (O::Move, 4),
            Mnemonic::Cmpsb => (O::Compare, 1),
            Mnemonic::Cmpsw => (O::Compare, 2),
            Mnemonic::Cmpsd => (O::Compare, 4),
            Mnemonic::Stosb => (O::Store, 1),
            Mnemonic::Stosw => (O::Store, 2),
            Mnemonic::Stosd => (O::Store, 4),
            Mnemonic::Lodsb => (O::Load, 1),
            Mnemonic::Lodsw => (O::Load, 2),
            Mnemonic::Lodsd => (O::Load, 4),
            Mnemonic::Scasb => (O::Scan, 1),
            Mnemonic::Scasw => (O::Scan, 2),
            Mnemonic::Scasd => (O::Scan, 4),
            _ => return None,
        };
        let short = (0..insn.op_count()).any(|i| {
            matches!(
                insn.op_kind(i),
                OpKind::MemorySegSI | OpKind::MemoryESDI | OpKind::MemorySegDI
            )
        });
        Some(StringOp {
            operation,
            size,
            short,
            repeated: insn.has_rep_prefix() || insn.has_repne_prefix(),
            while_unequal: insn.has_repne_prefix(),
            source_segment: insn.memory_segment().number(),
        })
    }

    pub(super) fn reads_source(&self) -> bool {
        use Operation as O;
        matches!(self.operation, O::Move | O::Compare | O::Load)
    }

    pub(super) fn uses_destination(&self) -> bool {
        self.operation != Operation::Load
    }

    /// The destination is written.
    pub(super) fn writes(&self) -> bool {
        matches!(self.operation, Operation::Move | Operation::Store)
    }

    /// The bits of pointers and counter that count.
    pub(super) fn mask(&self) -> u32 {
        if self.short { 0xFFFF } else { u32::MAX }
    }

    /// Loads AL, AX or EAX.
    pub(super) fn load(&self, cpu: &mut CpuState, value: u32) {
        let keep = match self.size {
            1 => !0xFF,
            2 => !0xFFFF,
            _ => 0,
        };
        cpu.gpr[reg::EAX] = (cpu.gpr[reg::EAX] & keep) | (value & !keep);
    }

    /// Moves the pointers by `by` and the counter by `iterations`.
    pub(super) fn advance(&self, cpu: &mut CpuState, by: u32, iterations: u32) {
        let mut add = |index: usize, value: u32| {
            let old = cpu.gpr[index];
            set_pointer(cpu, index, old.wrapping_add(value), self.short);
        };
        if self.reads_source() {
            add(reg::ESI, by);
        }
        if self.uses_destination() {
            add(reg::EDI, by);
        }
        if self.repeated {
            add(reg::ECX, iterations.wrapping_neg());
        }
    }

    /// Sets the flags of a comparison; true if it ends the repetition.
    pub(super) fn compared(&self, cpu: &mut CpuState, left: u32, right: u32) -> bool {
        cpu.eflags = compare_flags(cpu.eflags, left, right, self.size);
        (cpu.eflags & eflags::ZF != 0) == self.while_unequal
    }
}

/// Flags of `left - right` on `size` bytes (SDM vol. 1, appendix A, CMP).
fn compare_flags(flags: u32, left: u32, right: u32, size: usize) -> u32 {
    let bits = 8 * size as u32;
    let mask = if bits == 32 {
        u32::MAX
    } else {
        (1 << bits) - 1
    };
    let sign = 1 << (bits - 1);
    let (left, right) = (left & mask, right & mask);
    let result = left.wrapping_sub(right) & mask;
    let mut new = flags & !eflags::STATUS;
    new |= if left < right { eflags::CF } else { 0 };
    new |= if (result as u8).count_ones().is_multiple_of(2) {
        eflags::PF
    } else {
        0
    };
    new |= if (left ^ right ^ result) & 0x10 != 0 {
        eflags::AF
    } else {
        0
    };
    new |= if result == 0 { eflags::ZF } else { 0 };
    new |= if result & sign != 0 { eflags::SF } else { 0 };
    new |= if (left ^ right) & (left ^ result) & sign != 0 {
        eflags::OF
    } else {
        0
    };
    new
}

/// Replaces the low part of a register: 16 bits for a short address, all of it otherwise.
fn set_pointer(cpu: &mut CpuState, index: usize, value: u32, short: bool) {
    let old = cpu.gpr[index];
    cpu.gpr[index] = if short {
        (old & 0xFFFF_0000) | (value & 0xFFFF)
    } else {
        value
    };
}

impl Engine {
    pub(super) fn string_instruction(
        &mut self,
        insn: &Instruction,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
    ) -> Result<Flow, Exception> {
        let Some(op) = StringOp::decode(insn) else {
            return Err(Exception::invalid_opcode());
        };
        // A single step stops after each iteration, and so does a breakpoint that is met.
        let stepped = self.state().eflags & eflags::TF != 0;
        let cpu = self.state();
        let spans = !stepped && !debug::breakpoints_enabled(cpu) && !cpu.checks_alignment();
        let mut left = if stepped { 1 } else { ITERATIONS };
        self.string_direct = true;
        loop {
            let cpu = &mut self.cache.context_mut().cpu;
            let done = op.repeated && cpu.gpr[reg::ECX] & op.mask() == 0;
            let stop = !done && {
                if left == 0 || cpu.pending_debug != 0 {
                    break;
                }
                let mut span = Span::None;
                if spans && op.repeated {
                    span = self.string_span(&op, left, mmu);
                    if span == Span::None {
                        span = self.device_span(&op, left, mmu, platform);
                    }
                }
                match span {
                    Span::Done { iterations, stop } => {
                        left -= iterations;
                        stop
                    }
                    Span::None => {
                        left -= 1;
                        self.string_iteration(&op, mmu, platform)? || !op.repeated
                    }
                }
            };
            let cpu = &mut self.cache.context_mut().cpu;
            if done || stop {
                cpu.eip = insn.next_ip32();
                cpu.eflags &= !eflags::RF;
                return Ok(Flow::Next);
            }
        }
        let cpu = &mut self.cache.context_mut().cpu;
        cpu.eip = insn.ip32();
        // An event between two iterations finds RF set (Intel SDM vol. 3B, section 17.3.1.1).
        cpu.eflags |= eflags::RF;
        Ok(Flow::StepBack)
    }

    /// One iteration, whatever memory it meets; true if its comparison ends the repetition.
    fn string_iteration(
        &mut self,
        op: &StringOp,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
    ) -> Result<bool, Exception> {
        let size = op.size;
        self.string_direct = false;
        let mut system = self.system(mmu, platform);
        let privilege = system.privilege();
        let source = system.cpu.gpr[reg::ESI] & op.mask();
        let destination = system.cpu.gpr[reg::EDI] & op.mask();
        let mut left = system.cpu.gpr[reg::EAX].to_le_bytes();
        if op.reads_source() {
            left = [0; 4];
            let part = left.get_mut(..size).unwrap_or_default();
            let linear = system.segment_access(op.source_segment, source, size as u32, false)?;
            system.check_alignment(linear, size, size as u32, false)?;
            system.read_linear(linear, part, privilege)?;
        }
        let mut stop = false;
        match op.operation {
            Operation::Move | Operation::Store => {
                let linear = system.segment_access(seg::ES, destination, size as u32, true)?;
                system.check_alignment(linear, size, size as u32, true)?;
                let part = left.get(..size).unwrap_or_default();
                system.write_linear(linear, part, privilege)?;
            }
            Operation::Load => op.load(system.cpu, u32::from_le_bytes(left)),
            Operation::Compare | Operation::Scan => {
                let mut right = [0u8; 4];
                let part = right.get_mut(..size).unwrap_or_default();
                let linear = system.segment_access(seg::ES, destination, size as u32, false)?;
                system.check_alignment(linear, size, size as u32, false)?;
                system.read_linear(linear, part, privilege)?;
                let (left, right) = (u32::from_le_bytes(left), u32::from_le_bytes(right));
                stop = op.compared(system.cpu, left, right);
            }
        }
        let step = if system.cpu.eflags & eflags::DF != 0 {
            (size as u32).wrapping_neg()
        } else {
            size as u32
        };
        op.advance(system.cpu, step, 1);
        Ok(stop)
    }
}
