//! What a trace costs: the same work with and without `--trace`, in turn.
//!
//! `cargo run --release -p ringshift-tests --example bench-trace [-- PAIRS]` (default 15). The work is
//! the demo under the policy `random` with a switch at every other instruction of ring 3, so that far
//! more is recorded than in any ordinary run. Processor time of the whole program, the thread that
//! writes the file included, which other work on the machine disturbs less than wall time; medians, and
//! the ratio of each pair, as machines drift. It wants a KVM; where that is slow, so are the
//! switches, and what a record costs by itself, which is told as well, says more than the ratio.

use std::error::Error;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use decision::{Engine, ExitKind, Reasons, Stay, SwitchRecord};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use ringshift::trace::{End, Header, Tracer};
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

/// Processor time so far, microseconds.
fn spent(who: UsageWho) -> Result<f64, Box<dyn Error>> {
    let usage = getrusage(who)?;
    let times = [usage.user_time(), usage.system_time()];
    Ok(times
        .map(|time| time.num_microseconds() as f64)
        .iter()
        .sum())
}

/// One run: microseconds and switches.
fn run(traced: bool) -> Result<(f64, f64), Box<dyn Error>> {
    let dir: PathBuf = paths::guests_dir()?;
    let stats = dir.join("bench-trace.json");
    let mut command = programs::ringshift()?;
    command.args(WORK).arg("--stats").arg(&stats);
    if traced {
        command.arg("--trace").arg(dir.join("bench.trace"));
    }
    let before = spent(UsageWho::RUSAGE_CHILDREN)?;
    let end = console::run(command, LIMIT)?;
    let time = spent(UsageWho::RUSAGE_CHILDREN)? - before;
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
    Ok((time, switches))
}

/// What a record costs the vCPU's thread, and with the thread that writes the file; nanoseconds. The
/// least of several tries.
fn record_alone() -> Result<(f64, f64), Box<dyn Error>> {
    const RECORDS: u32 = 1 << 12; // a quarter of the ring
    let record = SwitchRecord {
        time_ns: 1,
        stay: Stay::default(),
        reasons: Reasons::REPLAY,
        eip: 0x0804_8000,
        eflags: 0x202,
        cr3: 0x1000,
        cs: 0x73,
        vcpu: 0,
        cpl: 3,
        from: Engine::Direct,
        to: Engine::Translator,
        exit: ExitKind::SystemCall,
    };
    let (mut vcpu, mut both) = (f64::MAX, f64::MAX);
    for _ in 0..200 {
        let before = spent(UsageWho::RUSAGE_SELF)?;
        let path = paths::guests_dir()?.join("bench.trace");
        let (tracer, recorders) = Tracer::start(&path, &Header::default())?;
        let recorder = recorders.first().ok_or("no recorder")?;
        let start = Instant::now();
        for _ in 0..RECORDS {
            recorder.record(&record);
        }
        vcpu = vcpu.min(start.elapsed().as_nanos() as f64 / f64::from(RECORDS));
        let losses = tracer.finish(End::default());
        if losses.lost > 0 {
            return Err(format!("{losses:?}").into());
        }
        let time = spent(UsageWho::RUSAGE_SELF)? - before;
        both = both.min(time * 1000.0 / f64::from(RECORDS));
    }
    Ok((vcpu, both))
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
    let (vcpu, both) = record_alone()?;
    println!("a record takes the vCPU {vcpu:.0} ns, with writing it to the file {both:.0} ns");
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
        let [with, without] = [traced, plain].map(|(time, switches)| time / switches);
        on.push(with);
        off.push(without);
        ratios.push(with / without);
        switches.push(traced.1);
    }
    summary("switches in a run", &mut switches, "  ");
    summary("time for each, off", &mut off, "us");
    summary("time for each, on", &mut on, "us");
    summary("on / off, pair by pair", &mut ratios, "  ");
    Ok(())
}
