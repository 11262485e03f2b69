//! What the shadow MMU promises in counts: host faults and calls of the host's kernel for each operation of a program under
//! Debian's 686 kernel, once it is warm.
//!
//! Each count is the difference of two runs that differ in the number of operations alone. What is left beside the
//! operations, timer interrupts above all, grows with the time that the runs take on a busy host. So a measurement that is
//! outside of its limits is made again, a few times.

use ringshift_tests::compare::{Bench, Kernel, per_operation};
use std::collections::BTreeMap;

/// Measurements before a count is believed to be outside of its limits.
const ATTEMPTS: u32 = 3;

/// A program of the benchmark, and how many operations it does before and while it is measured.
struct Work {
    name: &'static str,
    warm: u64,
    count: u64,
}

impl Work {
    const fn new(name: &'static str, warm: u64, count: u64) -> Self {
        Work { name, warm, count }
    }

    /// Counters of one operation.
    fn counters(&self) -> BTreeMap<String, f64> {
        let bench = Bench::new(Kernel::Linux686).unwrap_or_else(|error| panic!("{error}"));
        let run = |count| {
            let sample = bench.run_ringshift(self.name, self.warm, count);
            sample.unwrap_or_else(|error| panic!("{error}"))
        };
        per_operation(&run(self.count), &run(self.count * 2), self.count)
    }

    /// Fails unless `counter` is above `least`, which shows that the program does what it is for, and all of `limits` hold.
    fn assert(&self, least: Option<(&str, f64)>, limits: &[(&str, f64)]) {
        let mut wrong = Vec::new();
        for _ in 0..ATTEMPTS {
            let counters = self.counters();
            let value = |name| counters.get(name).copied();
            wrong.clear();
            if let Some((name, least)) = least
                && value(name).is_none_or(|value| value <= least)
            {
                wrong.push(format!(
                    "{name}: {:?}, more than {least} expected",
                    value(name)
                ));
            }
            for &(name, most) in limits {
                if value(name).is_none_or(|value| value > most) {
                    wrong.push(format!("{name}: {:?}, at most {most} allowed", value(name)));
                }
            }
            if wrong.is_empty() {
                return;
            }
            eprintln!("{}, for each operation: {wrong:?}", self.name);
        }
        panic!("{}, for each operation: {wrong:?}", self.name);
    }
}

const FAULT: &str = "translator.host_faults";

#[test]
fn a_program_that_changes_no_mapping_causes_no_host_fault() {
    Work::new("steady", 1_000_000, 20_000_000).assert(None, &[(FAULT, 0.000_05)]);
}

#[test]
fn a_load_of_cr3_that_changes_no_table_costs_no_fault() {
    let work = Work::new("context-switch", 4_000, 8_000);
    work.assert(Some(("mmu.cr3_loads", 0.9)), &[(FAULT, 0.1)]);
}

/// An mprotect clears an entry and writes it: four writes for each pair of calls.
#[test]
fn a_write_to_a_page_table_costs_one_callout() {
    let work = Work::new("mprotect", 2_000, 6_000);
    // What is written is known when it is prepared; a few writes go to other traced pages.
    let limits = [
        (FAULT, 0.1),
        ("translator.prepared_accesses", 4.5),
        ("translator.exits.access", 4.6),
    ];
    work.assert(Some(("mmu.table_writes", 3.5)), &limits);
}

#[test]
fn a_process_comes_and_goes_without_a_fault_at_kernel_addresses() {
    // As many writes again go to former page tables, and are looked up.
    let limits = [
        ("mmu.hidden_kernel_faults", 0.3),
        ("mmu.traced_faults", 0.3),
        ("translator.prepared_accesses", 220.0),
    ];
    let looked_up = Some(("translator.looked_up_accesses", 80.0));
    Work::new("fork-wait", 300, 300).assert(looked_up, &limits);
}

/// Each page is read and then written: two page faults of the guest, each of which an instruction meets that is known to.
#[test]
fn a_demand_fault_costs_no_signal_and_no_mapping() {
    let limits = [(FAULT, 0.1), ("mmu.mmaps", 0.1), ("mmu.mprotects", 0.1)];
    let work = Work::new("demand-fault", 20_000, 20_000);
    work.assert(Some(("translator.true_faults", 1.9)), &limits);
}
