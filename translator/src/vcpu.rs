//! The vCPU as the machine sees it: its state, and `run`.

use crate::runtime::{Engine, Kicker, Profile, Stats, UnitPlace};
use crate::state::CpuState;
use crate::system::CpuModel;
use crate::{Exit, Platform};
use shadow_mmu::{Mmu, PagingRegs};

/// Set-up of a vCPU.
#[derive(Debug, Clone)]
pub struct VcpuConfig {
    /// Stop with [`Exit::Untranslated`] at an instruction that is not translated, instead of
    /// raising #UD in the guest.
    pub strict: bool,
    /// Count the guest instructions that are executed: see [`Stats::instructions`].
    pub count_instructions: bool,
    /// Size of the translation cache in bytes: 1 MiB to 1 GiB, others are brought into this range.
    pub cache_bytes: usize,
    /// Most bytes of records about translated code, and as many again of jump tables; when there are more, the
    /// translation cache or the tables are emptied. There are about seven bytes of records for one of the cache.
    pub record_bytes: usize,
    /// The processor to be.
    pub model: CpuModel,
}

impl Default for VcpuConfig {
    fn default() -> Self {
        VcpuConfig {
            strict: false,
            count_instructions: false,
            cache_bytes: 64 << 20,
            record_bytes: 64 << 20,
            model: CpuModel::default(),
        }
    }
}

/// What a run may do before it comes back.
#[derive(Debug, Clone, Copy, Default)]
pub struct RunLimits {
    /// Leave with [`Exit::Decide`] when the guest arrives at CPL 3 or when, at CPL 3, an input of
    /// the decision changes.
    pub stop_to_decide: bool,
}

/// A vCPU and its translator.
#[derive(Debug)]
pub struct Vcpu {
    engine: Engine,
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
    ///
    /// # Errors
    /// The host has no memory for the translation cache.
    pub fn new(config: VcpuConfig) -> Result<Vcpu, VcpuError> {
        let bytes = config.cache_bytes;
        let state = CpuState::reset(config.model.signature());
        let engine = Engine::new(
            state,
            bytes,
            config.record_bytes,
            config.strict,
            config.count_instructions,
            config.model,
        )
        .map_err(|source| VcpuError::Cache { bytes, source })?;
        Ok(Vcpu { engine })
    }

    /// The architectural state; valid whenever `run` is not under way.
    pub fn state(&self) -> &CpuState {
        self.engine.state()
    }

    /// The architectural state, to change it (loader, debugger, direct execution).
    pub fn state_mut(&mut self) -> &mut CpuState {
        self.engine.state_mut()
    }

    /// A handle to interrupt `run` from another thread.
    pub fn kicker(&self) -> Kicker {
        self.engine.kicker()
    }

    /// Counters.
    pub fn stats(&self) -> &Stats {
        self.engine.stats()
    }

    /// Tells the shadow MMU the paging registers of this vCPU: needed after the state has been
    /// changed from outside.
    pub fn sync_paging(&self, mmu: &mut Mmu) {
        let cpu = self.state();
        mmu.set_paging(PagingRegs {
            cr0: cpu.cr0,
            cr3: cpu.cr3,
            cr4: cpu.cr4,
            efer: cpu.msrs.efer,
        });
    }

    /// Runs translated code until something makes it come back.
    pub fn run(&mut self, mmu: &mut Mmu, platform: &mut dyn Platform, limits: RunLimits) -> Exit {
        self.engine.run(mmu, platform, limits, false)
    }

    /// Runs exactly one instruction (or one iteration, or some, of a repeated string instruction),
    /// delivering whatever exception it raises. Comes back with [`Exit::Budget`] unless something
    /// else happened.
    pub fn step(&mut self, mmu: &mut Mmu, platform: &mut dyn Platform) -> Exit {
        self.engine.run(mmu, platform, RunLimits::default(), true)
    }

    /// Takes the pending external interrupt: acknowledges it and delivers it through the IDT.
    /// Call after [`Exit::InterruptReady`], or when the direct engine left for an interrupt.
    /// Comes back with [`Exit::Decide`] when it has been delivered.
    pub fn take_interrupt(&mut self, mmu: &mut Mmu, platform: &mut dyn Platform) -> Exit {
        self.engine
            .take_interrupt(mmu, platform)
            .unwrap_or(Exit::Decide)
    }

    /// An edge of the NMI wire. It is taken at the first instruction boundary where no earlier NMI is
    /// being handled (until IRET) and no load of SS holds it off, and wakes a halted processor up. A
    /// second edge before that is lost, as on the processor (Intel SDM vol. 3A, section 6.7).
    pub fn raise_nmi(&mut self) {
        self.engine.raise_nmi();
    }

    /// Takes the pending NMI if the vCPU accepts it now ([`CpuState::accepts_nmi`]); [`Vcpu::run`]
    /// does so itself. Comes back with [`Exit::Decide`] when it has been delivered.
    pub fn take_nmi(&mut self, mmu: &mut Mmu, platform: &mut dyn Platform) -> Exit {
        self.engine.take_nmi(mmu, platform).unwrap_or(Exit::Decide)
    }

    /// Starts to find out where time goes: see [`Profile`]. Samples are taken of the thread that
    /// calls [`Vcpu::run`].
    pub fn start_profile(&mut self) {
        self.engine.start_profile();
    }

    /// What was found since [`Vcpu::start_profile`].
    pub fn profile(&mut self) -> Option<&Profile> {
        self.engine.profile()
    }

    /// All units of the cache in the order of their host addresses: address and size of the host
    /// code, and the guest code that they are made from.
    pub fn units(&self) -> impl Iterator<Item = (u64, u32, UnitPlace)> {
        self.engine.unit_places()
    }

    /// Bytes of the translation cache in use.
    pub fn cache_used(&self) -> usize {
        self.engine.cache_used()
    }

    /// The host code for the unit that begins at CS:EIP, as text; for tests and debugging.
    pub fn unit_listing(&self, gpa: u32) -> Option<String> {
        self.engine.listing(gpa)
    }
}
