//! What work costs natively, in Ringshift (everything translated) and in QEMU TCG, in turn, on the
//! same kernel, memory, command line and processor model.
//!
//! `cargo run --release -p ringshift-tests --example bench-compare -- [OPTIONS] [WORK...]`
//!
//! | option | |
//! | --- | --- |
//! | `--runs N` | runs of each (default 5); medians, and medians of the ratios of each run, are shown |
//! | `--time MS` | how long each program runs in one run (default 200) |
//! | `--least` | the shortest round of a program in each run and not the median, for a busy host |
//! | `--kernel 686` or `686-pae` | which of Debian's kernels runs the programs (default 686) |
//! | `--no-qemu`, `--no-native` | without one of the others |
//! | `--json`, `--markdown` | everything, as JSON; the table of the README |
//! | `--counters` | instead: what Ringshift counts of each operation of a program |
//! | `--list` | the kinds of work |
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
use std::process::ExitCode;
use std::time::Duration;

use ringshift_tests::compare::table::{HEADING, Host, Results};
use ringshift_tests::compare::{Group, Kernel, Work, work};

/// What to measure, and how to show it.
struct Options {
    runs: usize,
    time: Duration,
    least: bool,
    kernel: Kernel,
    qemu: bool,
    native: bool,
    output: Output,
    work: Vec<&'static Work>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Output {
    Text,
    Json,
    Markdown,
    Counters,
}

fn options() -> Result<Option<Options>, Box<dyn Error>> {
    let mut options = Options {
        runs: 5,
        time: Duration::from_millis(200),
        least: false,
        kernel: Kernel::Linux686,
        qemu: true,
        native: true,
        output: Output::Text,
        work: Vec::new(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--runs" => options.runs = args.next().ok_or("--runs N")?.parse::<usize>()?.max(1),
            "--time" => {
                let milliseconds = args.next().ok_or("--time MS")?.parse()?;
                options.time = Duration::from_millis(milliseconds);
            }
            "--kernel" => {
                let name = args.next().ok_or("--kernel NAME")?;
                options.kernel = Kernel::ALL
                    .into_iter()
                    .find(|kernel| kernel.name() == name)
                    .ok_or("--kernel 686 or 686-pae")?;
            }
            "--least" => options.least = true,
            "--no-qemu" => options.qemu = false,
            "--no-native" => options.native = false,
            "--json" => options.output = Output::Json,
            "--markdown" => options.output = Output::Markdown,
            "--counters" => options.output = Output::Counters,
            "--list" => {
                for work in work::all() {
                    let group = work.group.name();
                    println!("{group:<10} {:<26} one {}", work.name, work.operation);
                }
                return Ok(None);
            }
            name if name.starts_with('-') => return Err(format!("no option {name}").into()),
            name => {
                let before = options.work.len();
                let meant = |work: &&Work| work.name == name || work.group.name() == name;
                options.work.extend(work::all().filter(meant));
                if options.work.len() == before {
                    return Err(format!("no work {name:?}; see --list").into());
                }
            }
        }
    }
    if options.work.is_empty() {
        options.work = work::all().collect();
    }
    Ok(Some(options))
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
    let version = version.ok().filter(|_| options.qemu).and_then(|output| {
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
    let Some(options) = options()? else {
        return Ok(ExitCode::SUCCESS);
    };
    if options.output == Output::Counters {
        counted::show(&options)?;
        return Ok(ExitCode::SUCCESS);
    }
    if options.output == Output::Text {
        println!("{HEADING}");
    }
    let mut rows = Vec::new();
    for group in Group::ALL {
        let work: Vec<&Work> = options
            .work
            .iter()
            .copied()
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
        if options.output == Output::Text {
            for row in &measured {
                println!("{row}");
            }
        }
        rows.extend(measured);
    }
    let results = Results {
        host: host(&options),
        runs: options.runs,
        rows,
    };
    match options.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&results)?),
        Output::Markdown => print!("{}", results.markdown()),
        Output::Text | Output::Counters => {}
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
