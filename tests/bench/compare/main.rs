//! What work costs natively, in Ringshift (everything translated) and in QEMU TCG, in turn, on the
//! same kernel, memory, command line and processor model.
//!
//! `cargo run --release -p ringshift-tests --example bench-compare -- [OPTIONS] [WORK...]`
//!
//! `--help` explains the options.
//!
//! `WORK` is the name of a kind of work or of a group: `programs`, `ring0`, `real-mode`, `boot`. A `!`
//! stands at figures below what is asked for. The exit status is 1 if results differ.
//!
//! Programs measure themselves by the clock of the system they run on, which is compared with the
//! host's; all three servers stay, and get the same orders one after the other. The small kernels and
//! the boot are measured from outside.

mod counted;
mod measure;

use std::error::Error;
use std::num::{NonZero, ParseIntError};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser};
use ringshift_tests::compare::table::{HEADING, Host, Results};
use ringshift_tests::compare::{Group, Kernel, Work, work};

/// What work costs natively, in Ringshift (everything translated) and in QEMU TCG.
///
/// A `!` stands at figures below what is asked for. The exit status is 1 if results differ.
#[derive(Parser)]
#[command(name = "bench-compare")]
struct Options {
    /// Runs of each; medians, and medians of the ratios of each run, are shown
    #[arg(long, value_name = "N", default_value = "5", value_parser = number)]
    runs: NonZero<usize>,

    /// How long each program runs in one run
    #[arg(long, value_name = "MS", default_value = "200", value_parser = milliseconds)]
    time: Duration,

    /// Count the shortest round of a program in each run and not the median: for a busy host
    #[arg(long)]
    least: bool,

    /// Which of Debian's kernels runs the programs: 686 or 686-pae
    #[arg(long, value_name = "NAME", default_value = "686", value_parser = kernel)]
    kernel: Kernel,

    /// Without QEMU
    #[arg(long)]
    no_qemu: bool,

    /// Without native runs
    #[arg(long)]
    no_native: bool,

    #[command(flatten)]
    output: Output,

    /// Show the kinds of work, and measure nothing
    #[arg(long)]
    list: bool,

    /// Kinds of work, or groups: programs, ring0, real-mode, boot. All if there is none
    #[arg(value_name = "WORK", value_parser = named)]
    names: Vec<String>,
}

/// How to show it, if not as text.
#[derive(Args)]
#[group(multiple = false)]
struct Output {
    /// Print everything as JSON
    #[arg(long)]
    json: bool,

    /// Print the table of the README
    #[arg(long)]
    markdown: bool,

    /// Instead: what Ringshift counts of each operation of a program
    #[arg(long)]
    counters: bool,
}

fn number(text: &str) -> Result<NonZero<usize>, ParseIntError> {
    text.parse()
}

fn milliseconds(text: &str) -> Result<Duration, ParseIntError> {
    text.parse().map(Duration::from_millis)
}

fn kernel(text: &str) -> Result<Kernel, &'static str> {
    let named = |kernel: &Kernel| kernel.name() == text;
    Kernel::ALL.into_iter().find(named).ok_or("686 or 686-pae")
}

fn is_meant(work: &Work, name: &str) -> bool {
    work.name == name || work.group.name() == name
}

fn named(text: &str) -> Result<String, &'static str> {
    if work::all().any(|work| is_meant(work, text)) {
        Ok(text.to_owned())
    } else {
        Err("no such work; --list shows what there is")
    }
}

impl Options {
    /// What to measure, in the order of the names.
    fn work(&self) -> Vec<&'static Work> {
        if self.names.is_empty() {
            return work::all().collect();
        }
        let named = self.names.iter();
        named
            .flat_map(|name| work::all().filter(move |work| is_meant(work, name)))
            .collect()
    }
}

fn host(options: &Options) -> Host {
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1))
        .unwrap_or("unknown");
    let version = std::process::Command::new("qemu-system-i386")
        .arg("--version")
        .output();
    let version = version
        .ok()
        .filter(|_| !options.no_qemu)
        .and_then(|output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let number = text.split_whitespace().nth(3)?.to_owned();
            Some(format!("QEMU {number}"))
        });
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let dashes = if arguments.is_empty() { "" } else { " -- " };
    Host {
        processor: processor.to_owned(),
        processors: std::thread::available_parallelism().map_or(1, usize::from),
        qemu: version,
        command: format!(
            "cargo run --release -p ringshift-tests --example bench-compare{dashes}{}",
            arguments.join(" ")
        ),
    }
}

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let options = Options::parse();
    if options.list {
        for work in work::all() {
            let group = work.group.name();
            println!("{group:<10} {:<26} one {}", work.name, work.operation);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if options.output.counters {
        counted::show(&options)?;
        return Ok(ExitCode::SUCCESS);
    }
    let text = !options.output.json && !options.output.markdown;
    if text {
        println!("{HEADING}");
    }
    let mut rows = Vec::new();
    for group in Group::ALL {
        let work: Vec<&Work> = options
            .work()
            .into_iter()
            .filter(|work| work.group == group)
            .collect();
        if work.is_empty() {
            continue;
        }
        let measured = match group {
            Group::Program => measure::programs(&work, &options)?,
            Group::Ring0 | Group::RealMode => measure::kernels(&work, &options)?,
            Group::Boot => measure::boot(&work, &options)?,
        };
        if text {
            for row in &measured {
                println!("{row}");
            }
        }
        rows.extend(measured);
    }
    let results = Results {
        host: host(&options),
        runs: options.runs.get(),
        rows,
    };
    if options.output.json {
        println!("{}", serde_json::to_string_pretty(&results)?);
    } else if options.output.markdown {
        print!("{}", results.markdown());
    }
    for complaint in results.rows.iter().filter_map(|row| row.complaint()) {
        eprintln!("{complaint}");
    }
    Ok(if results.rows.iter().all(|row| row.agree) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
