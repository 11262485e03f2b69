//! What a trace costs: the same work with and without `--trace`, in turn.
//!
//! `cargo run --release -p ringshift-tests --example bench-trace [-- PAIRS]` (default 15). The work is
//! the demo under the policy `random` with a switch at every other instruction of ring 3, so that far
//! more is recorded than in any ordinary run. Time of the machine alone, from its statistics; medians,
//! and the ratio of each pair, as machines drift. It wants a KVM; a slow one makes the switches
//! slow, so the cost of a record is told in nanoseconds as well.

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use ringshift_tests::{console, paths, programs};
use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(300);

const WORK: [&str; 7] = [
    "demo",
    "--scale",
    "0.0001",
    "--direct",
    "kvm=force",
    "--policy",
    "random:direct=0.5,step=1",
];

/// One run: nanoseconds and switches.
fn run(traced: bool) -> Result<(f64, f64), Box<dyn Error>> {
    let dir: PathBuf = paths::guests_dir()?;
    let stats = dir.join("bench-trace.json");
    let mut command = programs::ringshift()?;
    command.args(WORK).arg("--stats").arg(&stats);
    if traced {
        command.arg("--trace").arg(dir.join("bench.trace"));
    }
    let end = console::run(command, LIMIT)?;
    if end.code() != Some(0) || !end.stderr.is_empty() {
        return Err(format!("{}\n{}", end.stdout, end.stderr).into());
    }
    let stats: Value = serde_json::from_str(&std::fs::read_to_string(stats)?)?;
    let number = |path: &str| {
        let value = stats.pointer(path).and_then(Value::as_f64);
        value.ok_or_else(|| format!("no {path} in the statistics"))
    };
    let switches =
        number("/decisions/switches_to_direct")? + number("/decisions/switches_to_translator")?;
    Ok((number("/time/total_ns")?, switches))
}

fn summary(name: &str, values: &mut [f64], unit: &str) {
    values.sort_by(f64::total_cmp);
    if let (Some(least), Some(most)) = (values.first(), values.last()) {
        let median = values[values.len() / 2];
        println!("{name:<26} median {median:9.3} {unit}  ({least:.3} to {most:.3})");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let pairs = match std::env::args().nth(1) {
        Some(text) => text.parse::<usize>()?.max(1),
        None => 15,
    };
    let (mut off, mut on, mut ratios, mut switches) = (vec![], vec![], vec![], vec![]);
    run(false)?;
    for pair in 0..pairs {
        // The order changes, so that what drifts or warms up favours neither.
        let first = run(pair % 2 == 0)?;
        let second = run(pair % 2 != 0)?;
        let (traced, plain) = if pair % 2 == 0 {
            (first, second)
        } else {
            (second, first)
        };
        // Chance is the same, but the timer is not: what is compared is the time for a switch.
        let [with, without] = [traced, plain].map(|(ns, switches)| ns / switches / 1000.0);
        on.push(with);
        off.push(without);
        ratios.push(with / without);
        switches.push(traced.1);
    }
    summary("switches in a run", &mut switches, "  ");
    summary("run time for each, off", &mut off, "us");
    summary("run time for each, on", &mut on, "us");
    summary("on / off, pair by pair", &mut ratios, "  ");
    Ok(())
}
