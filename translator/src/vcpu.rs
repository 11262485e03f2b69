//! The vCPU as the machine sees it: its state, and `run`.

use crate::state::CpuState;
use crate::{Exit, Platform};
use shadow_mmu::Mmu;

/// Set-up of a vCPU.
#[derive(Debug, Clone)]
pub struct VcpuConfig {
    /// Stop with [`Exit::Untranslated`] at an instruction that is not translated, instead of
    /// raising #UD in the guest.
    pub strict: bool,
    /// Size of the translation cache in bytes.
    pub cache_bytes: usize,
}

/// What a run may do before it comes back.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunLimits {
    /// Leave with [`Exit::Decide`] when the guest arrives at CPL 3 or when, at CPL 3, an input of
    /// the decision changes.
    pub stop_to_decide: bool,
}

/// A handle with which any thread makes a running vCPU leave translated code.
#[derive(Debug, Clone)]
pub struct Kicker;

impl Kicker {
    /// Makes the vCPU leave with [`Exit::Kicked`] soon; harmless when it does not run.
    pub fn kick(&self) {}
}

/// A vCPU and its translator.
#[derive(Debug)]
pub struct Vcpu {
    state: CpuState,
}

/// What a vCPU could not be made from.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// the translation cache could not be mapped
    #[error("the translation cache of {bytes} bytes could not be mapped")]
    Cache {
        /// Size asked for.
        bytes: usize,
        /// The host's reason.
        #[source]
        source: std::io::Error,
    },
}

impl Vcpu {
    /// A vCPU in the reset state.
    pub fn new(_config: VcpuConfig) -> Result<Vcpu, VcpuError> {
        Ok(Vcpu {
            state: CpuState::reset(0x653),
        })
    }

    /// The architectural state; valid whenever `run` is not under way.
    pub fn state(&self) -> &CpuState {
        &self.state
    }

    /// The architectural state, to change it (loader, debugger, direct execution).
    pub fn state_mut(&mut self) -> &mut CpuState {
        &mut self.state
    }

    /// A handle to interrupt `run` from another thread.
    pub fn kicker(&self) -> Kicker {
        Kicker
    }

    /// Runs translated code until something makes it come back.
    pub fn run(
        &mut self,
        _mmu: &mut Mmu,
        _platform: &mut dyn Platform,
        _limits: RunLimits,
    ) -> Exit {
        Exit::Kicked
    }

    /// Runs exactly one instruction (or one iteration of a repeated string instruction), delivering
    /// whatever exception it raises.
    pub fn step(&mut self, _mmu: &mut Mmu, _platform: &mut dyn Platform) -> Exit {
        Exit::Budget
    }

    /// Takes the pending external interrupt: acknowledges it and delivers it through the IDT.
    /// Call after [`Exit::InterruptReady`], or when the direct engine left for an interrupt.
    pub fn take_interrupt(&mut self, _mmu: &mut Mmu, _platform: &mut dyn Platform) -> Exit {
        Exit::Decide
    }
}
