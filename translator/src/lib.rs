//! Binary translation of 16- and 32-bit x86 code to x86-64.
//!
//! The crate owns the architectural state of a vCPU ([`CpuState`]), the translation cache, the code
//! generator and the callouts for what cannot run as it stands. It knows nothing of KVM and nothing
//! of device models: the machine around it is reached through [`Platform`].

mod codegen;
mod exit;
mod platform;
mod runtime;
pub mod state;
pub mod system;
mod vcpu;

pub use codegen::CalloutKind;
pub use codegen::inventory::{CalloutEntry, callout_inventory};
pub use exit::Exit;
pub use platform::Platform;
pub use runtime::{
    Exits, FaultCause, FaultPlace, Kicker, Profile, Stats, UnitPlace, Work, host_mxcsr_mask,
};
pub use state::CpuState;
pub use vcpu::{RunLimits, Vcpu, VcpuConfig, VcpuError};
