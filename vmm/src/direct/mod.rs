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

/// What the direct engine can do on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Abilities {
    /// The modes that work.
    support: HostSupport,
    /// IOPL other than 0 is kept.
    iopl: bool,
    /// Segment limits are checked.
    limits: bool,
}

/// There is no direct execution on this host.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// KVM is not there or not usable.
    #[error(transparent)]
    Setup(#[from] SetupError),
    /// KVM runs no mode correctly.
    #[error("this host's KVM does not run 32-bit code correctly: {0}")]
    NoMode(String),
}

/// Probes the host and sets up direct execution on it. The machine's MMU must be made with
/// `mirror_edits` and with its table pool at [`TABLE_POOL_BASE`].
///
/// # Errors
///
/// Why this host has no direct execution.
pub fn open() -> Result<DirectExecution, OpenError> {
    let probe = probe::compat32()?;
    if let Some(wrong) = host::first_wrong(&probe) {
        return Err(OpenError::NoMode(wrong));
    }
    let engine = DirectExecution::new(host::abilities(&probe), host::costs(&probe))?;
    Ok(engine)
}
