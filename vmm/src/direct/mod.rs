//! Direct execution of ring-3 guest code on KVM.
//!
//! ```text
//! DirectExecution   follows the machine: state, descriptor tables, shadow tables, page faults
//!      |
//!   World           a VM, a vCPU, table edits, registers in and out, exits, kicks
//!      |
//!   monitor         the ring-0 code inside, 64-bit, above 4 GiB; guest code runs at ring 3 in
//!                   compatibility mode below
//! ```
//!
//! The engine never decides what an exception means: it leaves with the guest at the instruction,
//! and the translator runs that. So a KVM that reports the wrong exception costs time, not
//! correctness; and what a KVM gets wrong silently the [`probe`] finds, so that it is not used.
//!
//! [`open`] is what a machine calls, [`host_report`] what `ringshift host` prints.

mod descriptors;
mod execution;
mod host;
mod host_cpu;
mod instruction;
mod kick;
mod kvm;
mod layout;
mod memory;
mod monitor;
pub mod probe;
mod roots;
mod tables;
mod world;

use decision::HostSupport;

pub use execution::DirectExecution;
pub use host::{HostReport, Kvm, KvmStatus, Mode, Verdict, host_report};
pub use host_cpu::HostCpu;
pub use kvm::SetupError;
pub use layout::TABLE_POOL_BASE;
pub use world::Failure;

/// There is no direct execution on this host.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// KVM is not there or not usable.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// KVM runs no mode correctly.
    #[error("this host's KVM does not run 32-bit code correctly: {0}")]
    NoMode(String),
    /// KVM is slower than translated code.
    #[error("this host's KVM takes {} ns for an instruction", direct_ps / 1000)]
    Slow {
        /// Picoseconds for an instruction in direct execution.
        direct_ps: u64,
    },
}

/// What direct execution is opened for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Purpose {
    /// Use what the probe found wrong as well.
    pub force: bool,
    /// Only if it can be faster than translated code. Where it clearly cannot, that is found out
    /// before the longer part of the probe.
    pub must_pay: bool,
    /// Modes not to use, though the host runs them: what the guest does on a host without them.
    pub without: HostSupport,
}

/// Translated code takes this much of the time of direct execution, or less: no error of measurement
/// on a busy host makes that much, so that the policy need not be asked.
const HOPELESS: f64 = 0.5;

/// Probes the host and sets up direct execution on it. The machine's MMU must be made with
/// `mirror_edits` and with its table pool at [`TABLE_POOL_BASE`].
///
/// # Errors
///
/// Why this host has no direct execution.
pub fn open(purpose: Purpose) -> Result<DirectExecution, OpenError> {
    let mut probe = probe::start()?;
    if purpose.must_pay
        && let Some(speed) = probe.speed()
        && host::costs(Some(speed))
            .speed_ratio()
            .is_none_or(|ratio| ratio < HOPELESS)
    {
        return Err(OpenError::Slow {
            direct_ps: speed.instruction_ps,
        });
    }
    let probe = probe.finish();
    if let Some(wrong) = host::first_wrong(&probe.compat32.checks)
        && !purpose.force
    {
        return Err(OpenError::NoMode(wrong));
    }
    let mut support = host::support(&probe);
    support.compat32 |= purpose.force;
    let support = support.without(purpose.without);
    let costs = host::costs(probe.compat32.speed);
    Ok(DirectExecution::new(support, costs)?)
}
