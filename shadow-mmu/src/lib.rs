//! Guest-physical memory, guest page walks, shadow page tables, windows and traces.
//!
//! See the crate's README for the model: words, roles, events and corner cases.

mod config;
mod mmu;
mod stats;
mod types;

pub use config::{AuditError, LinearError, MmuConfig, MmuError, PhysError};
pub use mmu::Mmu;
pub use stats::MmuStats;
pub use types::{
    Access, AccessKind, AccessPlan, FaultCode, FaultOutcome, MmuEvent, PAGE_SHIFT, PAGE_SIZE,
    PageFault, PagingRegs, PhysTarget, Privilege, RangeKind, Resolved, ShadowRoot, SpaceId,
    TableEdit, UserRegions, View,
};
