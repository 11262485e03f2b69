//! When guest FPU state is in the host's registers.
//!
//! Translated code reads through [`fpu_guard`](super::context::Context::fpu_guard) in front of the first
//! FPU instruction of a unit, which costs two loads while the state is there and a host fault while it is
//! not. Rust uses XMM registers, so each exit saves the state and each entry loads it: too much for code
//! that needs none, and a fault too much for code that does. So a fault has the state loaded on a number
//! of entries from then on.

use super::engine::{Engine, Step};
use super::faults::At;
use crate::Platform;
use crate::state::cr0;
use crate::system::{Exception, vector};
use iced_x86::{CpuidFeature, Mnemonic};
use shadow_mmu::Mmu;

/// Entries that load the state unasked once it was missing. To save and load it takes 80 ns; the fault
/// takes 1.3 us, and what Rust makes of it.
const ENTRIES: u32 = 32;

impl Engine {
    /// Decides whether the next entry at a unit's beginning, which does not rely on it, loads FPU state.
    pub(super) fn choose_fpu_state(&mut self) {
        let cpu = self.state();
        let usable = cpu.cr0 & (cr0::TS | cr0::EM) == 0 && !cpu.ferr;
        let load = usable && self.fpu_entries > 0;
        if load {
            self.fpu_entries -= 1;
        }
        self.cache.context_mut().fpu_loaded = u8::from(load);
    }

    /// An FPU instruction found the state missing.
    pub(super) fn fpu_missing(
        &mut self,
        at: At,
        mmu: &mut Mmu,
        platform: &mut dyn Platform,
    ) -> Step {
        self.stats.fpu_faults += 1;
        let cpu = self.state();
        if cpu.cr0 & (cr0::TS | cr0::EM) == 0 {
            if cpu.ferr && !self.mode.is_single() {
                return self.run_fpu_alone();
            }
            self.fpu_entries = ENTRIES;
            self.cache.context_mut().fpu_loaded = 1;
            return Step::Resume(at.start);
        }
        let (em, insn) = (cpu.cr0 & cr0::EM != 0, at.insn);
        if insn.mnemonic() == Mnemonic::Wait {
            return self.wait_unavailable(insn.next_ip32(), mmu, platform);
        }
        self.single_steps += 1;
        let x87 = insn.cpuid_features().iter().all(|f| {
            use CpuidFeature as F;
            matches!(f, F::FPU | F::FPU287 | F::FPU387 | F::CMOV | F::FXSR)
        }) || insn.mnemonic() == Mnemonic::Fisttp;
        // CR0.EM makes MMX and SSE undefined, and x87 and FXSAVE unavailable (SDM vol. 3A, table 2-2).
        let number = if em && !x87 { vector::UD } else { vector::NM };
        self.raise(mmu, platform, Exception::fault(number))
    }
}
