//! Single runs with a number of operations, and what Ringshift counts of them.
//!
//! Counters of one operation are the difference of two runs that differ in the number of operations
//! alone, so that neither the boot nor the warming up is in them; a timer interrupt and its like are.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use serde::Serialize;

use super::{Bench, CompareError};
use crate::{console, paths};

/// More than any one run takes.
const LIMIT: Duration = Duration::from_secs(120);

/// What one run said.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sample {
    /// Time of an operation as the guest saw it, nanoseconds.
    pub ns: f64,
    /// Processor time of the whole run on the host, nanoseconds.
    pub cpu_ns: u64,
    /// Ringshift's counters for the whole run, by name; empty for QEMU.
    pub counters: BTreeMap<String, u64>,
}

impl Bench {
    /// `count` operations of `work` in Ringshift after `warm` untimed ones.
    ///
    /// # Errors
    ///
    /// When the run fails or says nothing.
    pub fn run_ringshift(&self, work: &str, warm: u64, count: u64) -> Result<Sample, CompareError> {
        let stats = paths::profile_dir()
            .map_err(|error| CompareError::Statistics(error.to_string()))?
            .join(format!("bench-{}-{work}.json", std::process::id()));
        let mut command = self.ringshift(&format!("{work} {warm} {count}"))?;
        command.arg("--stats").arg(&stats);
        let (ns, cpu_ns) = result_of(command, work)?;
        let counters = counters(&stats);
        // Of no use to anyone any more.
        let _ = fs::remove_file(&stats);
        Ok(Sample {
            ns,
            cpu_ns,
            counters: counters?,
        })
    }

    /// The same in QEMU TCG.
    ///
    /// # Errors
    ///
    /// When the run fails or says nothing.
    pub fn run_qemu(&self, work: &str, warm: u64, count: u64) -> Result<Sample, CompareError> {
        let command = self.qemu(&format!("{work} {warm} {count}"));
        let (ns, cpu_ns) = result_of(command, work)?;
        Ok(Sample {
            ns,
            cpu_ns,
            counters: BTreeMap::new(),
        })
    }
}

/// Counters per operation once warm: two runs that differ in nothing but the number of operations.
#[must_use]
pub fn per_operation(less: &Sample, more: &Sample, operations: u64) -> BTreeMap<String, f64> {
    let value =
        |sample: &Sample, name: &str| sample.counters.get(name).copied().unwrap_or(0) as f64;
    more.counters
        .keys()
        .map(|name| {
            let difference = value(more, name) - value(less, name);
            (name.clone(), difference / operations as f64)
        })
        .collect()
}

/// Processor time of one operation once warm, nanoseconds: a measure that other work on the host
/// hardly disturbs.
#[must_use]
pub fn cpu_per_operation(less: &Sample, more: &Sample, operations: u64) -> f64 {
    (more.cpu_ns as f64 - less.cpu_ns as f64) / operations as f64
}

/// Runs a guest; the time of an operation from what it printed, and the processor time it took.
fn result_of(command: Command, work: &str) -> Result<(f64, u64), CompareError> {
    let before = children_cpu_ns();
    let end = console::run(command, LIMIT)?;
    let cpu_ns = children_cpu_ns().saturating_sub(before);
    match result(&end.stdout, work) {
        Some(ns) => Ok((ns, cpu_ns)),
        None => Err(CompareError::NoResult(end.stdout + &end.stderr)),
    }
}

/// Processor time of all programs run so far that have ended, nanoseconds.
fn children_cpu_ns() -> u64 {
    let Ok(usage) = getrusage(UsageWho::RUSAGE_CHILDREN) else {
        return 0;
    };
    let ns = |time: nix::sys::time::TimeVal| {
        time.tv_sec() as u64 * 1_000_000_000 + time.tv_usec() as u64 * 1000
    };
    ns(usage.user_time()) + ns(usage.system_time())
}

fn result(output: &str, work: &str) -> Option<f64> {
    let line = output.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("RESULT") && words.next() == Some(work)).then_some(words)
    })?;
    let numbers: Vec<u64> = line.filter_map(|word| word.parse().ok()).collect();
    match numbers[..] {
        [count, ns] if count > 0 => Some(ns as f64 / count as f64),
        _ => None,
    }
}

/// All counters of a statistics file, by their path in it.
fn counters(path: &Path) -> Result<BTreeMap<String, u64>, CompareError> {
    let failed = |error: &dyn std::fmt::Display| CompareError::Statistics(error.to_string());
    let text = fs::read_to_string(path).map_err(|error| failed(&error))?;
    let json: serde_json::Value = serde_json::from_str(&text).map_err(|error| failed(&error))?;
    let mut found = BTreeMap::new();
    flatten("", &json, &mut found);
    Ok(found)
}

fn flatten(name: &str, value: &serde_json::Value, into: &mut BTreeMap<String, u64>) {
    if let Some(number) = value.as_u64() {
        into.insert(name.to_owned(), number);
    }
    for (key, inner) in value.as_object().into_iter().flatten() {
        let dot = if name.is_empty() { "" } else { "." };
        flatten(&format!("{name}{dot}{key}"), inner, into);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_found_among_other_lines() {
        let text = "[    0.1] boot\r\nRESULT other 5 5\r\nRESULT fork-wait 4 1000\r\n";
        assert_eq!(result(text, "fork-wait"), Some(250.0));
        assert_eq!(result(text, "fork"), None);
        assert_eq!(result("RESULT a 0 5", "a"), None);
    }

    #[test]
    fn counters_are_compared_by_their_path() {
        let mut found = BTreeMap::new();
        let json = serde_json::json!({"mmu": {"mmaps": 7, "x": null}, "version": "1", "n": 3});
        flatten("", &json, &mut found);
        assert_eq!(found.len(), 2);
        let more = Sample {
            ns: 0.0,
            cpu_ns: 0,
            counters: found,
        };
        let mut less = more.clone();
        less.counters.insert("mmu.mmaps".into(), 3);
        assert_eq!(per_operation(&less, &more, 2)["mmu.mmaps"], 2.0);
        assert_eq!(per_operation(&less, &more, 2)["n"], 0.0);
    }
}
