//! What Ringshift counts of each operation of a program.

use std::error::Error;

use ringshift_tests::compare::{Bench, Group, cpu_per_operation, per_operation};

use crate::Options;

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

/// Two runs of each, of which one does twice as much.
pub(crate) fn show(options: &Options) -> Result<(), Box<dyn Error>> {
    let bench = Bench::new(options.kernel)?;
    for work in options.work() {
        if work.group != Group::Program {
            continue;
        }
        let (name, count) = (work.name, work.counted);
        let less = bench.run_ringshift(name, count / 4, count)?;
        let more = bench.run_ringshift(name, count / 4, count * 2)?;
        print!("{name:<20} {:.1} ns", less.ns);
        print!(
            "; processor time {:.1}",
            cpu_per_operation(&less, &more, count)
        );
        if !options.no_qemu {
            let less = bench.run_qemu(name, count / 4, count)?;
            let more = bench.run_qemu(name, count / 4, count * 2)?;
            print!(" and {:.1} in QEMU", cpu_per_operation(&less, &more, count));
        }
        println!("; each {}", work.operation);
        let counters = per_operation(&less, &more, count);
        let counters = SHOWN.iter().filter_map(|(name, path)| {
            let value = counters.get(*path).copied().filter(|v| v.abs() >= 0.005)?;
            Some(format!("{name} {value:.2}"))
        });
        println!("    {}", counters.collect::<Vec<_>>().join(", "));
    }
    Ok(())
}
