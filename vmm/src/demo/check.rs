//! The comparison of what the guest left with what it had to compute.

use std::fmt::Debug;

use super::expected::expected;
use super::params::DemoParams;
use super::results::{DemoResults, TaskOutcome};

/// One thing that was compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What it is.
    pub name: String,
    /// What it had to be.
    pub expected: String,
    /// What the guest left.
    pub got: String,
    /// Whether that is right.
    pub ok: bool,
}

/// Compare the results of a run with `params` with the host's own computation.
pub fn check(params: &DemoParams, results: &DemoResults) -> Vec<Check> {
    let want = expected(params);
    let (got, counts) = (&results.outcome, &results.counts);
    let mut checks = vec![
        equal(
            "image sum before and after",
            want.image_sums,
            got.image_sums,
        ),
        equal(
            "free frames before and after",
            want.free_frames,
            got.free_frames,
        ),
        equal("lost accessed bits", want.lost_accessed, got.lost_accessed),
        equal("lost dirty bits", want.lost_dirty, got.lost_dirty),
    ];
    for (name, (want, got)) in ["integer", "x87", "pager"]
        .into_iter()
        .zip(want.tasks.iter().zip(&got.tasks))
    {
        checks.extend(task(name, want, got));
    }
    for (name, ticks) in ["integer", "x87", "pager"]
        .into_iter()
        .zip(counts.task_ticks)
    {
        checks.push(at_least(&format!("{name}: ticks in ring 3"), 1, ticks));
    }
    checks.push(at_least("context switches", 6, counts.switches));
    checks.push(at_least("preemptions", 1, counts.preemptions));
    checks.push(at_least("halts", 1, counts.halts));
    checks.push(at_least("x87 traps that moved state", 2, counts.fpu_moves));
    checks.push(at_least("ticks in real mode", 5, counts.real_mode_ticks));
    checks
}

/// A count of a task: its name and how to get it.
type Field = (&'static str, fn(&TaskOutcome) -> u32);

fn task(name: &str, want: &TaskOutcome, got: &TaskOutcome) -> Vec<Check> {
    let fields: [Field; 11] = [
        ("page faults", |task| task.faults),
        ("page faults in the kernel", |task| task.kernel_faults),
        ("system calls", |task| task.syscalls),
        ("divide errors", |task| task.divide_errors),
        ("protection faults", |task| task.protection_faults),
        ("breakpoints", |task| task.breakpoints),
        ("pages of zeros", |task| task.zero_maps),
        ("pages of zeros written", |task| task.copies),
        ("evictions", |task| task.evictions),
        ("pages written back", |task| task.writebacks),
        ("pages read back", |task| task.swap_ins),
    ];
    let values = |task: &TaskOutcome| task.values.map(|value| format!("{value:08x}")).join(" ");
    let mut checks = vec![Check {
        name: format!("{name}: values"),
        expected: values(want),
        got: values(got),
        ok: want.values == got.values,
    }];
    // What neither side counts says nothing.
    let counted = fields
        .iter()
        .filter(|(_, field)| field(want) != 0 || field(got) != 0);
    checks.extend(
        counted.map(|(what, field)| equal(&format!("{name}: {what}"), field(want), field(got))),
    );
    checks
}

fn equal<T: PartialEq + Debug>(name: &str, want: T, got: T) -> Check {
    Check {
        name: name.into(),
        expected: format!("{want:?}"),
        got: format!("{got:?}"),
        ok: want == got,
    }
}

fn at_least(name: &str, want: u32, got: u32) -> Check {
    Check {
        name: name.into(),
        expected: format!("at least {want}"),
        got: got.to_string(),
        ok: got >= want,
    }
}

#[cfg(test)]
mod tests {
    use super::super::results::Counts;
    use super::*;

    const PARAMS: DemoParams = DemoParams {
        seed: 3,
        scale: 0.001,
    };

    fn good() -> DemoResults {
        let counts = Counts {
            switches: 6,
            preemptions: 3,
            halts: 1,
            fpu_moves: 2,
            real_mode_ticks: 5,
            task_ticks: [1; 3],
            ..Counts::default()
        };
        DemoResults {
            outcome: expected(&PARAMS),
            counts,
        }
    }

    #[test]
    fn the_expected_outcome_passes() {
        let failed: Vec<Check> = check(&PARAMS, &good())
            .into_iter()
            .filter(|check| !check.ok)
            .collect();
        assert_eq!(failed, []);
    }

    #[test]
    fn each_kind_of_error_is_named() {
        let wrong = |change: fn(&mut DemoResults)| {
            let mut results = good();
            change(&mut results);
            let failed = check(&PARAMS, &results)
                .into_iter()
                .filter(|check| !check.ok);
            failed.map(|check| check.name).collect::<Vec<_>>()
        };
        assert_eq!(
            wrong(|results| results.outcome.tasks[1].values[0] ^= 1),
            ["x87: values"]
        );
        assert_eq!(
            wrong(|results| results.outcome.tasks[0].evictions += 1),
            ["integer: evictions"]
        );
        assert_eq!(
            wrong(|results| results.outcome.lost_dirty = 1),
            ["lost dirty bits"]
        );
        assert_eq!(wrong(|results| results.counts.halts = 0), ["halts"]);
        assert_eq!(
            wrong(|results| results.counts.task_ticks[2] = 0),
            ["pager: ticks in ring 3"]
        );
    }
}
