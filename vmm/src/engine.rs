//! The port between the run loop and direct execution.
//!
//! The run loop knows direct execution only by this trait: a machine without it (no `/dev/kvm`, a
//! host whose KVM runs nothing right, a test) simply has none, and everything runs translated.

use std::fmt;
use std::sync::Arc;

use decision::{EngineCosts, ExitKind, HostSupport};
use serde::Serialize;
use shadow_mmu::Mmu;
use translator::{CpuState, Exit, Platform};

use crate::inputs::DescriptorTables;

/// Makes a vCPU leave its engine soon, from any thread; harmless when it does not run.
pub trait Kick: fmt::Debug + Send + Sync {
    /// The engine leaves with [`Exit::Kicked`]. A kick that arrives just before a run starts ends
    /// that run; none is lost.
    fn kick(&self);
}

impl Kick for translator::Kicker {
    fn kick(&self) {
        translator::Kicker::kick(self);
    }
}

/// Why direct execution came back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectExit {
    /// What the run loop has to do now. [`Exit::Replay`] leaves the state *at* the instruction that
    /// the translator has to run; [`Exit::InterruptReady`] and [`Exit::Kicked`] leave it at any
    /// instruction boundary.
    pub exit: Exit,
    /// The same in the words of the switch record, with the kind of event that only the engine
    /// knows.
    pub kind: ExitKind,
    /// The run failed, and the state that the guest was in was found out: the translator has to go on
    /// from there with more than one instruction, or the same would come again at once. Comes with
    /// [`Exit::Replay`].
    pub rescued: bool,
}

/// Direct execution failed with guest code half-way, and the registers that go with what it has
/// changed in memory are not known: the guest cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RegistersLost(pub String);

/// What direct execution counted since the machine started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct DirectStatistics {
    /// Entries into guest code, re-entries after page faults that the shadow tables caused included.
    pub entries: u64,
    /// Hidden page faults that were resolved without leaving to the run loop.
    pub hidden_faults: u64,
    /// Exits of the KVM vCPU (`KVM_RUN` calls).
    pub kvm_exits: u64,
    /// Edits of shadow tables that the monitor stored.
    pub table_edits: u64,
    /// Runs that failed; the translator went on from where the guest stood.
    pub rescued_runs: u64,
}

/// Runs ring-3 code of the guest on the processor itself.
pub trait DirectEngine: fmt::Debug + Send {
    /// The modes that the probe found this host's KVM to run correctly; none any more after a failure
    /// that the engine could not get over, or too many.
    fn support(&self) -> HostSupport;

    /// What the probe measured.
    fn costs(&self) -> EngineCosts;

    /// Runs guest code from `state` on until something needs the run loop. Called only for states
    /// for which `decision::legality` with [`DirectEngine::support`] has no reason against; `tables`
    /// are what that was found out from.
    ///
    /// On return `state` is at an instruction boundary and all of it is valid. The engine delivers
    /// no exception: what it cannot resolve by filling the shadow tables leaves with
    /// [`Exit::Replay`]. It watches [`Platform::interrupt_pending`] before each entry and leaves
    /// with [`Exit::InterruptReady`].
    ///
    /// # Errors
    ///
    /// When the vCPU failed and `state` is lost. Other failures are survived: see
    /// [`DirectExit::rescued`].
    fn run(
        &mut self,
        state: &mut CpuState,
        mmu: &mut Mmu,
        tables: &DescriptorTables,
        platform: &mut dyn Platform,
    ) -> Result<DirectExit, RegistersLost>;

    /// A handle that makes a run come back.
    fn kicker(&self) -> Arc<dyn Kick>;

    /// The counters.
    fn statistics(&self) -> DirectStatistics;
}
