//! Which engine may run a guest state, which one should, and why.
//!
//! Two questions, kept apart:
//!
//! 1. *May* the state run directly? [`legality`] answers with the set of [`Reasons`] against; the
//!    set is empty exactly when direct execution is legal.
//! 2. *Should* it? A [`Policy`] chooses, and only among what is legal: it is asked in legal states
//!    alone, and [`Choice::Direct`] needs the [`Legal`] witness it is handed then.
//!
//! [`Decider`] puts the two together for one vCPU, remembers the history policies are told, and
//! counts. [`SwitchRecord`] is what a switch leaves behind.
//!
//! The crate is pure: no I/O, no clock, nothing global. Times are numbers that the caller supplies,
//! so a decision can be run again over a recorded file.
#![forbid(unsafe_code)]

mod decide;
mod inputs;
mod legality;
mod policy;
mod record;
mod statistics;
#[cfg(test)]
mod testing;

pub use decide::{Decider, Decision, decide};
pub use inputs::{CodeSize, Engine, HostSupport, Inputs, Segments};
pub use legality::{Legal, Reasons, legality};
pub use policy::{
    AdaptiveParams, Choice, EngineCosts, History, Policy, PolicyError, PolicySpec, RandomParams,
    RuleError, Rules, Run, Stretch, View,
};
pub use record::{ExitKind, Stay, SwitchRecord};
pub use statistics::{ByReason, Ring3, Runs, Statistics};
