//! Counters of a translator.

use super::context::Reason;
use crate::codegen::CalloutKind;
use serde::Serialize;
use std::collections::BTreeMap;

/// What the translator has done. All counts are since the vCPU was made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Stats {
    /// Units translated.
    pub units: u64,
    /// Guest instructions executed as translated code, if they are counted; what a fault cuts off in
    /// the middle of a unit is missing.
    pub instructions: Option<u64>,
    /// Guest instructions translated (each time they are).
    pub instructions_translated: u64,
    /// Bytes of guest code translated.
    pub guest_bytes: u64,
    /// Bytes of host code emitted.
    pub host_bytes: u64,
    /// Units entered from Rust at CPL 0 to 2, and in real mode.
    pub entries_supervisor: u64,
    /// Units entered from Rust at CPL 3.
    pub entries_user: u64,
    /// Of these, single instructions run on behalf of direct execution.
    pub replays_user: u64,
    /// Times that translated code was left, by cause.
    pub exits: Exits,
    /// Jumps linked.
    pub links: u64,
    /// Jumps that met an empty entry of a jump table.
    pub misses: u64,
    /// Units invalidated.
    pub invalidations: u64,
    /// Times that the whole cache was emptied because it, or the records about it, were full.
    pub flushes: u64,
    /// Times that all jump tables were emptied because they took too much memory.
    pub tables_emptied: u64,
    /// Host faults that left translated code.
    pub host_faults: u64,
    /// Of these, hidden faults: a window was filled.
    pub hidden_faults: u64,
    /// Of these, FPU instructions that found the guest's state missing, or CR0.TS or CR0.EM set.
    pub fpu_faults: u64,
    /// Times that translated code was entered on another window than before.
    pub window_switches: u64,
    /// Changes of privilege without Rust.
    pub crossings: u64,
    /// Page faults delivered to the guest.
    pub true_faults: u64,
    /// Other exceptions delivered to the guest.
    pub exceptions: u64,
    /// External interrupts delivered.
    pub interrupts: u64,
    /// Non-maskable interrupts delivered.
    pub nmis: u64,
    /// Accesses carried out on a trapped page (device, traced page, ROM).
    pub trapped_accesses: u64,
    /// Memory accesses carried out in Rust.
    pub prepared_accesses: u64,
    /// Writes to former page tables that took neither Rust nor a mapping; not among these.
    pub looked_up_accesses: u64,
    /// Of those in Rust, stores to devices and traced pages that were complete at once.
    pub complete_stores: u64,
    /// Spans of a repeated string instruction that were one call of a device.
    pub device_spans: u64,
    /// Instructions run alone with all accesses carried out in Rust.
    pub slow_instructions: u64,
    /// Instructions translated again in another form after they had faulted.
    pub hints: u64,
    /// Pages with code and data that checked stores were let write.
    pub aliases: u64,
    /// Instructions carried out in Rust, by kind.
    pub callouts: Callouts,
}

impl Stats {
    /// Instructions carried out in Rust for every 1,000 guest instructions, if those are counted.
    pub fn callouts_per_1000_instructions(&self) -> Option<f64> {
        let executed = self.instructions.filter(|&count| count > 0)?;
        Some(self.callouts.total() as f64 * 1000.0 / executed as f64)
    }
}

/// Times that translated code was left, by cause.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Exits {
    /// An instruction was carried out in Rust.
    pub callout: u64,
    /// A jump inside a page that was not linked yet.
    pub link: u64,
    /// A jump table had no entry.
    pub miss: u64,
    /// A unit that is no longer valid.
    pub dead: u64,
    /// A host fault.
    pub fault: u64,
    /// A memory access carried out in Rust, twice for a write.
    pub access: u64,
    /// The end of a unit of one instruction.
    pub step: u64,
}

impl Exits {
    pub(crate) fn count(&mut self, reason: Reason) {
        let counter = match reason {
            Reason::Callout => &mut self.callout,
            Reason::Link => &mut self.link,
            Reason::Miss => &mut self.miss,
            Reason::Dead => &mut self.dead,
            Reason::Fault => &mut self.fault,
            Reason::Prepare | Reason::Commit => &mut self.access,
            Reason::Stepped | Reason::SteppedTo => &mut self.step,
        };
        *counter += 1;
    }
}

/// Counts by [`CalloutKind`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Callouts([u64; CalloutKind::ALL.len()]);

impl Callouts {
    pub(crate) fn count(&mut self, kind: CalloutKind) {
        if let Some(counter) = self.0.get_mut(kind as usize) {
            *counter += 1;
        }
    }

    /// Each kind with its count.
    pub fn iter(&self) -> impl Iterator<Item = (CalloutKind, u64)> {
        CalloutKind::ALL.into_iter().zip(self.0)
    }

    /// The sum.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}

impl Serialize for Callouts {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.iter()
                .map(|(kind, count)| (kind.name(), count))
                .collect::<BTreeMap<_, _>>(),
        )
    }
}
