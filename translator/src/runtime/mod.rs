//! The runtime: where units live, how they are entered and left, found and invalidated.

mod cache;
pub(crate) mod context;
mod crossing;
mod debugging;
mod engine;
mod exits;
mod faults;
mod fpu_error;
mod fpu_pointers;
mod fpu_state;
mod invalidate;
mod jump_table;
mod jumps;
mod kick;
mod listing;
mod locate;
pub(crate) mod lookaside;
mod mixed;
mod mxcsr;
mod prepare;
pub(crate) mod profile;
mod sampler;
pub(crate) mod shortcut;
mod signal;
mod stats;
pub(crate) mod store_table;
mod string;
mod string_device;
mod string_span;
mod switch;
mod units;

pub(crate) use engine::Engine;
pub use kick::Kicker;
pub use mxcsr::host_mxcsr_mask;
pub use profile::{FaultCause, FaultPlace, Profile, UnitPlace, Work};
pub use stats::{Exits, Stats};
