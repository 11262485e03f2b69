//! The check in front of x87, MMX and SSE instructions.
//!
//! Guest FPU state is loaded into the host's registers by the first instruction of a unit that
//! needs it: a call through a pointer of the context that reaches a bare `ret` when it is there, the
//! load, or the exit for CR0.TS and CR0.EM. No flags change.

use super::builder::{After, Builder, Emitted};
use super::memory::Use;
use super::{CalloutKind, SiteKind, layout};
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
        self.asm.call_mem(layout::fpu_ensure());
        self.site(SiteKind::FpuEnsure);
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
        self.emit_offset(super::asm::host::R8, &address);
        let operand = self.prepare(address.segment, size, Use::Write, false);
        let mut out = *insn;
        operand.mem.apply(&mut out);
        self.asm.insn(&out)?;
        self.callout(CalloutKind::FpuState);
        self.done(&operand);
        Ok(After::Continue)
    }
}
