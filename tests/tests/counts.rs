//! What the shadow MMU promises in counts: host faults and calls of the host's kernel for each operation of a program under
//! Debian's 686 kernel, once it is warm.
//!
//! Each count is the difference of two runs that differ in the number of operations alone. What is left beside the
//! operations, such as timer interrupts, stays far below the allowance.

use ringshift_tests::compare::{Bench, Kernel, per_operation};
use std::collections::BTreeMap;

/// Counters of one operation of `work`.
fn counters(work: &str, warm: u64, count: u64) -> BTreeMap<String, f64> {
    let bench = Bench::new(Kernel::Linux686).unwrap_or_else(|error| panic!("{error}"));
    let run = |count| {
        let sample = bench.run_ringshift(work, warm, count);
        sample.unwrap_or_else(|error| panic!("{error}"))
    };
    per_operation(&run(count), &run(count * 2), count)
}

/// Fails when one of `names` is above `most` for each operation.
fn assert_at_most(counters: &BTreeMap<String, f64>, names: &[&str], most: f64) {
    for &name in names {
        let value = counters.get(name).copied();
        assert!(
            value.is_some_and(|value| value <= most),
            "{name}: {value:?} for each operation, at most {most} allowed"
        );
    }
}

const FAULT: &str = "translator.host_faults";

#[test]
fn a_program_that_changes_no_mapping_causes_no_host_fault() {
    let counters = counters("steady", 1_000_000, 20_000_000);
    assert_at_most(&counters, &[FAULT], 0.000_05);
}

#[test]
fn a_load_of_cr3_that_changes_no_table_costs_no_fault() {
    let counters = counters("context-switch", 4_000, 8_000);
    let loads = counters.get("mmu.cr3_loads").copied();
    assert!(loads.is_some_and(|loads| loads > 0.9), "{loads:?}");
    assert_at_most(&counters, &[FAULT], 0.1);
}

/// An mprotect clears an entry and writes it: four writes for each pair of calls.
#[test]
fn a_write_to_a_page_table_costs_one_callout() {
    let counters = counters("mprotect", 2_000, 6_000);
    let writes = counters.get("mmu.table_writes").copied();
    assert!(writes.is_some_and(|writes| writes > 3.5), "{writes:?}");
    assert_at_most(&counters, &[FAULT], 0.1);
    // Prepared, and told when it is done; a few writes go to other traced pages.
    assert_at_most(&counters, &["translator.prepared_accesses"], 4.5);
}

#[test]
fn a_process_comes_and_goes_without_a_fault_at_kernel_addresses() {
    let counters = counters("fork-wait", 300, 300);
    assert_at_most(
        &counters,
        &["mmu.hidden_kernel_faults", "mmu.traced_faults"],
        0.3,
    );
}

/// Each page is read and then written: two page faults of the guest, each of which an instruction meets that is known to.
#[test]
fn a_demand_fault_costs_no_signal_and_no_mapping() {
    let counters = counters("demand-fault", 20_000, 20_000);
    let faults = counters.get("translator.true_faults").copied();
    assert!(faults.is_some_and(|faults| faults > 1.9), "{faults:?}");
    assert_at_most(&counters, &[FAULT, "mmu.mmaps", "mmu.mprotects"], 0.1);
}
