//! Guest-physical memory, guest page walks, shadow page tables, windows and traces.
//!
//! See the crate's README for the model: words, roles, events and corner cases.

mod audit;
mod config;
mod extent;
mod fill;
mod hook;
mod linear;
mod mmu;
mod paging;
mod phys;
mod pool;
mod ram;
mod shadowing;
mod space;
mod stats;
mod tlb;
mod touch;
mod traces;
mod types;
mod walk;
mod watch;
mod window;
mod zap;

pub use config::{AuditError, LinearError, MmuConfig, MmuError, PhysError};
pub use mmu::Mmu;
pub use stats::MmuStats;
pub use types::{
    Access, AccessKind, AccessPlan, FaultCode, FaultOutcome, MmuEvent, PAGE_SHIFT, PAGE_SIZE,
    PageFault, PagingRegs, PhysTarget, Privilege, RangeKind, Resolved, ShadowRoot, Shadowing,
    SpaceId, TableEdit, UserRegions, View,
};
