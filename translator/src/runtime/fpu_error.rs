//! x87 exceptions that are reported in the way of MS-DOS: through FERR#, IRQ 13 and IGNNE# (Intel SDM
//! vol. 1, appendix D).
//!
//! The host always has CR0.NE set, so the waiting instruction behind an unmasked exception raises
//! #MF there. With CR0.NE clear in the guest, FERR# is asserted and the processor freezes in front of
//! that instruction until an interrupt comes; with IGNNE# asserted it goes on all the same. While FERR#
//! is asserted every unit with x87 code comes to Rust first and has its instructions run alone, so
//! that the wire follows FSW.ES. Without it nothing here costs anything.

use super::engine::{Engine, Step};
use crate::state::{X87_EXCEPTIONS, cr0};
use crate::system::{Exception, vector};
use crate::{Exit, Platform};
use iced_x86::Mnemonic;
use shadow_mmu::Mmu;

impl Engine {
    /// The host reported #MF in front of a waiting instruction, which EIP points at.
    pub(super) fn fpu_error(&mut self, mmu: &mut Mmu, platform: &mut dyn Platform) -> Step {
        if self.state().cr0 & cr0::NE != 0 {
            self.single_steps += 1;
            return self.raise(mmu, platform, Exception::fault(vector::MF));
        }
        self.set_ferr(true, platform);
        if platform.ignne() {
            self.ignore_fpu_error = true;
            self.slow_next = true;
            return Step::Boundary;
        }
        // Frozen: as in HLT, but the instruction is still to come.
        self.single_steps += 1;
        Step::Leave(Exit::Halted)
    }

    /// WAIT at EIP with CR0.TS or CR0.EM set. For #NM it looks at TS and MP alone, and a pending
    /// exception it reports whatever EM is (SDM vol. 2D, WAIT; vol. 3A, table 2-2).
    pub(super) fn wait_unavailable(
        &mut self,
        next: u32,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
    ) -> Step {
        let cpu = self.state();
        if cpu.cr0 & cr0::TS != 0 && cpu.cr0 & cr0::MP != 0 {
            self.single_steps += 1;
            return self.raise(mmu, platform, Exception::fault(vector::NM));
        }
        if cpu.fpu.error_pending() {
            return self.fpu_error(mmu, platform);
        }
        self.single_steps += 1;
        self.set_eip(next);
        Step::Boundary
    }

    /// The instruction at EIP uses the FPU while FERR# is asserted.
    pub(super) fn run_fpu_alone(&mut self) -> Step {
        self.slow_next = true;
        Step::Boundary
    }

    /// Masks the pending exception for one instruction: what IGNNE# does. Returns the control word to
    /// give back.
    pub(super) fn mask_fpu_error(&mut self) -> u16 {
        let fpu = &mut self.cache.context_mut().cpu.fpu;
        let control = fpu.control_word();
        fpu.set_control_word(control | X87_EXCEPTIONS);
        fpu.summarize();
        control
    }

    /// Takes [`Engine::mask_fpu_error`] back, unless the instruction loaded the control word itself.
    pub(super) fn unmask_fpu_error(&mut self, control: u16) {
        let loads = self
            .stepping
            .and_then(|index| self.units.get(index))
            .and_then(|unit| unit.instructions.first())
            .is_some_and(|first| {
                use Mnemonic as M;
                matches!(first.guest.mnemonic(), M::Fldcw | M::Fldenv | M::Frstor)
            });
        let fpu = &mut self.cache.context_mut().cpu.fpu;
        if !loads {
            let rest = fpu.control_word() & !X87_EXCEPTIONS;
            fpu.set_control_word(rest | control & X87_EXCEPTIONS);
        }
        fpu.summarize();
    }

    /// FERR# follows FSW.ES once the exception has been dealt with.
    pub(super) fn follow_fpu_error(&mut self, platform: &mut dyn Platform) {
        let cpu = self.state();
        if cpu.ferr && !(cpu.fpu.error_pending() && cpu.cr0 & cr0::NE == 0) {
            self.set_ferr(false, platform);
        }
    }

    fn set_ferr(&mut self, asserted: bool, platform: &mut dyn Platform) {
        self.cache.context_mut().cpu.ferr = asserted;
        platform.set_ferr(asserted);
    }
}
