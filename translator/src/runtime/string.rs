//! String instructions in Rust: through segments that are not flat, and on memory that cannot be
//! mapped. One call carries out a bounded number of iterations.

use super::engine::Engine;
use crate::Platform;
use crate::state::{CpuState, eflags, reg, seg};
use crate::system::{Exception, Flow};
use iced_x86::{Instruction, Mnemonic, OpKind};
use shadow_mmu::Mmu;

/// Iterations before the guest may be interrupted.
const ITERATIONS: u32 = 1024;

/// What one iteration does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Move,
    Compare,
    Store,
    Load,
    Scan,
}

fn decode(insn: &Instruction) -> Option<(Operation, usize)> {
    use Operation as O;
    Some(match insn.mnemonic() {
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
    })
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
        let Some((operation, size)) = decode(insn) else {
            return Err(Exception::invalid_opcode());
        };
        let short = (0..insn.op_count()).any(|i| {
            matches!(
                insn.op_kind(i),
                OpKind::MemorySegSI | OpKind::MemoryESDI | OpKind::MemorySegDI
            )
        });
        let mask = if short { 0xFFFF } else { u32::MAX };
        let repeated = insn.has_rep_prefix() || insn.has_repne_prefix();
        let source_segment = insn.memory_segment().number();
        let mut system = self.system(mmu, platform);
        let privilege = system.privilege();
        let step = if system.cpu.eflags & eflags::DF != 0 {
            (size as u32).wrapping_neg()
        } else {
            size as u32
        };
        let finish = |cpu: &mut CpuState| {
            cpu.eip = insn.next_ip32();
            cpu.eflags &= !eflags::RF;
            Ok(Flow::Next)
        };
        // A single step stops after each iteration, and so does a breakpoint that is met.
        let iterations = if system.cpu.eflags & eflags::TF != 0 {
            1
        } else {
            ITERATIONS
        };
        let accumulator = |cpu: &CpuState| cpu.gpr[reg::EAX];
        for _ in 0..iterations {
            if repeated && system.cpu.gpr[reg::ECX] & mask == 0 {
                return finish(system.cpu);
            }
            let source = system.cpu.gpr[reg::ESI] & mask;
            let destination = system.cpu.gpr[reg::EDI] & mask;
            let reads_source = matches!(
                operation,
                Operation::Move | Operation::Compare | Operation::Load
            );
            let uses_destination = operation != Operation::Load;
            let mut left = [0u8; 4];
            if reads_source {
                let linear = system.segment_access(source_segment, source, size as u32, false)?;
                system.check_alignment(linear, size, size as u32, false)?;
                system.read_linear(linear, &mut left[..size], privilege)?;
            } else {
                left = accumulator(system.cpu).to_le_bytes();
            }
            let mut stop = false;
            match operation {
                Operation::Move | Operation::Store => {
                    let linear = system.segment_access(seg::ES, destination, size as u32, true)?;
                    system.check_alignment(linear, size, size as u32, true)?;
                    system.write_linear(linear, &left[..size], privilege)?;
                }
                Operation::Load => {
                    let keep = if size == 4 { 0 } else { u32::MAX << (8 * size) };
                    let value = u32::from_le_bytes(left);
                    system.cpu.gpr[reg::EAX] = (accumulator(system.cpu) & keep) | (value & !keep);
                }
                Operation::Compare | Operation::Scan => {
                    let mut right = [0u8; 4];
                    let linear = system.segment_access(seg::ES, destination, size as u32, false)?;
                    system.check_alignment(linear, size, size as u32, false)?;
                    system.read_linear(linear, &mut right[..size], privilege)?;
                    let flags = compare_flags(
                        system.cpu.eflags,
                        u32::from_le_bytes(left),
                        u32::from_le_bytes(right),
                        size,
                    );
                    system.cpu.eflags = flags;
                    let equal = flags & eflags::ZF != 0;
                    stop = equal == insn.has_repne_prefix();
                }
            }
            if reads_source {
                set_pointer(system.cpu, reg::ESI, source.wrapping_add(step), short);
            }
            if uses_destination {
                set_pointer(system.cpu, reg::EDI, destination.wrapping_add(step), short);
            }
            if !repeated {
                return finish(system.cpu);
            }
            let count = (system.cpu.gpr[reg::ECX] & mask).wrapping_sub(1);
            set_pointer(system.cpu, reg::ECX, count, short);
            if count & mask == 0 || stop {
                return finish(system.cpu);
            }
            if system.cpu.pending_debug != 0 {
                break;
            }
        }
        system.cpu.eip = insn.ip32();
        // An event between two iterations finds RF set (Intel SDM vol. 3B, section 17.3.1.1).
        system.cpu.eflags |= eflags::RF;
        Ok(Flow::StepBack)
    }
}
