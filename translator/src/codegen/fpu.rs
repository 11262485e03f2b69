//! The check in front of x87, MMX and SSE instructions.
//!
//! The first instruction of a unit that needs guest FPU state in the host's registers reads through a
//! pointer of the context. Where the state is missing, and with CR0.TS or CR0.EM set, the read faults
//! (`runtime/fpu_state.rs`). No flags change, and nothing branches: a call and its return were a third of
//! what a short `memset` lost.

use super::asm::{Mem, host};
use super::builder::{After, Builder, Emitted};
use super::memory::Use;
use super::{CalloutKind, layout};
use iced_x86::{CpuidFeature, Instruction, Mnemonic};

/// True when `insn` reads or writes x87, MMX or SSE state.
pub(super) fn uses_fpu(insn: &Instruction) -> bool {
    let by_feature = insn.cpuid_features().iter().any(|feature| {
        matches!(
            feature,
            CpuidFeature::FPU
                | CpuidFeature::FPU287
                | CpuidFeature::FPU387
                | CpuidFeature::MMX
                | CpuidFeature::FXSR
                | CpuidFeature::SSE
                | CpuidFeature::SSE2
                | CpuidFeature::SSE3
        )
    });
    // WAIT reports what x87 instructions left pending.
    let waits = insn.mnemonic() == Mnemonic::Wait;
    (by_feature || waits)
        && !matches!(
            insn.mnemonic(),
            Mnemonic::Prefetchnta
                | Mnemonic::Prefetcht0
                | Mnemonic::Prefetcht1
                | Mnemonic::Prefetcht2
                | Mnemonic::Sfence
                | Mnemonic::Lfence
                | Mnemonic::Mfence
                | Mnemonic::Movnti
                | Mnemonic::Pause
                | Mnemonic::Clflush
        )
}

impl Builder<'_> {
    /// Makes sure that the guest's FPU state is in the host's registers.
    pub(super) fn emit_fpu_check(&mut self, insn: &Instruction) {
        if self.fpu_ready || !uses_fpu(insn) {
            return;
        }
        self.asm.load64(host::R8, layout::fpu_guard());
        self.asm.load32(host::R8, Mem::base(host::R8, 0));
        self.fpu_ready = true;
        self.note_fpu_check();
    }

    /// FSTENV, FSAVE and FXSAVE store where the last x87 instruction was and what it accessed: host
    /// addresses, which Rust replaces in the operand before it reaches guest memory for good.
    pub(super) fn save_fpu(&mut self, insn: &Instruction) -> Emitted {
        // Some processors forget the pointers when state is saved on the way into Rust, so they are
        // noted first. FNSTENV masks exceptions; FLDENV takes that back.
        let environment = layout::fpu_environment().disp as u32;
        self.asm.bytes(&[0x41, 0xD9, 0xB7]); // fnstenv [r15 + disp32]
        self.asm.dword(environment);
        self.asm.bytes(&[0x41, 0xD9, 0xA7]); // fldenv [r15 + disp32]
        self.asm.dword(environment);
        let address = Self::address_of(insn);
        let size = insn.memory_size().size() as u32;
        self.emit_offset(host::R8, &address);
        let operand = self.prepare(address.segment, size, Use::Write, false);
        let mut out = *insn;
        operand.mem.apply(&mut out);
        self.asm.insn(&out)?;
        self.callout(CalloutKind::FpuState);
        self.done(&operand);
        Ok(After::Continue)
    }
}
