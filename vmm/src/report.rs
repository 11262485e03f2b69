//! What a run came to: the statistics file, and the table that the demo shows.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use decision::{ByReason, Statistics};
use serde::Serialize;
use shadow_mmu::MmuStats;

use crate::engine::DirectStatistics;
use crate::memory_use::MemoryUse;

/// The version of [`Report`]'s JSON form. It grows when a field changes its meaning or goes away,
/// not when one is added.
pub const SCHEMA: u32 = 1;

/// Named counters.
pub type Counters = BTreeMap<String, u64>;

/// Where the time went. All times are nanoseconds of host monotonic time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Times {
    /// From the start of the machine to now.
    pub total_ns: u64,
    /// In the translator: translated code, translation, callouts and device models reached from it.
    pub translator_ns: u64,
    /// In direct execution, the monitor's world switches included.
    pub direct_ns: u64,
    /// The vCPU slept in HLT.
    pub halted_ns: u64,
}

impl Times {
    /// What is left: decisions, exits, devices.
    pub fn other_ns(&self) -> u64 {
        self.total_ns
            .saturating_sub(self.translator_ns)
            .saturating_sub(self.direct_ns)
            .saturating_sub(self.halted_ns)
    }
}

/// Runs of each engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Runs {
    /// Of the translator.
    pub translator: u64,
    /// Of direct execution.
    pub direct: u64,
}

/// Everything that was counted during a run of a machine.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Version of the program.
    pub version: String,
    /// How the run ended, in words.
    pub ending: String,
    /// Name of the policy.
    pub policy: String,
    /// Direct execution was there.
    pub direct_available: bool,
    /// Name of the processor model.
    pub cpu: String,
    /// Memory of the guest, bytes.
    pub memory_bytes: u64,
    /// Memory of the host that is in use when the report is made, if the host tells.
    pub host_memory: Option<MemoryUse>,
    /// Resets that the guest asked for and got.
    pub resets: u64,
    /// Where the time went.
    pub time: Times,
    /// Runs of each engine.
    pub runs: Runs,
    /// Runs by the exit that ended them.
    pub exits: Counters,
    /// The decisions.
    pub decisions: Statistics,
    /// Direct execution's own counters.
    pub direct: DirectStatistics,
    /// The translator's own counters, callouts by kind among them.
    pub translator: translator::Stats,
    /// Instructions carried out in Rust for every 1,000 guest instructions, if those are counted.
    pub callouts_per_1000_instructions: Option<f64>,
    /// The shadow MMU's counters.
    pub mmu: Counters,
    /// Accesses to devices.
    pub devices: Counters,
}

/// The counters of the shadow MMU by name.
pub fn mmu_counters(stats: &MmuStats) -> Counters {
    macro_rules! by_name {
        ($($field:ident),* $(,)?) => {{
            // A field that is not named here does not compile.
            let MmuStats { $($field),* } = stats;
            [$((stringify!($field).to_owned(), *$field)),*].into()
        }};
    }
    by_name!(
        hidden_faults,
        user_page_faults,
        hidden_kernel_faults,
        true_faults,
        trapped_faults,
        traced_faults,
        walks,
        tlb_hits,
        shadow_fills,
        pages_mapped,
        fault_around_pages,
        predicted_pages,
        prefilled,
        mmaps,
        munmaps,
        mprotects,
        traced_writes,
        table_writes,
        zaps,
        deferred_zaps,
        traces_set,
        traces_cleared,
        spaces_made,
        spaces_dropped,
        roots_given_up,
        tables_given_up,
        cr3_loads,
        cr3_hits,
        supervisor_regions_dropped,
        windows_emptied,
        vmas,
        tables,
    )
}

impl Report {
    /// The table that the demo shows.
    pub fn summary(&self) -> Summary<'_> {
        Summary(self)
    }
}

/// Prints a [`Report`] as a table.
#[derive(Debug)]
pub struct Summary<'a>(&'a Report);

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        let decisions = &report.decisions;
        let mut table = Table(f);
        let without = if report.direct_available || report.policy == "translate" {
            ""
        } else {
            " (no direct execution on this host)"
        };
        table.row("policy", format_args!("{}{without}", report.policy))?;
        table.row("time", milliseconds(report.time.total_ns))?;
        for (name, ns, runs) in [
            (
                "translator",
                report.time.translator_ns,
                Some(report.runs.translator),
            ),
            ("direct", report.time.direct_ns, Some(report.runs.direct)),
            ("halted", report.time.halted_ns, None),
            ("run loop, devices", report.time.other_ns(), None),
        ] {
            table.share(name, ns, report.time.total_ns, runs)?;
        }
        table.row(
            "switches",
            format_args!(
                "{}: {} to direct, {} to the translator",
                decisions.switches(),
                decisions.switches_to_direct,
                decisions.switches_to_translator
            ),
        )?;
        table.reasons(&decisions.switches_by_reason)?;
        table.row(
            "decisions",
            format_args!(
                "{}: direct execution legal in {}, else illegal because of",
                decisions.evaluations, decisions.legal
            ),
        )?;
        table.reasons(&decisions.legality_by_reason)?;
        let translator = &report.translator;
        table.row(
            "units",
            format_args!(
                "{} translated: {} instructions, {} bytes to {} bytes; {} invalidated",
                translator.units,
                translator.instructions_translated,
                translator.guest_bytes,
                translator.host_bytes,
                translator.invalidations
            ),
        )?;
        if let (Some(executed), Some(rate)) = (
            translator.instructions,
            report.callouts_per_1000_instructions,
        ) {
            table.row(
                "instructions",
                format_args!("{executed} executed as translated code, {rate:.2} callouts per 1000"),
            )?;
        }
        let callouts = translator.callouts.iter();
        table.counters(
            "callouts",
            &callouts
                .map(|(kind, count)| (format!("{kind:?}"), count))
                .collect(),
        )?;
        let faults = |name| report.mmu.get(name).copied().unwrap_or(0);
        table.row(
            "page faults",
            format_args!(
                "{} hidden, {} true, {} on devices and traced pages",
                faults("hidden_faults") + report.direct.hidden_faults,
                faults("true_faults"),
                faults("trapped_faults")
            ),
        )?;
        table.counters("exits", &report.exits)?;
        table.counters("devices", &report.devices)
    }
}

fn milliseconds(ns: u64) -> String {
    format!("{:.1} ms", ns as f64 / 1e6)
}

/// Lines of a name and a value.
struct Table<'a, 'b>(&'a mut fmt::Formatter<'b>);

impl Table<'_, '_> {
    fn row(&mut self, name: &str, value: impl fmt::Display) -> fmt::Result {
        writeln!(self.0, "{name:<14} {value}")
    }

    fn item(&mut self, value: impl fmt::Display, name: &str) -> fmt::Result {
        writeln!(self.0, "{:<14} {value:>10}  {name}", "")
    }

    fn share(&mut self, name: &str, ns: u64, total: u64, runs: Option<u64>) -> fmt::Result {
        let percent = ns as f64 * 100.0 / total.max(1) as f64;
        let mut name = name.to_owned();
        if let Some(runs) = runs {
            write!(name, ", {runs} runs")?;
        }
        self.item(
            format_args!("{:>6.1} %", percent),
            &format!("{name} ({})", milliseconds(ns)),
        )
    }

    fn reasons(&mut self, counts: &ByReason) -> fmt::Result {
        for (name, _, count) in counts.iter().filter(|(_, _, count)| *count > 0) {
            self.item(count, name)?;
        }
        Ok(())
    }

    fn counters(&mut self, title: &str, counters: &Counters) -> fmt::Result {
        let total: u64 = counters.values().sum();
        if total == 0 {
            return Ok(());
        }
        self.row(title, "")?;
        let mut sorted: Vec<_> = counters.iter().filter(|(_, count)| **count > 0).collect();
        sorted.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        for (name, count) in sorted {
            self.item(count, &name.replace('_', " "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use decision::{Decision, Engine, Reasons};

    fn report() -> Report {
        let mut decisions = Statistics::default();
        let translate = |legality| Decision {
            engine: Engine::Translator,
            reasons: legality,
            legality,
            stretch: decision::Stretch::Arrival,
        };
        decisions.add(None, &translate(Reasons::REAL_MODE));
        decisions.add(
            Some(Engine::Direct),
            &translate(Reasons::NOT_RING_3 | Reasons::IOPL),
        );
        Report {
            schema: SCHEMA,
            policy: "vmware".to_owned(),
            time: Times {
                total_ns: 200_000_000,
                translator_ns: 50_000_000,
                direct_ns: 100_000_000,
                halted_ns: 30_000_000,
            },
            decisions,
            exits: [("halt".to_owned(), 3), ("kicked".to_owned(), 40)].into(),
            mmu: mmu_counters(&MmuStats {
                hidden_faults: 17,
                true_faults: 4,
                ..MmuStats::default()
            }),
            ..Report::default()
        }
    }

    #[test]
    fn shares_add_up_and_counts_are_named() {
        let text = report().summary().to_string();
        for line in [
            "25.0 %  translator, 0 runs (50.0 ms)",
            "50.0 %  direct, 0 runs (100.0 ms)",
            "15.0 %  halted (30.0 ms)",
            "10.0 %  run loop, devices (20.0 ms)",
            "1  REAL_MODE",
            "17 hidden, 4 true",
        ] {
            assert!(text.contains(line), "{line:?} is not in\n{text}");
        }
        let kicked = text.find("kicked").expect("kicked");
        assert!(kicked < text.find(" halt\n").expect("halt"), "most first");
    }

    #[test]
    fn the_json_form_carries_its_version_and_the_reasons() {
        let json = serde_json::to_value(report()).expect("plain data");
        assert_eq!(json["schema"], 1);
        assert_eq!(json["decisions"]["switches_by_reason"]["IOPL"], 1);
        assert_eq!(json["mmu"]["hidden_faults"], 17);
        assert_eq!(json["time"]["halted_ns"], 30_000_000);
    }
}
