//! What guest programs cost in Ringshift (everything translated) and in QEMU TCG, run in turn on the
//! same kernel, memory and processor model, and what Ringshift's counters say of each operation.
//!
//! `cargo run --release -p ringshift-tests --example bench-compare -- [OPTIONS] [WORK...]`
//!
//! | option | |
//! | --- | --- |
//! | `--runs N` | runs of each (default 3); medians are shown |
//! | `--kernel 686` or `686-pae` | one of Debian's kernels only |
//! | `--no-qemu` | Ringshift alone |
//! | `--json` | everything, as JSON |
//! | `--list` | the kinds of work |
//!
//! Times are of the guest's own clock. Counters are the difference of two runs that differ in the
//! number of operations, so that neither the boot nor the warming up is in them; a timer interrupt
//! and its like are.

use ringshift_tests::compare::{
    Bench, Kernel, PAGING, Sample, Work, cpu_per_operation, per_operation,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::error::Error;

/// The counters that the table shows.
const SHOWN: &[(&str, &str)] = &[
    ("host faults", "translator.host_faults"),
    ("hidden", "mmu.hidden_faults"),
    ("of these kernel", "mmu.hidden_kernel_faults"),
    ("true", "mmu.true_faults"),
    ("traced", "mmu.traced_faults"),
    ("table writes", "mmu.table_writes"),
    ("accesses in Rust", "translator.exits.access"),
    ("callouts", "translator.exits.callout"),
    ("misses", "translator.exits.miss"),
    ("one by one", "translator.slow_instructions"),
    ("hints", "translator.hints"),
    ("units", "translator.units"),
    ("mmap", "mmu.mmaps"),
    ("unmap", "mmu.munmaps"),
    ("mprotect", "mmu.mprotects"),
    ("pages mapped", "mmu.pages_mapped"),
    ("traces set", "mmu.traces_set"),
    ("CR3 loads", "mmu.cr3_loads"),
    ("spaces made", "mmu.spaces_made"),
    ("window switches", "translator.window_switches"),
];

struct Options {
    runs: usize,
    kernels: Vec<Kernel>,
    qemu: bool,
    json: bool,
    work: Vec<Work>,
}

/// One kind of work on one kernel.
#[derive(Serialize)]
struct Row {
    kernel: &'static str,
    work: &'static str,
    operation: &'static str,
    /// Medians, nanoseconds.
    ringshift_ns: f64,
    qemu_ns: Option<f64>,
    /// Median of the ratios of each pair of runs.
    times_qemu: Option<f64>,
    bar: Option<f64>,
    /// Processor time on the host, nanoseconds: of the difference of two runs, so that the boot is
    /// not in it.
    ringshift_cpu_ns: f64,
    qemu_cpu_ns: Option<f64>,
    counters: BTreeMap<String, f64>,
}

fn options() -> Result<Option<Options>, Box<dyn Error>> {
    let mut options = Options {
        runs: 3,
        kernels: Kernel::ALL.to_vec(),
        qemu: true,
        json: false,
        work: Vec::new(),
    };
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--runs" => options.runs = args.next().ok_or("--runs N")?.parse::<usize>()?.max(1),
            "--kernel" => {
                let name = args.next().ok_or("--kernel NAME")?;
                options.kernels.retain(|kernel| kernel.name() == name);
                if options.kernels.is_empty() {
                    return Err("--kernel 686 or 686-pae".into());
                }
            }
            "--no-qemu" => options.qemu = false,
            "--json" => options.json = true,
            "--list" => {
                for work in PAGING {
                    println!("{:<16} one {}", work.name, work.operation);
                }
                return Ok(None);
            }
            name => options.work.push(
                *PAGING
                    .iter()
                    .find(|work| work.name == name)
                    .ok_or_else(|| format!("no work {name:?}; see --list"))?,
            ),
        }
    }
    if options.work.is_empty() {
        options.work = PAGING.to_vec();
    }
    Ok(Some(options))
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn measure(
    bench: &Bench,
    kernel: Kernel,
    work: Work,
    options: &Options,
) -> Result<Row, Box<dyn Error>> {
    let warm = work.count / 4;
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..options.runs {
        let sample = bench.ringshift(work.name, warm, work.count)?;
        if options.qemu {
            let qemu = bench.qemu(work.name, warm, work.count)?;
            ratios.push(qemu.ns / sample.ns);
            theirs.push(qemu);
        }
        ours.push(sample);
    }
    let more = bench.ringshift(work.name, warm, work.count * 2)?;
    let cpu = |less: &[Sample], more: &Sample| {
        let all = less
            .iter()
            .map(|less| cpu_per_operation(less, more, work.count));
        median(all.collect()).unwrap_or(f64::NAN)
    };
    let qemu_cpu_ns = if options.qemu {
        let more = bench.qemu(work.name, warm, work.count * 2)?;
        Some(cpu(&theirs, &more))
    } else {
        None
    };
    let counters = ours
        .first()
        .map(|less| per_operation(less, &more, work.count))
        .unwrap_or_default();
    Ok(Row {
        kernel: kernel.name(),
        work: work.name,
        operation: work.operation,
        ringshift_ns: median(ours.iter().map(|sample| sample.ns).collect()).unwrap_or(f64::NAN),
        qemu_ns: median(theirs.iter().map(|sample| sample.ns).collect()),
        times_qemu: median(ratios),
        bar: work.bar,
        ringshift_cpu_ns: cpu(&ours, &more),
        qemu_cpu_ns,
        counters,
    })
}

fn show(row: &Row) {
    print!(
        "{:<8} {:<15} {:>10.0} ns",
        row.kernel, row.work, row.ringshift_ns
    );
    if let (Some(qemu), Some(times)) = (row.qemu_ns, row.times_qemu) {
        print!("  QEMU {qemu:>10.0} ns  {times:>6.2} x");
    }
    print!("; CPU {:.0}", row.ringshift_cpu_ns);
    if let Some(qemu) = row.qemu_cpu_ns {
        print!(" and {qemu:.0} ns, {:.2} x", qemu / row.ringshift_cpu_ns);
    }
    if let Some(bar) = row.bar {
        print!("  (bar {bar} x)");
    }
    println!("  each {}", row.operation);
    let counters = SHOWN.iter().filter_map(|(name, path)| {
        let value = row
            .counters
            .get(*path)
            .copied()
            .filter(|v| v.abs() >= 0.005)?;
        Some(format!("{name} {value:.2}"))
    });
    println!("         {}", counters.collect::<Vec<_>>().join(", "));
}

fn main() -> Result<(), Box<dyn Error>> {
    let Some(options) = options()? else {
        return Ok(());
    };
    let mut rows = Vec::new();
    for &kernel in &options.kernels {
        let bench = Bench::new(kernel, "paging")?;
        for &work in &options.work {
            let row = measure(&bench, kernel, work, &options)?;
            if !options.json {
                show(&row);
            }
            rows.push(row);
        }
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    }
    Ok(())
}
