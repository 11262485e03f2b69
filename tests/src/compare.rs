//! Programs that measure themselves inside a guest, run under Ringshift and under QEMU TCG.
//!
//! A program is a static i686 executable that the guest's kernel starts as init. Its arguments are on
//! the kernel's command line: the kind of work, how often to do it untimed, and how often timed. It
//! prints `RESULT work count nanoseconds` and powers the machine off.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use serde::Serialize;

use crate::console::{self, ConsoleError};
use crate::guests::{self, GuestError};
use crate::initrd::Initrd;
use crate::packages::Package;
use crate::paths;
use crate::programs::{self, BuildError};

/// The processor model of both: Ringshift's default.
const CPU: &str = "coreduo";
/// More than any one run takes.
const LIMIT: Duration = Duration::from_secs(120);

/// One kind of work.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Its name.
    pub name: &'static str,
    /// Operations of a run that takes about a second.
    pub count: u64,
    /// What one operation is.
    pub operation: &'static str,
    /// How many times as fast as QEMU TCG it is to be, if that was asked for.
    pub bar: Option<f64>,
}

/// The work that `tests/bench/programs/paging.c` does.
pub const PAGING: &[Work] = &[
    work("demand-fault", 60_000, "page", Some(1.3)),
    work("mprotect", 20_000, "pair of calls", None),
    work("table-write", 20_000, "unmap and fault", None),
    work("fork-wait", 800, "process", Some(1.5)),
    work("fork-exec-wait", 400, "process", Some(1.5)),
    work("ping-pong", 20_000, "round trip", Some(6.0)),
    work("context-switch", 40_000, "hand-over", Some(6.0)),
    work("system-call", 1_000_000, "call", Some(3.0)),
    work("steady", 50_000_000, "access", None),
];

const fn work(name: &'static str, count: u64, operation: &'static str, bar: Option<f64>) -> Work {
    Work {
        name,
        count,
        operation,
        bar,
    }
}

/// A kernel to run the programs on, with the processor model that goes with it in QEMU's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kernel {
    /// Debian's 686 kernel: two-level page tables.
    Linux686,
    /// Debian's 686-pae kernel: PAE, and page tables isolated from user programs.
    Linux686Pae,
}

impl Kernel {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Linux686, Self::Linux686Pae];

    /// Debian's name for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Linux686 => "686",
            Self::Linux686Pae => "686-pae",
        }
    }
}

/// Why there is no measurement.
#[derive(Debug, thiserror::Error)]
pub enum CompareError {
    /// The guest could not be put together.
    #[error(transparent)]
    Guest(#[from] GuestError),
    /// Ringshift does not build.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The run failed.
    #[error(transparent)]
    Run(#[from] ConsoleError),
    /// The program does not compile.
    #[error("cannot compile {path}: {reason}")]
    Compile {
        /// Its source.
        path: PathBuf,
        /// What the compiler said.
        reason: String,
    },
    /// The program ran and printed no result.
    #[error("no result in\n{0}")]
    NoResult(String),
    /// The statistics of a run.
    #[error("the statistics of a run: {0}")]
    Statistics(String),
}

/// A guest that runs one program.
#[derive(Clone, Debug)]
pub struct Bench {
    kernel: PathBuf,
    initrd: PathBuf,
}

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
    /// Compiles `tests/bench/programs/PROGRAM.c` and puts it into a guest.
    ///
    /// # Errors
    ///
    /// When there is no compiler for i686, or no package.
    pub fn new(kernel: Kernel, program: &str) -> Result<Self, CompareError> {
        let executable = compile(program)?;
        let mut initrd = Initrd::new();
        initrd.file("init", 0o755, &guests::read(&executable)?);
        Ok(Self {
            kernel: guests::debian_kernel(match kernel {
                Kernel::Linux686 => Package::Linux686,
                Kernel::Linux686Pae => Package::Linux686Pae,
            })?,
            initrd: guests::store(&format!("bench-{program}"), initrd)?,
        })
    }

    /// The options that Ringshift and QEMU share (QEMU takes two dashes as well), for `count` operations after `warm` untimed ones.
    fn arguments(&self, work: &str, warm: u64, count: u64) -> Vec<OsString> {
        vec![
            "--kernel".into(),
            self.kernel.clone().into(),
            "--initrd".into(),
            self.initrd.clone().into(),
            "--append".into(),
            format!("console=ttyS0 quiet panic=-1 -- {work} {warm} {count}").into(),
        ]
    }

    /// Runs it in Ringshift, everything translated.
    ///
    /// # Errors
    ///
    /// When the run fails or says nothing.
    pub fn ringshift(&self, work: &str, warm: u64, count: u64) -> Result<Sample, CompareError> {
        let stats = paths::profile_dir()
            .map_err(|error| CompareError::Statistics(error.to_string()))?
            .join(format!("bench-{}-{work}.json", std::process::id()));
        let mut command = programs::ringshift()?;
        command
            .arg("run")
            .args(self.arguments(work, warm, count))
            .args([
                "--memory",
                "128M",
                "--policy",
                "translate",
                "--cpu",
                CPU,
                "--no-reboot",
            ])
            .arg("--stats")
            .arg(&stats);
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

    /// Runs it in QEMU TCG with the same memory and the same processor model.
    ///
    /// # Errors
    ///
    /// When the run fails or says nothing.
    pub fn qemu(&self, work: &str, warm: u64, count: u64) -> Result<Sample, CompareError> {
        let mut command = Command::new("qemu-system-i386");
        command
            .args(["-accel", "tcg", "-nodefaults", "-no-user-config"])
            .args(["-no-reboot", "-display", "none", "-serial", "stdio"])
            .args(["-m", "128M", "-cpu", CPU])
            .args(self.arguments(work, warm, count));
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

/// Compiles a program as a static i686 executable.
fn compile(program: &str) -> Result<PathBuf, CompareError> {
    let path = paths::workspace().join(format!("tests/bench/programs/{program}.c"));
    let failed = |reason: String| CompareError::Compile {
        path: path.clone(),
        reason,
    };
    let dir = paths::profile_dir().map_err(|error| failed(error.to_string()))?;
    let executable = dir.join(format!("bench-program-{program}"));
    // Tests run in parallel: each compiles a file of its own.
    let partial = dir.join(format!(
        "bench-program-{program}.{}.{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    let output = Command::new("gcc")
        .args(["-m32", "-march=i686", "-O2", "-static", "-o"])
        .arg(&partial)
        .arg(&path)
        .output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    fs::rename(&partial, &executable).map_err(|error| failed(error.to_string()))?;
    Ok(executable)
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
