//! Privileged and sensitive instructions, segment loads, control transfers through gates, exceptions.
//!
//! What translated code cannot do inline comes here: at an instruction boundary, with the complete
//! architectural state in [`CpuState`] and the decoded instruction. Checks happen in the order of
//! the Intel SDM, and nothing is committed before the last one that can fail; the exceptions are
//! task switches, which commit half-way on a real processor as well.
//!
//! The module knows nothing of translated code. It needs the state, memory behind the shadow MMU,
//! and the platform for ports, device memory and time.

mod control;
pub mod cpuid;
pub mod debug;
pub mod decimal;
mod deliver;
mod descriptor;
mod direct;
mod event;
mod far;
mod far_return;
mod fast_call;
mod flags;
mod frames;
mod memory;
mod msr;
mod operand;
mod port;
mod segment;
mod stack;
mod task;
#[cfg(test)]
mod tests;

use crate::Platform;
use crate::state::{CpuState, InterruptShadow, eflags};
use iced_x86::{Instruction, Mnemonic, OpKind};
use shadow_mmu::Mmu;

pub use cpuid::{CpuModel, UnknownModel};
pub use event::{EventKind, Exception, Shutdown, vector};

/// How an instruction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// Go on at the next instruction in sequence: EIP is there.
    Next,
    /// A far transfer: EIP, and maybe CS, CPL and EFLAGS, have changed.
    Jumped,
    /// INT n, INT3, INTO or INT1 entered its handler. No single-step trap is due.
    Interrupted,
    /// A task switch: everything has changed. No single-step trap is due.
    Switched,
    /// The instruction is done, and this trap (the T bit of a TSS) has to be delivered before
    /// anything else.
    Trap(Exception),
    /// HLT: EIP is after it.
    Halt,
    /// A repeated string instruction has more to do: registers show its progress, EIP is that of
    /// the instruction. Interrupts, and a single-step trap, may come in between.
    StepBack,
}

/// The processor's privileged side, for the length of one instruction or event.
pub struct System<'a> {
    /// The architectural state.
    pub cpu: &'a mut CpuState,
    /// Guest memory.
    pub mmu: &'a mut Mmu,
    /// Ports, device memory, time.
    pub platform: &'a mut dyn Platform,
    /// What processor this is.
    pub model: &'a CpuModel,
}

type Handler<'a> = fn(&mut System<'a>, &Instruction) -> Result<Flow, Exception>;

impl<'a> System<'a> {
    /// The code that carries out an instruction, if it is one for this module.
    fn handler(insn: &Instruction) -> Option<Handler<'a>> {
        let far = !matches!(
            insn.op0_kind(),
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64
        ) && (insn.is_jmp_far()
            || insn.is_jmp_far_indirect()
            || insn.is_call_far()
            || insn.is_call_far_indirect());
        Some(match insn.mnemonic() {
            Mnemonic::Mov => return Self::mov_handler(insn),
            Mnemonic::Push if insn.op0_register().is_segment_register() => Self::push_segment,
            Mnemonic::Pop if insn.op0_register().is_segment_register() => Self::pop_segment,
            Mnemonic::Int | Mnemonic::Int3 | Mnemonic::Into | Mnemonic::Int1 => {
                Self::software_interrupt
            }
            Mnemonic::Iret | Mnemonic::Iretd => Self::interrupt_return,
            Mnemonic::Sysenter => Self::sysenter,
            Mnemonic::Sysexit => Self::sysexit,
            Mnemonic::Cli => Self::cli,
            Mnemonic::Sti => Self::sti,
            Mnemonic::Pushf | Mnemonic::Pushfd => Self::pushf,
            Mnemonic::Popf | Mnemonic::Popfd => Self::popf,
            Mnemonic::Hlt => Self::hlt,
            Mnemonic::In => Self::port_in,
            Mnemonic::Out => Self::port_out,
            Mnemonic::Insb
            | Mnemonic::Insw
            | Mnemonic::Insd
            | Mnemonic::Outsb
            | Mnemonic::Outsw
            | Mnemonic::Outsd => Self::port_string,
            Mnemonic::Jmp if far => Self::far_jump,
            Mnemonic::Call if far => Self::far_call,
            Mnemonic::Retf => Self::far_return,
            Mnemonic::Lds | Mnemonic::Les | Mnemonic::Lss | Mnemonic::Lfs | Mnemonic::Lgs => {
                Self::load_far_pointer
            }
            Mnemonic::Invlpg => Self::invlpg,
            Mnemonic::Clts => Self::clts,
            Mnemonic::Lmsw => Self::lmsw,
            Mnemonic::Smsw => Self::smsw,
            Mnemonic::Invd | Mnemonic::Wbinvd => Self::invalidate_caches,
            Mnemonic::Lgdt => Self::lgdt,
            Mnemonic::Lidt => Self::lidt,
            Mnemonic::Sgdt => Self::sgdt,
            Mnemonic::Sidt => Self::sidt,
            Mnemonic::Lldt => Self::lldt,
            Mnemonic::Sldt => Self::sldt,
            Mnemonic::Ltr => Self::ltr,
            Mnemonic::Str => Self::str,
            Mnemonic::Lar => Self::lar,
            Mnemonic::Lsl => Self::lsl,
            Mnemonic::Verr => Self::verr,
            Mnemonic::Verw => Self::verw,
            Mnemonic::Arpl => Self::arpl,
            Mnemonic::Rdmsr => Self::rdmsr,
            Mnemonic::Wrmsr => Self::wrmsr,
            Mnemonic::Rdtsc => Self::rdtsc,
            Mnemonic::Rdpmc => Self::rdpmc,
            Mnemonic::Cpuid => Self::cpuid,
            Mnemonic::Enter => Self::enter,
            Mnemonic::Bound => Self::bound,
            Mnemonic::Daa
            | Mnemonic::Das
            | Mnemonic::Aaa
            | Mnemonic::Aas
            | Mnemonic::Aam
            | Mnemonic::Aad => Self::decimal_adjust,
            Mnemonic::INVALID | Mnemonic::Ud0 | Mnemonic::Ud1 | Mnemonic::Ud2 | Mnemonic::Rsm => {
                Self::invalid
            }
            _ => return None,
        })
    }

    fn mov_handler(insn: &Instruction) -> Option<Handler<'a>> {
        let (first, second) = (insn.op0_register(), insn.op1_register());
        if first.is_segment_register() || second.is_segment_register() {
            Some(Self::mov_segment)
        } else if first.is_cr() || second.is_cr() {
            Some(Self::mov_control)
        } else if first.is_dr() || second.is_dr() {
            Some(Self::mov_debug)
        } else if first.is_tr() || second.is_tr() {
            // Test registers went with the Pentium.
            Some(Self::invalid)
        } else {
            None
        }
    }

    /// True for an instruction that [`System::execute`] carries out (#UD included).
    pub fn handles(insn: &Instruction) -> bool {
        Self::handler(insn).is_some()
    }

    /// Executes one instruction at CS:EIP. On success EIP is that of what runs next, RF is clear
    /// unless the instruction loaded it or stopped between two iterations, and the interrupt shadow is what the instruction leaves.
    ///
    /// Debug traps are the caller's: data and I/O breakpoints are noted in
    /// [`CpuState::pending_debug`], a single step is not.
    ///
    /// # Errors
    /// The exception to [`deliver`](System::deliver); the state is as before the instruction, but
    /// for the completed iterations of a repeated one, accessed bits, and task switches that failed
    /// after their point of no return. An instruction that is not for this module is #UD, see
    /// [`System::handles`].
    pub fn execute(&mut self, insn: &Instruction) -> Result<Flow, Exception> {
        let Some(handler) = Self::handler(insn) else {
            return Err(Exception::invalid_opcode());
        };
        let shadow = std::mem::take(&mut self.cpu.interrupt_shadow);
        let resume = self.cpu.eflags & eflags::RF;
        self.cpu.eflags &= !eflags::RF;
        let result = handler(self, insn);
        match result {
            Ok(Flow::Next | Flow::Halt) => self.cpu.eip = self.next_eip(insn),
            // An event between two iterations finds RF set (Intel SDM vol. 3B, section 17.3.1.1).
            Ok(Flow::StepBack) => self.cpu.eflags |= eflags::RF,
            Ok(_) => {}
            Err(_) => {
                self.cpu.interrupt_shadow = shadow;
                self.cpu.eflags |= resume;
            }
        }
        result
    }

    /// Offset of the instruction after `insn`, which is the one at EIP.
    fn next_eip(&self, insn: &Instruction) -> u32 {
        self.cpu.eip.wrapping_add(insn.len() as u32)
    }

    /// What is no instruction here.
    fn invalid(&mut self, _: &Instruction) -> Result<Flow, Exception> {
        Err(Exception::invalid_opcode())
    }

    /// The interrupt shadow that holds off debug exceptions as well is in force.
    pub fn debug_held_off(&self) -> bool {
        self.cpu.interrupt_shadow == InterruptShadow::MovSs
    }
}
